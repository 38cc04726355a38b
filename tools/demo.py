"""Show the whole loop on this machine: a served model drifts, an alert fires, a better model takes its place.

Trains and serves a model on Docker with a prediction log, sends requests that change half-way, measures drift
by window and pushes the measurements. Prometheus fires; Alertmanager calls a webhook for people, and the
trigger that starts the training pipeline, whose model passes the gate and is rolled out in stages. A page
shows the course.
"""

import argparse
import contextlib
import json
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from kfp import dsl

from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.detect_drift import detect_drift
from flowparts.components.monitor.publish_metrics import publish_metrics
from flowparts.deploy import operations
from flowparts.util.errors import UnreachableError
from tools.demo_page import Answer, Story, page
from tools.demo_runs import PIPELINE, Outcome, Runs
from tools.demo_services import answering, ask, get, hook, monitored, triggered, until

WINDOWS, ROWS = 6, 500
DRIFTS_AT = 3  # the first window that differs
MODEL = ENDPOINT = "demo-monitoring"
CANDIDATES = ["Linear", {"estimator": "HistGradientBoosting", "parameters": {}}]


def customers(rows: int, seed: int, drifted: bool) -> pl.DataFrame:
    """Return labelled rows; in drifted ones customers are younger, and others churn."""
    draw = np.random.default_rng(seed)
    age = draw.normal(32 if drifted else 45, 9, rows).clip(18, 90)
    income = draw.lognormal(10.4 if drifted else 10.0, 0.4, rows)
    plan = draw.choice(["basic", "pro", "max"], rows, p=[0.2, 0.3, 0.5] if drifted else [0.5, 0.3, 0.2])
    expensive = np.isin(plan, ["max"]) if drifted else np.isin(plan, ["basic"])
    score = 2.5 * expensive + (0.06 if drifted else -0.06) * (age - 40) + 0.5 * np.log(income / 22_000) - 0.8
    churned = draw.random(rows) < 1 / (1 + np.exp(-2 * score))
    return pl.DataFrame(
        {
            "age": age.round(1),
            "income": income.round(),
            "plan": plan,
            "churned": pl.Series(churned).replace_strict({True: "yes", False: "no"}),
        }
    )


def right(answers: list[Any], labels: pl.Series) -> int:
    """Return the number of correct predictions."""
    predicted = [each["prediction"] if isinstance(each, dict) else each for each in answers]
    return sum(one == other for one, other in zip(predicted, labels, strict=True))


def sent(url: str, rows: pl.DataFrame) -> float:
    """Send rows to the endpoint, 20 at a time; return the fraction of correct predictions."""
    found = 0
    for part in rows.iter_slices(20):
        answers = get(f"{url}/predict", {"instances": part.drop("churned").to_dicts()})["predictions"]
        found += right(answers, part["churned"])
    return found / rows.height


@contextlib.contextmanager
def asking(url: str, story: Story) -> Iterator[None]:
    """Send customers' requests, five per second, until the block ends; record the answers."""
    ended = threading.Event()

    def send() -> None:
        for number in range(1_000_000):
            rows = customers(10, 10_000 + number, True)
            seconds = story.seconds()
            try:
                body, revision = ask(f"{url}/predict", {"instances": rows.drop("churned").to_dicts()})
                found = right(json.loads(body)["predictions"], rows["churned"])
            except (OSError, ValueError, KeyError):
                found, revision = 0, ""
            story.answers.append(Answer(seconds, revision, found, rows.height))
            if ended.wait(0.2):
                return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def measured(
    folder: Path, model: Path, since: datetime, rows: int, gateway: str
) -> tuple[dict[str, float], Path]:
    """Run detect_drift on a window of the prediction log and publish_metrics.

    Returns:
        The effect by column, and the report.
    """

    def logged() -> bool:
        files = list((folder / "log").rglob("*.parquet"))
        if not files:
            return False
        found = pl.scan_parquet(files).filter(pl.col("time") >= since).select(pl.len()).collect()
        return int(found.item()) >= rows

    until(logged, "the prediction log's next file")
    window = folder / f"window-{since:%H%M%S%f}"
    table, report = dsl.Dataset(uri=str(window / "table")), window / "drift.html"
    ingest_table.python_func(
        source=str(folder / "log"), table=table, rejected=dsl.Dataset(uri=str(window / "rejected"))
    )
    detect_drift.python_func(
        table=table,
        drift=dsl.Artifact(uri=str(window / "drift")),
        drift_report=dsl.HTML(uri=str(report)),
        measurements=dsl.Artifact(uri=str(window / "measurements")),
        model=dsl.Model(uri=str(model)),
        since=since.isoformat(),
    )
    publish_metrics.python_func(
        exposition=dsl.Artifact(uri=str(window / "exposition")),
        job=MODEL,
        drift=dsl.Artifact(uri=str(window / "measurements")),
        metric_labels={"model": MODEL},
        pushgateway=gateway,
    )
    found = json.loads((window / "drift").read_text(encoding="utf-8"))
    # The probabilities of two classes duplicate the prediction.
    shown = [each for each in found["columns"] if not each["column"].startswith("probability_")]
    return {each["column"]: float(each["effect"]) for each in shown}, report


def require_docker() -> None:
    """Remove leftovers of a killed demonstration; raise ValueError if no Docker engine answers."""
    try:
        removed()
    except UnreachableError:
        raise ValueError(
            "no Docker engine answers; `scripts/docker-engine.sh` installs and starts one (as root), and "
            "`make demo-monitoring` does that and builds the images"
        ) from None


