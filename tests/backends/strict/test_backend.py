"""Runs small compiled pipelines as a backend would, and holds what comes out to what a real one did."""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest
from kfp import dsl
from kfp.dsl import (
    HTML,
    Artifact,
    Dataset,
    Input,
    Metrics,
    Model,
    Output,
    OutputPath,
    PipelineTaskFinalStatus,
)

from backends import package
from backends.local import runner
from backends.strict import backend, pod
from backends.strict.values import SubmissionError

IMAGE = {"base_image": "registry.example/flowparts-base:1.2.3", "install_kfp_package": False}
RECORDED = json.loads((Path(__file__).parents[1] / "recorded" / "steps.json").read_text(encoding="utf-8"))

isolated = pytest.mark.skipif(
    bool(pod.isolation_problem()), reason="this machine gives steps no root of their own"
)


def run(pipeline: Any, runs: Path, given: dict[str, Any] | None = None, **options: Any) -> runner.Run:
    return backend.run(package.compiled(pipeline, lambda image: image), given or {}, runs, **options)


def states(record: runner.Run) -> dict[str, str]:
    return {task.name: task.state for task in record.tasks}


def task(record: runner.Run, name: str) -> runner.Task:
    return next(each for each in record.tasks if each.name == name)


def said(record: runner.Run, name: str) -> str:
    return task(record, name).log.read_text(encoding="utf-8")


def seen(record: runner.Run, name: str) -> dict[str, Any]:
    """Return the executor input that a step has printed."""
    return json.loads(re.findall(r"^INPUT (.*)$", said(record, name), re.MULTILINE)[0])


@dsl.component(**IMAGE)
def io_write(rows: int, table: Output[Dataset], scores: Output[Metrics], page: Output[HTML]) -> NamedTuple(
    "Outputs", n=int, text=str, items=list, ok=bool
):
    import sys
    from pathlib import Path

    print("INPUT", sys.argv[4])
    Path(table.path).mkdir()
    Path(table.path, "a.csv").write_text("a,b")
    table.metadata.update(
        rows=rows, columns=["a", "b"], schema={"a": "int", "b": "int"}, sorted=True, share=0.5, note="text"
    )
    scores.log_metric("accuracy", 0.9)
    Path(page.path).write_text("<h1>page</h1>")
    return (rows, "text", [1, "a"], True)


@dsl.component(**IMAGE)
def io_read(
    n: int,
    text: str,
    items: list,
    ok: bool,
    table: Input[Dataset],
    scores: Input[Metrics],
    page: Input[HTML],
    copy: Output[Dataset],
) -> str:
    import sys
    from pathlib import Path

    print("INPUT", sys.argv[4])
    assert Path(table.path, "a.csv").read_text() == "a,b"
    copy.metadata.update(table.metadata)
    return "done"


@dsl.component(**IMAGE)
def io_read_again(table: Input[Dataset]):
    import os
    import sys

    print("INPUT", sys.argv[4])
    print("never written:", os.path.exists(table.path))


@dsl.pipeline(name="rec-io")
def rec_io(rows: int = 2):
    first = io_write(rows=rows)
    given = {name: first.outputs[name] for name in ("n", "text", "items", "ok", "table", "scores", "page")}
    second = io_read(**given)
    io_read_again(table=second.outputs["copy"])


@pytest.fixture(scope="module")
def io_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, runner.Run]:
    runs = tmp_path_factory.mktemp("runs")
    return runs, run(rec_io, runs)


def normal(text: str, numbers: dict[str, int]) -> Any:
    """Return an executor input in which what differs from run to run has names."""
    text = re.sub(r"rec-io/[0-9a-f-]{36}/([a-z-]+)/[0-9a-f-]{36}", r"rec-io/RUN/\1/UUID", text)
    found = json.loads(text)
    for port, entry in found["inputs"].get("artifacts", {}).items():
        (item,) = entry["artifacts"]
        assert re.fullmatch(r"\d+", item["name"])
        item["name"] = f"number of {port}"
    return found


