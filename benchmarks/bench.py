"""Measure flowparts beside what a user would pick instead, and print the ratios.

`make bench` measures everything and writes the tables into benchmarks/README.md. With ROWS=200000 or
CASES="split ingest" it measures less, and prints only.
"""

# Only the standard library: a child's peak memory counts from that of the process that starts it.
import argparse
import json
import os
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
WORK = ROOT / "build" / "bench"
README = HERE / "README.md"
MARK = "<!-- What follows is written by `make bench`. -->\n"

OURS = ROOT / ".venv/bin/python"
PEERS = ROOT / ".venv-bench/peers/bin/python"
TFDV = ROOT / ".venv-bench/tfdv/bin/python"

ROWS = 5_000_000
TRAINING_ROWS = 100_000
ROUNDS_SMALL, ROUNDS_LARGE = 3, 2
MAX_GROWTH = 1.5
MAX_OVERHEAD_SECONDS = 0.5
CANDIDATES = json.dumps(
    [{"estimator": name, "parameters": {}} for name in ("Linear", "HistGradientBoosting")]
)


@dataclass(frozen=True)
class Case:
    """A component and a peer; `speed` at least and `memory` at most are the ratios that it aims at."""

    name: str
    peer: str
    speed: float
    memory: float | None = None
    function: str = ""  # of peers.py, if not the name
    python: Path = PEERS
    large: bool = True


CASES = [
    Case("ingest", "pandas: read_csv, to_parquet", 1, 1 / 5),
    Case("profile", "pandas: the same statistics", 2, 1 / 4),
    Case("profile", "TFDV", 4, function="profile_tfdv", python=TFDV, large=False),
    Case("validate", "pandera on pandas", 2),
    Case("validate_planted", "pandera on pandas", 2),
    Case("split", "pandas, train_test_split", 1, 1 / 3),
    Case("batch_predict", "predict, predict_proba on the whole frame", 0.9, python=OURS),
]
BOUNDED = ["ingest", "split", "validate", "batch_predict"]


@dataclass(frozen=True)
class Measure:
    """What a process took: wall seconds and peak memory."""

    seconds: float
    megabytes: float


def main() -> None:
    names = [*dict.fromkeys(case.name for case in CASES), "whole_run"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of {', '.join(names)}; default: all")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the larger table (%(default)s)")
    options = parser.parse_args()
    chosen = options.cases or names
    if unknown := set(chosen) - set(names):
        parser.error(f"unknown case {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    large, small = (WORK / str(rows) for rows in (options.rows, options.rows // 10))
    prepare(small, large)

    lines = ["| case | rows | against | speed | memory | ours | peer | goal | met |", "|" + "---|" * 9]
    print(*lines, sep="\n")
    peaks: dict[str, dict[Path, float]] = {}
    for case in CASES:
        if case.name not in chosen:
            continue
        if not (case.python.parents[1] / "installed").exists():
            lines.append(f"| {case.name} | | {case.peer}: not installed here | | | | | | |")
            continue
        for data in (small, large) if case.large else (small,):
            ours, peer = alternately(case, data, ROUNDS_LARGE if data == large else ROUNDS_SMALL)
            peaks.setdefault(case.name, {})[data] = ours.megabytes
            lines.append(line(case, data, ours, peer, aimed=data == large or not case.large))
            print(lines[-1], flush=True)

    parts = [machine(), "### Speed and memory", "\n".join(lines)]
    bounded = {name: peaks[name] for name in BOUNDED if name in chosen}
    if bounded:
        parts += ["### Peak memory of the larger table against the smaller", growth(bounded, small, large)]
    if "validate_planted" in chosen:
        parts += ["### Planted errors", recall(large)]
    if "whole_run" in chosen:
        parts += ["### A whole run", whole_run()]
    text = "\n\n".join(parts) + "\n"
    print("\n" + text)
    if options.rows == ROWS and chosen == names:
        before = README.read_text(encoding="utf-8").partition(MARK)[0] if README.exists() else ""
        README.write_text(f"{before}{MARK}\n{text}", encoding="utf-8")
    shutil.rmtree(WORK / "out", ignore_errors=True)


def prepare(small: Path, large: Path) -> None:
    """Make the tables, the schemas they are validated with and the model that scores them, once."""
    WORK.mkdir(parents=True, exist_ok=True)
    training = WORK / str(TRAINING_ROWS)
    for data in {training, small, large}:
        if not data.exists():
            print(f"making {data.name} rows", flush=True)
            call(OURS, HERE / "data.py", data, data.name)
            call(OURS, HERE / "ours.py", "prepare", data, data)
    if not (WORK / "training" / "model").exists():
        call(OURS, HERE / "ours.py", "train", training, WORK / "training")


def alternately(case: Case, data: Path, rounds: int) -> tuple[Measure, Measure]:
    ours, peer = [], []
    for _ in range(rounds):
        ours.append(call(*task(case.name, data, empty("ours", case.name))))
        function = case.function or case.name
        peer.append(call(case.python, HERE / "peers.py", function, data, empty("peer", case.name)))
    return median(ours), median(peer)


def task(name: str, data: Path, out: Path) -> list[str]:
    """Return the command line of a component's task, as Kubeflow or `run.py` would run it."""
    command = [OURS, HERE / "ours.py", name, data, out]
    printed = subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE).stdout
    return json.loads(printed)


