"""The MLflow registry: the champion of each model, and the registration of new versions.

Runs, metrics and the registry live behind one tracking URI: a server, or an SQLite file that needs no server.
"""

import contextlib
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowparts import models
from flowparts.util import errors, outputs, trees
from flowparts.util.masking import masked

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger("flowparts")

ALIAS = "champion"
# Tag of a version with the champion that it was compared with.
_BEFORE = "champion_before"
NOT_CONFIGURED = (
    "no MLflow registry is configured; give tracking_uri, or set MLFLOW_TRACKING_URI in the environment "
    "of the steps, to an MLflow server or to a database on a mounted volume (sqlite:////mnt/mlflow/mlflow.db)"
)

# MLflow's own timeouts are minutes (seven retries, 120 s each): right for a busy server, wrong for one that
# doesn't exist. So a server must first answer one small request within about twelve seconds.
_QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
_QUIET = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# Credentials that the client sends to any server.
_CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_AWS_SIGV4",
)
_TAGGED_METRICS = ("accuracy", "f1", "roc_auc", "log_loss", "rmse", "mae", "r2")


def is_configured(tracking_uri: str | None = None) -> bool:
    """Return whether there is a registry that outlives the step.

    A container without a tracking URI has none: a file in its home directory is lost with it.
    """
    named = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    return bool(named) or os.environ.get("_KFP_RUNTIME") != "true"


def resolve_uri(tracking_uri: str | None = None) -> str:
    """Return the tracking URI: the one given, else MLFLOW_TRACKING_URI, else an SQLite file in ~/.flowparts.

    Raises:
        ValueError: It isn't a URI, or there is none in a container.
    """
    if not is_configured(tracking_uri):
        raise ValueError(NOT_CONFIGURED)
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return f"sqlite:///{Path.home() / '.flowparts' / 'mlflow.db'}"
    try:
        _host(uri)
    except ValueError:
        raise ValueError(
            f"tracking URI {masked(uri)!r} has no port that is a number; write / and @ in a password as %2F "
            "and %40"
        ) from None
    if "://" not in uri and not uri.startswith("databricks"):
        raise ValueError(
            f"tracking URI {masked(uri)!r} is not a URI; give a server (http://host:5000) or a database file "
            f"(sqlite:////absolute/path/mlflow.db)"
        )
    return uri


def champion_version(model_name: str, tracking_uri: str | None = None) -> str | None:
    """Return the version with the alias "champion"; None if there is no such model or no champion.

    Raises:
        ValueError: The name can't be a model's name, or MLflow can't be reached or refuses.
    """
    require_name(model_name)
    with _mlflow(tracking_uri) as client:
        return _aliases(client, model_name).get(ALIAS)


def registered_at(model_name: str, version: str, tracking_uri: str | None = None) -> datetime:
    """Return the time when a version was registered, in UTC.

    Raises:
        ValueError: There is no such version, or MLflow can't be reached or refuses.
    """
    with _mlflow(tracking_uri) as client:
        milliseconds = client.get_model_version(model_name, version).creation_timestamp
    return datetime.fromtimestamp(milliseconds / 1000, UTC).replace(tzinfo=None)


def champion_to_beat(
    model: str | Path, model_name: str, tracking_uri: str | None = None, pipeline_run_id: str = ""
) -> str | None:
    """Return the champion to compare a model with; None if there is none.

    It is the current champion, unless an earlier attempt of this step has made this very model the champion:
    then it is the previous one, so that every attempt makes the same decision.

    Args:
        model: The model directory.
        model_name: The registered model.
        tracking_uri: As for `resolve_uri`.
        pipeline_run_id: The pipeline run that trained the model; empty outside of a pipeline.

    Raises:
        ValueError: As `champion_version`, or there is no model at `model`.
    """
    require_name(model_name)
    with _mlflow(tracking_uri) as client:
        current = _aliases(client, model_name).get(ALIAS)
        if current and pipeline_run_id:
            tags = client.get_model_version(model_name, current).tags
            if (tags.get("pipeline_run_id"), tags.get("model_fingerprint")) == (
                pipeline_run_id,
                fingerprint(model),
            ):
                return tags.get(_BEFORE) or None
    return current


