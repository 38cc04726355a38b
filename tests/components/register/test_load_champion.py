import json
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from sklearn.linear_model import LogisticRegression

from flowparts import models
from flowparts.components.register.load_champion import load_champion
from flowparts.register import registry


@pytest.fixture
def champion(trained: Any, sklearn_rows: Any, tmp_path: Path) -> tuple[dsl.Model, str]:
    """A registered champion and its tracking URI."""
    model = trained(sklearn_rows("wine", "class")[0], "class", LogisticRegression(max_iter=10_000))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    registry.register(model.path, "wine", metrics={}, reports={}, tracking_uri=uri)
    return model, uri


def test_the_champion_and_the_schema_of_its_rows_are_fetched(
    champion: tuple[dsl.Model, str], artifact: Any, sklearn_rows: Any
) -> None:
    registered, uri = champion
    model, schema = artifact("fetched", dsl.Model), artifact("schema")
    (version,) = load_champion.python_func(model=model, schema=schema, model_name="wine", tracking_uri=uri)
    assert version == model.metadata["version"] == "1"
    rows = sklearn_rows("wine", "class")[1]
    assert models.load(model.path).predict(rows).equals(models.load(registered.path).predict(rows))
    columns = json.loads(Path(schema.path).read_text())["columns"]
    assert [column["name"] for column in columns] == models.metadata(registered.path)["features"]


def test_no_champion_gives_a_one_line_error_and_nothing_is_written(
    champion: tuple[dsl.Model, str], artifact: Any
) -> None:
    model, schema = artifact("fetched", dsl.Model), artifact("schema")
    with pytest.raises(ValueError, match="model 'beer' has no version with the alias 'champion'"):
        load_champion.python_func(model=model, schema=schema, model_name="beer", tracking_uri=champion[1])
    assert not Path(model.path).exists()
    assert not Path(schema.path).exists()
