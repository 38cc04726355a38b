from typing import NamedTuple

from kfp.dsl import Artifact, Input, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def shift_traffic(
    endpoint: Input[Artifact],
    shifted: Output[Artifact],
    traffic_fraction: float,
) -> NamedTuple("Outputs", [("traffic_fraction", float)]):  # type: ignore[valid-type]
    """Route a fraction of the requests to an endpoint's current revision; the previous one gets the rest.

    1 promotes it. The previous revision stays ready for a rollback until another model is deployed.

    Args:
        endpoint: The endpoint (JSON) on any deployment target.
        shifted: The endpoint with the new traffic split (JSON).
        traffic_fraction: Fraction of the requests for the current revision, from 0 to 1.

    Returns:
        traffic_fraction: Fraction of the requests that the current revision gets now.
    """
    from flowparts import deploy
    from flowparts.deploy import endpoint as endpoints
    from flowparts.deploy.options import percent_of

    before = endpoints.read(endpoint.path)
    after = deploy.target(before.target).shift(before, percent_of(traffic_fraction))
    _, _, fraction = endpoints.publish(after, shifted)
    return (fraction,)
