"""Read what a model directory says about itself, without any framework: its file MLmodel."""

from pathlib import Path
from typing import Any

_EXPECTED = {"framework", "task", "label", "classes", "features", "schema"}


def read(path: str | Path) -> dict[str, Any]:
    """Return the content of a model directory's MLmodel file.

    Raises:
        ValueError: There is no model at `path`, or flowparts didn't save it.
    """
    import yaml

    file = Path(path) / "MLmodel"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"no model at {path}: the directory holds no file MLmodel") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not set(found.get("metadata") or {}) >= _EXPECTED:
        raise ValueError(
            f"the model at {path} was not saved by flowparts: its MLmodel lacks the metadata "
            + ", ".join(sorted(_EXPECTED))
        )
    return found
