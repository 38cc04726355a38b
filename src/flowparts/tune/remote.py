"""A study whose trials run on the machines of a platform that suggests them, such as Katib or Vertex AI.

The step writes tables and settings into a folder of a store that trials can reach. A trial, `python -m
flowparts.tune.trial FOLDER --NAME=VALUE...`, trains and scores one configuration by the same objective as in
other studies, and writes its result into that folder. The platform's record of a trial, one number as text,
is used only for its next suggestions, so no precision is lost, and only a finite number can win.
"""

import hashlib
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from flowparts import __version__, tables
from flowparts.evaluate import directions
from flowparts.train.candidates import Options
from flowparts.train.problem import Compared
from flowparts.tune import flat_space, objective, study, tuning
from flowparts.tune.objective import Objective, Trial
from flowparts.tune.study import Budget
from flowparts.tune.tuning import Settings, Tuned
from flowparts.util import errors, sources, termination, trees
from flowparts.util.errors import MissingError, UnreachableError
from flowparts.util.masking import masked

_STUDY = "study.json"
_TABLES = ("train", "validation")
_LEAST_SECONDS = 60
_FEWEST_FAILURES = 3
# About as long as an upgrade of a control plane.
_SILENT_SECONDS = 600.0

_log = logging.getLogger("flowparts")


@dataclass(frozen=True)
class Search:
    """A search on a platform.

    Attributes:
        name: The study's name: 22 of a-z, 0-9 and hyphen. A retry of the step has the same name, so that it
            finds the search that it has started.
        folder: Address of the folder that trials read and write.
        settings: What is searched, and how.
        metric: The metric that trials report.
        maximizes: Whether a higher value is better.
    """

    name: str
    folder: str
    settings: Settings
    metric: str
    maximizes: bool


@dataclass(frozen=True)
class Attempt:
    """A trial that a platform has started.

    Attributes:
        name: The platform's name for it, and that of its result.
        assigned: Parameter name to value, as in `flat_space`.
        problem: Why it failed according to the platform; empty if it didn't.
    """

    name: str
    assigned: Mapping[str, str]
    problem: str = ""


class Platform(Protocol):
    """Where trials run."""

    schemes: ClassVar[tuple[str, ...]]
    """URI schemes of stores that its trials can reach."""
    trial_seconds: int
    """Limit for each trial."""

    def search(self, search: Search) -> list[Attempt]:
        """Run the trials, or follow those of an earlier attempt, and return them in order.

        Raises:
            UnreachableError: It doesn't answer; the search continues.
            ValueError: It can't run them.
        """
        ...

    def remove(self, search: Search) -> None:
        """Remove the search from the platform."""
        ...


