from typing import NamedTuple, Optional

from kfp.dsl import Artifact, Input, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def rollback(
    endpoint: Input[Artifact],
    restored: Output[Artifact],
    reason: Optional[str] = None,
) -> NamedTuple("Outputs", [("revision", str)]):  # type: ignore[valid-type]
    """Route all requests of an endpoint back to its previous revision and remove the current one.

    Args:
        endpoint: The endpoint (JSON) on any deployment target.
        restored: The endpoint with only its previous revision (JSON).
        reason: Reason for the rollback; recorded with the endpoint.

    Returns:
        revision: The revision that serves now.
    """
    from flowparts import deploy
    from flowparts.deploy import endpoint as endpoints
    from flowparts.util import metadata

    before = endpoints.read(endpoint.path)
    after = deploy.target(before.target).rollback(before)
    endpoints.publish(after, restored)
    metadata.describe(restored, {"rolled_back": before.revision, "reason": reason or ""})
    print(f"rolled back from {before.revision} to {after.revision}: {reason or 'no reason given'}")  # noqa: T201
    return (after.revision,)
