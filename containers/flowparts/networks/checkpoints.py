"""Training states that outlive a killed process, so that the next try goes on from the last one."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowparts import outputs, trees

_STATE = "state.json"
_PREFIX = "epoch-"


class Checkpoints:
    """A folder of training states, of which the newest is kept.

    Args:
        place: The folder: a path, or a URI such as s3://bucket/folder.
        run: What a state belongs to: data and options. States of anything else are not taken up.
    """

    def __init__(self, place: str, run: Mapping[str, object]):
        text = json.dumps(run, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._remote = f"{place.rstrip('/')}/{key}" if "://" in place else ""
        self._folder = Path(place) / key

    def write(self, epoch: int, model: Any, state: Mapping[str, Any], best: Any | None = None) -> None:
        """Store a model with its optimizer and what else is needed to go on after an epoch.

        Args:
            epoch: How many epochs are done.
            model: The Keras model.
            state: JSON values.
            best: The weights of the best epoch so far, a list of arrays.
        """
        import numpy as np

        with self._local() as folder:
            with outputs.whole(folder / f"{_PREFIX}{epoch:06}") as partial:
                partial.mkdir()
                model.save(partial / "model.keras")
                if best is not None:
                    np.savez(partial / "best.npz", *best)
                outputs.write_json(partial / _STATE, dict(state))
            for old in _stored(folder)[:-1]:
                shutil.rmtree(old)
            if self._remote:
                self._upload(_stored(folder)[-1])

    def newest(self) -> tuple[Any, dict[str, Any], list[Any] | None] | None:
        """Return model, state and best weights as last stored whole; None if nothing is."""
        import numpy as np

        from flowparts.networks import archive

        with self._local() as folder:
            if self._remote:
                self._download(folder)
            stored = _stored(folder)
            if not stored:
                return None
            state = outputs.read_json(stored[-1] / _STATE, "the training state")
            best = None
            if (stored[-1] / "best.npz").is_file():
                with np.load(stored[-1] / "best.npz", allow_pickle=False) as file:
                    best = [file[f"arr_{index}"] for index in range(len(file.files))]
            return archive.load(stored[-1] / "model.keras", compiled=True), state, best

    def clear(self) -> None:
        """Remove every state of this run."""
        if self._remote:
            files, address = _store(self._remote)
            if files.exists(address):
                files.rm(address, recursive=True)
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._folder.parent.is_dir() and not any(self._folder.parent.iterdir()):
            self._folder.parent.rmdir()

    @contextmanager
    def _local(self) -> Iterator[Path]:
        if not self._remote:
            yield self._folder
            return
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)

    def _upload(self, newest: Path) -> None:
        files, address = _store(self._remote)
        for file in newest.iterdir():
            # The state goes last: it says that the rest is there.
            if file.name != _STATE:
                files.put_file(str(file), f"{address}/{newest.name}/{file.name}")
        files.put_file(str(newest / _STATE), f"{address}/{newest.name}/{_STATE}")
        for old in files.ls(address, detail=False, refresh=True):
            if old.rstrip("/").rpartition("/")[2] != newest.name:
                files.rm(old, recursive=True)

    def _download(self, folder: Path) -> None:
        files, address = _store(self._remote)
        whole = sorted(files.glob(f"{address}/{_PREFIX}*/{_STATE}"))
        if whole:
            stored = whole[-1].rpartition("/")[0]
            target = folder / stored.rpartition("/")[2]
            target.mkdir(parents=True, exist_ok=True)
            for file in files.ls(stored, detail=False):
                files.get_file(file, str(trees.inside(target, file.rpartition("/")[2])))


def _stored(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*"))


def _store(uri: str) -> tuple[Any, str]:
    import fsspec

    files, address = fsspec.core.url_to_fs(uri)
    return files, str(address)
