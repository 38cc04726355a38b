from typing import NamedTuple

from kfp.dsl import Artifact, Input, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def shift_traffic(
    endpoint: Input[Artifact],
    shifted: Output[Artifact],
    percent: int,
) -> NamedTuple("Outputs", [("share", int)]):  # type: ignore[valid-type]
    """Give an endpoint's current revision a share of the requests; its previous revision keeps the rest.

    100 promotes it. The previous revision stays ready for a rollback until another model is deployed.

    Args:
        endpoint: The endpoint (JSON), of any deployment target.
        shifted: The endpoint with the new shares (JSON).
        percent: Share of the current revision, from 0 to 100.

    Returns:
        share: Percentage of the requests that the current revision gets now.
    """
    from flowparts import deploy
    from flowparts.deploy import endpoint as endpoints

    before = endpoints.read(endpoint.path)
    after = deploy.target(before.target).shift(before, percent)
    endpoints.publish(after, shifted)
    return (after.share,)
