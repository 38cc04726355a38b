"""Measure the images: seconds of a step beside a default component, sizes, builds.

`make bench-containers` prints the table and writes it into benchmarks/containers.md. It needs the images of
`make images` and a package index that can be reached.
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from kfp import dsl, local

from flowparts.components import runs_in
from tools import images

HERE = Path(__file__).parent
WORK = HERE.parent / "build" / "bench-containers"
# The Python image as the peer would use it: with pip on the path, also on the stand-in.
PEER_IMAGE = "flowparts-bench/python:3.11"
PEER_DOCKERFILE = (
    "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN python3 -m venv /opt/python\nENV PATH=/opt/python/bin:$PATH\n"
)
OUR_ROUNDS, PEER_ROUNDS = 5, 2


@runs_in("sklearn")
def our_empty() -> int:
    return 1


@runs_in("sklearn")
def our_importing() -> str:
    import pandas
    import sklearn

    return pandas.__version__ + sklearn.__version__


@dsl.component(base_image=PEER_IMAGE, packages_to_install=["pandas", "scikit-learn"])
def peer_empty() -> int:
    return 1


@dsl.component(base_image=PEER_IMAGE, packages_to_install=["pandas", "scikit-learn"])
def peer_importing() -> str:
    import pandas
    import sklearn

    return pandas.__version__ + sklearn.__version__


def seconds(call: Callable[[], object], rounds: int) -> list[float]:
    taken = []
    for _ in range(rounds):
        started = time.monotonic()
        call()
        taken.append(time.monotonic() - started)
    return taken


def steps() -> list[str]:
    """Both through kfp.local's own DockerRunner, as root, so that nothing but the image differs."""
    base = images._available(images.BASE_IMAGE)
    build = [
        images._builder(),
        "build",
        "--quiet",
        f"--tag={PEER_IMAGE}",
        f"--build-arg=BASE_IMAGE={base}",
        "-",
    ]
    subprocess.run(
        build, input=PEER_DOCKERFILE, text=True, check=True, stdout=subprocess.DEVNULL, env=images._BUILDKIT
    )
    built = images.read(HERE.parent / "build" / "images.json")
    for ours in (our_empty, our_importing):
        ours.component_spec.implementation.container.image = built["flowparts-sklearn"]["image"]
    local.init(runner=local.DockerRunner(user="0:0"), pipeline_root=str(WORK))
    rows = []
    for label, ours, peer in (
        ("an empty body", our_empty, peer_empty),
        ("importing pandas and scikit-learn", our_importing, peer_importing),
    ):
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            fast, slow = seconds(ours, OUR_ROUNDS), seconds(peer, PEER_ROUNDS)
        ours_seconds, peer_seconds = statistics.median(fast), statistics.median(slow)
        ratio = peer_seconds / ours_seconds
        rows.append(f"| step: {label} | {ours_seconds:.2f} s | {peer_seconds:.1f} s | {ratio:.0f} x |")
    return [
        *rows,
        f"| of which the two imports | {imports():.2f} s | | the same on both sides |",
    ]


def imports() -> float:
    """Return the seconds that Python takes for the two imports in our image: no step can be faster."""
    code = "import time; t = time.perf_counter(); import pandas, sklearn; print(time.perf_counter() - t)"
    built = images.read(HERE.parent / "build" / "images.json")
    command = ["docker", "run", "--rm", built["flowparts-sklearn"]["id"], "python", "-c", code]
    return statistics.median(float(subprocess.check_output(command)) for _ in range(OUR_ROUNDS))


def sizes() -> list[str]:
    built = images.read(HERE.parent / "build" / "images.json")
    rows = []
    for name, image in built.items():
        found = images._inspect(image["id"])
        base = images._inspect(found["Config"]["Labels"]["org.opencontainers.image.base.name"])["Size"]
        rows.append(
            f"| size: {name} | {found['Size'] / 1e6:.0f} MB | | of which {base / 1e6:.0f} MB Python image |"
        )
    command = "cd /opt/flowparts/lib/python3*/site-packages && du -sm * | sort -rn | head -12"
    largest = subprocess.run(
        ["docker", "run", "--rm", built["flowparts-sklearn"]["id"], "sh", "-c", command],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    parts = [" ".join(reversed(line.split())) for line in largest.splitlines()]
    return [*rows, f"| what takes the space, in MB | {', '.join(parts)} | | |"]


def builds() -> list[str]:
    """On a copy of containers/, so that nothing in the working tree is touched."""
    with tempfile.TemporaryDirectory() as work:
        images.CONTAINERS = Path(work) / "containers"
        shutil.copytree(HERE.parent / "containers", images.CONTAINERS)

        def build() -> None:
            images.build([], "flowparts-bench", "0", images.BASE_IMAGE, Path(work) / "build")

        for file in (images.CONTAINERS / "install.sh", images.CONTAINERS / "flowparts" / "tables.py"):
            with file.open("a") as text:
                text.write(f"# {time.time()}\n")
        with quiet():
            cold = seconds(build, 1)[0]
        with (images.CONTAINERS / "flowparts" / "tables.py").open("a") as text:
            text.write("# changed\n")
        with quiet():
            again = seconds(build, 1)[0]
    return [
        f"| build: all images, dependencies anew | {cold:.0f} s | | with downloads from pip's cache |",
        f"| build: after a change of one line in flowparts | {again:.1f} s | | |",
    ]


@contextlib.contextmanager
def quiet():
    """Send what docker prints nowhere."""
    saved = os.dup(1), os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    table = ["| | flowparts | default component | |", "|---|---|---|---|", *steps(), *sizes(), *builds()]
    print("\n".join(table))
    (HERE / "containers.md").write_text(
        "# Containers\n\nWritten by `make bench-containers`. A default component installs kfp, pandas and "
        f"scikit-learn each time it starts. {os.cpu_count()} cores; medians.\n\n" + "\n".join(table) + "\n",
        encoding="utf-8",
    )
