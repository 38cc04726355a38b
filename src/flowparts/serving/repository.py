"""A model repository: the folders of a directory, loaded and unloaded on request.

It is the model repository extension of the Open Inference Protocol, by which the agent of Seldon Core 2
controls a server: it puts a model at NAME/VERSION in the directory and asks to load NAME
(https://github.com/kserve/open-inference-protocol; Triton's documentation describes the extension).
"""

import asyncio
import dataclasses
from pathlib import Path

from flowparts.models import mlmodel
from flowparts.serving import served_model
from flowparts.serving.app import App
from flowparts.serving.logs import say
from flowparts.serving.refusals import RequestError
from flowparts.serving.scorer import Scorer
from flowparts.serving.server_metrics import Metrics
from flowparts.serving.server_settings import Settings


class Repository:
    """Loads models of a directory into an application.

    Args:
        app: Answers for those that are loaded.
        settings: The server's options, among them the directory.
        metrics: Where batches are counted.
    """

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._directory = Path(settings.repository)
        self._loading = ""
        self._failures: dict[str, str] = {}
        # One at a time: loading is CPU-bound, and a model may be requested twice.
        self._turn = asyncio.Lock()

    def index(self, ready: bool = False) -> list[dict[str, str]]:
        """Return the models: name, version, state (READY, LOADING or UNAVAILABLE) and reason.

        Args:
            ready: Leave out those that aren't loaded.
        """
        names = {folder.name for folder in _folders(self._directory)} | set(self._app.scorers)
        found = []
        for name in sorted(names):
            scorer = self._app.scorers.get(name)
            if scorer:
                state = {"version": scorer.model.version, "state": "READY", "reason": ""}
            elif name == self._loading:
                state = {"version": "", "state": "LOADING", "reason": ""}
            else:
                state = {
                    "version": "",
                    "state": "UNAVAILABLE",
                    "reason": self._failures.get(name, "unloaded"),
                }
            if scorer or not ready:
                found.append({"name": name, **state})
        return found

    async def load(self, name: str) -> None:
        """Load a model or its newer version; a model that is already loaded is left alone.

        Raises:
            RequestError: There is no such model, or it can't be loaded; the previous version still serves.
        """
        async with self._turn:
            self._loading = name
            try:
                scorer = await self._open(name)
            except ValueError as error:
                self._failures[name] = str(error)
                raise RequestError("malformed", f"model {name!r} can't be loaded: {error}") from None
            finally:
                self._loading = ""
            self._failures.pop(name, None)
            if scorer:
                await self._replace(name, scorer)

    async def unload(self, name: str) -> None:
        """Unload a model after its pending requests; new requests for it get a 404 at once.

        Raises:
            RequestError: It isn't loaded.
        """
        async with self._turn:
            if name not in self._app.scorers:
                raise RequestError("not_found", f"there is no model {name!r} loaded")
            await self._replace(name, None)

    async def _open(self, name: str) -> Scorer | None:
        """Load a model's current version; None if it is loaded already."""
        folder = self._folder(name)
        loaded = self._app.scorers.get(name)
        if loaded and loaded.model.version == mlmodel.version(mlmodel.read(folder)):
            return None
        settings = dataclasses.replace(self._settings, name=name)
        loading = asyncio.to_thread(served_model.load, folder, settings)
        try:
            model = await asyncio.wait_for(loading, settings.load_seconds)
        except TimeoutError:
            raise ValueError(f"it was not loaded within {settings.load_seconds:g} s") from None
        say("model loaded", model=name, version=model.version, engine=model.engine.name)
        return Scorer(model, self._settings, self._metrics)

    def _folder(self, name: str) -> Path:
        """Return a model's folder, or the folder of its latest version."""
        # Compared, not joined: a name could be a path outside the directory.
        folder = next((folder for folder in _folders(self._directory) if folder.name == name), None)
        if folder is None:
            raise RequestError("not_found", f"there is no model {name!r} in {self._directory}")
        versions = [version for version in _folders(folder) if version.name.isdigit()]
        return max(versions, key=lambda version: int(version.name), default=folder)

    async def _replace(self, name: str, scorer: Scorer | None) -> None:
        before = self._app.scorers.get(name)
        if before:
            self._app.remove(name)
        if scorer:
            self._app.add(scorer)
        if before:
            await before.drain()
            before.close()
            say("model unloaded", model=name, version=before.model.version)


def _folders(directory: Path) -> list[Path]:
    try:
        return [entry for entry in directory.iterdir() if entry.is_dir()]
    except OSError:
        return []