def removed() -> None:
    """Remove the endpoint with its containers, if it exists."""
    with contextlib.suppress(operations.NoEndpointError):
        operations.remove("docker", ENDPOINT, {"wait_seconds": 60.0}, even_if_serving=True)


def demonstrate(folder: Path, port: int) -> Path:
    """Run the whole loop; return the page.

    Args:
        folder: Output folder; recreated.
        port: The first of three free ports.

    Raises:
        ValueError: A part failed.
    """
    require_docker()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    story, alerts = Story(), list[dict[str, Any]]()
    training = {
        "label": "churned",
        "model_name": MODEL,
        "candidates": CANDIDATES,
        "tracking_uri": f"sqlite:///{folder / 'mlflow.db'}",
        "deploy_target": "docker",
        "endpoint_name": ENDPOINT,
    }
    log = {"directory": str(folder / "log"), "seconds": 1}
    with contextlib.ExitStack() as stack:
        stack.callback(removed)
        runs = stack.enter_context(contextlib.closing(Runs(folder / "runs")))
        customers(4_000, 1, False).write_csv(folder / "before.csv")
        first = {
            **training,
            "source": str(folder / "before.csv"),
            "deploy_options": {"prediction_log": log, "memory": "1Gi"},
        }
        runs.start(PIPELINE, first, "first")
        later = {**training, "source": str(folder / "after.csv")}
        trigger = stack.enter_context(answering(triggered(folder, runs, PIPELINE, later, story.tell)))
        webhook = stack.enter_context(answering(hook(alerts)))
        prometheus, gateway = stack.enter_context(monitored(folder, webhook, trigger, port))
        before = runs.ended("first")
        story.tell(f"trained, registered and served at {before.url}: {before.verdict}")
        until(lambda: scraped(prometheus), "Prometheus' first look at the servers")
        story.tell(f"Prometheus at {prometheus} has found the server through the Docker engine")
        # Labels of rows after the change; they arrive before anyone notices.
        customers(4_000, 2, True).write_csv(folder / "after.csv")
        report = Path()
        for number in range(WINDOWS):
            report = window(story, folder, before, gateway, 100 + number, number >= DRIFTS_AT)
            if number < DRIFTS_AT and alerts:
                raise ValueError(f"an alert fired before anything drifted: {alerts[0]['annotations']}")
        story.pages["Drift of the last window of the old model"] = _beside(report, folder)
        drifted = until(lambda: of_drift(alerts, "firing"), "the alert")
        labels, said = drifted[0]["labels"], drifted[0]["annotations"]
        story.tell(f"the webhook has got {labels['alertname']}: {said['summary']}")
        until(lambda: len(runs.names) > 1, "the run that the alert starts")
        with asking(before.url, story):
            after = runs.ended(runs.names[1])
        story.revision = after.revision
        story.tell(f"trained on new rows, passed the gate and all stages of the canary: {after.verdict}")
        story.tell(f"customers sent {len(story.answers)} requests meanwhile, {story.lost} got no answer")
        report = window(story, folder, after, gateway, 200, True)
        story.pages["Drift of the first window of the new model"] = _beside(report, folder)
        until(lambda: of_drift(alerts, "resolved"), "the end of the alert")
        story.tell("the webhook has heard that the alert is over")
        for title, outcome in (("first", before), ("second", after)):
            story.pages[f"The {title} run of {PIPELINE}"] = _beside(outcome.folder / "index.html", folder)
            for file in sorted((outcome.folder / "reports").glob("*roll-out*.html")):
                story.pages[f"Rollout of the {title} model"] = _beside(file, folder)
    file = folder / "index.html"
    file.write_text(page(story, DRIFTS_AT), encoding="utf-8")
    return file


def of_drift(alerts: list[dict[str, Any]], status: str) -> list[dict[str, Any]]:
    """Return the alerts about drift that have begun ("firing") or ended ("resolved")."""
    wanted = {"alertname": "FlowpartsDrift", "status": status}
    return [each for each in alerts if {**each["labels"], "status": each["status"]}.items() >= wanted.items()]


def scraped(prometheus: str) -> bool:
    """Return whether Prometheus has metrics of the endpoint's servers."""
    found = get(f'{prometheus}/api/v1/query?query=flowparts_model_info%7Bjob="{ENDPOINT}"%7D')
    return bool(found["data"]["result"])


def window(story: Story, folder: Path, serving: Outcome, gateway: str, seed: int, drifted: bool) -> Path:
    """Send a window of requests, measure it and record the results; return the report."""
    rows, since = customers(ROWS, seed, drifted), datetime.now(UTC).replace(tzinfo=None)
    story.accuracy.append(sent(serving.url, rows))
    drift, report = measured(folder, serving.model, since, ROWS, gateway)
    story.drift.append(drift)
    name = max(drift, key=lambda each: drift[each])
    story.tell(
        f"window {len(story.drift)}: accuracy {story.accuracy[-1]:.2f}, {drift[name]:.0%} of the rows moved "
        f"in {name!r}"
    )
    return report


def _beside(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/demo-monitoring"), metavar="DIR")
    parser.add_argument("--port", type=int, default=19_090, help="the first of three ports (%(default)s)")
    options = parser.parse_args(arguments)
    # On SIGTERM, its containers are removed as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        print(demonstrate(options.out.resolve(), options.port))  # noqa: T201
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
