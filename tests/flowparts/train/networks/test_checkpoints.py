import multiprocessing
import uuid
from pathlib import Path

import numpy as np
import pytest

from flowparts.train.networks import checkpoints
from flowparts.train.networks.checkpoints import Checkpoints

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


def test_of_equal_concurrent_trainings_only_one_writes_checkpoints(tmp_path: Path, model: object) -> None:
    first, second = (Checkpoints(str(tmp_path), RUN) for _ in range(2))
    first.write(3, model, {"best": 0.5})
    second.write(1, model, {"best": 0.9})
    second.clear()
    found = second.newest()
    assert found
    assert found[1] == {"best": 0.5}, "what the first has stored is left alone"
    first.clear()
    second.write(2, model, {"best": 0.7})
    found = Checkpoints(str(tmp_path), RUN).newest()
    assert found
    assert found[1] == {"best": 0.7}


def test_a_killed_process_holds_no_lock(tmp_path: Path, model: object) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(tmp_path),))
    process.start()
    process.join(60)
    states = Checkpoints(str(tmp_path), RUN)
    states.write(1, model, {"best": 0.5})
    assert states.newest()


def _hold(folder: str) -> None:
    import os
    import signal

    assert Checkpoints(folder, RUN)._is_mine()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("given", "environment", "workers", "expected"),
    [
        ("s3://bucket/states", "/shared", 1, "s3://bucket/states"),
        ("/given", "", 2, "/given"),
        (None, "/shared", 1, "/shared"),
        (None, "/shared", 2, None),
        ("", "", 1, "/run/.model.checkpoints"),
    ],
)
def test_states_lie_where_the_next_try_looks(
    given: str | None,
    environment: str,
    workers: int,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(checkpoints.ENVIRONMENT, environment)
    assert checkpoints.place(given, "/run/model", workers) == expected