@isolated
@pytest.mark.parametrize("step", ["io-write", "io-read", "io-read-again"])
def test_every_step_sees_what_it_saw_on_the_real_backend(io_runs: tuple[Path, runner.Run], step: str) -> None:
    _, record = io_runs
    assert record.succeeded, [(each.name, each.error) for each in record.failed] or record.problem
    recorded = next(each for each in RECORDED if each["step"] == step)
    expected = json.dumps(recorded["executor_input_seen_by_the_program"])
    assert normal(json.dumps(seen(record, step)), {}) == normal(expected, {})


def test_an_output_that_is_never_written_is_registered_without_files(
    io_runs: tuple[Path, runner.Run],
) -> None:
    _, record = io_runs
    assert "never written: False" in said(record, "io-read-again")


def test_a_run_shows_itself_like_any_other(io_runs: tuple[Path, runner.Run]) -> None:
    _, record = io_runs
    assert runner.metrics(record)["io-write"] == {"accuracy": 0.9, "n": 2}
    assert runner.reports(record)["io-write"].read_text() == "<h1>page</h1>"
    assert task(record, "io-write").parameters == {"rows": 2}
    assert [step.name for step in record.graph] == ["io-write", "io-read", "io-read-again"]
    summary = json.loads((record.folder / "run.json").read_text())
    assert [each["state"] for each in summary["tasks"]] == ["succeeded"] * 3


def test_a_second_run_is_served_from_the_cache_unless_an_input_differs(
    io_runs: tuple[Path, runner.Run],
) -> None:
    runs, first = io_runs
    second = run(rec_io, runs)
    assert set(states(second).values()) == {"cached"}
    assert task(second, "io-read").outputs["copy"].uri == task(first, "io-read").outputs["copy"].uri
    assert states(run(rec_io, runs, {"rows": 3}))["io-write"] == "succeeded"


def test_a_cache_belongs_to_a_pipeline_and_to_the_name_of_the_image(tmp_path: Path) -> None:
    @dsl.component(**IMAGE)
    def quick() -> str:
        return "ok"

    @dsl.pipeline(name="one")
    def one():
        quick()

    text = package.compiled(one, lambda image: image)
    for changed, state in (
        (text, "succeeded"),
        (text, "cached"),
        (text.replace("name: one", "name: another"), "succeeded"),
        (text.replace("flowparts-base:1.2.3", "flowparts-base:1.2.4"), "succeeded"),
        (text.replace("enableCache: true", "enableCache: false"), "succeeded"),
    ):
        assert set(states(backend.run(changed, {}, tmp_path)).values()) == {state}
    assert set(states(backend.run(text, {}, tmp_path, use_cache=False)).values()) == {"succeeded"}


@dsl.component(**IMAGE)
def fails(msg: str) -> str:
    import sys

    print("INPUT", sys.argv[4])
    raise ValueError(msg)


@dsl.component(**IMAGE)
def quick(text: str = "ok", more: Optional[str] = None) -> str:
    print("quick got", repr(text), repr(more))
    return text


@dsl.component(**IMAGE)
def note(status: PipelineTaskFinalStatus):
    import sys

    print("INPUT", sys.argv[4])
    print("seen:", status.state, status.pipeline_task_name, status.error_code, status.error_message)


@dsl.pipeline(name="rec-fail")
def rec_fail(text: str = "no"):
    with dsl.ExitHandler(note()):
        failed = fails(msg='planned failure: the table has no column "x"')
        quick(text=failed.output)
        with dsl.If(text == "yes"):
            quick()
        quick()


def test_a_failed_step_skips_dependent_steps_and_reaches_the_exit_task(tmp_path: Path) -> None:
    record = run(rec_fail, tmp_path)
    assert states(record) == {"fails": "failed", "quick-3": "succeeded", "note": "succeeded"}
    assert not record.succeeded
    assert task(record, "fails").error == 'planned failure: the table has no column "x"'
    assert "seen: FAILED exit-handler-1 None None" in said(record, "note")
    for step in ("fails", "note"):
        recorded = next(each for each in RECORDED if each["step"].endswith(f".{step}"))
        expected = recorded["executor_input_given_to_launcher"]["inputs"]
        found = seen(record, step)["inputs"]
        if step == "note":
            expected["parameterValues"]["status"]["pipelineJobResourceName"] = found["parameterValues"][
                "status"
            ]["pipelineJobResourceName"]
        assert found == expected


