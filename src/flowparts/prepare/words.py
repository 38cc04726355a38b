"""Transform free text into a few numbers by its words, with the same arithmetic for tables and requests."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

# Bounds the cost of a request; the topic of a text is clear by then.
MAX_CHARACTERS = 10_000
# Chinese and Japanese have no spaces between words; each character, and each pair of them, counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_SEPARATOR = "\n"


def terms(text: str) -> set[str]:
    """Return the distinct words of a text, and the pairs of neighbouring words joined by a space.

    Words are runs of letters and digits, normalized for caseless comparison (Unicode NFKC, then case
    folding). Text after `MAX_CHARACTERS` is ignored.
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text[:MAX_CHARACTERS]).casefold())
    return {*words, *(f"{first} {second}" for first, second in pairwise(words))}


class Encoder:
    """A linear map of a text's TF-IDF vector, scaled to length 1.

    If W are the weights of the terms in a text, each counted once, the numbers are the sums of all columns of
    W except the first, divided by the square root of the sum of the first. A missing text, or one without
    known terms, becomes zeros.

    Args:
        vocabulary: The known terms, one per line, as `joined` returns them.
        weights: A float32 row for each term: its squared inverse document frequency, then its coefficient in
            each number times its inverse document frequency.

    Raises:
        ValueError: Terms and weights have different lengths.
    """

    def __init__(self, vocabulary: str, weights: npt.NDArray[np.float32]) -> None:
        known = vocabulary.split(_SEPARATOR)
        if weights.ndim != 2 or weights.shape[1] < 2 or len(known) != len(weights):
            raise ValueError(
                f"{len(known)} terms need weights of shape ({len(known)}, at least 2), not {weights.shape}"
            )
        self._places = {term: place for place, term in enumerate(known)}
        self._weights = weights
        self.width = weights.shape[1] - 1

    def encode(self, texts: Sequence[str | None]) -> npt.NDArray[np.float64]:
        """Return the numbers of texts, rows by `width`; each row depends on its text only."""
        encoded = np.zeros((len(texts), self.width))
        places = self._places
        for row, text in enumerate(texts):
            # Sorted, so that sums are always rounded in the same way.
            found = sorted(places[term] for term in terms(text) if term in places) if text else []
            if found:
                sums = self._weights.take(found, axis=0).sum(axis=0, dtype=np.float64)
                encoded[row] = sums[1:] / np.sqrt(sums[0])
        return encoded


def joined(known: Iterable[str]) -> str:
    """Return terms as `Encoder` takes them."""
    return _SEPARATOR.join(known)
