"""HTML pages of one run and of a comparison of runs, which any browser opens from disk."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from backends.graph import Step, layers
from backends.local.runner import Run, Task, metrics, reports, summaries
from flowparts import reports as report
from flowparts.util import outputs
from flowparts.util.masking import masked

STATE_COLOURS = {
    "succeeded": "#2a9d6f",
    "cached": "#4f8fc0",
    "failed": "#d1495b",
    "running": "#e0a030",
    "skipped": "#9aa0a6",
}
_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y = 196, 44, 18, 34


def write(record: Run) -> Path:
    """Write the page of a run as FOLDER/index.html and return it."""
    found_reports, numbers = reports(record), metrics(record)
    cached = sum(task.state == "cached" for task in record.tasks)
    blocks = [
        report.callout(f"{record.name} succeeded", "good")
        if record.succeeded
        else report.callout(
            "; ".join(f"{task.name}: {task.error}" for task in record.failed) or record.problem, "bad"
        ),
        report.facts(
            {"duration": f"{record.seconds:.1f} s", "tasks": len(record.tasks), "from the cache": cached}
        ),
        report.section("Graph", _graph(record)),
        report.section(
            "Tasks",
            report.table(
                [_task_row(task, numbers.get(task.name, {}), found_reports) for task in record.tasks]
            ),
        ),
        report.section(
            "Parameters", _pairs(record.parameters) if record.parameters else Markup("<p>All defaults.</p>")
        ),
    ]
    page = report.page(record.name, *blocks, subtitle=f"run {record.folder.name}")
    file = record.folder / "index.html"
    outputs.write_text(file, page)
    return file


def write_index(runs: Path) -> Path:
    """Write the page that compares all runs as RUNS/index.html and return it."""
    blocks = [
        report.section(pipeline, _comparison(pipeline, found))
        for pipeline, found in sorted(summaries(runs).items())
    ]
    file = runs / "index.html"
    outputs.write_text(
        file, report.page("Runs", *blocks, subtitle="newest first; parameters against metrics")
    )
    return file


def _comparison(pipeline: str, summaries: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Lay out runs as rows; only parameters that differ between runs get a column."""
    names = _ordered(key for summary in summaries.values() for key in summary["parameters"])
    varying = [
        name
        for name in names
        if len(
            {json.dumps(summary["parameters"].get(name), sort_keys=True) for summary in summaries.values()}
        )
        > 1
    ]
    measures = _ordered(key for summary in summaries.values() for key in summary["metrics"])
    rows = [
        {
            "run": Markup('<span style="white-space:nowrap">{}</span>').format(
                _link(f"{pipeline}/{run}/index.html", run)
            ),
            "state": "succeeded" if summary["succeeded"] else "failed",
            "seconds": round(summary["seconds"], 1),
            **{name: _text(summary["parameters"].get(name, "")) for name in varying},
            **{name: summary["metrics"].get(name, "") for name in measures},
        }
        for run, summary in summaries.items()
    ]
    return report.table(rows)


def _task_row(
    task: Task, numbers: Mapping[str, float], found_reports: Mapping[str, Path]
) -> dict[str, object]:
    links = [
        _link(f"reports/{file.name}", key.replace("_", " "))
        for key in task.pages
        for name, file in found_reports.items()
        if name in (task.name, f"{task.name}-{key}")
    ]
    links += [_link(f"logs/{task.log.name}", "log")] if task.log.is_file() else []
    shown = {key: value for key, value in task.parameters.items() if value not in ("", [], {}, None)}
    state = Markup('<span style="color:{}">&#9679;</span> {}').format(STATE_COLOURS[task.state], task.state)
    return {
        "task": Markup('<strong id="{}">{}</strong>').format(task.name, task.name),
        "state": state,
        "seconds": round(task.seconds, 1),
        "results": Markup(", ").join(
            Markup("{} <strong>{}</strong>").format(key, report.format_number(value))
            for key, value in numbers.items()
        ),
        "open": Markup(" &middot; ").join(links),
        "inputs": Markup("<details><summary>{}</summary>{}</details>").format(
            f"{len(shown)} input{'' if len(shown) == 1 else 's'}",
            Markup("<br>").join(Markup("{} = {}").format(key, _text(value)) for key, value in shown.items()),
        )
        if shown
        else "",
    }


