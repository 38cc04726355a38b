"""The cache of kfp.local, for addresses with signatures and for entries that something has damaged."""

import logging
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.local import cache

from flowparts.util.masking import masked

_FILES = "flowparts_files"


class Cache(cache.LocalCache):
    """A cache of steps' outputs by their inputs, code and image.

    The same address with another password or signature is the same input. An entry that can't be read, or
    whose files aren't those that the step wrote, counts for none, so the step runs and writes it again.
    """

    def compute_key(self, *args: Any, **kwargs: Any) -> str:
        """Return the key of a step with its arguments."""
        if "arguments" in kwargs:
            kwargs["arguments"] = masked(kwargs["arguments"])
        return str(super().compute_key(*args, **kwargs))

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what a step gave; None if there is nothing that can be used."""
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
    """Return the size and the time of change, in nanoseconds, of an artifact's files by their names."""
    root = Path(uri)
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    stats = {file.relative_to(root).as_posix(): file.stat() for file in files}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
