"""Free text becomes components of its words and what these say of the label."""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from flowparts.prepare import preprocess, text_features, words
from flowparts.prepare.text_features import TextFeatures

GOOD = ["great", "love", "perfect", "soft", "flattering", "beautiful"]
BAD = ["cheap", "returned", "itchy", "huge", "scratchy", "disappointing"]
PLAIN = [f"word{number}" for number in range(40)]


def opinions(rows: int = 600, seed: int = 0) -> tuple[list[str | None], Any]:
    """Make texts, some missing, of which a few words tell the label."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, rows)
    texts: list[str | None] = []
    for label in labels:
        said = [*random.choice(PLAIN, random.integers(3, 12)), *random.choice(GOOD if label else BAD, 2)]
        random.shuffle(said)
        texts.append(" ".join(said))
    return [None if random.random() < 0.05 else text for text in texts], labels


def fitted(texts: list[str | None], y: Any, kind: str = "binary") -> tuple[TextFeatures, Any, pd.DataFrame]:
    frame = pd.DataFrame({"said": pd.Series(texts, dtype=object)})
    features = TextFeatures(kind)
    return features, features.fit_transform(frame, y), frame


def test_text_features_equal_those_of_scikit_learn() -> None:
    texts, labels = opinions()
    features, _, frame = fitted(texts, labels)
    there = [text for text in texts if text is not None]
    vectorizer = TfidfVectorizer(analyzer=words.terms, binary=True, min_df=3)
    rows = vectorizer.fit_transform(there)
    assert features.vocabularies_[0].split("\n") == vectorizer.get_feature_names_out().tolist()
    expected = TruncatedSVD(20, algorithm="arpack", random_state=0).fit(rows)
    found = features.transform(frame)[[text is not None for text in texts]]
    # The space of the first components; each alone is free to turn in it.
    for few in (1, 5):
        np.testing.assert_allclose(
            np.linalg.norm(found[:, :few], axis=1),
            np.linalg.norm(expected.transform(rows)[:, :few], axis=1),
            atol=0.05,
        )
    goal = labels[[text is not None for text in texts]]
    ridge = Ridge(1.0, fit_intercept=False).fit(rows, goal - goal.mean())
    np.testing.assert_allclose(found[:, -1], ridge.predict(rows), atol=1e-3)


def test_scores_of_training_rows_do_not_leak_their_label() -> None:
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(PLAIN, 8)) for _ in range(1_000)]
    labels = random.integers(0, 2, 1_000)
    features, crossed, frame = fitted(texts, labels)
    assert abs(np.corrcoef(crossed[:, -1], labels)[0, 1]) < 0.15
    assert np.corrcoef(features.transform(frame)[:, -1], labels)[0, 1] > 0.5


def test_training_rows_get_the_features_of_other_rows_except_their_scores() -> None:
    texts, labels = opinions()
    features, crossed, frame = fitted(texts, labels)
    assert (features.transform(frame)[:, :-1] == crossed[:, :-1]).all()
    assert not crossed[[text is None for text in texts]].any()


def test_a_sample_of_the_rows_bounds_what_is_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, labels = opinions()
    monkeypatch.setattr(text_features, "_MAX_ROWS", 200)
    features, crossed, frame = fitted(texts, labels)
    # Rows outside the sample are scored by all of it, as new rows are.
    same = (features.transform(frame)[:, -1] == crossed[:, -1]).sum()
    assert len(texts) - 200 <= same < len(texts)
    monkeypatch.setattr(text_features, "_MAX_CHARACTERS", 5_000)
    few = fitted(texts, labels)[0]
    assert len(few.vocabularies_[0]) < len(features.vocabularies_[0])


def test_the_most_frequent_terms_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_features, "_MAX_TERMS", 2)
    texts = ["a b"] * 5 + ["a c"] * 3 + ["b"] * 4
    features = fitted(texts, np.arange(12) % 2)[0]
    assert features.vocabularies_[0].split("\n") == ["a", "b"]


@pytest.mark.parametrize("texts", [[None] * 9, ["", " "] * 5, [f"w{place}" for place in range(9)]], ids=len)
def test_text_without_common_terms_gives_no_features(texts: list[str | None]) -> None:
    features, crossed, frame = fitted(texts, np.arange(len(texts)) % 2)
    assert not crossed.any()
    assert not features.transform(frame).any()


@pytest.mark.parametrize(
    ("kind", "y", "scores"),
    [
        ("binary", np.array(["no", "yes"] * 300, dtype=object), 1),
        ("multiclass", np.arange(600) % 3, 3),
        ("multiclass", np.arange(600) % 30, 0),
        ("continuous", np.linspace(0, 1e12, 600), 1),
        ("continuous", np.zeros(600), 1),
    ],
    ids=["texts", "classes", "many classes", "numbers", "constant"],
)
def test_there_is_a_score_for_each_thing_to_predict(kind: str, y: Any, scores: int) -> None:
    texts, _ = opinions()
    features, crossed, _ = fitted(texts, y, kind)
    names = features.get_feature_names_out().tolist()
    assert len(names) == crossed.shape[1]
    assert [name for name in names if "score" in name] == [
        f"said_score_{number}" for number in range(1, scores + 1)
    ]
    assert np.isfinite(crossed).all()


TEXTS, LABELS = opinions()
NAMES = [f"{first}son, Mr. {second}" for first in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" for second in GOOD * 4]
OTHERS = {
    "names": [name.title() + f" {chr(65 + place % 26)}." for place, name in enumerate(NAMES[:600])],
    "ids": [f"{place:08x}-{place * 7919:08x}-4f" for place in range(600)],
    "tickets": [f"PC {place * 17}" for place in range(600)],
    "addresses": [f"https://shop.example/{place}/a-long-name?q={place}" for place in range(600)],
}


def test_free_text_is_distinguished_from_identifiers(caplog: pytest.LogCaptureFixture) -> None:
    frame = pl.DataFrame({"said": TEXTS, **OTHERS, "y": LABELS})
    learned, features = preprocess.fit(frame.lazy(), label="y", task="classification")
    assert list(learned.features) == ["said"]
    assert learned.dropped == dict.fromkeys(OTHERS, preprocess.ALL_DIFFERENT)
    assert "distinct: 'names', 'ids', 'tickets', 'addresses'" in caplog.text
    assert len(learned.feature_names) == 21
    assert np.corrcoef(features["said_score_1"], features["y"])[0, 1] > 0.7


def test_text_that_repeats_is_encoded_by_its_label_too() -> None:
    repeated = [TEXTS[place % 200] or "nothing to say here" for place in range(600)]
    frame = pl.DataFrame({"said": repeated, "y": [LABELS[place % 200] for place in range(600)]})
    learned, _ = preprocess.fit(frame.lazy(), label="y", task="classification")
    assert learned.feature_names[0] == "said"
    assert learned.feature_names[1] == "said_words_1"


def test_no_words_are_learned_from_few_rows() -> None:
    frame = pl.DataFrame({"said": TEXTS, "x": range(600), "y": LABELS}).head(150)
    learned, _ = preprocess.fit(frame.lazy(), label="y", task="classification")
    assert learned.feature_names == ["x"]