def _pairs(values: Mapping[str, Any]) -> Markup:
    return report.table([{"name": name, "value": _text(value)} for name, value in values.items()])


def _graph(record: Run) -> Markup:
    """Draw the steps top to bottom; a skipped step is grey, and the steps after it are left out."""
    tasks: dict[str, list[Task]] = {}
    for task in record.tasks:
        tasks.setdefault(task.component, []).append(task)
    ran = {step.key for step in record.graph if step.component in tasks}
    shown = [step for step in record.graph if step.key in ran or step.upstream & ran]
    rows = layers(_within(shown))
    width = max((len(row) for row in rows), default=1) * (_BOX_WIDTH + _GAP_X)
    place = {
        step.key: (
            (width - len(row) * (_BOX_WIDTH + _GAP_X) + _GAP_X) / 2 + column * (_BOX_WIDTH + _GAP_X),
            number * (_BOX_HEIGHT + _GAP_Y) + 2,
        )
        for number, row in enumerate(rows)
        for column, step in enumerate(row)
    }
    edges = Markup("").join(
        _edge(place[upstream], place[step.key])
        for row in rows
        for step in row
        for upstream in sorted(step.upstream)
    )
    boxes = Markup("").join(
        _box(step, place[step.key], tasks.get(step.component, [])) for row in rows for step in row
    )
    height = len(rows) * (_BOX_HEIGHT + _GAP_Y) - _GAP_Y + 4
    return Markup(
        '<div style="overflow-x:auto;text-align:center">'
        '<svg class="graph" role="img" aria-label="graph of the run" width="{}" height="{}" '
        'viewBox="0 0 {} {}">{}{}</svg></div>'
    ).format(width, height, width, height, edges, boxes)


def _within(shown: Sequence[Step]) -> list[Step]:
    keys = {step.key for step in shown}
    return [Step(step.key, step.component, step.upstream & keys) for step in shown]


def _edge(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    x1, y1 = start[0] + _BOX_WIDTH / 2, start[1] + _BOX_HEIGHT
    x2, y2 = end[0] + _BOX_WIDTH / 2, end[1]
    middle = (y1 + y2) / 2
    return Markup(
        '<path d="M{:.0f} {:.0f} C{:.0f} {:.0f} {:.0f} {:.0f} {:.0f} {:.0f}" fill="none" '
        'stroke="currentColor" stroke-opacity="0.35" stroke-width="1.5"/>'
    ).format(x1, y1, x1, middle, x2, middle, x2, y2)


def _box(step: Step, place: tuple[float, float], tasks: Sequence[Task]) -> Markup:
    states = [task.state for task in tasks] or ["skipped"]
    state = next((worst for worst in ("failed", "running", "succeeded") if worst in states), states[0])
    seconds = f"{sum(task.seconds for task in tasks):.1f} s" if tasks else ""
    times = f" ({len(tasks)} turns)" if len(tasks) > 1 else ""
    box = Markup(
        '<g><rect x="{:.0f}" y="{:.0f}" width="{}" height="{}" rx="7" fill="{}" fill-opacity="0.16" '
        'stroke="{}" stroke-width="1.5"/>'
        '<text x="{:.0f}" y="{:.0f}" text-anchor="middle" font-size="12.5" font-weight="600" '
        'fill="currentColor">{}</text>'
        '<text x="{:.0f}" y="{:.0f}" text-anchor="middle" font-size="11" fill="currentColor" '
        'fill-opacity="0.75">{}</text></g>'
    ).format(
        place[0],
        place[1],
        _BOX_WIDTH,
        _BOX_HEIGHT,
        STATE_COLOURS[state],
        STATE_COLOURS[state],
        place[0] + _BOX_WIDTH / 2,
        place[1] + 18,
        step.name,
        place[0] + _BOX_WIDTH / 2,
        place[1] + 34,
        f"{state} {seconds}{times}",
    )
    return Markup('<a href="#{}">{}</a>').format(tasks[0].name, box) if tasks else box


def _link(target: str, text: str) -> Markup:
    return Markup('<a href="{}">{}</a>').format(target, text)


def _text(value: Any) -> Any:
    shown = masked(value)
    return json.dumps(shown, ensure_ascii=False) if isinstance(shown, list | dict) else shown


def _ordered(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
