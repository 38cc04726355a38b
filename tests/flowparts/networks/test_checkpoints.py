import uuid
from pathlib import Path

import numpy as np
import pytest

from flowparts.networks.checkpoints import Checkpoints

RUN = {"data": "abc", "units": 8}


@pytest.fixture(params=["path", "URI"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "states") if request.param == "path" else f"memory://{uuid.uuid4().hex}/states"


@pytest.fixture(scope="module")
def model() -> object:
    import keras

    made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    made.compile("adam", "mse")
    made.fit(np.ones((4, 2)), np.ones(4), verbose=0)
    return made


def test_the_newest_state_is_found_by_another_process_of_the_same_run(place: str, model: object) -> None:
    assert Checkpoints(place, RUN).newest() is None
    first = Checkpoints(place, RUN)
    first.write(1, model, {"best": 0.5})
    weights = [np.ones((2, 1)), np.zeros(1)]
    first.write(2, model, {"best": 0.25}, weights)
    found = Checkpoints(place, RUN).newest()
    assert found
    restored, state, best = found
    assert state == {"best": 0.25}
    assert best is not None
    assert [array.tolist() for array in best] == [array.tolist() for array in weights]
    assert restored.optimizer is not None
    assert Checkpoints(place, {**RUN, "units": 9}).newest() is None, "a state of other options"


def test_nothing_is_left_of_a_run_that_has_ended(place: str, model: object) -> None:
    states = Checkpoints(place, RUN)
    states.write(1, model, {})
    states.clear()
    assert Checkpoints(place, RUN).newest() is None
    assert not Path(place).exists()
