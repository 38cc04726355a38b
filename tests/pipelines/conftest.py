"""What several pipelines need before they can run."""

from typing import Any

import pytest

from backends.local import runner
from flowparts.pipelines.tabular_training import tabular_training


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder of runs whose registry holds a champion for wine."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        candidates = [{"estimator": "Linear", "parameters": {}}]
        trained = runner.run(tabular_training, {"source": "sample://wine", "candidates": candidates}, folder)
        assert trained.succeeded
        yield folder
