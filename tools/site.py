"""Build a site of all components and pipelines that any browser opens from disk."""

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from kfp.dsl.base_component import BaseComponent
from kfp.dsl.python_component import PythonComponent
from kfp.dsl.structures import InputSpec, OutputSpec

from backends import catalogue, package
from backends.local import runner
from tools import browser, site_pages

ROOT = Path(__file__).parents[1]
_PYTHON_TYPES = {
    "String": "str",
    "Integer": "int",
    "Float": "float",
    "Boolean": "bool",
    "List": "list",
    "Dict": "dict",
}
_PICTURE_WIDTH, _PICTURE_HEIGHT = 1200, 900
_SHARED = "flowparts.pipelines._"


def build(runs: Path, out: Path, registry: str, version: str | None, digests: Path | None) -> Path:
    """Write the site and return its start page.

    Args:
        runs: Finished runs of `run.py`; the newest successful one of each pipeline gives the screenshots.
        out: Output folder; replaced.
        registry: Registry of the images in the YAML files.
        version: The images' tag; None for the tag of the images in `digests`, else of this tree.
        digests: The images.json of `make push`, which pins images.

    Raises:
        ValueError: A reference is malformed, or a page violates Sphinx's rules.
    """
    version = package.images_version(version, digests)
    reference = package.image_references(registry, version, digests)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        shutil.copytree(ROOT / "docs", source, dirs_exist_ok=True)
        pages, reports = _reports(runs), source / "extra" / "reports"
        reports.mkdir(parents=True)
        if pages:
            _take_pictures(pages, reports)
        for kind, parts in (("components", catalogue.components()), ("pipelines", catalogue.pipelines())):
            (source / kind).mkdir()
            for name, part in parts.items():
                (source / kind / f"{name}.yaml").write_text(
                    package.compiled(part, reference, version), "utf-8"
                )
                page = _component(part) if isinstance(part, PythonComponent) else _pipeline(part)
                if name in pages and kind == "components":
                    shutil.copyfile(pages[name], reports / f"{name}.html")
                    page += f"## Report\n\n<a href='../reports/{name}.html'>{_picture(name)}</a>\n"
                elif name in pages:
                    page += f"## Page of a run\n\n{_picture(name)}\n"
                (source / kind / f"{name}.md").write_text(page, encoding="utf-8")
        with (source / "decisions" / "README.md").open("a", encoding="utf-8") as records:
            records.write(f"\n{site_pages.decisions(source / 'decisions')}")
        (source / "reference").mkdir()
        rooms = site_pages.reference()
        for room, page in rooms.items():
            (source / "reference" / f"{room}.md").write_text(page, encoding="utf-8")
        (source / "index.md").write_text(_index(list(rooms)), encoding="utf-8")
        made = source / "_build"
        sphinx = [
            sys.executable,
            "-m",
            "sphinx",
            "--quiet",
            "--no-color",
            "--fail-on-warning",
            "--builder=html",
        ]
        answer = subprocess.run([*sphinx, str(source), str(made)], capture_output=True, text=True)  # noqa: S603
        if answer.returncode:
            raise ValueError(f"Sphinx can't make the site: {answer.stderr.replace(str(source), 'docs')}")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out, ignore=shutil.ignore_patterns(".doctrees", ".buildinfo"))
    return out / "index.html"


def example(component: PythonComponent) -> str:
    """Return a minimal pipeline with a component; the component's required inputs become the pipeline's."""
    name = component.python_func.__name__
    needed = {port: spec for port, spec in _inputs(component).items() if not spec.optional}
    artifacts = {port: spec for port, spec in needed.items() if "@" in str(spec.type)}
    classes = {str(spec.type).partition("@")[0].removeprefix("system.") for spec in artifacts.values()}
    given = {
        port: f"Input[{_kind(spec)}]" if port in artifacts else _kind(spec) for port, spec in needed.items()
    }
    lists = any(spec.is_artifact_list for spec in needed.values())
    lines = [
        *(["from typing import List", ""] if lists else []),
        "from kfp import dsl",
        *([f"from kfp.dsl import {', '.join(sorted([*classes, 'Input']))}"] if classes else []),
        "",
        f"from flowparts.components.{catalogue.stage(component)}.{name} import {name}",
        "",
        "",
        '@dsl.pipeline(name="example")',
        f"def example({', '.join(f'{port}: {kind}' for port, kind in given.items())}) -> None:",
        f"    {name}({', '.join(f'{port}={port}' for port in given)})",
    ]
    return "\n".join(lines) + "\n"


