import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kfp import compiler, dsl

import run as run_command

ROOT = Path(__file__).parents[1]


def test_lists_the_pipelines_with_their_parameters_and_descriptions(capsys: pytest.CaptureFixture) -> None:
    assert run_command.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert "tabular-training" in shown
    assert "source (String) = 'sample://breast_cancer'" in shown
    assert "Column to predict." in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tabular-trainin"], "unknown pipeline 'tabular-trainin'; did you mean 'tabular_training'?"),
        (["tabular-training", "-p", "sorce=x"], "unknown parameter 'sorce'; did you mean 'source'?"),
        (["tabular-training", "-p", "seed=x"], "parameter 'seed' takes a whole number, not 'x'"),
        (
            ["mine.yaml"],
            "a compiled file runs with --strict, as a backend runs it: run.py --strict mine.yaml",
        ),
        (["tabular-training", "-p", "task=classify"], "one of classification, regression, not 'classify'"),
        (
            ["tabular-training", "-p", "candidates=[{estimator: RandomForrest, parameters: {}}]"],
            "RandomForest",
        ),
        (
            [
                "tabular-training",
                "-p",
                "candidates=[{estimator: RandomForest, parameters: {n_estimator: 5}}]",
            ],
            "n_estimators",
        ),
        (["--strict", "missing.yaml"], "cannot read the compiled pipeline in missing.yaml"),
        (["--strict", "tabular-training", "--node", "2"], "node '2' must be CPUs and memory"),
        (["--strict", "tabular-training", "--runner", "docker"], "leave out --runner docker"),
    ],
)
def test_a_wrong_call_gives_a_one_line_error_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], sentence: str
) -> None:
    assert run_command.main([*arguments, "--runs", str(tmp_path / "runs")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("parameters", "task", "sentence"),
    [
        (["source=missing.csv"], "ingest-table", "missing.csv"),
        (
            ["label=price"],
            "ingest-table",
            "label column 'price' is not in the source; columns are: mean_radius",
        ),
    ],
    ids=["missing file", "missing label"],
)
def test_a_users_first_mistake_is_reported_with_task_error_and_log(
    tmp_path: Path, parameters: list[str], task: str, sentence: str
) -> None:
    arguments = [word for parameter in parameters for word in ("-p", parameter)]
    done = subprocess.run(
        [sys.executable, "run.py", "tabular-training", *arguments, "--runs", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    failed = done.stdout.partition(f"failed: {task}")[2]
    assert sentence in failed
    log = Path(failed.partition("log: ")[2].split("\n")[0])
    assert log.is_file()
    assert "Traceback" not in done.stdout + done.stderr


def test_a_users_compiled_file_is_checked_by_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    @dsl.component(base_image="registry.example/base:1", install_kfp_package=False)
    def say(text: str, made: dsl.Output[dsl.Model]) -> float:
        made.metadata["labels"] = None
        return 0.5

    @dsl.pipeline(name="mine")
    def mine(text: str) -> None:
        say(text=text)

    file = tmp_path / "mine.yaml"
    compiler.Compiler().compile(mine, str(file))
    command = ["--strict", str(file), "--runs", str(tmp_path / "runs")]
    assert run_command.main(command) == 2
    assert "parameter 'text' has no default; give it as -p text=value" in capsys.readouterr().err
    assert run_command.main([*command, "-p", "text=hello"]) == 1
    shown = capsys.readouterr().out
    assert "metadata 'labels' of output 'made' is null" in shown
    assert (tmp_path / "runs" / "mine").is_dir()


def test_a_training_that_was_killed_resumes_when_the_pipeline_runs_again(tmp_path: Path) -> None:
    network = "network={epochs: 300, patience: 30, units: 8, layers: 1, checkpoint_seconds: 0}"
    command = [sys.executable, "run.py", "tabular-training", "-p", "trainer=keras", "-p", network]
    command += ["--runs", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as killed:
        try:
            while not list(tmp_path.glob(".checkpoints/*/epoch-??????")):
                assert killed.poll() is None, "it ended without a checkpoint"
                time.sleep(0.01)
        finally:
            killed.send_signal(signal.SIGKILL)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    log = max(tmp_path.glob("tabular-training/*/logs/train-tabular.log"))
    assert "an interrupted try had done" in log.read_text()
    assert not list(tmp_path.glob(".checkpoints/*"))
