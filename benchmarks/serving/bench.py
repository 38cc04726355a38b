"""Measure our server beside others: the same model, the same rows, the same connections, in one run."""

import argparse
import json
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
README = HERE / "README.md"
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT)]

import pipeline  # noqa: E402
import step  # noqa: E402

ROWS = (1, 32)
# What stands below it is measured by itself.
SOAK = "\n### Soak\n"


@dataclass(frozen=True)
class Peer:
    """A server to measure: its script, its environment, its address and the form of its requests."""

    title: str
    script: str
    environment: str
    path: str = "/predict"
    form: str = "instances"
    # Given before the port.
    arguments: tuple[str, ...] = ()


PEERS = [
    Peer("hello-world FastAPI", "hello_server", "litserve"),
    Peer("MLServer", "mlserver_server", "mlserver", "/v2/models/model/infer", "tensors"),
    Peer("KServe Model", "kserve_server", "kserve", "/v1/models/model:predict"),
    Peer("LitServe", "litserve_server", "litserve"),
    Peer("BentoML", "bentoml_server", "bentoml"),
    Peer("FastAPI and pydantic", "fastapi_server", "litserve"),
]
# Maintained servers with our handlers, batching and engine behind them: what our HTTP server alone is worth.
SERVERS = [
    Peer(f"our engine behind {title}", "engine_server", "asgi", arguments=(kind,))
    for title, kind in (
        ("uvicorn", "uvicorn"),
        ("granian (RSGI)", "granian"),
        ("granian (ASGI)", "granian-asgi"),
    )
]
MODEL_SERVERS = ("MLServer", "KServe Model", "LitServe")


@dataclass
class Result:
    """What was measured of one server."""

    load: dict[int, dict[str, float]]
    memory_mb: float
    processes: int

    def rate(self, rows: int) -> float:
        return self.load[rows]["requests"] / self.load[rows]["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="length of a measurement")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--soak-minutes", type=float, default=0, help="only hold 80 %% of our capacity")
    parser.add_argument("--only", nargs="*", help="servers to measure beside ours")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        model, engine = train(work)
        ours = [
            sys.executable,
            "-m",
            "flowparts.serving",
            f"--model={model}",
            "--grpc-port=0",
            "--drain-seconds=0",
        ]
        if options.soak_minutes:
            capacity = measure(ours, Peer("flowparts", "", ""), work, options)
            text = soak(ours, work, capacity, options)
            print(text)
            README.write_text(README.read_text("utf-8").partition(SOAK)[0] + text, encoding="utf-8")
            return
        results: dict[str, Result] = {}
        chosen = [
            peer for peer in PEERS + SERVERS if not options.only or peer.script.split("_")[0] in options.only
        ]
        # Ours first and last: the machine's own drift shows.
        results["flowparts"] = measure(ours, Peer("flowparts", "", ""), work, options)
        for peer in chosen:
            python = ROOT / ".venv-bench" / peer.environment / "bin" / "python"
            command = [str(python), str(HERE / "peers" / f"{peer.script}.py"), *peer.arguments]
            if peer in SERVERS:
                command.append(str(model))
            results[peer.title] = measure(command, peer, work, options)
        again = measure(ours, Peer("flowparts", "", ""), work, options)
    text = report(results, again, engine, options)
    print(text)
    if not options.only:
        soaked = README.read_text("utf-8").partition(SOAK)
        README.write_text(text + "".join(soaked[1:]), encoding="utf-8")


def train(work: Path) -> tuple[Path, str]:
    """Train the peers' estimator with our components; return the model's directory and its engine."""
    import polars as pl

    from flowparts import tables
    from flowparts.components.prepare.fit_preprocessor import fit_preprocessor
    from flowparts.components.train.train_sklearn import train_sklearn
    from flowparts.models import engines

    tables.write(pl.from_pandas(pipeline.rows()), work / "table")
    table = step.artifact(work / "table")
    prepared, _ = step.run(fit_preprocessor, work, train=table, validation=table, label="label")
    made, _ = step.run(
        train_sklearn, work, **prepared, estimator="HistGradientBoosting", parameters={"max_iter": 100}
    )
    return Path(made["model"].path), engines.load(made["model"].path).name


