from typing import NamedTuple, Optional

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def remove_endpoint(
    deploy_target: str,
    endpoint_name: str,
    deploy_options: Optional[dict] = None,
    even_if_serving: bool = False,
) -> NamedTuple("Outputs", [("removed", str)]):  # type: ignore[valid-type]
    """Remove an endpoint with all that was made for it: revisions, routes, autoscalers, its record.

    One that serves is refused unless even_if_serving is set; the error names all that would be removed.
    Without such an endpoint nothing is done.

    Args:
        deploy_target: docker, kubernetes, kserve, seldon, tf_serving, vertex or sagemaker.
        endpoint_name: Name of the endpoint.
        deploy_options: The target's options that say where it is: namespace, project, location or region;
            wait_seconds to wait for another step that changes it.
        even_if_serving: Whether to remove it although it serves.

    Returns:
        removed: What was removed; empty where there was nothing.
    """
    from flowparts.deploy import operations

    try:
        return (
            ", ".join(
                operations.remove(
                    deploy_target, endpoint_name, deploy_options or {}, even_if_serving=even_if_serving
                )
            ),
        )
    except operations.NoEndpointError as absent:
        # As a step finds it that is tried again after it was killed.
        print(absent)  # noqa: T201
        return ("",)