def uses(name: str) -> dict[str, str]:
    """Return for each pipeline the statement that calls a component, there or in a shared module."""
    found = {}
    for pipeline in catalogue.pipelines():
        for text in _texts(pipeline):
            call = _call(text, name)
            if call and pipeline not in found:
                found[pipeline] = call
    return found


def _texts(module: str) -> Iterator[str]:
    """Yield the text of a pipeline's module and of the shared modules that it imports."""
    text = (ROOT / "pipelines" / f"{module}.py").read_text(encoding="utf-8")
    yield text
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_SHARED):
            yield from _texts((node.module or "").rpartition(".")[2])


def _call(text: str, name: str) -> str:
    for statement in _statements(ast.parse(text)):
        called = (node.func for node in ast.walk(statement) if isinstance(node, ast.Call))
        if any(isinstance(function, ast.Name) and function.id == name for function in called):
            return textwrap.dedent(ast.get_source_segment(text, statement, padded=True) or "").strip()
    return ""


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the simple statements of a file in order."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Assign | ast.Expr):
            yield node
        else:
            yield from _statements(node)


def _index(rooms: list[str]) -> str:
    pipelines, components = catalogue.pipelines(), catalogue.components()
    stages: dict[str, list[str]] = {}
    for name, part in components.items():
        stages.setdefault(catalogue.stage(part), []).append(f"components/{name}")
    parts = [
        "# flowparts\n\nComponents for Kubeflow Pipelines and Vertex AI, for the whole life of a model, and "
        "pipelines made of them. Each page has the ports, the image, an example and the compiled YAML.\n",
        *(_contents(group, names) for group, names in site_pages.grouped().items()),
        _contents("Pipelines", [f"pipelines/{name}" for name in pipelines]),
        *(_contents(stage.capitalize(), names) for stage, names in stages.items()),
        _contents("Reference", [f"reference/{room}" for room in rooms]),
        _contents("Decisions", ["decisions/README"]),
        "## Pipelines\n",
        _table(
            ["pipeline", "what it does"],
            [[f"[{_hyphened(name)}](pipelines/{name}.md)", _first(part)] for name, part in pipelines.items()],
        ),
        "## Components\n",
        _table(
            ["component", "stage", "what it does"],
            [
                [f"[{name}](components/{name}.md)", catalogue.stage(part), _first(part)]
                for name, part in components.items()
            ],
        ),
    ]
    return "\n".join(parts)


def _contents(caption: str, pages: list[str]) -> str:
    return "\n".join(["```{toctree}", f":caption: {caption}", ":hidden:", "", *pages, "```", ""])


def _component(part: PythonComponent) -> str:
    name = part.python_func.__name__
    container = part.component_spec.implementation.container
    assert container
    assert container.resources
    image = container.image.partition("flowparts-")[2].partition(":")[0]
    limits = [container.resources.cpu_limit or "", container.resources.memory_limit or ""]
    outputs = part.component_spec.outputs or {}
    sections = [
        f"# {name}\n\n{_escaped(part.description or '')}\n",
        _table(["stage", "image", "CPU limit", "memory limit"], [[catalogue.stage(part), image, *limits]]),
        "## Inputs\n",
        _ports(_inputs(part)),
        *(["## Outputs\n", _outputs(outputs)] if outputs else []),
        "## Example\n",
        _code(example(part)),
        *(
            f"In [{_hyphened(pipeline)}](../pipelines/{pipeline}.md):\n\n{_code(statement)}"
            for pipeline, statement in uses(name).items()
        ),
        f"{{download}}`{name}.yaml <{name}.yaml>` loads with `kfp.components.load_component_from_file`.\n",
    ]
    return "\n".join(sections)