def measure(command: list[str], peer: Peer, work: Path, options: argparse.Namespace) -> Result:
    bodies = {rows: body(peer.form, rows, work) for rows in ROWS}
    with running(command, peer, bodies[1], work) as (process, url):
        load: dict[int, dict[str, float]] = {}
        for rows in ROWS:
            wrk(url, bodies[rows], 1, options.connections)
            load[rows] = wrk(url, bodies[rows], options.seconds, options.connections)
            print(f"{peer.title}, {rows} rows: {load[rows]}", file=sys.stderr)
        memory, processes = memory_of(process)
    return Result(load, memory, processes)


@contextmanager
def running(
    command: list[str], peer: Peer, request: Path, work: Path
) -> Iterator[tuple[psutil.Process, str]]:
    """Start a server, wait until it predicts, and end it with all its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    last = f"--port={port}" if "flowparts.serving" in command else str(port)
    environment = os.environ | {
        "PYTHONPATH": f"{HERE}:{ROOT / 'src'}",
        "BENTOML_DO_NOT_TRACK": "true",
        "HOME": str(work),
    }
    # scikit-learn's trees would share each row among all cores, and wait for one that something else keeps
    # busy: beside two busy processes FastAPI gave 30 requests/s with its default and 77 with one thread.
    environment["OMP_NUM_THREADS"] = "1"
    log = work / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, last], stdout=output, stderr=output, env=environment, cwd=work, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}{peer.path}"
        try:
            wait(url, request, process, log)
            yield psutil.Process(process.pid), url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait(url: str, request: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    asked = urllib.request.Request(url, request.read_bytes(), {"content-type": "application/json"})
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                if answer.status == 200:
                    return
        except urllib.error.HTTPError as error:
            if error.code in (400, 422):
                raise SystemExit(f"{url}: {error.read().decode()[:500]}") from None
            time.sleep(0.5)
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"{url} did not answer:\n{log.read_text()[-3000:]}")


def body(form: str, count: int, work: Path) -> Path:
    """Write a request and return its file."""
    records = pipeline.records(count)
    content: dict[str, Any] = {"instances": records}
    if form == "tensors":
        content = {
            "inputs": [tensor(name, [record[name] for record in records]) for name in pipeline.COLUMNS]
        }
    file = work / f"{form}-{count}.json"
    file.write_text(json.dumps(content, separators=(",", ":")))
    return file


def tensor(name: str, values: list[Any]) -> dict[str, Any]:
    datatype = {float: "FP64", bool: "BOOL", str: "BYTES"}[type(values[0])]
    text = {"parameters": {"content_type": "str"}} if datatype == "BYTES" else {}
    return {"name": name, "shape": [len(values)], "datatype": datatype, "data": values, **text}


def wrk(url: str, request: Path, seconds: float, connections: int, delay_ms: int = 0) -> dict[str, float]:
    """Load a server from connections that each send a request when the one before is answered."""
    environment = os.environ | {"BODY": str(request)} | ({"DELAY_MS": str(delay_ms)} if delay_ms else {})
    command = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "--timeout", "30s"]
    found = subprocess.run(
        [*command, "-s", str(HERE / "load.lua"), url],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    measured: dict[str, float] = json.loads(found.stdout.strip().splitlines()[-1])
    return measured


def memory_of(process: psutil.Process) -> tuple[float, int]:
    """Return the memory of a server's processes, shared pages counted once, in MB, and how many they are."""
    every = [process, *process.children(recursive=True)]
    return sum(each.memory_full_info().pss for each in every) / 1e6, len(every)


