"""Words of free text become the same numbers wherever they are made, within a bounded amount of work."""

import numpy as np
import pytest

from flowparts.prepare import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        ("  ...!? ", set()),
        ("Love it", {"love", "it", "love it"}),
        ("love, LOVE", {"love", "love love"}),
        ("it's 2 big", {"it", "s", "2", "big", "it s", "s 2", "2 big"}),
        ("Straße STRASSE", {"strasse", "strasse strasse"}),
        ("\ufb01ne", {"fine"}),
        # Composed or not, the same letter.
        ("e\u0301te\u0301", {"\u00e9t\u00e9"}),
        # No spaces stand between the words of Chinese and Japanese.
        ("\u65e5\u672c", {"\u65e5", "\u672c", "\u65e5 \u672c"}),
        ("a\n\x00\ud800b", {"a", "b", "a b"}),
    ],
)
def test_terms_are_folded_words_and_pairs(text: str, expected: set[str]) -> None:
    assert words.terms(text) == expected


def test_text_beyond_the_limit_is_ignored() -> None:
    kept = "a " * (words.MAX_CHARACTERS // 2)
    assert words.terms(kept + "late") == words.terms(kept) == {"a", "a a"}
    # A ligature that stands for 18 letters is counted before it is folded.
    assert max(map(len, words.terms("\ufdfa" * 1_000_000))) <= 18 * words.MAX_CHARACTERS


def encoder() -> words.Encoder:
    weights = np.array([[1, 2, 0], [4, 3, -1], [9, 1, 1]], dtype=np.float32)
    return words.Encoder(words.joined(["bad", "good", "very good"]), weights)


def test_each_term_counts_once_and_the_length_of_a_text_does_not() -> None:
    found = encoder().encode(["Good", "good good GOOD", "very good", "bad, and good", "so so", "", None])
    once = [3 / 2, -1 / 2]
    both = np.array([4, 0]) / np.sqrt(13)
    np.testing.assert_allclose(found, [once, once, both, np.array([5, -1]) / np.sqrt(5), *[[0, 0]] * 3])


def test_rows_do_not_depend_on_each_other() -> None:
    texts = ["bad", "very good", None, "good bad good"]
    together = encoder().encode(texts)
    assert (together == np.concatenate([encoder().encode([text]) for text in texts])).all()


@pytest.mark.parametrize("shape", [(2, 3), (3, 1), (3,)], ids=str)
def test_weights_that_do_not_fit_the_terms_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="3 terms need weights of shape"):
        words.Encoder(words.joined("abc"), np.ones(shape, dtype=np.float32))
