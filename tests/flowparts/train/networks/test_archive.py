import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from flowparts.train.networks import archive


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    path = tmp_path_factory.mktemp("network") / "model.keras"
    archive.save(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), path)
    return path


def changed(network: Path, path: Path, layer: dict[str, Any] | None = None, **files: bytes) -> Path:
    with zipfile.ZipFile(network) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if layer and name == "config.json":
                config = json.loads(content)
                config["config"]["layers"][1] = layer
                content = json.dumps(config).encode()
            target.writestr(name, content)
        for name, content in files.items():
            target.writestr(name, content)
    return path


def test_opens_what_it_saved(network: Path) -> None:
    assert archive.load(network).output_shape == (None, 1)


@pytest.mark.parametrize(
    ("module", "name"),
    [("keras.layers", "Lambda"), ("keras.layers", "TFSMLayer"), ("os", "system"), ("mine", "Layer")],
)
def test_refuses_what_runs_code(module: str, name: str, network: Path, tmp_path: Path) -> None:
    layer = {"module": module, "class_name": name, "config": {}, "registered_name": None}
    with pytest.raises(ValueError, match=f"holds '{name}'.* runs code"):
        archive.load(changed(network, tmp_path / "hostile.keras", layer))


def test_refuses_files_that_no_network_consists_of(network: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds 'code\.pkl'"):
        archive.load(changed(network, tmp_path / "hostile.keras", **{"code.pkl": b"."}))


def test_says_that_an_archive_is_damaged(network: Path, tmp_path: Path) -> None:
    (tmp_path / "half.keras").write_bytes(network.read_bytes()[:500])
    with pytest.raises(ValueError, match="is a damaged Keras archive"):
        archive.load(tmp_path / "half.keras")
