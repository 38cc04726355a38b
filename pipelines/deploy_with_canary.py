from typing import Any

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model

from components.deploy.deploy_model import deploy_model
from components.deploy.probe_endpoint import probe_endpoint
from components.deploy.rollback import rollback
from components.deploy.shift_traffic import shift_traffic
from components.ingest.ingest_table import ingest_table
from components.predict.batch_predict import batch_predict
from components.register.load_champion import load_champion

# Shares in percent after the one that is asked for; each is watched before the next.
STEPS = (50, 100)
FIRST = 10


@dsl.pipeline(name="keep-or-roll-back")
def keep_or_roll_back(endpoint: Input[Artifact], healthy: bool, reason: str) -> None:
    """Roll an endpoint back if it isn't healthy."""
    with dsl.If(healthy == False, name="unhealthy"):  # noqa: E712 kfp builds the condition
        rollback(endpoint=endpoint, reason=reason).set_caching_options(False)


def _climb(endpoint: Any, steps: tuple[int, ...], watch: dict[str, Any]) -> None:
    """Watch an endpoint at its share; then roll it back, or go to the next share and on from there."""
    probed = probe_endpoint(endpoint=endpoint, **watch).set_caching_options(False)
    healthy, reason = probed.outputs["healthy"], probed.outputs["reason"]
    if not steps:
        # A pipeline of its own, because kfp.local gives a lone condition no output of a task beside it.
        keep_or_roll_back(endpoint=endpoint, healthy=healthy, reason=reason)
        return
    with dsl.If(healthy == False, name="unhealthy"):  # noqa: E712
        rollback(endpoint=endpoint, reason=reason).set_caching_options(False)
    with dsl.Else(name=f"to-{steps[0]}-percent"):
        shifted = shift_traffic(endpoint=endpoint, percent=steps[0]).set_caching_options(False)
        _climb(shifted.outputs["shifted"], steps[1:], watch)


@dsl.pipeline(name="canary")
def canary(
    model: Input[Model],
    table: Input[Dataset],
    target: str,
    name: str,
    share: int = FIRST,
    options: dict = {},  # noqa: B006 kfp reads the default, nothing changes it
    requests: int = 200,
    seconds: float = 20.0,
    max_error_rate: float = 0.01,
    max_slowdown: float = 2.0,
) -> None:
    """Deploy a model at a small share, watch it, and promote it in steps or roll it back."""
    predictions = batch_predict(table=table, model=model).outputs["predictions"]
    deployed = deploy_model(model=model, target=target, name=name, share=share, options=options)
    deployed.set_caching_options(False)
    watch = {
        "model": model,
        "predictions": predictions,
        "requests": requests,
        "seconds": seconds,
        "max_error_rate": max_error_rate,
        "max_slowdown": max_slowdown,
    }
    # The first revision of an endpoint gets everything at once; one that serves already keeps what it has.
    with dsl.If(deployed.outputs["share"] == 100, name="serves-all"):
        _climb(deployed.outputs["endpoint"], (), watch)
    with dsl.Else(name="beside-the-previous"):
        _climb(deployed.outputs["endpoint"], STEPS, watch)


@dsl.pipeline(name="deploy-with-canary", display_name="Deploy with a canary")
def deploy_with_canary(
    model_name: str = "tabular-training",
    tracking_uri: str = "",
    source: str = "sample://breast_cancer",
    data_version: str = "",
    target: str = "docker",
    name: str = "tabular-training",
    share: int = FIRST,
    options: dict = {},  # noqa: B006
    requests: int = 200,
    seconds: float = 20.0,
    max_error_rate: float = 0.01,
    max_slowdown: float = 2.0,
) -> None:
    """Deploy the champion of a registered model beside what serves; promote it in steps, or roll it back.

    Args:
        model_name: The registered model; its champion is deployed.
        tracking_uri: MLflow server; empty for the environment's MLFLOW_TRACKING_URI or a local SQLite file.
        source: Rows to probe the endpoint with: CSV, Parquet or JSON Lines; a path, a glob, a directory, or a
            URI that starts with file://, s3://, gs://, https:// or sample://.
        data_version: Names the state of the rows; change it when the files behind the source have changed.
        target: Where to deploy: docker, kubernetes, kserve, seldon, tf_serving, vertex or sagemaker.
        name: Name of the endpoint: at most 38 of a-z, 0-9 and hyphen.
        share: Percent of the requests that the new revision gets at first; then 50, then 100.
        options: The target's own options, such as replicas, cpu and memory, as its deploy component takes
            them.
        requests: Requests to each revision in which it is watched at each share.
        seconds: How long it is watched at each share.
        max_error_rate: Largest share of requests without a prediction, beyond that of the previous revision.
        max_slowdown: Largest ratio of its median latency to the previous revision's.
    """
    champion = load_champion(model_name=model_name, tracking_uri=tracking_uri).set_caching_options(False)
    table = ingest_table(source=source, data_version=data_version).outputs["table"]
    canary(
        model=champion.outputs["model"],
        table=table,
        target=target,
        name=name,
        share=share,
        options=options,
        requests=requests,
        seconds=seconds,
        max_error_rate=max_error_rate,
        max_slowdown=max_slowdown,
    )
