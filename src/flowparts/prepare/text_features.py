"""Learn numeric features of free text from a training table."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin

from flowparts.prepare import words

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]

# Maximum rows to learn from, and their maximum characters; both bound memory and time.
_MAX_ROWS = 50_000
_MAX_CHARACTERS = 20_000_000
_MAX_TERMS = 10_000
# Minimum number of rows with a term; rarer ones don't generalize.
_MIN_ROWS = 3
_COMPONENTS = 20
_FOLDS = 5
_ALPHA = 1.0
# With more classes there are no scores, because each needs six regressions.
_MAX_CLASSES = 20


class TextFeatures(TransformerMixin, BaseEstimator):
    """Transform columns of free text into components of their words and scores that predict the label.

    The words and word pairs of a row are weighted by their inverse document frequency and scaled to length 1
    (TF-IDF of binary counts). Components are a truncated singular value decomposition of these vectors, as in
    latent semantic analysis (Deerwester et al. 1990). Scores are ridge regressions of the label, or of each
    class if there are several, on the same vectors; they are cross-fitted, so that a training row's features
    don't leak its label.

    Args:
        target_type: "continuous", "binary" or "multiclass".
        seed: Seed of the sample of rows, the folds for the scores, and the decomposition.
    """

    def __init__(self, target_type: str, seed: int = 0):
        self.target_type = target_type
        self.seed = seed

    def fit(self, frame: "pd.DataFrame", y: Array) -> Self:
        """Learn the terms of each column and their weights."""
        self.fit_transform(frame, y)
        return self

    def fit_transform(self, frame: "pd.DataFrame", y: Array) -> Array:  # type: ignore[override]
        """Learn, and return the features of the same rows with cross-fitted scores."""
        self.feature_names_in_ = np.asarray(frame.columns, dtype=object)
        self.vocabularies_: list[str] = []
        self.weights_: list[Array] = []
        self.scores_: list[int] = []
        goals = _goals(y, self.target_type)
        return np.column_stack([self._learn(frame[name].tolist(), goals) for name in frame.columns])

    def transform(self, frame: "pd.DataFrame") -> Array:
        """Return a float64 matrix with the features of each column side by side."""
        fitted = zip(self.vocabularies_, self.weights_, frame.columns, strict=True)
        return np.column_stack(
            [words.Encoder(known, weights).encode(frame[name].tolist()) for known, weights, name in fitted]
        )

    def get_feature_names_out(self, input_features: object = None) -> Array:  # noqa: ARG002
        """Return `<column>_words_<number>` and `<column>_score_<number>` in the order of the matrix."""
        names = []
        for name, weights, scores in zip(self.feature_names_in_, self.weights_, self.scores_, strict=True):
            components = weights.shape[1] - 1 - scores
            names += [f"{name}_words_{number}" for number in range(1, components + 1)]
            names += [f"{name}_score_{number}" for number in range(1, scores + 1)]
        return np.asarray(names, dtype=object)

    def _learn(self, texts: list[str | None], goals: Array) -> Array:
        """Learn a column's vocabulary and weights; return its features."""
        random = np.random.RandomState(self.seed)
        sample = _sample(texts, random)
        known, inverse, rows = _tf_idf([texts[place] or "" for place in sample])
        components = _components(rows, random)
        held_out, coefficients = _scores(rows, goals[sample], random)
        weights = np.column_stack([inverse**2, *(inverse * components), *(inverse * coefficients)])
        self.vocabularies_.append(words.joined(known))
        self.weights_.append(np.ascontiguousarray(weights, dtype=np.float32))
        self.scores_.append(len(coefficients))
        encoded = words.Encoder(self.vocabularies_[-1], self.weights_[-1]).encode(texts)
        encoded[sample, len(components) :] = held_out
        return encoded


def _goals(y: Array, target_type: str) -> Array:
    """Return the targets of the scores, rows by scores."""
    if target_type == "continuous":
        numbers = np.asarray(y, dtype=float)
        scaled: Array = (numbers - numbers.mean()) / (numbers.std() or 1.0)
        return scaled[:, None]
    classes, positions = np.unique(y, return_inverse=True)
    if len(classes) > _MAX_CLASSES:
        return np.empty((len(y), 0))
    one_hot = np.eye(len(classes))[positions]
    chosen: Array = one_hot[:, 1:] if target_type == "binary" else one_hot
    return chosen


def _sample(texts: Sequence[str | None], random: Any) -> Array:
    """Return the indices of the rows to learn from, in order: all rows with text, or a sample of them."""
    order: Array = random.permutation(np.flatnonzero([text is not None for text in texts]))
    lengths = np.array([min(len(texts[place] or ""), words.MAX_CHARACTERS) for place in order], dtype=int)
    return np.sort(order[lengths.cumsum() <= _MAX_CHARACTERS][:_MAX_ROWS])


def _tf_idf(texts: Sequence[str]) -> tuple[list[str], Array, Any]:
    """Return the most frequent terms, their inverse document frequencies and the sparse TF-IDF matrix."""
    from scipy.sparse import csr_matrix

    frequencies: Counter[str] = Counter()
    for text in texts:
        frequencies.update(words.terms(text))
    common = [(-count, term) for term, count in frequencies.items() if count >= _MIN_ROWS]
    # A dummy term keeps the shapes valid if no term is common.
    known = sorted(term for _, term in sorted(common)[:_MAX_TERMS]) or [""]
    places = {term: place for place, term in enumerate(known)}
    found = [sorted(places[term] for term in words.terms(text) if term in places) for text in texts]
    columns = np.fromiter((place for row in found for place in row), dtype=np.int32)
    ends = np.cumsum([0, *map(len, found)])
    counts = np.array([frequencies[term] for term in known])
    inverse = np.log((1 + len(texts)) / (1 + counts)) + 1
    at = np.repeat(np.arange(len(found)), np.diff(ends))
    lengths = np.sqrt(np.bincount(at, inverse[columns] ** 2, minlength=len(found)))
    matrix = csr_matrix((inverse[columns] / lengths[at], columns, ends), shape=(len(found), len(known)))
    return known, inverse, matrix


def _components(rows: Any, random: Any) -> Array:
    """Return the right singular vectors of the rows, components by terms; at least one."""
    from sklearn.decomposition import TruncatedSVD
    from threadpoolctl import threadpool_limits

    width = min(_COMPONENTS, *(size - 1 for size in rows.shape))
    if width < 1:
        return np.zeros((1, rows.shape[1]))
    # With one thread, sums are the same on any number of processors.
    with threadpool_limits(1):
        found: Array = TruncatedSVD(width, random_state=random).fit(rows).components_
    return found


def _scores(rows: Any, goals: Array, random: Any) -> tuple[Array, Array]:
    """Return cross-fitted scores (rows by scores), and coefficients fitted on all rows (scores by terms)."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold

    def regressed(rows: Any, goals: Array) -> Array:
        model = Ridge(_ALPHA, fit_intercept=False, solver="sparse_cg")
        fitted = model.fit(rows, goals - goals.mean(axis=0))
        return np.reshape(fitted.coef_, (goals.shape[1], rows.shape[1]))

    held_out = np.zeros_like(goals)
    if not goals.shape[1] or len(goals) < _FOLDS:
        return held_out[:, :0], np.empty((0, rows.shape[1]))
    for train, others in KFold(_FOLDS, shuffle=True, random_state=random).split(goals):
        held_out[others] = rows[others] @ regressed(rows[train], goals[train]).T
    return held_out, regressed(rows, goals)
