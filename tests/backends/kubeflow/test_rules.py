"""What Kubeflow Pipelines 2.17.0 was seen to fail on, or to do otherwise than meant, in small pipelines."""

from typing import Any, Optional

import pytest
from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Output

from backends import package
from backends.kubeflow import overlay
from backends.vertex import document

IMAGE = {"base_image": "registry.example/image:1", "install_kfp_package": False}


@dsl.component(**IMAGE)
def produce() -> str:
    return "a"


@dsl.component(**IMAGE)
def consume(text: str = "a") -> None:
    print(text)


@dsl.component(**IMAGE)
def table(rows: Output[Dataset]) -> None:
    pass


@dsl.component(**IMAGE)
def use(rows: Input[Dataset]) -> None:
    pass


@dsl.component(**IMAGE)
def page(report: Output[HTML]) -> None:
    pass


@dsl.component(**IMAGE)
def optional(rows: Optional[Input[Dataset]] = None) -> None:
    pass


@dsl.component(**IMAGE)
def braces() -> str:
    return "{{inputs.parameters.x}}"


@dsl.component(**IMAGE)
def python_braces(value: int) -> str:
    return f"{{}} {{x}} {value}"


def compiled(pipeline: Any) -> str:
    return package.compiled(pipeline, str)


@dsl.pipeline(name="refused")
def template_in_a_source() -> None:
    braces()


@dsl.pipeline(name="refused")
def optional_artifact() -> None:
    optional(rows=table().outputs["rows"])


@dsl.pipeline(name="refused")
def expression_in_a_default(text: str = "{{=1+1}}") -> None:
    consume(text=text)


@dsl.pipeline(name="refused")
def expression_in_a_constant() -> None:
    consume(text="a {{= 1")


@dsl.pipeline(name="refused")
def quote_in_a_condition(text: str = "") -> None:
    with dsl.If(text == "it's", name="quoted"):
        consume()


@dsl.pipeline(name="refused")
def quote_in_the_second_condition(text: str = "", number: int = 3) -> None:
    with dsl.If(number > 2, name="first"), dsl.If(text != "Ann's and Bob's", name="second"):
        consume()


@dsl.pipeline(name="refused")
def request_over_the_limit() -> None:
    consume().set_memory_request("2Gi").set_memory_limit("1Gi")


@dsl.pipeline(name="refused")
def large_argument() -> None:
    consume(text="x" * 140_000)


@pytest.mark.parametrize(
    ("pipeline", "sentence"),
    [
        (optional_artifact, r"exec-optional can't read its Optional\[Input\[...\]\]; write Input"),
        (
            template_in_a_source,
            r"command.3 holds '\{\{inputs.parameters.x\}\}', which Argo evaluates or refuses",
        ),
        (
            expression_in_a_default,
            r"parameters.text.defaultValue holds '\{\{=1\+1\}\}', which Argo evaluates",
        ),
        (expression_in_a_constant, r"runtimeValue.constant holds '\{\{= 1', which Argo evaluates"),
        (
            quote_in_a_condition,
            "the condition of 'condition-1' compares with a text that holds a single quote",
        ),
        (quote_in_the_second_condition, "the condition of 'condition-2' compares with a text"),
        (
            request_over_the_limit,
            "step 'consume' asks for 2 Gi and may use 1 Gi; set its requests",
        ),
        (large_argument, r"'consume' is given about 14\d,\d+ bytes in one argument, which may have 131,072"),
    ],
    ids=lambda value: getattr(getattr(value, "pipeline_func", None), "__name__", ""),
)
def test_an_invalid_pipeline_is_refused_before_the_upload(pipeline: Any, sentence: str) -> None:
    text = compiled(pipeline)
    with pytest.raises(ValueError, match=f"refused: .*{sentence}"):
        overlay.check(text)
    # Nothing of it is known of Vertex AI.
    document.check(text)


def test_the_placeholders_of_kfp_and_the_braces_of_python_are_fine() -> None:
    @dsl.pipeline(name="fine")
    def fine(number: int = 1) -> None:
        python_braces(value=number)
        consume(text=f"{dsl.PIPELINE_JOB_NAME_PLACEHOLDER} {number} {{{{x}}}}")

    overlay.check(compiled(fine))
    assert overlay.warnings(compiled(fine)) == []


@dsl.pipeline(name="warned")
def retried() -> None:
    produce().set_retry(2)
    consume().set_retry(1)