def soak(ours: list[str], work: Path, result: Result, options: argparse.Namespace) -> str:
    """Hold 80 % of the capacity for minutes; return what became of errors, latency and memory."""
    lines = [SOAK, "| rows | load | minutes | failed | p99 | memory after 10 % | at the end |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for rows in ROWS:
        request = body("instances", rows, work)
        # Held for long, a load settles a little below what was aimed at.
        aim = 0.83 * result.rate(rows)
        connections = max(options.connections, round(aim * 0.012))
        seconds = 60 * options.soak_minutes
        with running(ours, Peer("flowparts", "", ""), request, work) as (process, url):
            started = wrk(url, request, seconds / 10, connections, 10)
            before, _ = memory_of(process)
            # How long an answer takes under this load, and so what so many connections ask, shows only now.
            connections = round(connections * aim * started["seconds"] / started["requests"])
            held = wrk(url, request, seconds * 0.9, connections, 10)
            after, _ = memory_of(process)
        rate = held["requests"] / held["seconds"]
        failed = int(started["failed"] + held["failed"])
        lines.append(
            f"| {rows} | {rate:,.0f} requests/s, {rate / result.rate(rows):.0%} | {options.soak_minutes:g} | "
            f"{failed} | {held['p99_ms']:.1f} ms | {before:.0f} MB | {after:.0f} MB |"
        )
    return "\n".join(lines) + "\n"


def report(results: dict[str, Result], again: Result, engine: str, options: argparse.Namespace) -> str:
    ours = results["flowparts"]
    lines = [
        "# Benchmark of the model server",
        "",
        "Our server compared with others that serve the same scikit-learn pipeline (20 mixed columns, 100",
        f"boosted trees), each with one worker, on loopback. {options.connections} connections each send the",
        f"next request when the last is answered. Each measurement takes {options.seconds} s after a warm-up",
        "of 1 s; servers are measured one after another. `make bench-serving` measures and writes this page;",
        "with SOAK=10 it only runs at 80 % of our capacity, for ten minutes with each request size.",
        "",
        f"Measured on {os.cpu_count()} cores with {psutil.virtual_memory().total / 2**30:.0f} GiB of memory,",
        f"Python {platform.python_version()}; our engine: {engine}. Memory is that of all processes of a",
        "server, shared pages counted once. Every server has OMP_NUM_THREADS=1: behind FastAPI and KServe,",
        "scikit-learn's default was no faster on two idle cores and much slower on busy ones.",
        "",
        "| server | requests/s, 1 row | ours / it | p99 | requests/s, 32 rows | ours / it | p99 | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in {**results, "flowparts, measured again": again}.items():
        cells = [name]
        for rows in ROWS:
            cells += [f"{result.rate(rows):,.0f}", ratio(ours.rate(rows), result.rate(rows))]
            cells.append(f"{result.load[rows]['p99_ms']:.1f} ms")
        lines.append("| " + " | ".join([*cells, f"{result.memory_mb:.0f} MB"]) + " |")
    failed = sum(int(cell["failed"]) for result in results.values() for cell in result.load.values())
    lines += ["", f"Failed requests: {failed}.", ""]
    peers = [results[name] for name in MODEL_SERVERS if name in results]
    if len(peers) == len(MODEL_SERVERS) and "hello-world FastAPI" in results:
        lines += ["| goal | measured | met |", "|---|---|---|"]
        for rows, factor in zip(ROWS, (10, 7), strict=True):
            found = ours.rate(rows) / max(peer.rate(rows) for peer in peers)
            lines.append(
                aim(f"{rows} rows: ≥ {factor}x the best of {', '.join(MODEL_SERVERS)}", found, factor)
            )
        found = ours.rate(1) / results["hello-world FastAPI"].rate(1)
        lines.append(aim("1 row: ≥ 2x hello-world FastAPI", found, 2))
        for rows in ROWS:
            found = min(peer.load[rows]["p99_ms"] for peer in peers) / ours.load[rows]["p99_ms"]
            lines.append(aim(f"{rows} rows: p99 no worse than theirs", found, 1))
    servers = [results[peer.title] for peer in SERVERS if peer.title in results]
    if servers:
        lines += [
            "",
            "Our HTTP server alone, compared with others in front of the same handlers, batching and engine:",
        ]
        lines += ["", "| goal | measured | met |", "|---|---|---|"]
        for rows in ROWS:
            found = ours.rate(rows) / max(server.rate(rows) for server in servers)
            lines.append(aim(f"{rows} rows: ≥ 1.3x the best of uvicorn and granian", found, 1.3))
    return "\n".join(lines) + "\n"


def ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.1f}x" if theirs else "no answer"


def aim(text: str, found: float, least: float) -> str:
    return f"| {text.replace('1 rows', '1 row')} | {found:.1f}x | {'yes' if found >= least else 'no'} |"


if __name__ == "__main__":
    main()
