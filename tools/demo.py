"""Show the whole loop on this machine: a served model drifts, an alert fires, a better model takes its place.

Trains, serves with a log, sends requests that change half-way, measures drift by window and pushes
the measurements. Prometheus and Alertmanager call a webhook; on that it trains on new rows, passes the gate,
sends a growing share of the requests to the new model, and writes a page that tells the story.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from kfp import dsl

from backends import catalogue
from backends.local import runner
from flowparts import reports
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.detect_drift import detect_drift
from flowparts.components.monitor.publish_metrics import publish_metrics
from tools import dashboards

WINDOWS, ROWS = 6, 500
DRIFTS_AT = 3  # the first window that differs
MODEL = "churn"
CANDIDATES = ["Linear", {"estimator": "HistGradientBoosting", "parameters": {}}]
_WAIT_SECONDS = 120


@dataclass
class Story:
    """What happened.

    Attributes:
        started: When the demonstration began, by time.monotonic.
        events: Seconds since then, and what happened.
        accuracy: Of each window, on labels that arrived later.
        drift: Of each window, the share of rows that moved by column.
        shares: Of each stage of the canary: share asked for, share that the new model answered, its errors.
    """

    started: float = field(default_factory=time.monotonic)
    events: list[tuple[float, str]] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    drift: list[dict[str, float]] = field(default_factory=list)
    shares: list[tuple[int, float, int]] = field(default_factory=list)

    def tell(self, what: str) -> None:
        """Note and print an event."""
        self.events.append((time.monotonic() - self.started, what))
        print(f"{self.events[-1][0]:6.1f} s  {what}", flush=True)  # noqa: T201


def customers(rows: int, seed: int, drifted: bool) -> pl.DataFrame:
    """Return rows with their label; drifted ones are younger, and other customers leave."""
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


def trained(folder: Path, rows: pl.DataFrame, name: str) -> tuple[Path, str]:
    """Run tabular-training on rows; return the model and the gate's verdict."""
    source = folder / f"{name}.csv"
    rows.write_csv(source)
    parameters = {"source": str(source), "label": "churned", "model_name": MODEL, "candidates": CANDIDATES}
    record = runner.run(catalogue.pipeline("tabular-training"), parameters, folder / "runs")
    model, decision = runner.model(record), runner.decision(record)
    if not record.succeeded or model is None or decision is None:
        reasons = [f"{task.name}: {task.error}" for task in record.failed] or [record.problem]
        raise ValueError(f"training failed: {'; '.join(reasons)}; files: {record.folder}")
    if not decision[0]:
        raise ValueError(f"the gate refused the model: {decision[1]}")
    return model, decision[1]


def get(url: str, body: Any = None) -> Any:
    """Send a request and return the answer: JSON if it is such."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        text = answer.read()
        return json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition; raise ValueError if it doesn't hold in time."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if found := condition():
                return found
        if time.monotonic() > deadline:
            raise ValueError(f"{what} didn't happen within {_WAIT_SECONDS} s")
        time.sleep(0.2)


@contextlib.contextmanager
def started(command: list[str], ready: str, log: Path) -> Iterator[None]:
    """Run a server until the block ends; wait until an address answers."""
    if not shutil.which(command[0]):
        raise ValueError(f"{command[0]} is missing; `make system` installs it")
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:  # noqa: S603
        try:
            until(lambda: get(ready) is not None, f"the start of {command[0]} ({log})")
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def serving(model: Path, port: int, folder: Path) -> Iterator[str]:
    """Serve a model with a prediction log beside the others of its port; yield its address."""
    options = [f"--model={model}", f"--name={MODEL}", "--host=127.0.0.1", f"--port={port}", "--grpc-port=0"]
    log = [f"--prediction-log={folder / f'log-{port}'}", "--prediction-log-seconds=1"]
    command = [sys.executable, "-m", "flowparts.serving", *options, *log]
    url = f"http://127.0.0.1:{port}"
    with started(command, f"{url}/v2/health/ready", folder / f"server-{port}.log"):
        yield url


@contextlib.contextmanager
def hook(alerts: list[dict[str, Any]], port: int) -> Iterator[None]:
    """Receive Alertmanager's webhooks and keep their alerts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            alerts.extend(body["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()