@dsl.pipeline(name="warned")
def chosen_parameter(mode: str = "") -> None:
    with dsl.If(mode == "a", name="a"):
        first = produce()
    with dsl.Else(name="b"):
        second = produce()
    consume(text=dsl.OneOf(first.output, second.output))


@dsl.pipeline(name="warned")
def chosen_artifact(mode: str = "") -> None:
    with dsl.If(mode == "a", name="a"):
        first = table()
    with dsl.Else(name="b"):
        second = table().set_caching_options(False)
    use(rows=dsl.OneOf(first.outputs["rows"], second.outputs["rows"]))


@dsl.pipeline(name="warned")
def large_number(number: int = 2**60) -> None:
    consume(text=f"{number}")


@dsl.pipeline(name="warned")
def filled_in() -> None:
    consume(text="run of {{workflow.name}}")


@dsl.pipeline(name="warned")
def unnamed(text: str = "") -> None:
    with dsl.If(text == "a"):
        consume()
    with dsl.ParallelFor([1, 2]):
        consume()


@dsl.pipeline(name="warned")
def pages() -> None:
    page()
    page()


@dsl.pipeline(name="warned")
def large_input() -> None:
    consume(text="x" * 110_000)


@pytest.mark.parametrize(
    ("pipeline", "sentence"),
    [
        (retried, "set_retry of consume and produce doesn't run a program again that fails"),
        (chosen_parameter, "dsl.OneOf reads from 'condition-branches-1', and fails when"),
        (chosen_artifact, "dsl.OneOf reads from 'condition-branches-1', and fails when"),
        (large_number, "parameters.number.defaultValue is 1152921504606846976; whole numbers from 2^53 on"),
        (filled_in, "holds {{workflow.name}}, which Argo replaces"),
        (unnamed, "the UI will show condition-1 and for-loop-3; say what a group does"),
        (pages, "2 pages are called 'report' beside each other in the UI"),
        (large_input, "'consume' is given about 11"),
    ],
    ids=lambda value: getattr(getattr(value, "pipeline_func", None), "__name__", ""),
)
def test_warnings_take_one_line(pipeline: Any, sentence: str) -> None:
    text = compiled(pipeline)
    overlay.check(text)
    found = overlay.warnings(text)
    assert len([warning for warning in found if sentence in warning]) == 1, found
    assert all(warning.startswith("warned: ") and "\n" not in warning for warning in found)


def test_a_single_uncached_step_is_allowed() -> None:
    @dsl.pipeline(name="fine")
    def fine(mode: str = "") -> None:
        with dsl.If(mode == "a", name="a"):
            first = produce().set_caching_options(False)
        with dsl.Else(name="b"):
            second = produce().set_caching_options(False)
        consume(text=dsl.OneOf(first.output, second.output))

    assert overlay.warnings(compiled(fine)) == []


def test_a_group_that_others_read_from_needs_no_name() -> None:
    """Kubeflow doesn't find a producer that is shown under another name."""

    @dsl.component(**IMAGE)
    def collect(tables: Input[list[Dataset]]) -> None:
        pass

    @dsl.pipeline(name="fine")
    def fine() -> None:
        with dsl.ParallelFor([1, 2]):
            written = table()
        collect(tables=dsl.Collected(written.outputs["rows"]))

    overlay.check(compiled(fine))
    assert overlay.warnings(compiled(fine)) == []


@pytest.mark.parametrize(
    ("iterations", "words"), [(8, "kB; use fewer steps"), (12, "so the API's details of a run stop changing")]
)
def test_a_workflow_that_grows_large_is_reported(iterations: int, words: str) -> None:
    @dsl.pipeline(name="grown")
    def grown() -> None:
        with dsl.ParallelFor(list(range(iterations)), name="many"):
            for _ in range(3):
                consume()

    (warning,) = overlay.warnings(compiled(grown))
    assert "a run's workflow takes about" in warning
    assert words in warning


def test_a_step_must_fit_the_largest_node() -> None:
    @dsl.pipeline(name="sized")
    def sized() -> None:
        consume().set_cpu_request("500m").set_memory_request("3Gi")

    text = compiled(sized)
    overlay.check_fits(text, "2 8Gi")
    with pytest.raises(
        ValueError, match="sized: step 'consume' asks for 500m CPU 3 Gi and the largest node has 2 CPU 2 Gi"
    ):
        overlay.check_fits(text, "2 2Gi")
    with pytest.raises(ValueError, match="node '8Gi' must be CPUs and memory such as"):
        overlay.check_fits(text, "8Gi")
