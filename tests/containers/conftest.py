"""Fixtures for tests that need the built images; where Docker can't be had they skip, in CI they fail."""

import os
from pathlib import Path

import pytest

from targets import docker

IMAGES = Path(__file__).parents[2] / "build" / "images.json"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.container)


@pytest.fixture(scope="session")
def containers() -> docker.Containers:
    """Give the images of the last `make images`."""
    try:
        return docker.prepare(IMAGES)
    except ValueError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must test the containers: {error}")
        pytest.skip(str(error))