@contextlib.contextmanager
def monitored(folder: Path, servers: list[int], port: int) -> Iterator[tuple[str, str]]:
    """Run Pushgateway, Alertmanager and Prometheus; yield the addresses of Prometheus and the Pushgateway.

    They have the shipped configuration, but look every second and send at once.
    """
    shipped = dashboards.RULES.parent
    alerting = yaml.safe_load((shipped / "alertmanager.yml").read_text(encoding="utf-8"))
    alerting["route"] |= {"group_wait": "1s", "group_interval": "5s"}
    for receiver in alerting["receivers"]:
        receiver["webhook_configs"][0]["url"] = f"http://127.0.0.1:{port + 3}"
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(alerting), encoding="utf-8")
    config = yaml.safe_load((shipped / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(dashboards.RULES)]
    config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port + 2}"]}]
    targets = [[f"127.0.0.1:{each}" for each in servers], [f"127.0.0.1:{port + 1}"]]
    for job, addresses in zip(config["scrape_configs"], targets, strict=True):
        job["static_configs"] = [{"targets": addresses}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    commands = {
        # Debian's keeps what was pushed in /var/lib, else.
        port + 1: ["prometheus-pushgateway", "--persistence.file="],
        port + 2: [
            "prometheus-alertmanager",
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'alertmanager'}",
            "--cluster.listen-address=",
        ],
        port: [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
        ],
    }
    with contextlib.ExitStack() as stack:
        for each, command in commands.items():
            command.append(f"--web.listen-address=127.0.0.1:{each}")
            ready = f"http://127.0.0.1:{each}/-/ready"
            stack.enter_context(started(command, ready, folder / f"{command[0]}.log"))
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"


def sent(url: str, rows: pl.DataFrame) -> float:
    """Send rows to a server, 20 at a time; return the share of right answers."""
    right = 0
    for part in rows.iter_slices(20):
        answers = get(f"{url}/predict", {"instances": part.drop("churned").to_dicts()})["predictions"]
        predicted = [each["prediction"] if isinstance(each, dict) else each for each in answers]
        right += sum(one == other for one, other in zip(predicted, part["churned"], strict=True))
    return right / rows.height


def measured(
    folder: Path, log: Path, model: Path, since: datetime, rows: int, gateway: str
) -> dict[str, float]:
    """Run detect_drift on a window of a prediction log and publish_metrics; return the effect by column."""

    def logged() -> bool:
        files = list(log.rglob("*.parquet"))
        if not files:
            return False
        return (
            int(pl.scan_parquet(files).filter(pl.col("time") >= since).select(pl.len()).collect().item())
            >= rows
        )

    until(logged, "the prediction log's next file")
    window = folder / f"window-{since:%H%M%S%f}"
    outputs = {name: str(window / name) for name in ("drift", "drift_report", "measurements", "exposition")}
    table = dsl.Dataset(uri=str(window / "table"))
    ingest_table.python_func(source=str(log), table=table, rejected=dsl.Dataset(uri=str(window / "rejected")))
    detect_drift.python_func(
        table=table,
        drift=dsl.Artifact(uri=outputs["drift"]),
        drift_report=dsl.HTML(uri=outputs["drift_report"]),
        measurements=dsl.Artifact(uri=outputs["measurements"]),
        model=dsl.Model(uri=str(model)),
        since=since.isoformat(),
    )
    publish_metrics.python_func(
        exposition=dsl.Artifact(uri=outputs["exposition"]),
        job=MODEL,
        drift=dsl.Artifact(uri=outputs["measurements"]),
        labels={"model": MODEL},
        pushgateway=gateway,
    )
    found = json.loads((window / "drift").read_text(encoding="utf-8"))
    # The probabilities of two classes say the same as the prediction.
    shown = [each for each in found["columns"] if not each["column"].startswith("probability_")]
    return {each["column"]: float(each["effect"]) for each in shown}


