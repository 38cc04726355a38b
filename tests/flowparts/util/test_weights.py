import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from flowparts.util import weights

X = np.random.default_rng(0).normal(size=(40, 3))
Y = (X[:, 0] > 0).astype(int)


def tampered(path: Path, change: dict[str, str]) -> Path:
    """Copy a skops file, replacing text in its description of the objects."""
    target = path.with_name("tampered.skops")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "schema.json":
                text = content.decode()
                for old, new in change.items():
                    assert old in text
                    text = text.replace(old, new)
                content = text.encode()
            copy.writestr(name, content)
    return target


def test_a_loaded_estimator_predicts_as_the_stored_one(tmp_path: Path) -> None:
    fitted = RandomForestClassifier(n_estimators=5, random_state=0).fit(X, Y)
    weights.dump(fitted, tmp_path / "w.skops")
    np.testing.assert_array_equal(
        weights.load(tmp_path / "w.skops").predict_proba(X), fitted.predict_proba(X)
    )


def test_equal_trainings_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        weights.dump(RandomForestClassifier(n_estimators=5, random_state=0).fit(X, Y), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_names_a_function_to_call_is_refused_without_calling_it(tmp_path: Path) -> None:
    weights.dump(LogisticRegression().fit(X, Y), tmp_path / "w.skops")
    called = {
        '"__class__": "LogisticRegression"': '"__class__": "system"',
        '"__module__": "sklearn.linear_model._logistic"': '"__module__": "os"',
    }
    hostile = tampered(tmp_path / "w.skops", called)
    with pytest.raises(ValueError, match=r"refused to load .* untrusted objects: .*os\.system"):
        weights.load(hostile)


def test_a_type_outside_the_list_is_refused_when_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"untrusted types: .*\.system"):
        weights.dump(FunctionTransformer(os.system), tmp_path / "w.skops")
    assert not (tmp_path / "w.skops").exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + b"\0" * 18])
def test_a_damaged_file_gives_a_one_line_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.skops").write_bytes(content)
    with pytest.raises(ValueError, match="is not a valid skops file"):
        weights.load(tmp_path / "w.skops")


def test_a_missing_file_gives_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the weights are missing"):
        weights.load(tmp_path / "w.skops")


def test_files_hold_no_pickle_and_no_time(tmp_path: Path) -> None:
    weights.dump(LogisticRegression().fit(X, Y), tmp_path / "w.skops")
    with zipfile.ZipFile(tmp_path / "w.skops") as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
        for name in archive.namelist():
            content = archive.read(name)
            if name == "schema.json":
                json.loads(content)
            else:
                np.load(io.BytesIO(content), allow_pickle=False)
