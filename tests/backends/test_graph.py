from kfp import dsl

from backends import graph, package

IMAGE = {"base_image": "registry.example/python:3.11", "install_kfp_package": False}


@dsl.component(**IMAGE)
def load() -> list:
    return []


@dsl.component(**IMAGE)
def fit(item: int) -> int:
    return item


@dsl.component(**IMAGE)
def choose(items: list) -> bool:
    return bool(items)


@dsl.component(**IMAGE)
def publish(chosen: bool) -> None:
    pass


@dsl.pipeline(name="inner")
def inner(chosen: bool) -> None:
    publish(chosen=chosen)


@dsl.pipeline(name="outer")
def outer() -> None:
    items = load()
    with dsl.ParallelFor(items.output) as item:
        fitted = fit(item=item)
    chosen = choose(items=dsl.Collected(fitted.output))
    other = choose(items=items.output).after(chosen)
    with dsl.If(other.output == True):  # noqa: E712
        inner(chosen=chosen.output)


STEPS = graph.steps(package.documents(package.compiled(outer, str))[0])


def test_groups_dissolve_into_what_feeds_what() -> None:
    upstream = {step.name: {key.rpartition("/")[2] for key in step.upstream} for step in STEPS}
    assert upstream == {
        "load": set(),
        "fit": {"load"},
        "choose": {"fit"},
        "choose-2": {"choose"},  # load is implied
        "publish": {"choose-2"},  # through the condition; choose is implied
    }


def test_each_step_is_drawn_below_those_it_waits_for() -> None:
    assert [[step.name for step in row] for row in graph.layers(STEPS)] == [
        ["load"],
        ["fit"],
        ["choose"],
        ["choose-2"],
        ["publish"],
    ]


@dsl.pipeline(name="branches")
def branches(chosen: bool = True) -> None:
    with dsl.If(chosen == True):  # noqa: E712
        inner(chosen=chosen)
    with dsl.Else():
        inner(chosen=chosen)


def test_steps_of_a_nested_pipeline_used_twice_can_be_distinguished() -> None:
    compiled = package.documents(package.compiled(branches, str))[0]
    assert len({step.component for step in graph.steps(compiled)}) == 1
    own = graph.steps(graph.unshared(compiled))
    assert [step.component for step in own] == [f"comp-{step.key}" for step in own]
    assert [step.key for step in own] == [step.key for step in graph.steps(compiled)]
    assert len(own) == 2


@dsl.pipeline(name="named")
def named(chosen: bool = True) -> None:
    with dsl.If(chosen == True, name="deploy"):  # noqa: E712
        with dsl.ParallelFor([1, 2], name="sizes") as item:
            fit(item=item)
        publish(chosen=chosen)


def test_groups_are_reported_by_their_display_names() -> None:
    compiled = package.documents(package.compiled(named, str))[0]
    assert {step.key: graph.titled(compiled, step.key) for step in graph.steps(compiled)} == {
        "condition-1/for-loop-3/fit": "deploy/sizes/fit",
        "condition-1/publish": "deploy/publish",
    }
    assert graph.titled(compiled, "condition-1/for-loop-3[1]/fit") == "deploy/sizes[1]/fit"
    assert graph.titled(compiled, "condition-1") == "deploy"
    assert graph.titled(compiled, "start of the run") == "start of the run"