def _pipeline(part: BaseComponent) -> str:
    name = part.pipeline_spec.pipeline_info.name
    file = f"{name.replace('-', '_')}.yaml"
    sections = [
        f"# {name}\n\n{_escaped(part.description or '')}\n",
        "## Parameters\n",
        _ports(_inputs(part)),
        "## Example\n",
        _code(f".venv/bin/python run.py {name}\n", "sh"),
        f"{{download}}`{file} <{file}>` is ready to upload.\n",
    ]
    return "\n".join(sections)


def _inputs(part: BaseComponent) -> Mapping[str, InputSpec]:
    return part.component_spec.inputs or {}


def _ports(ports: Mapping[str, InputSpec]) -> str:
    rows = [
        [f"`{name}`", _kind(spec), _default(spec) if spec.optional else "", _escaped(spec.description or "")]
        for name, spec in ports.items()
    ]
    return _table(["name", "type", "default", "what it is"], rows)


def _outputs(ports: Mapping[str, OutputSpec]) -> str:
    rows = [[f"`{name}`", _kind(spec), _escaped(spec.description or "")] for name, spec in ports.items()]
    return _table(["name", "type", "what it is"], rows)


def _default(spec: InputSpec) -> str:
    return "none" if spec.default is None else f"`{json.dumps(spec.default)}`"


def _kind(spec: InputSpec | OutputSpec) -> str:
    """Return a port's type in Python notation."""
    kind = re.sub(
        r"\w+", lambda found: _PYTHON_TYPES.get(found[0], found[0]), str(spec.type).partition("@")[0]
    )
    kind = kind.removeprefix("system.").replace("List[", "list[").replace("Dict[", "dict[")
    return f"List[{kind}]" if spec.is_artifact_list else kind


def _first(part: BaseComponent) -> str:
    """Return the first sentence of a description."""
    return _escaped(re.split(r"(?<=\.)\s", " ".join((part.description or "").split()), maxsplit=1)[0])


def _hyphened(name: str) -> str:
    return name.replace("_", "-")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def _escaped(text: str) -> str:
    """Escape plain text for Markdown; single line breaks fold."""
    return re.sub(r"([\\`*_{}\[\]<>|$#])", r"\\\1", text)


def _reports(runs: Path) -> dict[str, Path]:
    """Return the newest page of each pipeline and report of each component, of successful runs."""
    components = catalogue.components()
    found: dict[str, Path] = {}
    all_runs = [
        (name, runs / pipeline / name, summary)
        for pipeline, each in runner.summaries(runs).items()
        for name, summary in each.items()
    ]
    for _, folder, summary in sorted(all_runs, key=lambda run: run[0], reverse=True):
        if not summary["succeeded"]:
            continue
        found.setdefault(summary["pipeline"].replace("-", "_"), folder / "index.html")
        for report in sorted(folder.glob("reports/*.html")):
            stem = report.stem.replace("-", "_")
            owners = [name for name in components if stem.startswith(name)]
            if owners:
                found.setdefault(max(owners, key=len), report)
    return found


def _take_pictures(pages: Mapping[str, Path], folder: Path) -> None:
    """Write NAME.png, a screenshot of the upper part of each page, to a folder."""
    with browser.chromium(_PICTURE_WIDTH, _PICTURE_HEIGHT) as chromium:
        for name, page in pages.items():
            chromium.get(page.resolve().as_uri())
            chromium.save_screenshot(str(folder / f"{name}.png"))


def _picture(name: str) -> str:
    return f"<img src='../reports/{name}.png' alt='what {name} shows'>"


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="(%(default)s)")
    package.add_image_options(parser)
    parser.add_argument("--out", type=Path, default=Path("build/site"), metavar="DIR", help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        print(build(options.runs, options.out, options.registry, options.version, options.digests))  # noqa: T201
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
