"""Check that an image can import all its requirements: `python -m flowparts.selfcheck`."""

import importlib
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

import flowparts

# The requirements.in files of the image and of its parent images; the build puts them here.
PROMISES = Path(sys.prefix) / "promises"


def main() -> int:
    """Print the image's versions; return 1 if a requirement can't be imported."""
    names = promised(PROMISES)
    if not names:
        print(f"error: {PROMISES} names no requirements; this check runs inside an image")  # noqa: T201
        return 1
    facts = {
        "flowparts": flowparts.__version__,
        "git commit": os.environ.get("FLOWPARTS_GIT_COMMIT", "unknown"),
        "python": platform.python_version(),
        "user id": str(os.getuid()),
    }
    broken = {name: problem for name in names if (problem := import_problem(name))}
    for name, value in {**facts, **{name: _version(name) for name in names if name not in broken}}.items():
        print(f"{name:<24} {value}")  # noqa: T201
    for name, problem in broken.items():
        print(f"error: {name} can't be imported: {problem}")  # noqa: T201
    return 1 if broken else 0


def promised(folder: Path) -> list[str]:
    """Return the distributions named in the requirement files (*.in) of a folder, sorted."""
    lines = [line for file in folder.glob("*.in") for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted({found[0] for line in lines if (found := re.match(r"[A-Za-z0-9][\w.-]*", line))})


def import_problem(distribution: str) -> str:
    """Import the modules of a distribution; return the problem, or empty text."""
    try:
        modules = _modules(distribution)
        for module in modules:
            # A folder that lost its files imports silently.
            if importlib.import_module(module).__file__ is None:
                return f"{module} is an empty folder"
    except Exception as error:  # a broken package may raise anything
        return f"{type(error).__name__}: {error}"
    return "" if modules else "it has no module"


def _modules(distribution: str) -> list[str]:
    """Return the module with the distribution's name, otherwise all its top-level modules."""
    files = metadata.distribution(distribution).files or []
    tops = {file.parts[0].partition(".")[0] for file in files if file.name.endswith((".py", ".so"))}
    names = sorted(name for name in tops if name.isidentifier() and not name.startswith("_"))
    own = distribution.replace("-", "_").lower()
    inside = distribution.replace("-", ".").lower()
    if f"{inside.replace('.', '/')}/__init__.py" in {file.as_posix() for file in files}:
        return [inside]  # perhaps inside a namespace, such as google.cloud.aiplatform or backports.zstd
    return [own] if own in names else names


def _version(distribution: str) -> str:
    return metadata.version(distribution)


if __name__ == "__main__":
    sys.exit(main())
