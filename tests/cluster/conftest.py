"""A Kubeflow Pipelines that runs somewhere, and the runs that the tests look at."""

import os
from collections.abc import Iterator

import pytest

from backends import profiles
from tests.cluster.backend import Backend


@pytest.fixture(scope="session")
def backend() -> Iterator[Backend]:
    """Give the backend that was named, and remove afterwards what the tests have left on it."""
    endpoint = os.environ.get("FLOWPARTS_TEST_ENDPOINT")
    if not endpoint:
        pytest.skip(
            "needs a running Kubeflow Pipelines, such as that of make kubeflow: "
            "make test-cluster ENDPOINT=http://localhost:8080"
        )
    made = Backend(profiles.gather(profiles.Kubeflow, {"endpoint": endpoint}))
    try:
        yield made
    finally:
        made.clean_up()