def median(measures: list[Measure]) -> Measure:
    return Measure(
        statistics.median(measure.seconds for measure in measures),
        statistics.median(measure.megabytes for measure in measures),
    )


def empty(*names: str) -> Path:
    folder = WORK.joinpath("out", *names)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def call(*command: object) -> Measure:
    """Run a command to its end; its output goes to a log that is shown if it fails."""
    log = WORK / "log.txt"
    words = [str(word) for word in command]
    with log.open("w") as file:
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=file, stderr=file, env=environment(), cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{log.read_text()}\nfailed: {' '.join(words)}")
    return Measure(seconds, usage.ru_maxrss / 1024)


def environment() -> dict[str, str]:
    # A task's command line looks for python3 on the path.
    path = f"{OURS.parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def line(case: Case, data: Path, ours: Measure, peer: Measure, aimed: bool) -> str:
    speed, memory = peer.seconds / ours.seconds, ours.megabytes / peer.megabytes
    aim = holds = ""
    if aimed:
        aim = f"≥ {case.speed:g}x"
        held = speed >= case.speed
        if case.memory:
            aim += f", ≤ {case.memory:.2f}"
            held &= memory <= case.memory
        holds = "yes" if held else "no"
    return (
        f"| {case.name} | {int(data.name):,} | {case.peer} | {speed:.2f}x | {memory:.2f} | "
        f"{ours.seconds:.1f} s, {ours.megabytes:,.0f} MB | {peer.seconds:.1f} s, {peer.megabytes:,.0f} MB | "
        f"{aim} | {holds} |"
    )


def growth(peaks: dict[str, dict[Path, float]], small: Path, large: Path) -> str:
    lines = ["| case | growth | MB | goal | met |", "|---|---|---|---|---|"]
    for name, peak in peaks.items():
        ratio = peak[large] / peak[small]
        lines.append(
            f"| {name} | {ratio:.2f}x | {peak[small]:,.0f} → {peak[large]:,.0f} | ≤ {MAX_GROWTH}x | "
            f"{'yes' if ratio <= MAX_GROWTH else 'no'} |"
        )
    return "\n".join(lines)


def recall(data: Path) -> str:
    """Compare what the last validation of each side found with what data.py planted."""
    planted = json.loads((data / "planted.json").read_text())
    lines = ["| | bad values found | bad columns found |", "|---|---|---|"]
    for side in ("ours", "peer"):
        anomalies = json.loads((WORK / "out" / side / "validate_planted" / "anomalies").read_text())
        found = {(anomaly["column"], anomaly["rule"]): anomaly["count"] for anomaly in anomalies}
        values = sum(min(count, found.get((column, rule), 0)) for column, rule, count in planted["values"])
        columns = sum((column, rule) in found for column, rule in planted["columns"])
        total = sum(count for _, _, count in planted["values"])
        lines.append(
            f"| {'validate_table' if side == 'ours' else 'pandera'} | {values:,} of {total:,} | "
            f"{columns} of {len(planted['columns'])} |"
        )
    return "\n".join(lines)


def whole_run() -> str:
    """Compare `run.py tabular-training` with plain.py, which does the same work in one process."""
    runs, scripts = [], []
    for _ in range(ROUNDS_SMALL):
        folder = empty("runs")
        run = [OURS, ROOT / "run.py", "tabular-training", "--no-cache", "--runs", folder]
        runs.append(call(*run, "-p", f"candidates={CANDIDATES}"))
        scripts.append(call(OURS, HERE / "plain.py", CANDIDATES, empty("plain")))
    (record,) = folder.glob("tabular-training/*/run.json")
    tasks = len(json.loads(record.read_text())["tasks"])
    run_seconds, script_seconds = median(runs).seconds, median(scripts).seconds
    overhead = (run_seconds - script_seconds) / tasks
    return (
        "| tasks | run.py | plain script | overhead per task | goal | met |\n|---|---|---|---|---|---|\n"
        f"| {tasks} | {run_seconds:.1f} s | {script_seconds:.1f} s | {overhead:.2f} s | "
        f"≤ {MAX_OVERHEAD_SECONDS} s | {'yes' if overhead <= MAX_OVERHEAD_SECONDS else 'no'} |"
    )


def machine() -> str:
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"Measured on {os.cpu_count()} cores with {gibibytes:.0f} GiB of memory."


if __name__ == "__main__":
    main()
