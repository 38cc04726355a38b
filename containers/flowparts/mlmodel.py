"""Read what a model directory says about itself, without any framework: its file MLmodel."""

from pathlib import Path
from typing import Any

_EXPECTED = {"framework", "task", "label", "classes", "features", "schema"}
_PARTS = ("model_uuid", "signature", "flavors")


def read(path: str | Path) -> dict[str, Any]:
    """Return the content of a model directory's MLmodel file.

    Raises:
        ValueError: There is no model at `path`, or flowparts didn't save it.
    """
    import yaml

    file = Path(path) / "MLmodel"
    found: Any
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"no model at {path}: the directory holds no file MLmodel") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    metadata = found.get("metadata") if isinstance(found, dict) else None
    if not isinstance(metadata, dict) or not metadata.keys() >= _EXPECTED:
        raise ValueError(
            f"the model at {path} was not saved by flowparts: its MLmodel lacks the metadata "
            + ", ".join(sorted(_EXPECTED))
        )
    if missing := [part for part in _PARTS if part not in found]:
        raise ValueError(f"the model at {path} is damaged: its MLmodel lacks {' and '.join(missing)}")
    described: dict[str, Any] = found
    return described