def test_the_exit_task_sees_a_group_that_came_from_the_cache_as_running(tmp_path: Path) -> None:
    @dsl.pipeline(name="cached-group")
    def cached_group():
        with dsl.ExitHandler(note().set_caching_options(False)):
            quick()

    assert "seen: COMPLETE" in said(run(cached_group, tmp_path), "note")
    assert "seen: RUNNING" in said(run(cached_group, tmp_path), "note")


def test_optional_inputs_defaults_and_placeholders_reach_the_program(tmp_path: Path) -> None:
    @dsl.component(**IMAGE)
    def inputs(
        s: str,
        f: float,
        names: list,
        run_id: str,
        task_name: str,
        opt: Optional[str] = None,
        dflt: str = 'component default "q"',
        artifact: Input[Artifact] = None,
    ):
        print("GOT", repr((s, f, names, task_name, opt, dflt, artifact)), type(f).__name__, len(run_id))

    @dsl.pipeline(name="rec-inputs")
    def rec_inputs(
        s: str,
        f: float = 3.0,
        names: list = [1, "a", 2.5],  # noqa: B006
        opt: Optional[str] = None,
    ):
        inputs(
            s=s,
            f=f,
            names=names,
            opt=opt,
            run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            task_name=dsl.PIPELINE_TASK_NAME_PLACEHOLDER,
        )

    record = run(rec_inputs, tmp_path, {"s": 'it\'s "quoted" äö {{x}}', "names": [1, None, {"a": None}]})
    assert (
        "GOT ('it\\'s \"quoted\" äö {{x}}', 3, [1, None, {'a': None}], 'inputs', None, "
        "'component default \"q\"', None) int 36"
    ) in said(record, "inputs")


def test_a_loop_collects_the_outputs_of_its_iterations_in_order(tmp_path: Path) -> None:
    @dsl.component(**IMAGE)
    def square(item: dict, page: Output[Dataset]) -> int:
        from pathlib import Path

        Path(page.path).write_text(item["name"])
        return item["n"] ** 2

    @dsl.component(**IMAGE)
    def total(numbers: list[int], pages: Input[list[Dataset]]) -> str:
        from pathlib import Path

        return f"{numbers} {[Path(page.path).read_text() for page in pages]}"

    @dsl.pipeline(name="rec-loop")
    def rec_loop(items: list[dict] = [{"n": 1, "name": "a"}, {"n": 3, "name": "b"}]):  # noqa: B006
        with dsl.ParallelFor(items) as item:
            turn = square(item=item)
        total(numbers=dsl.Collected(turn.outputs["Output"]), pages=dsl.Collected(turn.outputs["page"]))

    record = run(rec_loop, tmp_path)
    assert record.succeeded, [each.error for each in record.failed]
    assert list(states(record)) == ["square", "square-2", "total"]
    assert task(record, "total").outputs["Output"] == "[1, 9] ['a', 'b']"
    empty = run(rec_loop, tmp_path, {"items": []})
    assert not empty.succeeded
    assert "there is no execution of 'square'" in task(empty, "total").error


@dsl.component(**IMAGE)
def shows(text: str):
    print("shows", text)


def test_values_pass_through_nested_pipelines_loops_over_parts_and_steps_that_only_wait(
    tmp_path: Path,
) -> None:
    @dsl.pipeline(name="innermost")
    def innermost(text: str, more: str = " by default") -> str:
        return quick(text=text).output

    @dsl.pipeline(name="inner")
    def inner(text: str) -> str:
        return innermost(text=text).output

    @dsl.pipeline(name="rec-nested")
    def rec_nested(text: str = "in"):
        nested = inner(text=text)
        with dsl.ParallelFor([{"a": "x", "b": "1"}, {"a": "y", "b": "2"}]) as item:
            quick(text=item.a, more=item.b)
        shows(text=nested.output)
        shows(text="last").after(nested)

    record = run(rec_nested, tmp_path)
    assert record.succeeded, [each.error for each in record.failed] or record.problem
    assert list(states(record)) == ["quick", "quick-2", "quick-3", "shows", "shows-2"]
    turns = [said(record, name) for name in ("quick", "quick-2", "quick-3")]
    assert "quick got 'x' '1'" in turns[0]
    assert "quick got 'y' '2'" in turns[1]
    assert "shows in\n" in said(record, "shows")


