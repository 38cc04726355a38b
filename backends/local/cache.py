"""The cache of kfp.local, made robust against signed URLs and damaged entries."""

import logging
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.local import cache

from flowparts.util.masking import masked

_FILES = "flowparts_files"


class Cache(cache.LocalCache):
    """A cache of steps' outputs by their inputs, code and image.

    The same URL with another password or signature is the same input. An entry that can't be read, or whose
    files have changed, is ignored, so the step runs again.
    """

    def compute_key(self, *args: Any, **kwargs: Any) -> str:
        """Return the key of a step with its arguments."""
        if "arguments" in kwargs:
            kwargs["arguments"] = masked(kwargs["arguments"])
        return str(super().compute_key(*args, **kwargs))

    def get(self, key: str) -> dict[str, Any] | None:
        """Return a step's cached outputs; None if there are no valid ones."""
        try:
            found: dict[str, Any] | None = super().get(key)
        except Exception as error:
            logging.getLogger("flowparts").warning("cache entry %s is damaged: %s", key[:12], error)
            return None
        return found

    @staticmethod
    def _serialize_artifact(artifact: dsl.Artifact) -> dict[str, Any]:
        serialized = cache_artifact(artifact)
        return {**serialized, _FILES: _files(artifact.uri)}

    @staticmethod
    def _deserialize_artifact(data: dict[str, Any]) -> dsl.Artifact:
        if data[_FILES] != _files(data["uri"]):
            raise cache._MissingArtifactError(data["uri"])
        return artifact_of(data)


cache_artifact = cache.LocalCache._serialize_artifact
artifact_of = cache.LocalCache._deserialize_artifact


def _files(uri: str) -> dict[str, list[int]]:
    """Return the size and modification time (nanoseconds) of an artifact's files by name."""
    root = Path(uri)
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    stats = {file.relative_to(root).as_posix(): file.stat() for file in files}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
