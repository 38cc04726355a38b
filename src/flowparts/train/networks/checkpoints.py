"""Store training states, so that the next attempt resumes from the last one after a process was killed."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowparts import __version__
from flowparts.util import outputs, trees

# A folder for the states of every training, a path or URI; run.py sets one that all runs share.
ENVIRONMENT = "FLOWPARTS_CHECKPOINTS"
_STATE = "state.json"
_PREFIX = "epoch-"
_LOCK = ".lock"

_log = logging.getLogger("flowparts")


def place(given: str | None, model: str | Path, workers: int) -> str | None:
    """Return the folder for the states of a training; None to keep none.

    Args:
        given: A path or URI given by the user; it takes precedence.
        model: The model directory to make. If the environment names no folder either, states lie beside it,
            where a step that is tried again in place finds them.
        workers: Number of processes that train together. Several use only a given folder, which they share.
    """
    if given or workers > 1:
        return given or None
    beside = Path(model).with_name(f".{Path(model).name}.checkpoints")
    return os.environ.get(ENVIRONMENT) or str(beside)


class Checkpoints:
    """A folder of training states; only the newest is kept.

    Equal trainings may run at the same time: all read, and the first to write is the one that writes.

    Args:
        place: The folder: a path, or a URI such as s3://bucket/folder.
        run: What a state belongs to: data and options. States of anything else, or of another version of
            flowparts, are not resumed.
    """

    def __init__(self, place: str, run: Mapping[str, object]):
        text = json.dumps({"flowparts": __version__, **run}, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._remote = f"{place.rstrip('/')}/{key}" if "://" in place else ""
        self._folder = Path(place) / key
        self._lock: int | None = None

    def write(self, epoch: int, model: Any, state: Mapping[str, Any], best: Any | None = None) -> None:
        """Store a model with its optimizer and everything else needed to resume after an epoch.

        Args:
            epoch: How many epochs are done.
            model: The Keras model.
            state: JSON values.
            best: The weights of the best epoch so far, a list of arrays.
        """
        import numpy as np

        if not self._is_mine():
            _log.info("training: another process stores the states of an equal training")
            return
        with self._local() as folder:
            with outputs.atomic(folder / f"{_PREFIX}{epoch:06}") as partial:
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
        """Return model, state and best weights of the newest complete state, if there is one."""
        import numpy as np

        from flowparts.train.networks import archive

        with self._local() as folder:
            if self._remote:
                self._download(folder)
            while stored := _stored(folder):
                newest = stored[-1]
                try:
                    state = json.loads((newest / _STATE).read_text(encoding="utf-8"))
                    best = None
                    if (newest / "best.npz").is_file():
                        with np.load(newest / "best.npz", allow_pickle=False) as file:
                            best = [file[f"arr_{index}"] for index in range(len(file.files))]
                    return archive.load(newest / "model.keras", compiled=True), state, best
                except (OSError, ValueError):
                    if newest.is_dir():
                        raise
                    # The writing process has meanwhile stored a newer state, or has ended.
            return None

    def clear(self) -> None:
        """Remove all states of this run."""
        if self._remote:
            files, address = _store(self._remote)
            if files.exists(address):
                files.rm(address, recursive=True)
            return
        if not self._folder.exists() or not self._is_mine():
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        self._release()
        with contextlib.suppress(OSError):  # states of other trainings are in it
            self._folder.parent.rmdir()

    def _is_mine(self) -> bool:
        """Return whether this process writes the states, as it does from then until it clears them."""
        if self._remote or self._lock is not None:
            return True
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder / _LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            return False
        except OSError:  # a file system without locks
            return True
        return True

    def __del__(self) -> None:
        """Let another training of this process write."""
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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
            # The state goes last: it marks the upload as complete.
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
