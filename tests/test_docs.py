"""What the pages tell people to type is taken by the real commands."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import compile as compile_command
import run as run_command
import submit as submit_command
from targets import catalogue, parameters, settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PARSERS = {
    "run.py": run_command._parser,
    "compile.py": compile_command._parser,
    "submit.py": submit_command.parser,
}


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> Iterator[list[str]]:
    """Give every command line of a page's shell blocks and workflow steps, split into words."""
    shell = "\n".join(blocks(page, "", "sh", "bash")).replace("\\\n", " ").splitlines()
    steps = [
        re.sub(r"^\s*- run: ", "", line) for block in blocks(page, "yaml") for line in block.splitlines()
    ]
    for line in (*shell, *steps):
        if re.match(r"(\.venv/bin/python |make )", line):
            yield shlex.split(line, comments=True)


COMMANDS = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_taken_by_the_real_parser(words: list[str]) -> None:
    if words[0] == "make":
        target = words[1]
        named = re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert named, f"there is no target {target}"
        return
    if words[1] == "-m":
        return
    options = PARSERS[words[1]]().parse_args(words[2:])
    if words[1] == "submit.py" and options.do.__name__ in ("_run", "_schedule"):
        inputs = catalogue.pipeline(options.name).component_spec.inputs
        parameters.gather(inputs, None, options.parameter)


def test_the_pages_show_every_command_of_both_targets() -> None:
    shown = {tuple(words[2:4]) for page in PAGES for words in commands(page) if words[1] == "submit.py"}
    verbs = ("upload", "run", "schedule", "status", "cancel")
    assert {(target, verb) for target in ("kubeflow", "vertex") for verb in verbs} <= shown


def test_every_profile_that_is_shown_is_one(tmp_path: Path) -> None:
    kinds = {"kubeflow": settings.Kubeflow, "vertex": settings.Vertex}
    shown = [text for page in PAGES for text in blocks(page, "toml")]
    assert len(shown) >= 2
    for text in shown:
        file = tmp_path / "flowparts.toml"
        file.write_text(text)
        for name, profile in tomllib.loads(text).items():
            settings.gather(kinds[profile["target"]], {"config": file, "profile": name}, {})


def test_workflows_that_are_shown_have_no_finding(tmp_path: Path) -> None:
    shown = [text for page in PAGES for text in blocks(page, "yaml") if "jobs:" in text]
    assert len(shown) == 2
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    for number, text in enumerate(shown):
        (folder / f"{number}.yml").write_text(text)
    linter = Path(sys.executable).parent / "zizmor"
    report = subprocess.run([linter, "--offline", tmp_path / ".github"], capture_output=True, text=True)
    assert report.returncode == 0, report.stdout + report.stderr
