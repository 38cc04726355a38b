"""Shorten text for messages: on one line, cut at a word, with an ellipsis."""

_ELLIPSIS = "..."


def shorten(text: str, most: int) -> str:
    """Return a text of at most `most` characters; a longer one is cut at a word and ends with an ellipsis.

    A text without a space in its second half, such as an address, is cut anywhere.
    """
    if len(text) <= most:
        return text
    end = most - len(_ELLIPSIS)
    # With the next character: the cut may be at the end of a word already.
    space = text.rfind(" ", 0, end + 1)
    return text[: space if space > end // 2 else end].rstrip(" ,;:") + _ELLIPSIS


def one_line(text: object, most: int) -> str:
    """Return a text with its line breaks and runs of spaces as single spaces, shortened."""
    return shorten(" ".join(str(text).split()), most)
