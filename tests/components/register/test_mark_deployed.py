from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from sklearn.linear_model import LogisticRegression

from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.register.mark_deployed import mark_deployed
from flowparts.register import registry

ENDPOINT = {"deploy_target": "docker", "endpoint_name": "wine"}


@dsl.pipeline
def example(source: str = "sample://wine"):
    # Without a version there is nothing to note.
    mark_deployed(
        model_name="wine",
        version="",
        promoted=True,
        deploy_target="docker",
        endpoint_name="wine",
    ).set_caching_options(False).after(ingest_table(source=source))


@pytest.mark.parametrize(("promoted", "outcome"), [(True, "promoted"), (False, "rolled back")])
def test_a_version_awaits_its_roll_out_until_that_has_ended(
    promoted: bool, outcome: str, trained: Any, sklearn_rows: Any, tmp_path: Path
) -> None:
    model = trained(sklearn_rows("wine", "class")[0], "class", LogisticRegression(max_iter=10_000))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    asked = {"metrics": {}, "reports": {}, "tracking_uri": uri, "is_deployed_next": True}
    version = registry.register(model.path, "wine", **asked)
    found = registry.described("wine", version, uri)
    assert found.awaits_deployment
    assert found.model_fingerprint == registry.fingerprint(model.path)
    noted = {"model_name": "wine", "promoted": promoted, "tracking_uri": uri, **ENDPOINT}
    mark_deployed.python_func(version="", **noted)
    assert registry.described("wine", version, uri).awaits_deployment
    mark_deployed.python_func(version=version, **noted)
    assert not registry.described("wine", version, uri).awaits_deployment
    with pytest.raises(ValueError, match=r"MLflow .* refused: .*[vV]ersion.*99"):
        mark_deployed.python_func(version="99", **noted)
