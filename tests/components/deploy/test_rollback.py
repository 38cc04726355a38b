from collections.abc import Callable
from typing import Any

import pytest

from components.deploy.rollback import rollback
from flowparts import endpoint as endpoints


@pytest.mark.container
def test_the_previous_revision_serves_alone_afterwards(
    deployed: Callable[..., Any], artifact: Callable[..., Any]
) -> None:
    endpoint, restored = deployed(1.0, 0.1, share=10), artifact("restored")
    before = endpoints.read(endpoint.path)
    revision = rollback.python_func(endpoint=endpoint, restored=restored, reason="too slow")
    after = endpoints.read(restored.path)
    assert revision == after.revision == before.previous_revision
    assert after.traffic == {revision: 100}
    assert restored.metadata["rolled_back"] == before.revision
    assert restored.metadata["reason"] == "too slow"
    with pytest.raises(ValueError, match="no previous revision to roll back to"):
        rollback.python_func(endpoint=restored, restored=artifact("other"))
