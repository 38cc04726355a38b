"""Measure training, scoring and serving of networks beside plain Keras, and print the ratios.

`make bench-keras` measures everything and writes the tables into benchmarks/networks/README.md. With
CASES="train serve" it measures these again and keeps what was measured of the others before.
"""

# Only the standard library up to the server's case: a child's peak memory counts from that of its parent.
import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
README = HERE / "README.md"
MARK = "<!-- What follows is written by `make bench-keras`. -->\n"
sys.path[:0] = [str(HERE.parent), str(ROOT)]

import bench  # noqa: E402

WORK = ROOT / "build" / "bench"
RESULTS = WORK / "networks" / "results"
CASES = ("train", "feed", "fit", "score", "serve")
TRAINED, SMALL, LARGE = 200_000, 500_000, 5_000_000
ROUNDS = 2
MAX_OVERHEAD = 1.05
# The more epochs of a training, of which the fewer are subtracted: what is left is no start-up.
FEW, MANY = 1, 5
TRAIN_BATCH, LARGE_BATCH = 64, 1024

OURS, PLAIN, SERVER = (HERE / name for name in ("ours.py", "plain.py", "tf_server.py"))
TITLES = {
    "train": "Training: an epoch, past start-up",
    "feed": "Input: every row once, in shuffled batches, without a network",
    "fit": "A whole training of one epoch, start-up and exports included",
    "score": "Batch scoring",
    "serve": "Serving",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of {', '.join(CASES)}; default: all")
    chosen = parser.parse_args().cases or list(CASES)
    if unknown := set(chosen) - set(CASES):
        parser.error(f"unknown case {', '.join(sorted(unknown))}; known: {', '.join(CASES)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for case in chosen:
        found = globals()[f"measure_{case}"]()
        print("\n".join(table(case, found)), flush=True)
        (RESULTS / f"{case}.json").write_text(json.dumps(found))
    if all((RESULTS / f"{case}.json").exists() for case in CASES):
        README.write_text(report(), encoding="utf-8")


def measure_train() -> list[dict[str, Any]]:
    """Subtract the seconds of few epochs from those of many: what an epoch takes on each side."""
    data = parts(TRAINED)
    taken: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for epochs in (FEW, MANY):
            arguments = [str(epochs), str(TRAIN_BATCH)]
            taken.setdefault(f"ours {epochs}", []).append(ours("train", data, *arguments).seconds)
            taken.setdefault(f"peer {epochs}", []).append(plain("train", data, "OUT", *arguments).seconds)
    rows = len_of(data)
    epoch, whole = {}, {}
    for side in ("ours", "peer"):
        differences = [
            (many - few) / (MANY - FEW)
            for few, many in zip(taken[f"{side} {FEW}"], taken[f"{side} {MANY}"], strict=True)
        ]
        epoch[side], whole[side] = (
            statistics.median(differences),
            statistics.median(taken[f"{side} {MANY}"]),
        )
    ratio = epoch["ours"] / epoch["peer"]
    return [
        {
            "rows": rows,
            "batch": TRAIN_BATCH,
            "ours / peer": f"{ratio:.2f}",
            "ours": f"{epoch['ours']:.2f} s, {rows / epoch['ours']:,.0f} rows/s",
            "bare script": f"{epoch['peer']:.2f} s, {rows / epoch['peer']:,.0f} rows/s",
            "goal": f"≤ {MAX_OVERHEAD}",
            "met": yes(ratio <= MAX_OVERHEAD),
            f"the whole process, {MANY} epochs": f"{whole['ours']:.1f} s to {whole['peer']:.1f} s",
        }
    ]


def measure_feed() -> list[dict[str, Any]]:
    return [compared_feed(parts(rows)) for rows in (SMALL, LARGE)]


def compared_feed(data: Path) -> dict[str, Any]:
    sides: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
    count = 0
    for _ in range(ROUNDS):
        for side, script in (("ours", OURS), ("peer", PLAIN)):
            measured = bench.call(bench.OURS, script, "feed", data, LARGE_BATCH)
            count, seconds = told()["rows"], told()["seconds"]
            sides[side].append((count / seconds, measured.megabytes))
    (rate, memory), (peer_rate, peer_memory) = (
        tuple(statistics.median(values) for values in zip(*found, strict=True)) for found in sides.values()
    )
    return {
        "rows": count,
        "against": "pandas, NumPy, Keras' adapter of arrays",
        "speed": f"{rate / peer_rate:.2f}x",
        "memory": f"{memory / peer_memory:.2f}",
        "ours": f"{rate:,.0f} rows/s, {memory:,.0f} MB",
        "peer": f"{peer_rate:,.0f} rows/s, {peer_memory:,.0f} MB",
    }


def measure_fit() -> list[dict[str, Any]]:
    data, arguments = parts(LARGE), ["1", str(LARGE_BATCH)]
    found = [(ours("train", data, *arguments), plain("train", data, "OUT", *arguments))]
    return [{"rows": len_of(data), **compared("pandas, NumPy, `fit`", found)}]


def measure_score() -> list[dict[str, Any]]:
    model = WORK / "networks" / "model" / "model"
    if not model.exists():
        bench.call(bench.OURS, OURS, "model", parts(SMALL), model.parent)
    lines = []
    for rows in (SMALL, LARGE):
        data = tables(rows)
        found = [
            (ours("score", data, model), plain("score", data, model, "OUT"))
            for _ in range(ROUNDS if rows == SMALL else 1)
        ]
        against = "pandas, `model.predict` on the whole frame"
        lines.append({"rows": rows, **compared(against, found)})
    return lines


def measure_serve() -> list[dict[str, Any]]:
    """Load both servers alike, ours first and last."""
    from serving import bench as serving

    from flowparts.models import engines

    options = argparse.Namespace(seconds=5, connections=16)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        model = served_model(work)
        server = [sys.executable, "-m", "flowparts.serving", f"--model={model}"]
        server += ["--grpc-port=0", "--drain-seconds=0"]
        peer = serving.Peer("SavedModel in FastAPI", "", "")
        ours_first = serving.measure(server, serving.Peer("flowparts", "", ""), work, options)
        theirs = serving.measure([sys.executable, str(SERVER), str(model)], peer, work, options)
        ours_last = serving.measure(server, serving.Peer("flowparts", "", ""), work, options)
        engine = engines.load(model).name
    lines = []
    for rows in serving.ROWS:
        found = [result.load[rows] for result in (ours_first, theirs, ours_last)]
        assert not any(load["failed"] for load in found)
        first, middle, last = (load["requests"] / load["seconds"] for load in found)
        rate = (first + last) / 2
        lines.append(
            {
                "rows of a request": rows,
                "against": "SavedModel in FastAPI",
                "speed": f"{rate / middle:.1f}x",
                "memory": f"{ours_first.memory_mb / theirs.memory_mb:.2f}",
                "ours": f"{first:,.0f} and {last:,.0f} requests/s, p99 {found[0]['p99_ms']:.1f} ms",
                "peer": f"{middle:,.0f} requests/s, p99 {found[1]['p99_ms']:.1f} ms",
                "our engine": engine,
            }
        )
    return lines


def served_model(work: Path) -> Path:
    """Train a network on the rows of the other servers' benchmark."""
    import pipeline
    import polars as pl
    import step

    from flowparts import tables
    from flowparts.components.train.train_keras_tabular import train_keras_tabular

    tables.write(pl.from_pandas(pipeline.rows()), work / "table")
    table = step.artifact(work / "table")
    made, _ = step.run(train_keras_tabular, work, train=table, validation=table, label="label", epochs=3)
    return Path(made["model"].path)


def ours(case: str, data: Path, *arguments: object) -> bench.Measure:
    """Run a component's task as Kubeflow or `run.py` would."""
    out = bench.empty("ours", case)
    given = [data, *arguments[:1], out] if case == "score" else [data, out, *arguments]
    bench.call(bench.OURS, OURS, case, *given)
    return bench.call(*told())


def told() -> Any:
    """Return what the last process has printed as JSON."""
    lines = (bench.WORK / "log.txt").read_text().splitlines()
    return json.loads(next(line for line in reversed(lines) if line.startswith(("{", "["))))


def plain(case: str, *arguments: object) -> bench.Measure:
    out = bench.empty("peer", case)
    given = [out if argument == "OUT" else argument for argument in arguments]
    return bench.call(bench.OURS, PLAIN, case, *given)


def compared(against: str, found: list[tuple[bench.Measure, bench.Measure]]) -> dict[str, Any]:
    mine, peer = (bench.median(list(side)) for side in zip(*found, strict=True))
    return {
        "against": against,
        "speed": f"{peer.seconds / mine.seconds:.2f}x",
        "memory": f"{mine.megabytes / peer.megabytes:.2f}",
        "ours": f"{mine.seconds:.1f} s, {mine.megabytes:,.0f} MB",
        "peer": f"{peer.seconds:.1f} s, {peer.megabytes:,.0f} MB",
    }


def tables(rows: int) -> Path:
    """Return the folder with the table of so many rows that `make bench` reads too."""
    folder = WORK / str(rows)
    if not folder.exists():
        print(f"making {rows:,} rows", flush=True)
        bench.call(bench.OURS, HERE.parent / "data.py", folder, rows)
    return folder


def parts(rows: int) -> Path:
    """Return a folder with a training and a validation table and what is learned of the former."""
    folder = WORK / "networks" / str(rows)
    if not (folder / "encoding.json").exists():
        bench.call(bench.OURS, OURS, "split", tables(max(rows, SMALL)) / "table", rows, folder)
    return folder


def len_of(data: Path) -> int:
    return int(data.name) * 9 // 10


def yes(holds: bool) -> str:
    return "yes" if holds else "no"


def table(case: str, lines: list[dict[str, Any]]) -> list[str]:
    titles = list(lines[0])
    cells = [
        [f"{value:,}" if isinstance(value, int) else str(value) for value in line.values()] for line in lines
    ]
    rows = [titles, ["---"] * len(titles), *cells]
    return [f"### {TITLES[case]}", "", *(f"| {' | '.join(row)} |" for row in rows)]


def report() -> str:
    lines = [README.read_text(encoding="utf-8").partition(MARK)[0] + MARK, bench.machine(), ""]
    for case in CASES:
        lines += [*table(case, json.loads((RESULTS / f"{case}.json").read_text())), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
