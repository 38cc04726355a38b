"""Small pipelines; the first three were run on Kubeflow Pipelines 2.17.0, their pods and seconds counted."""

from typing import Any

import pytest
from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from backends import package
from backends.kubeflow import plan

IMAGE = {"base_image": "registry.example/image:1", "install_kfp_package": False}


@dsl.component(**IMAGE)
def produce(item: int = 0) -> str:
    return "a"


@dsl.component(**IMAGE)
def consume(text: str = "") -> str:
    return text


@dsl.component(**IMAGE)
def decide() -> bool:
    return True


@dsl.component(**IMAGE)
def write(table: Output[Dataset]) -> None:
    pass


@dsl.component(**IMAGE)
def read(tables: Input[list[Dataset]]) -> None:
    pass


@dsl.pipeline(name="one-step")
def one_step() -> None:
    produce()


@dsl.pipeline(name="three-steps")
def three_steps() -> None:
    first = produce()
    second = consume(text=first.output)
    consume(text="b").after(second)


@dsl.pipeline(name="handled-loop")
def handled_loop() -> None:
    with dsl.ExitHandler(consume(text="end")):
        with dsl.ParallelFor([1, 2]) as item:
            produced = produce(item=item)
        consume(text="b").after(produced)


def planned(pipeline: Any) -> plan.Plan:
    return plan.of(package.compiled(pipeline, str))


