from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl, kubernetes

from backends import package
from backends.kubeflow import overlay as kubeflow
from backends.profiles import Kubeflow
from backends.submission import Package
from flowparts.components import runs_in

TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


@runs_in("base", secrets=("AWS_*",))
def prepare() -> None:
    pass


@runs_in("base")
def train() -> None:
    pass


def compiled(settings: bool, folder: Path) -> str:
    """Compile two steps, one of them with a GPU; the settings are made by the authoring library."""

    @dsl.pipeline(name="two-steps")
    def pipeline() -> None:
        first, second = prepare(), train().set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
        if settings:
            kubernetes.use_secret_as_env(first, "s3", {"AWS_KEY": "AWS_KEY"})
        for task in (first, second) if settings else ():
            kubernetes.set_security_context(task, run_as_non_root=True)
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


def executors(text: str) -> dict[str, Any]:
    """Return what Kubernetes gives to the steps of a package, by executor."""
    _, overlay = package.documents(text)
    found: dict[str, Any] = overlay["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return found


def test_without_settings_steps_only_run_as_non_root(tmp_path: Path) -> None:
    text = kubeflow.with_settings(compiled(False, tmp_path), Kubeflow())
    kubeflow.check(text)
    restricted = {"securityContext": {"runAsNonRoot": True}}
    assert executors(text) == {"exec-prepare": restricted, "exec-train": restricted}


def test_the_authors_user_setting_and_foreign_images_are_kept(tmp_path: Path) -> None:
    @dsl.component(base_image="registry.example/theirs:1", install_kfp_package=False)
    def foreign() -> None:
        pass

    @dsl.pipeline(name="users")
    def pipeline() -> None:
        kubernetes.set_security_context(prepare(), run_as_user=7, run_as_non_root=False)
        foreign()

    text = kubeflow.with_settings(package.compiled(pipeline, str), Kubeflow())
    assert executors(text) == {"exec-prepare": {"securityContext": {"runAsNonRoot": False, "runAsUser": "7"}}}


def test_a_secret_reaches_only_the_steps_that_ask_for_it(tmp_path: Path) -> None:
    text = kubeflow.with_settings(compiled(False, tmp_path), Kubeflow(secrets={"s3": ["AWS_KEY"]}))
    (given,) = executors(text)["exec-prepare"]["secretAsEnv"]
    assert given["keyToEnv"] == [{"secretKey": "AWS_KEY", "envVar": "AWS_KEY"}]
    assert "secretAsEnv" not in executors(text)["exec-train"]
    with pytest.raises(ValueError, match="no step asks for the secret variable 'AWSKEY'; correct its name"):
        kubeflow.with_settings(compiled(False, tmp_path), Kubeflow(secrets={"s3": ["AWSKEY"]}))


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
