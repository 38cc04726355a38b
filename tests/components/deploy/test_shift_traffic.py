from collections.abc import Callable
from typing import Any

import pytest

from flowparts.components.deploy.shift_traffic import shift_traffic
from flowparts.deploy import endpoint as endpoints


@pytest.mark.container
def test_the_current_revision_gets_the_percentage_and_the_previous_one_the_rest(
    deployed: Callable[..., Any], artifact: Callable[..., Any]
) -> None:
    endpoint, shifted = deployed(1.0, 0.1, percent=10), artifact("shifted")
    before = endpoints.read(endpoint.path)
    assert shift_traffic.python_func(endpoint=endpoint, shifted=shifted, traffic_fraction=0.6) == (0.6,)
    after = endpoints.read(shifted.path)
    assert after.traffic == {before.revision: 60, before.previous_revision: 40}
    assert shifted.metadata["traffic"] == f"{before.revision} 60 %, {before.previous_revision} 40 %"
    with pytest.raises(ValueError, match=r"traffic_fraction must be from 0 to 1, .* not 1\.01"):
        shift_traffic.python_func(endpoint=endpoint, shifted=artifact("other"), traffic_fraction=1.01)
