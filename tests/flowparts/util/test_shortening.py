import pytest

from flowparts.util.shortening import one_line, shorten


@pytest.mark.parametrize(
    ("text", "most", "short"),
    [
        ("label 'price' is missing", 24, "label 'price' is missing"),
        ("label 'price' is missing", 23, "label 'price' is..."),
        ("label 'price' is missing", 19, "label 'price' is..."),
        ("label 'price' is missing", 18, "label 'price'..."),
        ("columns are: a, b, c, d", 18, "columns are: a..."),
        ("x" * 50, 20, "x" * 17 + "..."),
        ("see " + "x" * 50, 20, "see " + "x" * 13 + "..."),
    ],
)
def test_long_text_is_cut_at_a_word(text: str, most: int, short: str) -> None:
    assert shorten(text, most) == short
    assert len(short) <= most


def test_text_of_several_lines_becomes_one() -> None:
    assert one_line("  it broke\n\n  here and there\n", 17) == "it broke here..."
    assert one_line(ValueError("a\nb"), 10) == "a b"
