"""Store the finished trials of a study, so that the next attempt resumes after a process was killed."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowparts import __version__
from flowparts.tune.objective import Trial

_log = logging.getLogger("flowparts")


class Journal:
    """A file of JSON lines, one for each finished trial in the order of their numbers.

    Equal studies that run at the same time write equal trials; the first of each number is read.

    Args:
        place: The folder: a path, or a URI such as s3://bucket/folder.
        study: Data and options that identify the study. Trials of another study, or of another version of
            flowparts, are not resumed.
    """

    def __init__(self, place: str, study: Mapping[str, object]):
        text = json.dumps({"flowparts": __version__, **study}, sort_keys=True, default=str)
        self._name = f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.trials.jsonl"
        self._place = place

    def read(self) -> list[Trial]:
        """Return the trials finished by an earlier attempt, in order, without a partly written one."""
        found: list[Trial] = []
        for line in self._text().splitlines():
            try:
                trial = Trial.from_dict(json.loads(line))
            except (ValueError, TypeError, KeyError):
                break
            if trial.number == len(found):
                found.append(trial)
        if found:
            _log.info("resuming a study after %s finished trials", len(found))
            # The next line must not be appended to a partly written one.
            self._write("".join(_line(trial) for trial in found))
        return found

    def append(self, trial: Trial) -> None:
        """Store a finished trial durably."""
        if "://" in self._place:  # object stores can't append, and a study is small
            self._write(self._text() + _line(trial))
            return
        file = self._file()
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(_line(trial))
            stream.flush()
            os.fsync(stream.fileno())

    def clear(self) -> None:
        """Remove the trials."""
        if "://" in self._place:
            files, address = self._store()
            if files.exists(address):
                files.rm(address)
            return
        self._file().unlink(missing_ok=True)
        if self._file().parent.is_dir() and not any(self._file().parent.iterdir()):
            self._file().parent.rmdir()

    def _text(self) -> str:
        if "://" in self._place:
            files, address = self._store()
            content = files.cat_file(address) if files.exists(address) else b""
        else:
            content = self._file().read_bytes() if self._file().is_file() else b""
        return content.decode("utf-8", errors="replace")

    def _write(self, text: str) -> None:
        if "://" in self._place:
            files, address = self._store()
            files.pipe_file(address, text.encode())
            return
        partial = self._file().with_suffix(f".{os.getpid()}")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._file())

    def _file(self) -> Path:
        return Path(self._place) / self._name

    def _store(self) -> tuple[Any, str]:
        import fsspec

        files, address = fsspec.core.url_to_fs(f"{self._place.rstrip('/')}/{self._name}")
        files.invalidate_cache()
        return files, str(address)


def _line(trial: Trial) -> str:
    return json.dumps(trial.to_dict(), sort_keys=True) + "\n"