@dsl.pipeline(name="rec-oneof")
def rec_oneof(text: str = "yes"):
    flip = quick(text=text)
    with dsl.If(flip.output == "yes"):
        chosen = quick(text="from if")
    with dsl.Else():
        other = quick(text="from else")
    shows(text=dsl.OneOf(chosen.output, other.output))


def test_only_one_branch_runs_and_its_cached_group_has_no_outputs(tmp_path: Path) -> None:
    first = run(rec_oneof, tmp_path)
    assert states(first) == {"quick": "succeeded", "quick-2": "succeeded", "shows": "succeeded"}
    assert "shows from if" in said(first, "shows")
    assert "shows from else" in said(run(rec_oneof, tmp_path, {"text": "no"}), "shows")
    second = run(rec_oneof, tmp_path)
    assert states(second) == {"quick": "cached", "quick-2": "cached", "shows": "failed"}
    assert "dsl.OneOf finds no branch" in task(second, "shows").error


def test_a_condition_on_text_with_a_quote_fails_the_run(tmp_path: Path) -> None:
    @dsl.pipeline(name="quote")
    def quote(text: str = "x"):
        with dsl.If(text == "it's"):
            quick()

    record = run(quote, tmp_path)
    assert not record.succeeded
    assert record.tasks == []
    assert record.problem.startswith("condition-1: the condition")
    assert "keep ' out of what is compared" in record.problem


@dsl.component(**IMAGE)
def writes(case: str, m: Output[Model], d: Output[Dataset]) -> float:
    import os
    from pathlib import Path

    Path(m.path).write_text("model")
    if case == "null":
        m.metadata["class_weight"] = None
    if case == "uri":
        m.uri = "s3://mlpipeline/elsewhere/file.csv"
    if case == "outside":
        d.path = "/tmp/elsewhere.txt"
        Path(d.path).write_text("x")
    if case == "suffix":
        d.path = d.path + ".txt"
        Path(d.path).write_text("x")
    if case == "template":
        d.metadata["first"] = "{" + "{=1+1}}"
    if case == "long":
        d.metadata["text"] = "x" * 140_000
    if case == "link":
        os.makedirs(d.path)
        os.symlink("/tmp", d.path + "/z")
    return float("inf") if case == "infinite" else 2.0


@dsl.component(**IMAGE)
def reads(x: float, d: Input[Dataset]):
    from pathlib import Path

    print("GOT", x, type(x).__name__, d.path, Path(d.path).exists(), type(d).__name__, d.name)


@dsl.pipeline(name="rec-values")
def rec_values(case: str):
    first = writes(case=case)
    reads(x=first.outputs["Output"], d=first.outputs["d"])


@pytest.mark.parametrize(
    ("case", "step", "sentence", "words"),
    [
        ("null", "writes", "metadata 'class_weight' of output 'm' is null", "NullValue"),
        ("infinite", "writes", "is Infinity, which the backend can't keep", "invalid value Infinity"),
        ("uri", "writes", "was given the address 's3://", "does not have expected bucket prefix"),
        ("outside", "reads", "is in no bucket", "unrecognized uri format"),
        ("template", "reads", "'{{=1+1}}', which Argo evaluates on the way", ""),
        ("long", "reads", "travel in one argument of a program", "argument list too long"),
        ("link", "writes", "/d/z in output 'd' is a link to a folder", "is a directory"),
    ],
)
def test_errors_of_the_backend_give_a_one_line_error_here(
    tmp_path: Path, case: str, step: str, sentence: str, words: str
) -> None:
    record = run(rec_values, tmp_path, {"case": case})
    (failed,) = record.failed
    assert failed.name == step
    assert sentence in failed.error
    assert words in said(record, step)
    assert ("reads" in states(record)) == (step == "reads")


def test_a_path_keeps_its_suffix_and_a_whole_float_becomes_an_int(tmp_path: Path) -> None:
    record = run(rec_values, tmp_path, {"case": "suffix"})
    assert record.succeeded
    assert re.search(
        r"GOT 2 int /minio/mlpipeline/v2/artifacts/\S+/d.txt True Dataset \d+\n", said(record, "reads")
    )