class Folder:
    """The folder that a study's trials share: tables, settings and results.

    Args:
        address: A path, or a URI such as s3://bucket/folder.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        scheme, _, root = self.address.rpartition("://")
        self._scheme, self._root = scheme or "file", root

    def write(
        self, settings: Settings, seconds: float, train: str | Path, validation: str | Path | None
    ) -> None:
        """Store tables and settings for the trials, the settings last."""
        given = {"flowparts": __version__, "seconds": seconds, "settings": asdict(settings)}
        with self._store() as store:
            for name, table in zip(_TABLES, (train, validation), strict=True):
                for file in trees.files(table) if table else ():
                    store.put_file(
                        str(file), f"{self._root}/{name}/{file.relative_to(str(table)).as_posix()}"
                    )
            store.pipe_file(f"{self._root}/{_STUDY}", json.dumps(given, sort_keys=True).encode())

    @contextmanager
    def judged(self) -> Iterator[tuple[Objective, Settings, float]]:
        """Yield the objective of the trials, the study's settings, and the seconds that a trial may take.

        Raises:
            MissingError: The folder holds no study.
            ValueError: The study is of another version of flowparts, or can't be read.
        """
        with tempfile.TemporaryDirectory(prefix="flowparts-trial-") as directory:
            settings, seconds = self._read(Path(directory))
            train, validation = (Path(directory) / name for name in _TABLES)
            held_out = tables.scan(validation) if validation.exists() else None
            with settings.compared(tables.scan(train), held_out) as rows:
                yield tuning.judge(rows, settings), settings, seconds

    def _read(self, directory: Path) -> tuple[Settings, float]:
        """Copy the tables into a directory; return the settings, and the seconds of a trial."""
        with self._store() as store:
            if not store.exists(f"{self._root}/{_STUDY}"):
                raise MissingError(f"there is no study at {self.address}")
            given = json.loads(store.cat_file(f"{self._root}/{_STUDY}"))
            if given["flowparts"] != __version__:
                raise ValueError(
                    f"the study at {self.address} was made by flowparts {given['flowparts']}, and this image "
                    f"has {__version__}; take an image of the same release"
                )
            for name in store.find(self._root):
                inside = name.partition(f"{self._root.strip('/')}/")[2]
                if inside.startswith(_TABLES):
                    target = trees.inside(directory, inside)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    store.get_file(name, str(target))
        return _settings(given["settings"]), float(given["seconds"])

    def keep(self, name: str, trial: Trial) -> None:
        """Store the result of a trial."""
        with self._store() as store:
            store.pipe_file(f"{self._root}/trials/{name}.json", json.dumps(trial.to_dict()).encode())

    def result(self, name: str) -> Trial | None:
        """Return the result of a trial, if there is one."""
        with self._store() as store:
            file = f"{self._root}/trials/{name}.json"
            return Trial.from_dict(json.loads(store.cat_file(file))) if store.exists(file) else None

    def remove(self) -> None:
        """Remove the folder."""
        with self._store() as store:
            if store.exists(self._root):
                store.rm(self._root, recursive=True)

    @cached_property
    def _files(self) -> Any:
        return sources.filesystem(self._scheme)

    @contextmanager
    def _store(self) -> Iterator[Any]:
        # The client libraries' errors have no common base class; all become one message.
        try:
            yield self._files
        except ValueError:
            raise
        except Exception as error:
            raise UnreachableError(
                f"the folder {masked(self.address)} of the study can't be used; may this step read and write "
                f"there, and is the server up? ({type(error).__name__}: {errors.first_line(error)})"
            ) from None


def tune(
    platform: Platform,
    store: str,
    train: str | Path,
    validation: str | Path | None,
    path: str,
    settings: Settings,
    complete: Callable[[Path], None] | None = None,
) -> Tuned:
    """Search on a platform, train the model with the best parameters in this process, and write it.

    Args:
        platform: Where trials run.
        store: Folder that this step writes, and trials read and write; the study's files are removed at its
            end.
        train: The table of raw rows to learn from.
        validation: The table that trials are scored on; None to cross-validate.
        path: The model directory to make.
        settings: What is searched, and how; checked.
        complete: As for `models.save`.

    Raises:
        ValueError: Trials can't reach the store, a table's content makes training impossible, the platform
            can't run the trials, or none succeeded; the message groups the causes.
    """
    check(platform, store, settings)
    budget = settings.budget
    settings = replace(settings, budget=replace(budget, parallel=min(budget.parallel, budget.trials)))
    settings = settings.split_as(tables.description(train), validated=validation is not None)
    table, held_out = tables.scan(train), None if validation is None else tables.scan(validation)
    with settings.compared(table, held_out) as rows:
        return _tuned(platform, store, (train, validation), path, rows, settings, complete)


def _tuned(
    platform: Platform,
    store: str,
    files: tuple[str | Path, str | Path | None],
    path: str,
    rows: Compared,
    settings: Settings,
    complete: Callable[[Path], None] | None,
) -> Tuned:
    # The path of the model identifies the run: a retry of the step is the same study, another run isn't.
    study_of = tuning.identity(rows.table, rows.validation, settings)
    identity = json.dumps([study_of, str(path)], sort_keys=True, default=str)
    name = f"flowparts-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    folder = Folder(f"{store.rstrip('/')}/{name}")
    maximizes = directions.higher_is_better(rows.metric)
    search = Search(name, folder.address, settings, rows.metric, maximizes)
    try:
        folder.write(settings, platform.trial_seconds, *files)
        with termination.deferred():
            attempts = platform.search(search)
        trials = [_trial(number, attempt, folder, settings) for number, attempt in enumerate(attempts)]
        study.require_success(trials, settings.budget)
        tuned = tuning.finish(rows, trials, path, settings, complete)
    except UnreachableError:
        raise
    except ValueError:
        # The same inputs fail the same way.
        _remove(platform, search, folder)
        raise
    _remove(platform, search, folder)
    return tuned


def check(platform: Platform, store: str, settings: Settings) -> None:
    """Raise ValueError if trials can't reach the store, there are none, or the space leaves no choice."""
    scheme = store.partition("://")[0] if "://" in store else ""
    if scheme not in platform.schemes:
        known = " or ".join(f"{each}://" for each in platform.schemes)
        raise ValueError(f"store must be a folder that trials can reach, {known}, not {masked(store)!r}")
    if settings.budget.trials < 1:
        raise ValueError(f"trials must be at least 1, not {settings.budget.trials}")
    flat_space.flat(settings.spaces)


def _trial(number: int, attempt: Attempt, folder: Folder, settings: Settings) -> Trial:
    found = folder.result(attempt.name)
    if found is not None:
        return replace(found, number=number)
    problem = attempt.problem or "it ended without a result"
    return flat_space.attempted(
        settings.spaces,
        attempt.assigned,
        number,
        lambda chosen: Trial(number, chosen, objective.FAILED, [], reason=problem),
    )


def _remove(platform: Platform, search: Search, folder: Folder) -> None:
    try:
        platform.remove(search)
        folder.remove()
    except ValueError as error:
        # The study's result, or the error that led here, is more important.
        _log.warning("study %s couldn't be removed completely: %s", search.name, error)


def _settings(given: Mapping[str, Any]) -> Settings:
    options, budget = Options(**given["options"]), Budget(**given["budget"])
    return Settings(**{**given, "options": options, "budget": budget})


def patient(look: Callable[[], str]) -> Callable[[], str]:
    """Wrap `look` to tolerate ten minutes without an answer, since a search may take hours."""
    answered = time.monotonic()

    def again() -> str:
        nonlocal answered
        try:
            state = look()
        except UnreachableError as error:
            if time.monotonic() - answered > _SILENT_SECONDS:
                raise
            return str(error)
        answered = time.monotonic()
        return state

    return again


def most_failures(trials: int) -> int:
    """Return the number of failed trials that ends a search: half of them, but at least three."""
    return min(trials, max(_FEWEST_FAILURES, math.ceil(trials / 2)))


def require_seconds(trial_seconds: int) -> None:
    """Raise ValueError if a trial has too little time to start and end."""
    if trial_seconds < _LEAST_SECONDS:
        raise ValueError(f"trial_seconds must be at least {_LEAST_SECONDS}, not {trial_seconds}")
