from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl, kubernetes

from targets import kubeflow, package
from targets.settings import Kubeflow
from targets.submission import Package

TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


@dsl.component(base_image="registry.example/image:1", install_kfp_package=False)
def prepare() -> None:
    pass


@dsl.component(base_image="registry.example/image:1", install_kfp_package=False)
def train() -> None:
    pass


def compiled(settings: bool, folder: Path) -> str:
    """Compile two steps, one of them with a GPU; the settings are made by the authoring library."""

    @dsl.pipeline(name="two-steps")
    def pipeline() -> None:
        first, second = prepare(), train().set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
        for task in (first, second) if settings else ():
            kubernetes.use_secret_as_env(task, "s3", {"AWS_KEY": "AWS_KEY"})
            kubernetes.set_image_pull_secrets(task, ["registry"])
            kubernetes.mount_pvc(task, "cache", "/cache")
            kubernetes.add_node_selector(task, "pool", "ml")
        if settings:
            kubernetes.add_node_selector(second, "gpu", "t4")
            kubernetes.add_toleration(second, **TOLERATION)

    file = folder / "pipeline.yaml"
    compiler.Compiler().compile(pipeline, str(file))
    return file.read_text()


SETTINGS = Kubeflow(
    secrets={"s3": ["AWS_KEY"]},
    image_pull_secrets=["registry"],
    volumes={"cache": "/cache"},
    node_selector={"pool": "ml"},
    gpu_node_selector={"gpu": "t4"},
    gpu_tolerations=[TOLERATION],
)


def test_settings_give_the_steps_what_the_authoring_library_would(tmp_path: Path) -> None:
    text = kubeflow.with_settings(compiled(False, tmp_path), SETTINGS)
    kubeflow.check(text)
    assert package.documents(text) == package.documents(compiled(True, tmp_path))


def test_without_settings_a_package_stays_as_it_is(tmp_path: Path) -> None:
    text = compiled(False, tmp_path)
    assert kubeflow.with_settings(text, Kubeflow()) == text


def test_a_toleration_that_kubernetes_has_not_is_refused(tmp_path: Path) -> None:
    text = kubeflow.with_settings(compiled(False, tmp_path), Kubeflow(tolerations=[{"kei": "a"}]))
    with pytest.raises(ValueError, match="the Kubernetes settings of exec-prepare are not valid"):
        kubeflow.check(text)


def test_resources_for_gitops_hold_the_whole_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPARTS_GIT_COMMIT", "0123456789abcdef")
    sent = Package(kubeflow.with_settings(compiled(False, tmp_path), SETTINGS), "1.2.3")
    pipeline, version = yaml.safe_load_all(kubeflow.manifest(sent, "team"))
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert pipeline["metadata"] == {"name": "two-steps", "namespace": "team"}
    assert version["metadata"] == {"name": f"two-steps-1.2.3-0123456789ab-{sent.digest}", "namespace": "team"}
    assert version["spec"]["pipelineName"] == "two-steps"
    spec, overlay = package.documents(sent.text)
    assert (version["spec"]["pipelineSpec"], version["spec"]["platformSpec"]) == (spec, overlay)


def test_a_producer_that_is_shown_under_another_name_is_refused(tmp_path: Path) -> None:
    @dsl.component(base_image="registry.example/image:1", install_kfp_package=False)
    def number(given: int) -> int:
        return given

    @dsl.component(base_image="registry.example/image:1", install_kfp_package=False)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    def pipeline(name: str | None) -> Any:
        @dsl.pipeline(name="looped")
        def looped() -> None:
            with dsl.ParallelFor([1, 2], name=name) as item:
                made = number(given=item)
            total(numbers=dsl.Collected(made.output))

        return package.compiled(looped, str)

    kubeflow.check(pipeline(None))
    with pytest.raises(ValueError, match=r"'total' reads from 'for-loop-\d', which is shown as 'numbers'"):
        kubeflow.check(pipeline("numbers"))