def test_an_output_parameter_must_be_written(tmp_path: Path) -> None:
    @dsl.component(**IMAGE)
    def none() -> str:
        return None

    @dsl.component(**IMAGE)
    def in_a_file(n: OutputPath(int)):
        from pathlib import Path

        Path(n).write_text("5")

    @dsl.pipeline(name="outputs")
    def outputs():
        none()
        in_a_file()

    record = run(outputs, tmp_path)
    assert task(record, "in-a-file").outputs["n"] == 5
    assert "output 'Output' was not written" in task(record, "none").error
    assert said(record, "none").splitlines()[-1] == (
        'F failed to execute component: failed to read output parameter name="Output" type="STRING" '
        'path="/tmp/kfp/outputs/Output": open /tmp/kfp/outputs/Output: no such file or directory'
    )


@isolated
def test_a_step_runs_as_the_images_user_on_a_root_it_cannot_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dsl.component(**IMAGE)
    def looks(d: Output[Dataset]):
        import json
        import os
        import stat
        import tempfile
        from pathlib import Path

        def refused(path: str) -> bool:
            try:
                Path(path).write_text("x")
            except OSError:
                return True
            return False

        Path(d.path).mkdir()
        Path(d.path, "file").touch(mode=0o600)
        found = {
            "user": [os.getuid(), os.getgid(), os.getgroups()],
            "refused": [refused(f"{folder}/x") for folder in ("", "/root", "/usr", os.environ["PROJECT"])],
            "allowed": [not refused(f"{folder}/x") for folder in ("/tmp", "/minio", "/.cache", os.getcwd())],
            "cwd": os.getcwd(),
            "temporary": tempfile.gettempdir(),
            "variables": sorted(os.environ),
            "mode": oct(stat.S_IMODE(os.stat(d.path).st_mode)),
        }
        print("FOUND", json.dumps(found))

    @dsl.component(**IMAGE)
    def looks_again(d: Input[Dataset]):
        import os
        import stat
        from pathlib import Path

        file = Path(d.path, "file")
        print(oct(stat.S_IMODE(file.stat().st_mode)), file.stat().st_uid, os.path.exists("/tmp/x"))
        file.write_text("my own copy")

    @dsl.pipeline(name="rec-files")
    def rec_files():
        first = looks().set_env_variable("OWN", "1")
        looks_again(d=first.outputs["d"])

    monkeypatch.setenv("SECRET_OF_THE_SHELL", "x")
    project = str(Path(backend.__file__).parents[2])
    record = run(rec_files, tmp_path, environment={"PROJECT": project})
    assert record.succeeded, [(each.name, each.error) for each in record.failed]
    found = json.loads(re.findall(r"^FOUND (.*)$", said(record, "looks"), re.MULTILINE)[0])
    assert found["user"] == [65532, 0, [] if os.geteuid() == 0 else found["user"][2]]
    assert found["refused"] == [True] * 4
    assert found["allowed"] == [True] * 4
    assert [found["cwd"], found["temporary"]] == ["/tmp", "/tmp"]
    assert {"OWN", "PROJECT", "KFP_POD_NAME", "HOME", "PATH", "FLOWPARTS_IMAGE_VERSION"} <= set(
        found["variables"]
    )
    assert not {"SECRET_OF_THE_SHELL", "TMPDIR", "AWS_ACCESS_KEY_ID"} & set(found["variables"])
    assert "0o666" in said(record, "looks-again")
    assert "False" in said(record, "looks-again"), "a step sees another's /tmp"
    stored = task(record, "looks").outputs["d"].uri
    assert Path(stored, "file").read_text() == ""
    assert stat.S_IMODE(Path(stored, "file").stat().st_mode) == 0o666


def test_a_pod_that_fits_no_node_is_reported_at_once(tmp_path: Path) -> None:
    @dsl.pipeline(name="large")
    def large():
        quick(text="a").set_cpu_limit("2")
        quick(text="b").set_cpu_limit("2").set_cpu_request("100m").set_memory_limit("1Gi")
        quick(text="c").set_memory_request("16Gi")
        quick(text="d").set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)

    record = run(large, tmp_path)
    assert states(record) == {
        "quick": "failed",
        "quick-2": "succeeded",
        "quick-3": "failed",
        "quick-4": "failed",
    }
    assert "'quick' asks for 2 CPU" in task(record, "quick").error
    assert "0/1 nodes are available: 1 Insufficient cpu" in task(record, "quick").error
    assert "1 Insufficient memory" in task(record, "quick-3").error
    assert "asks for nvidia.com/gpu" in task(record, "quick-4").error
    assert states(run(large, tmp_path, node="4 32Gi"))["quick-3"] == "succeeded"