def demonstrate(folder: Path, port: int) -> Path:
    """Go through the whole loop; return the page.

    Args:
        folder: Where everything is written; made anew.
        port: The first of six free ports.

    Raises:
        ValueError: A part of it failed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    story, alerts = Story(), list[dict[str, Any]]()
    model, verdict = trained(folder, customers(4_000, 1, False), "before")
    story.tell(f"trained and registered: {verdict}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(hook(alerts, port + 3))
        prometheus, gateway = stack.enter_context(monitored(folder, [port + 4, port + 5], port))
        old = stack.enter_context(serving(model, port + 4, folder))
        story.tell(f"serving at {old}, watched by {prometheus}")
        for number in range(WINDOWS):
            rows = customers(ROWS, 100 + number, number >= DRIFTS_AT)
            since = datetime.now(UTC).replace(tzinfo=None)
            story.accuracy.append(sent(old, rows))
            story.drift.append(measured(folder, folder / f"log-{port + 4}", model, since, ROWS, gateway))
            story.tell(f"window {number + 1}: accuracy {story.accuracy[-1]:.2f}, " + _worst(story.drift[-1]))
            if number < DRIFTS_AT and alerts:
                raise ValueError(f"an alert fired before anything drifted: {alerts[0]['annotations']}")
        drifted = until(lambda: [each for each in alerts if each["status"] == "firing"], "the alert")
        story.tell(
            f"the webhook got {drifted[0]['labels']['alertname']}: {drifted[0]['annotations']['summary']}"
        )
        better, verdict = trained(folder, customers(4_000, 2, True), "after")
        story.tell(f"trained on new rows and passed the gate: {verdict}")
        new = stack.enter_context(serving(better, port + 5, folder))
        for share in (10, 50, 100):
            canary(story, old, new, share)
        rows, since = customers(ROWS, 200, True), datetime.now(UTC).replace(tzinfo=None)
        story.accuracy.append(sent(new, rows))
        story.drift.append(measured(folder, folder / f"log-{port + 5}", better, since, ROWS, gateway))
        story.tell(f"the new model: accuracy {story.accuracy[-1]:.2f}, {_worst(story.drift[-1])}")
        until(lambda: [each for each in alerts if each["status"] == "resolved"], "the end of the alert")
        story.tell("the webhook heard that the alert is over")
    file = folder / "index.html"
    file.write_text(page(story), encoding="utf-8")
    return file


def canary(story: Story, old: str, new: str, share: int) -> None:
    """Send a share of the requests to the new model; raise ValueError if it fails one."""
    draw = np.random.default_rng(share)
    errors, answered = 0, 0
    for row in customers(200, 300 + share, True).drop("churned").to_dicts():
        to_new = draw.random() * 100 < share
        try:
            get(f"{new if to_new else old}/predict", {"instances": [row]})
            answered += to_new
        except urllib.error.URLError:
            errors += to_new
    story.shares.append((share, answered / 200, errors))
    if errors:
        raise ValueError(f"the new model failed {errors} requests at {share} %; all stay with the old one")
    story.tell(f"canary at {share} %: {answered} of 200 requests, no errors")


def page(story: Story) -> str:
    """Return the page that tells the story."""
    numbers = list(range(1, len(story.accuracy) + 1))
    columns = [name for name in story.drift[0] if all(name in each for each in story.drift)]
    drift = {name: ([float(n) for n in numbers], [each[name] for each in story.drift]) for name in columns}
    accuracy = {"accuracy": ([float(n) for n in numbers], story.accuracy)}
    stages = [
        {"share asked for": f"{share} %", "answered by the new model": f"{part:.0%}", "errors": errors}
        for share, part, errors in story.shares
    ]
    seconds = story.events[-1][0]
    events = [{"seconds": round(at, 1), "event": what} for at, what in story.events]
    return reports.page(
        "A model drifts and is replaced",
        reports.callout(
            f"Requests changed in window {DRIFTS_AT + 1}. An alert fired, a model trained on new rows passed "
            f"the gate and took over; accuracy went from {story.accuracy[DRIFTS_AT]:.2f} to "
            f"{story.accuracy[-1]:.2f}.",
            "good",
        ),
        reports.facts(
            {
                "Accuracy before": round(story.accuracy[0], 3),
                "While drifted": round(story.accuracy[DRIFTS_AT], 3),
                "New model": round(story.accuracy[-1], 3),
                "Duration": f"{seconds:.0f} s",
            }
        ),
        reports.grid(
            reports.section("Drift by window", reports.lines(drift, "window", "share of rows that moved")),
            reports.section("Accuracy by window", reports.lines(accuracy, "window", "accuracy")),
        ),
        reports.section("Canary", reports.table(stages)),
        reports.section("What happened", reports.table(events)),
        subtitle=f"{WINDOWS} windows of {ROWS} requests to the first model, one to its successor",
    )


def _worst(drift: dict[str, float]) -> str:
    name = max(drift, key=lambda each: drift[each])
    return f"{drift[name]:.0%} of the rows moved in {name!r}"


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/demo-monitoring"), metavar="DIR")
    parser.add_argument("--port", type=int, default=19_090, help="the first of six ports (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        print(demonstrate(options.out.resolve(), options.port))  # noqa: T201
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
