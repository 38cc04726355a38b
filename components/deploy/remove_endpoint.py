from typing import NamedTuple, Optional

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def remove_endpoint(
    deploy_target: str,
    endpoint_name: str,
    deploy_options: Optional[dict] = None,
    even_if_serving: bool = False,
) -> NamedTuple("Outputs", [("removed", str)]):  # type: ignore[valid-type]
    """Remove an endpoint with everything created for it: revisions, routes, autoscalers, its record.

    An endpoint that serves is only removed with even_if_serving; otherwise the error lists what would be
    removed. If there is no such endpoint, nothing happens.

    Args:
        deploy_target: docker, kubernetes, kserve, seldon, tf_serving, vertex or sagemaker.
        endpoint_name: Name of the endpoint.
        deploy_options: Options of the target that say where the endpoint is: namespace, project, location or
            region; wait_seconds to wait for another step that is changing it.
        even_if_serving: Whether to remove it even if it serves.

    Returns:
        removed: What was removed, separated by commas; empty if there was nothing.
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
        # A retried step may find that its killed first attempt has removed it.
        print(absent)  # noqa: T201
        return ("",)
