from typing import Any

import pytest
from kfp import dsl

from backends import package, resources
from backends.resources import Resources

IMAGE = {"base_image": "registry.example/image:1", "install_kfp_package": False}


@dsl.component(**IMAGE)
def prepare() -> None:
    pass


@dsl.component(**IMAGE)
def train() -> None:
    pass


@dsl.pipeline(name="two-sizes")
def two_sizes() -> None:
    prepare()
    train().set_cpu_request("100m").set_cpu_limit("2").set_memory_request("512Mi").set_memory_limit("4Gi")
    train().set_memory_limit("1Gi")


@pytest.fixture
def spec() -> dict[str, Any]:
    return package.documents(package.compiled(two_sizes, str))[0]


def read(spec: dict[str, Any]) -> dict[str, Resources]:
    executors = spec["deploymentSpec"]["executors"]
    return {label: resources.of(executor["container"]) for label, executor in executors.items()}


def test_reads_what_a_step_asks_for_and_may_use(spec: dict[str, Any]) -> None:
    assert read(spec) == {
        "exec-prepare": Resources(),
        "exec-train": Resources(0.1, 2.0, 512 * 2**20, 4 * 2**30),
        "exec-train-2": Resources(memory_limit=2**30),
    }
    # As Kubernetes takes a limit that stands alone.
    assert read(spec)["exec-train-2"].memory_requested == 2**30
    assert read(spec)["exec-train"].requests() == "100m CPU 512 Mi"
    assert read(spec)["exec-train"].limits() == "2 CPU 4 Gi"


def test_reads_packages_of_older_sdks_and_leaves_what_a_parameter_says_open() -> None:
    older = {"resources": {"cpuLimit": 0.5, "memoryLimit": 2.0}}
    assert resources.of(older) == Resources(cpu_limit=0.5, memory_limit=2_000_000_000)
    by_parameter = {"resources": {"resourceCpuLimit": "{{$.inputs.parameters['pipelinechannel--cpu']}}"}}
    assert resources.of(by_parameter) == Resources()


def test_overrides_every_step_and_single_ones(spec: dict[str, Any]) -> None:
    resources.override(
        spec,
        {"*": {"memory_limit": "2Gi"}, "prepare": {"cpu_limit": 3}, "train": {"memory_limit": "8Gi"}},
    )
    assert read(spec) == {
        "exec-prepare": Resources(cpu_limit=3.0, memory_limit=2 * 2**30),
        "exec-train": Resources(0.1, 2.0, 512 * 2**20, 8 * 2**30),
        # Both of a component's steps are meant by its name.
        "exec-train-2": Resources(memory_limit=8 * 2**30),
    }
    container = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert container["resources"]["memoryLimit"] == pytest.approx(8 * 2**30 / 1e9)


def test_the_entry_of_a_numbered_step_wins_over_the_general_one(spec: dict[str, Any]) -> None:
    resources.override(spec, {"train": {"cpu_limit": "1"}, "train-2": {"cpu_limit": "4"}})
    assert (read(spec)["exec-train"].cpu_limit, read(spec)["exec-train-2"].cpu_limit) == (1.0, 4.0)


def test_a_lower_limit_lowers_the_request_with_it(spec: dict[str, Any]) -> None:
    resources.override(spec, {"train": {"memory_limit": "256Mi", "cpu_limit": "50m"}})
    assert read(spec)["exec-train"] == Resources(0.05, 0.05, 256 * 2**20, 256 * 2**20)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"trian": {}}, r"unknown step 'trian'; did you mean 'train'\?"),
        ({"train": {"cpu": "2"}}, "resources of 'train': unknown key 'cpu'; known: cpu_request, cpu_limit,"),
        ({"train": {"cpu_limit": "two"}}, "cpu_limit of 'train': CPUs 'two' must be a number such as 2"),
        ({"train": {"memory_limit": "4GB"}}, "memory_limit of 'train': memory '4GB' must be a whole number"),
        ({"train": {"memory_limit": 4}}, "memory '4' is 4 bytes; give a unit such as Mi or Gi"),
        (
            {"train": {"memory_request": "8Gi"}},
            "step 'train' asks for 8Gi of memory and may use 4Gi; give it a memory_limit",
        ),
    ],
)
def test_invalid_input_gives_a_one_line_error(
    spec: dict[str, Any], given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        resources.override(spec, given)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512Mi", 512 * 2**20), ("4Gi", 4 * 2**30), ("4G", 4_000_000_000), ("8000000", 8_000_000)],
)
def test_memory_has_the_units_of_kubernetes(text: str, size: int) -> None:
    assert resources.memory_bytes(text) == size


@pytest.mark.parametrize(("text", "number"), [("500m", 0.5), ("2", 2.0), ("0.5", 0.5), (".5", 0.5)])
def test_cpus_have_the_units_of_kubernetes(text: str, number: float) -> None:
    assert resources.cpus(text) == number
