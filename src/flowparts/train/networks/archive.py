"""Open .keras archives without running code from them.

Keras 3's format is described at https://keras.io/api/models/model_saving_apis/: a zip of config.json,
metadata.json and model.weights.h5.
"""

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowparts.util import errors, weights_audit

_FILES = {"config.json", "metadata.json", "model.weights.h5"}
# Modules of a saved network's objects: Keras' own, without those that call Python code by name.
_MODULES = ("keras", "keras.", "builtins")
_REFUSED_CLASSES = {
    "Lambda",
    "TFSMLayer",
    "TorchModuleWrapper",
    "JaxLayer",
    "FlaxLayer",
    "function",
    "__lambda__",
}
# Assets of the preprocessing layers: vocabularies as text.
_ASSETS = "assets/"


def load(path: str | Path, *, compiled: bool = False) -> Any:
    """Open a .keras archive of Keras' own layers and numbers only.

    Args:
        path: The archive.
        compiled: Whether to load optimizer and loss too.

    Raises:
        ValueError: It isn't such an archive, is damaged, or holds what could run code.
    """
    import keras

    require_harmless(path)
    try:
        return keras.saving.load_model(path, compile=compiled, safe_mode=True)
    # Each part of a damaged archive raises different errors.
    except Exception as error:
        raise ValueError(f"the Keras archive {path} can't be opened: {errors.first_line(error)}") from None


def save(model: Any, path: str | Path) -> None:
    """Write a .keras archive; equal models give equal bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        dated = Path(scratch) / "model.keras"
        model.save(dated)
        with zipfile.ZipFile(dated) as source, zipfile.ZipFile(path, "w") as target:
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    facts = {"keras_version": json.loads(content)["keras_version"]}
                    content = json.dumps(facts).encode()
                if name == "config.json":
                    content = _numbered(content.decode()).encode()
                target.writestr(zipfile.ZipInfo(name), content)


def _numbered(config: str) -> str:
    """Number shared objects in order; Keras identifies them by their memory addresses."""
    numbers: dict[str, int] = {}
    return re.sub(
        r'"shared_object_id": (\d+)',
        lambda found: f'"shared_object_id": {numbers.setdefault(found[1], len(numbers) + 1)}',
        config,
    )


def require_harmless(path: str | Path) -> None:
    """Raise ValueError if a .keras archive holds anything but Keras' own layers, numbers and vocabularies."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            strange = [name for name in names if not _belongs(name)]
            if strange:
                raise ValueError(
                    f"the Keras archive {path} holds {strange[0]!r}, which no network consists of; "
                    "don't open it"
                )
            config = json.loads(archive.read("config.json"))
    except FileNotFoundError:
        raise ValueError(f"no Keras archive at {path}") from None
    except (
        zipfile.BadZipFile,
        KeyError,
        OSError,
        RecursionError,
        UnicodeDecodeError,
        json.JSONDecodeError,
    ) as error:
        raise ValueError(f"{path} is a damaged Keras archive: {errors.first_line(error)}") from None
    for module, name in _classes(config):
        if name in _REFUSED_CLASSES or not (module.startswith(_MODULES[1]) or module in _MODULES):
            raise ValueError(
                f"the Keras archive {path} holds {name!r} of {module or 'nowhere'!r}, which runs code when "
                "it is loaded or called; only Keras' own layers are accepted"
            )


def _belongs(name: str) -> bool:
    if name in _FILES:
        return True
    parts = name.split("/")
    plain = ".." not in parts and "\\" not in name and not name.startswith("/") and "" not in parts[:-1]
    return plain and name.startswith(_ASSETS) and (name.endswith(("/", ".txt")))


def _classes(config: Any) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of every class in the configuration."""
    for value in weights_audit.json_objects(config):
        if "class_name" in value:
            # A registered name stands for code of whoever registered it.
            registered = value.get("registered_name") or ""
            module = value.get("module")
            known = not registered or ">" not in registered
            yield (str(module or "keras") if known else registered), str(value["class_name"])
