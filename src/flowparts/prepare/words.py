"""Turn free text into a few numbers by the words in it: the same arithmetic for tables and for requests."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

# Bounds what a request costs; by then a text has said what it is about.
MAX_CHARACTERS = 10_000
# Chinese and Japanese put no spaces between words; a character, and each pair of them, stands for one.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_SEPARATOR = "\n"


def terms(text: str) -> set[str]:
    """Return the distinct words of a text and the pairs of neighbours, a space between the two.

    Words are runs of letters and digits, in the form that Unicode has for comparing text without regard to
    case (NFKC, then case folding). What comes after `MAX_CHARACTERS` is not looked at.
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text[:MAX_CHARACTERS]).casefold())
    return {*words, *(f"{first} {second}" for first, second in pairwise(words))}


class Encoder:
    """A linear map of the TF-IDF vector of a text, whose length is 1.

    With W the weights of the terms that are in a text, each counted once, the numbers are the sums of the
    columns of W but the first, divided by the square root of the sum of the first. A missing text, or one
    without known terms, is all zeros.

    Args:
        vocabulary: The known terms, a line each, as `joined` gives them.
        weights: A row for each term: its squared inverse document frequency, then its part in each number
            times its inverse document frequency. float32.

    Raises:
        ValueError: Terms and weights don't fit.
    """

    def __init__(self, vocabulary: str, weights: npt.NDArray[np.float32]) -> None:
        known = vocabulary.split(_SEPARATOR)
        if weights.ndim != 2 or weights.shape[1] < 2 or len(known) != len(weights):
            raise ValueError(f"{len(known)} terms can't have weights of the shape {weights.shape}")
        self._places = {term: place for place, term in enumerate(known)}
        self._weights = weights
        self.width = weights.shape[1] - 1

    def encode(self, texts: Sequence[str | None]) -> npt.NDArray[np.float64]:
        """Return the numbers of texts, rows by `width`; a text's don't depend on the others."""
        encoded = np.zeros((len(texts), self.width))
        places = self._places
        for row, text in enumerate(texts):
            # In order, so that the sums are rounded alike each time.
            found = sorted(places[term] for term in terms(text) if term in places) if text else []
            if found:
                sums = self._weights.take(found, axis=0).sum(axis=0, dtype=np.float64)
                encoded[row] = sums[1:] / np.sqrt(sums[0])
        return encoded


def joined(known: Iterable[str]) -> str:
    """Return terms as `Encoder` takes them."""
    return _SEPARATOR.join(known)
