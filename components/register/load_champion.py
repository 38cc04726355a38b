from typing import NamedTuple, Optional

from kfp.dsl import Artifact, Model, Output

from .. import MLFLOW, runs_in


@runs_in("sklearn", secrets=MLFLOW)
def load_champion(
    model: Output[Model],
    schema: Output[Artifact],
    model_name: str,
    tracking_uri: Optional[str] = None,
    deploy_target: Optional[str] = None,
    endpoint_name: Optional[str] = None,
    deploy_options: Optional[dict] = None,
) -> NamedTuple("Outputs", [("version", str)]):  # type: ignore[valid-type]
    """Download the champion of a registered model and the schema of its feature columns.

    The deployment's parameters are checked first, so that a mistake in them fails before other steps run.

    Args:
        model: The champion's model directory.
        schema: Schema of its feature columns (JSON), for validate_table; other columns are allowed.
        model_name: Name of the registered model.
        tracking_uri: MLflow server or database; if not given, the environment's MLFLOW_TRACKING_URI, else an
            SQLite file in the home directory.
        deploy_target: Deployment target of the pipeline, as in roll_out.
        endpoint_name: Name of the endpoint.
        deploy_options: Options of the target.

    Returns:
        version: The champion's version in the registry.
    """
    from flowparts import models, parameters
    from flowparts.register import registry
    from flowparts.util import metadata, outputs

    given = {"deploy_target": deploy_target, "endpoint_name": endpoint_name, "deploy_options": deploy_options}
    parameters.check(given, {})
    version = registry.fetch_champion(model_name, model.path, tracking_uri or None)
    described = models.metadata(model.path)
    metadata.describe(model, {"version": version, **described})
    outputs.write_json(schema.path, described["schema"])
    return (version,)