def test_a_failing_program_is_not_retried(tmp_path: Path) -> None:
    @dsl.component(**IMAGE)
    def flaky():
        import os

        raise ValueError(f"try {os.environ['KFP_RETRY_INDEX']}")

    @dsl.pipeline(name="flaky")
    def pipeline():
        flaky().set_retry(3)

    record = run(pipeline, tmp_path)
    assert [(each.name, each.error) for each in record.tasks] == [("flaky", "try 0")]


def test_an_imported_artifact_is_read_from_the_runs_own_store(tmp_path: Path) -> None:
    @dsl.component(**IMAGE)
    def opens(d: Input[Dataset]) -> str:
        from pathlib import Path

        return f"{Path(d.path).read_text()} {d.metadata['rows']}"

    @dsl.pipeline(name="imports")
    def imports(uri: str):
        opens(d=dsl.importer(artifact_uri=uri, artifact_class=Dataset, metadata={"rows": 5}).output)

    stored = tmp_path / ".strict" / "objects" / "s3" / "bucket" / "rows.csv"
    stored.parent.mkdir(parents=True)
    stored.write_text("a,b")
    record = run(imports, tmp_path, {"uri": "s3://bucket/rows.csv"})
    assert task(record, "opens").outputs["Output"] == "a,b 5"
    assert states(run(imports, tmp_path, {"uri": "s3://bucket/rows.csv"}))["opens"] == "cached"
    elsewhere = run(imports, tmp_path, {"uri": "s3://another/rows.csv"})
    assert "a strict run reaches no bucket but its own" in task(elsewhere, "opens").error
    local_file = run(imports, tmp_path, {"uri": str(stored)})
    assert "an importer takes an address in a bucket" in task(local_file, "importer").error


def test_a_secret_that_is_not_given_is_named(tmp_path: Path) -> None:
    from kfp import kubernetes

    @dsl.pipeline(name="secrets")
    def secrets():
        kubernetes.use_secret_as_env(quick(), secret_name="store", secret_key_to_env={"key": "STORE_KEY"})

    record = run(secrets, tmp_path)
    assert "the pod waits for ever for the secret 'store'" in task(record, "quick").error
    assert "give STORE_KEY in --env-file" in task(record, "quick").error
    assert run(secrets, tmp_path, environment={"STORE_KEY": "x"}).succeeded


def test_only_the_step_that_a_secret_was_given_to_has_it(tmp_path: Path) -> None:
    from kfp import kubernetes

    @dsl.component(base_image="registry.example/flowparts-base:1")
    def key(number: int) -> str:
        import os

        return os.environ.get("STORE_KEY", "none")

    @dsl.pipeline(name="one-of-two")
    def one_of_two():
        given = key(number=1)
        kubernetes.use_secret_as_env(given, secret_name="store", secret_key_to_env={"key": "STORE_KEY"})
        key(number=2)

    record = run(one_of_two, tmp_path, environment={"STORE_KEY": "x"})
    assert {name: task(record, name).outputs["Output"] for name in ("key", "key-2")} == {
        "key": "x",
        "key-2": "none",
    }


def test_a_submission_that_the_api_refuses_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError):
        run(rec_io, tmp_path, {"rows": "two"})
    with pytest.raises(ValueError, match="not a compiled pipeline"):
        backend.run("a: 1", {}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_root_of_their_own_steps_still_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod, "isolation_problem", lambda: "not allowed")
    record = run(rec_io, tmp_path)
    assert record.succeeded, [(each.name, each.error) for each in record.failed]
    copy = task(record, "io-read").outputs["copy"]
    assert copy.metadata["columns"] == {"struct": {"list": ["a", "b"]}}
    assert "/objects/minio/mlpipeline/" in copy.uri