def download(model_name: str, version: str, directory: str | Path, tracking_uri: str | None = None) -> Path:
    """Download a version of a registered model.

    Args:
        model_name: The registered model.
        version: Its version, such as "3".
        directory: An existing directory to put the files in.
        tracking_uri: As for `resolve_uri`.

    Returns:
        The model directory.

    Raises:
        ValueError: There is no such version, its files are gone, or MLflow can't be reached or refuses.
    """
    with _mlflow(tracking_uri):
        from mlflow.artifacts import download_artifacts

        uri = f"models:/{model_name}/{version}"
        try:
            found = Path(download_artifacts(artifact_uri=uri, dst_path=str(directory)))
        except OSError as error:
            raise ValueError(
                f"the files of version {version} of model {model_name!r} are gone: {error}"
            ) from None
    if not (found / "MLmodel").is_file():
        raise ValueError(
            f"the files of version {version} of model {model_name!r} are gone: no MLmodel among them"
        )
    return found


def fetch_champion(model_name: str, path: str | Path, tracking_uri: str | None = None) -> str:
    """Download the champion of a registered model.

    Args:
        model_name: The registered model.
        path: The model directory to create; it appears complete or not at all.
        tracking_uri: As for `resolve_uri`.

    Returns:
        The champion's version, such as "3".

    Raises:
        ValueError: There is no champion, or as `champion_version` and `download`.
    """
    version = champion_version(model_name, tracking_uri)
    if version is None:
        raise ValueError(
            f"model {model_name!r} has no version with the alias {ALIAS!r} at "
            f"{masked(resolve_uri(tracking_uri))}; train and register one first, or "
            "correct the name or the URI"
        )
    with outputs.atomic(path) as partial:
        partial.mkdir()
        download(model_name, version, partial, tracking_uri)
        # MLflow adds this file to every download; without it the files are the registered ones.
        (partial / "registered_model_meta").unlink(missing_ok=True)
    return version


def register(
    model: str | Path,
    model_name: str,
    *,
    metrics: Mapping[str, float],
    reports: Mapping[str, str],
    tracking_uri: str | None = None,
    experiment: str = "flowparts",
    pipeline_run_id: str = "",
    compared_with: str | None = None,
) -> str:
    """Log a model with parameters, metrics and reports as a run and register it as champion.

    The model directory is stored unchanged. A retried step finds the version of its first attempt by pipeline
    run and model fingerprint and registers no second one.

    Args:
        model: The model directory.
        model_name: The registered model, created if it doesn't exist.
        metrics: Name to value, on the test table.
        reports: Name ("evaluation") to HTML page.
        tracking_uri: As for `resolve_uri`.
        experiment: The MLflow experiment of the run, created if it doesn't exist.
        pipeline_run_id: The pipeline run that trained the model; empty outside of a pipeline.
        compared_with: The champion that the model was compared with; "" for none. If another version has
            become the champion, nothing is registered. By default this isn't checked.

    Returns:
        The version, such as "3".

    Raises:
        ValueError: A name is invalid, there is no model at `model`, the champion has changed in the meantime,
            or MLflow can't be reached or refuses.
    """
    require_name(model_name)
    if not experiment.strip():
        raise ValueError("the experiment's name is empty; give one such as 'flowparts'")
    metadata = models.metadata(model)
    tags = {
        "model_fingerprint": fingerprint(model),
        "data_fingerprint": str(metadata["training_fingerprint"]),
        "git_commit": str(metadata["git_commit"]),
        "task": str(metadata["task"]),
        "estimator": str(metadata["estimator"]),
        **({"pipeline_run_id": pipeline_run_id} if pipeline_run_id else {}),
        **({} if compared_with is None else {_BEFORE: compared_with}),
        **{name: f"{metrics[name]:.6g}" for name in _TAGGED_METRICS if name in metrics},
    }
    with _mlflow(tracking_uri) as client:
        version = _version_of_run(client, model_name, tags) if pipeline_run_id else None
        current = _aliases(client, model_name).get(ALIAS)
        if compared_with is not None and current not in (compared_with or None, version):
            raise ValueError(
                f"version {current} of model {model_name!r} became the champion during the comparison "
                f"with {f'version {compared_with}' if compared_with else 'none'}; run the step again"
            )
        if version is None:
            experiment_id = _experiment(client, experiment, resolve_uri(tracking_uri))
            # Some estimators have a parameter with this name, such as AdaBoost's base estimator.
            parameters = {
                "parameter estimator" if name == "estimator" else name: value
                for name, value in metadata["parameters"].items()
            } | {"estimator": metadata["estimator"]}
            run_id, source = _log_run(
                client, experiment_id, model, model_name, tags, parameters, metrics, reports
            )
            _ensure_registered_model(client, model_name)
            version = str(client.create_model_version(model_name, source, run_id=run_id, tags=tags).version)
        client.set_registered_model_alias(model_name, ALIAS, version)
    return version