# Measured: 30 s; 80 s and 142 s on a machine with a load of 10 to 14 on two cores.
@pytest.mark.parametrize(
    ("pipeline", "steps", "levels", "pods", "seconds"),
    [(one_step, 1, 1, 3, 30), (three_steps, 3, 1, 7, 70), (handled_loop, 3, 3, 13, 100)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_counts_the_pods_and_seconds_of_a_run(
    pipeline: Any, steps: int, levels: int, pods: int, seconds: int
) -> None:
    whole = planned(pipeline)
    assert whole.usual == whole.longest
    path = whole.usual.path
    assert (path.steps, path.levels, path.seconds) == (steps, levels, seconds)
    assert len(whole.usual.pods) == pods


@dsl.pipeline(name="branches")
def branches(deploy: str = "", mode: str = "short", candidates: list = [1, 2, 3]) -> None:  # noqa: B006
    started = produce()
    with dsl.If(mode == "long", name="long"):
        consume(text=consume(text="a").output)
        consume(text="b")
    with dsl.Elif(mode == "longer", name="longer"):
        consume(text=consume(text="a").output).after(consume(text="c"))
    with dsl.Else(name="short"):
        consume(text="d")
    with dsl.If(deploy != "", name="deploy"):
        consume(text=started.output)
    with dsl.ParallelFor(candidates, parallelism=2, name="candidates") as candidate:
        produce(item=candidate)


def test_follows_the_path_of_the_default_parameters_and_the_longest_path() -> None:
    whole = planned(branches)
    # Drivers of the root, the branches, each of them, the deployment, the loop, its iterations; five steps.
    assert len(whole.usual.pods) == 1 + 1 + 3 + 1 + 1 + 3 + 2 * (1 + 1 + 3)
    # The loop takes two iterations and then one.
    assert whole.usual.path == plan.Path(seconds=10 + 10 + 2 * 30, steps=2, levels=2)
    # One of the three branches only, and the deployment.
    assert len(whole.longest.pods) == 10 + 2 * (1 + 3 + 1 + 3)
    assert whole.longest.status_bytes > whole.usual.status_bytes


def test_a_branch_decided_by_a_step_counts_as_its_longest_path() -> None:
    @dsl.pipeline(name="decided")
    def decided() -> None:
        verdict = decide().output
        with dsl.If(verdict == True, name="yes"):  # noqa: E712 kfp builds the condition
            consume(text=consume(text="b").output)
        with dsl.Else(name="no"):
            consume(text="c")

    whole = planned(decided)
    assert whole.usual == whole.longest
    assert whole.usual.path == plan.Path(seconds=10 + 20 + 20 + 40, steps=3, levels=3)
    assert len(whole.usual.pods) == 1 + 2 + 1 + 2 + 4


def test_a_single_branch_decided_by_a_step_counts_as_rarely_taken() -> None:
    @dsl.pipeline(name="rare")
    def rare() -> None:
        with dsl.If(decide().output == True, name="deploy"):  # noqa: E712 kfp builds the condition
            consume(text="b")

    whole = planned(rare)
    assert (whole.usual.path.steps, len(whole.usual.pods)) == (1, 1 + 2 + 1)
    assert (whole.longest.path.steps, len(whole.longest.pods)) == (2, 1 + 2 + 1 + 2)


def test_a_loop_over_what_a_step_yields_counts_once() -> None:
    @dsl.component(**IMAGE)
    def items() -> list:
        return [1, 2]

    @dsl.pipeline(name="unknown")
    def unknown() -> None:
        with dsl.ParallelFor(items().output) as item:
            produce(item=item)

    assert len(planned(unknown).usual.pods) == 1 + 2 + 1 + 1 + 2


def test_default_parameters_reach_nested_pipelines() -> None:
    @dsl.pipeline(name="inner")
    def inner(mode: str, fixed: str = "a") -> None:
        with dsl.If(mode == "deploy", name="deploy"):
            consume(text="a")
        with dsl.If(fixed == "b", name="never"):
            consume(text="b")

    @dsl.pipeline(name="outer")
    def outer(mode: str = "keep") -> None:
        inner(mode=mode)

    assert len(planned(outer).usual.pods) == 1 + 1 + 2
    assert len(planned(outer).longest.pods) == 1 + 1 + 2 + 2 * 2


def test_each_iteration_makes_the_list_that_is_collected_longer() -> None:
    @dsl.pipeline(name="collected")
    def collected(items: list) -> None:
        with dsl.ParallelFor(items):
            written = write()
        read(tables=dsl.Collected(written.outputs["table"]))

    def of(count: int) -> plan.Plan:
        text = package.compiled(collected, str)
        spec = package.documents(text)[0]
        spec["root"]["inputDefinitions"]["parameters"]["items"]["defaultValue"] = list(range(count))
        return plan.of(package.with_pipeline(text, spec))

    few, many = of(2).usual.largest_argument, of(30).usual.largest_argument
    assert many[1] == "read"
    assert many[0] - few[0] > 28 * 700


def test_reports_total_requests_and_those_of_the_largest_step() -> None:
    @dsl.pipeline(name="sizes")
    def sizes() -> None:
        small = produce().set_cpu_request("250m").set_memory_request("1Gi")
        produce().set_memory_request("2Gi").set_memory_limit("4Gi").set_cpu_request("500m").set_cpu_limit("2")
        consume(text=small.output).set_memory_request("512Mi").set_cpu_limit("50m")

    whole = planned(sizes)
    cpus, memory = whole.usual.asked_at_once()
    # The first two side by side; a pod's launcher asks for 100m and 256 Mi.
    assert (cpus, memory) == (pytest.approx(0.75), 3 * 2**30)
    assert whole.largest_step == "produce-2"
    assert (
        plan.table({"sizes": whole}).splitlines()[1].endswith("500m CPU 2 Gi (produce-2, limit 2 CPU 4 Gi)")
    )


def test_an_importer_costs_a_driver_only() -> None:
    @dsl.component(**IMAGE)
    def read_one(table: Input[Dataset]) -> None:
        pass

    @dsl.pipeline(name="imported")
    def imported() -> None:
        read_one(table=dsl.importer(artifact_uri="s3://b/x", artifact_class=Dataset).output)

    assert len(planned(imported).usual.pods) == 1 + 1 + 2


def test_prints_a_row_for_each_pipeline_and_way() -> None:
    rows = plan.table({"three-steps": planned(three_steps), "branches": planned(branches)}).splitlines()
    assert [row.split()[0] for row in rows] == ["on", "three-steps", "branches", "with"]
    assert rows[1].split()[1:6] == ["3", "1", "7", "70", "s"]
    assert len({row.index("%") for row in rows[1:]}) == 1
