"""Create a component or pipeline from a template, or check one: `make new-component`, `make check`."""

import argparse
import keyword
import os
import re
import subprocess
import sys
from pathlib import Path
from string import Template

from backends import catalogue
from tools import readme

ROOT = Path(__file__).parents[1]
_TEMPLATES = Path(__file__).parent / "templates"
# The contract tests. Some run every component, which takes minutes and needs services; with FLOWPARTS_CHECK
# they run the example of one component only.
_RULES = {
    "component": ("test_components.py", "test_metadata.py", "test_bad_input.py", "test_killed_steps.py"),
    "pipeline": ("test_pipelines.py",),
}


def new_component(name: str, root: Path = ROOT) -> list[Path]:
    """Write a component and its test, which pass all checks, and return the files.

    Args:
        name: Stage and name, such as "prepare/drop_outliers".
        root: The repository.

    Raises:
        ValueError: The name is malformed or taken.
    """
    stage, _, function = name.partition("/")
    if not (_is_name(stage) and _is_name(function)):
        raise ValueError(f"{name!r} must be STAGE/NAME in snake case, such as prepare/drop_outliers")
    _require_free(function)
    (root / "components" / stage).mkdir(exist_ok=True)
    (root / "components" / stage / "__init__.py").touch()
    return _write(
        {
            root / "components" / stage / f"{function}.py": "component",
            root / "tests" / "components" / stage / f"test_{function}.py": "test_component",
        },
        {"name": function, "stage": stage},
    )


def new_pipeline(name: str, root: Path = ROOT) -> list[Path]:
    """Write a pipeline and its test, which pass all checks, and return the files.

    Args:
        name: Its name, such as "customer-churn" or "customer_churn".
        root: The repository.

    Raises:
        ValueError: The name is malformed or taken.
    """
    function = name.replace("-", "_")
    if not _is_name(function):
        raise ValueError(f"{name!r} must be words with hyphens, such as customer-churn")
    _require_free(function)
    hyphened = function.replace("_", "-")
    return _write(
        {
            root / "pipelines" / f"{function}.py": "pipeline",
            root / "tests" / "pipelines" / f"test_{function}.py": "test_pipeline",
        },
        {"name": function, "hyphened": hyphened, "title": hyphened.replace("-", " ").capitalize()},
    )


def check(name: str) -> int:
    """Lint, type-check and test one component or pipeline, and return the exit status.

    The catalogue in README.md must be up to date, too.

    Raises:
        ValueError: It doesn't exist, or violates a rule that is checked on import.
    """
    kind, file, test = _files(name)
    python, ruff = sys.executable, [sys.executable, "-m", "ruff"]
    rules = [f"tests/contract/{rule}" for rule in _RULES[kind]]
    commands = {
        "lint": [*ruff, "check", file, test],
        "format": [*ruff, "format", "--check", file, test],
        "types": [python, "-m", "mypy", f"src/flowparts/{file}"],
        # Importing schemathesis, which only tests of the server need, takes seconds.
        "tests": [python, "-m", "pytest", "-q", "-p", "no:schemathesis", "-k", Path(file).stem, test, *rules],
    }
    environment = {**os.environ, "FLOWPARTS_CHECK": Path(file).stem}
    failed = [
        what
        for what, command in commands.items()
        if subprocess.run(command, cwd=ROOT, env=environment).returncode  # noqa: S603
    ]
    if failed:
        fix = f"; to format, run .venv/bin/ruff format {file} {test}" if "format" in failed else ""
        print(f"error: {', '.join(failed)} failed, see above{fix}", file=sys.stderr)  # noqa: T201
    if not readme.is_current():
        print("error: the catalogue in README.md is out of date; run make readme", file=sys.stderr)  # noqa: T201
        return 1
    return bool(failed)


def _files(name: str) -> tuple[str, str, str]:
    """Return the kind, the file and the test of a part, relative to the repository."""
    stem = name.rpartition("/")[2].replace("-", "_")
    places = [*ROOT.glob(f"components/*/{stem}.py"), *ROOT.glob(f"pipelines/{stem}.py")]
    if stem.startswith("_") or not places:
        known = {**catalogue.components(), **catalogue.pipelines()}
        catalogue.find(stem, known, "component or pipeline")
    place = places[0].relative_to(ROOT)
    test = Path("tests") / place.parent / f"test_{stem}.py"
    if not (ROOT / test).exists():
        raise ValueError(f"{place} has no test; write {test}")
    part = catalogue.imported(".".join(("flowparts", *place.with_suffix("").parts)), places[0])
    if not hasattr(part, stem):
        raise ValueError(f"{place} has no function {stem}; name it as its file")
    return place.parts[0].removesuffix("s"), str(place), str(test)


def _is_name(text: str) -> bool:
    return bool(re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", text)) and not keyword.iskeyword(text)


def _require_free(name: str) -> None:
    if name in catalogue.components() or name in catalogue.pipelines():
        raise ValueError(f"the name {name} is taken by another component or pipeline; choose a different one")


def _write(files: dict[Path, str], words: dict[str, str]) -> list[Path]:
    for file, template in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        text = (_TEMPLATES / f"{template}.py.txt").read_text(encoding="utf-8")
        file.write_text(Template(text).substitute(words), encoding="utf-8")
    return list(files)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.authoring", description=__doc__)
    parser.add_argument("do", choices=["new-component", "new-pipeline", "check"])
    parser.add_argument("name", metavar="NAME", help="such as prepare/drop_outliers, or a pipeline's name")
    options = parser.parse_args(arguments)
    try:
        if options.do == "check":
            return check(options.name)
        written = (new_component if options.do == "new-component" else new_pipeline)(options.name)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    names = [str(file.relative_to(ROOT)) for file in written]
    # The order of imports and the width of lines depend on the name.
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", "-q", "--fix", "--select=I", *names], cwd=ROOT, check=True)  # noqa: S603
    subprocess.run([*ruff, "format", "-q", *names], cwd=ROOT, check=True)  # noqa: S603
    readme.write()
    print("\n".join([*names, "README.md (its catalogue)"]))  # noqa: T201
    print(f"next: edit them, then make check NAME={options.name}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