def require_name(model_name: str) -> None:
    """Raise ValueError unless a registered model can have this name."""
    if not re.fullmatch(r"\w[\w .-]*", model_name):
        raise ValueError(
            f"model name {model_name!r} is not valid in MLflow and its queries; "
            f"use letters, digits, spaces, '.', '_' and '-', starting with a letter or digit"
        )


def fingerprint(directory: str | Path) -> str:
    """Return a model's digest by `trees.digest`."""
    return trees.digest(directory)


@contextmanager
def _mlflow(tracking_uri: str | None) -> Iterator["MlflowClient"]:
    """Open a client without MLflow's log messages; its exceptions become one-line errors."""
    import warnings

    uri = resolve_uri(tracking_uri)
    shown = masked(uri)
    if uri.startswith("sqlite:"):
        _prepare_sqlite(uri)
    # Some of MLflow's calls take the URI only from the environment.
    everywhere = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri}
    credentials = contextlib.nullcontext() if _is_own(uri) else _without_credentials(shown)
    with credentials, _environment({**_QUIET, **everywhere}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        logger = logging.getLogger("mlflow")
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            with _environment(_QUICK if uri.startswith("http") else {}), _alone(uri):
                client = MlflowClient(uri, uri)
                client.search_experiments(max_results=1)
        except Exception as error:
            logger.setLevel(level)
            raise _unusable(shown, error) from None
        try:
            yield client
        except MlflowException as error:
            raise errors.RefusedError(f"MLflow at {shown} refused: {errors.first_line(error)}") from None
        finally:
            logger.setLevel(level)


def _is_own(uri: str) -> bool:
    """Return whether a tracking URI is the environment's, to which its credentials belong."""
    return not uri.startswith("http") or _host(uri) == _host(os.environ.get("MLFLOW_TRACKING_URI", ""))


def _host(uri: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(uri)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


@contextmanager
def _without_credentials(server: str) -> Iterator[None]:
    """Keep the client from sending credentials of the environment or the home directory to a server."""
    from mlflow.utils import credentials

    if any(os.environ.get(name) for name in _CREDENTIALS):
        _log.warning(
            "MLflow at %s gets no credentials: those in MLFLOW_TRACKING_* are for the server that "
            "MLFLOW_TRACKING_URI names",
            server,
        )
    read_file = credentials._read_mlflow_creds_from_file
    credentials._read_mlflow_creds_from_file = lambda: (None, None)
    try:
        with _environment(dict.fromkeys(_CREDENTIALS)):
            yield
    finally:
        credentials._read_mlflow_creds_from_file = read_file


def _prepare_sqlite(uri: str) -> None:
    # MLflow would retry this for two minutes; here it fails at once.
    path = _sqlite_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_new(path):
            with closing(sqlite3.connect(path, timeout=30)) as connection:
                connection.execute("PRAGMA schema_version")
    except (OSError, sqlite3.Error) as error:
        raise ValueError(f"MLflow's database {path} can't be opened: {error}") from None


def _is_new(database: Path) -> bool:
    return not database.exists() or (database.is_file() and not database.stat().st_size)


def _build(database: Path) -> None:
    """Create MLflow's tables in a new database file, which appears complete or not at all.

    This takes dozens of migrations. A step that is killed, or runs out of disk, between two of them would
    leave a file that MLflow can neither use nor repair.
    """
    if not _is_new(database):
        return
    from mlflow.store.db import utils

    with outputs.atomic(database) as partial:
        _remove_journals(partial)
        engine = utils.create_sqlalchemy_engine(f"sqlite:///{partial}")
        try:
            utils._initialize_tables(engine)
        finally:
            engine.dispose()
            _remove_journals(partial)


def _remove_journals(database: Path) -> None:
    for rest in ("-journal", "-wal", "-shm"):
        Path(f"{database}{rest}").unlink(missing_ok=True)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Let one process at a time open a database file, which is created first if necessary."""
    if not uri.startswith("sqlite:"):
        yield
        return
    import fcntl

    with Path(f"{_sqlite_path(uri)}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(_sqlite_path(uri))
        yield


def _sqlite_path(uri: str) -> Path:
    from sqlalchemy.engine import make_url

    database = make_url(uri).database
    if not database or database == ":memory:":
        raise ValueError(
            f"tracking URI {masked(uri)!r} names no file; give sqlite:////absolute/path/mlflow.db"
        )
    return Path(database).absolute()


def _experiment(client: "MlflowClient", name: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise ValueError(
            f"experiment {name!r} was deleted in MLflow; restore it there: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    if found is None:
        # A server knows where artifacts belong; for a bare database file MLflow would use ./mlruns.
        beside = (_sqlite_path(uri).parent / "artifacts").as_uri() if uri.startswith("sqlite:") else None
        try:
            return str(client.create_experiment(name, artifact_location=beside))
        except MlflowException as error:
            found = (
                client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
            )
            if found is None:
                raise
    return str(found.experiment_id)


def _log_run(
    client: "MlflowClient",
    experiment_id: str,
    model: str | Path,
    model_name: str,
    tags: Mapping[str, str],
    parameters: Mapping[str, object],
    metrics: Mapping[str, float],
    reports: Mapping[str, str],
) -> tuple[str, str]:
    from mlflow.entities import Metric, Param, RunTag

    shown = {"mlflow.source.name": "flowparts", "mlflow.source.git.commit": tags["git_commit"]}
    run = client.create_run(experiment_id, run_name=tags["estimator"], tags={**tags, **shown})
    run_id, started = run.info.run_id, run.info.start_time
    try:
        given = [Param(name, str(value)) for name, value in parameters.items()]
        measured = [Metric(name, float(value), started, 0) for name, value in metrics.items()]
        client.log_batch(run_id, metrics=measured, params=given, tags=[RunTag("model_name", model_name)])
        for name, page in reports.items():
            client.log_text(run_id, page, f"reports/{name}.html")
        client.log_artifacts(run_id, str(model), "model")
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)
    return run_id, f"{run.info.artifact_uri}/model"


def _ensure_registered_model(client: "MlflowClient", model_name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _aliases(client: "MlflowClient", model_name: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(model_name).aliases
        return {alias: str(version) for alias, version in found.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def _version_of_run(client: "MlflowClient", model_name: str, tags: Mapping[str, str]) -> str | None:
    same_model = f"name = '{model_name}' AND tags.model_fingerprint = '{tags['model_fingerprint']}'"
    for version in client.search_model_versions(same_model):
        if version.tags.get("pipeline_run_id") == tags["pipeline_run_id"]:
            return str(version.version)
    return None


@contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables, or remove those with the value None, until the block ends."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _unusable(shown: str, error: BaseException) -> ValueError:
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import Timeout

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NoConnection | Timeout):
            return errors.UnreachableError(
                f"MLflow at {shown} can't be used: no server answers there; start it, or correct the "
                "tracking URI"
            )
        cause = cause.__cause__ or cause.__context__
    return ValueError(f"MLflow at {shown} can't be used: {errors.first_line(error)}")
