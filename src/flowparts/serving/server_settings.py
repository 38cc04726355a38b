"""The server's options: from the command line, else from the environment, else from the platform."""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "FLOWPARTS_SERVING_"
# Where SageMaker and KServe mount a model.
MOUNTS = ("/opt/ml/model", "/mnt/models")


def _option(default: Any, text: str, choices: Sequence[str] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """The server's options; each can also be set as FLOWPARTS_SERVING_<OPTION>."""

    model: str = _option("", "model directory or its URI (file://, s3://, gs://)")
    repository: str = _option("", "directory of models to load on request, instead of one model")
    digest: str = _option("", "required digest of the model's files")
    name: str = _option("model", "the model's name in URLs")
    host: str = _option("127.0.0.1", "address to listen on; in the image 0.0.0.0")
    port: int = _option(8080, "HTTP port; 0 takes a free one")
    grpc_port: int = _option(8081, "gRPC port of the Open Inference Protocol; 0 serves no gRPC")
    workers: int = _option(1, "number of processes, each with its own copy of the model")
    timeout_seconds: float = _option(60.0, "maximum time for a request without X-Request-Timeout-Ms")
    load_seconds: float = _option(300.0, "maximum time for loading a model")
    drain_seconds: float = _option(5.0, "time after SIGTERM during which requests are still accepted")
    max_rows: int = _option(10_000, "maximum rows per request")
    max_body_mb: float = _option(16.0, "maximum request body, in MB of 1,000,000 bytes")
    max_batch_rows: int = _option(256, "maximum rows per batch of waiting requests")
    max_waiting_rows: int = _option(20_000, "maximum rows in the queue; beyond that, requests are refused")
    unknown_fields: str = _option(
        "ignore", "what to do with fields that aren't features", ("ignore", "reject")
    )
    unknown_categories: str = _option(
        "accept", "what to do with text values not seen in training", ("accept", "reject")
    )
    cors_origins: str = _option("", "allowed CORS origins, separated by commas; * for any")
    prediction_log: str = _option("", "directory of the log of requests and predictions")
    prediction_log_keys: str = _option(
        "", "fields of the rows to log beside the features, separated by commas"
    )
    prediction_log_mask: str = _option(
        "",
        "features and keys to log only as a hash, separated by commas; the hash's key is "
        f"{PREFIX}PREDICTION_LOG_SECRET",
    )
    prediction_log_days: int = _option(180, "days after which a day of the log is deleted; 0 keeps all")
    prediction_log_fraction: float = _option(1.0, "fraction of the requests to log, 0 to 1")
    prediction_log_rows: int = _option(10_000, "rows after which a log file is written")
    prediction_log_seconds: float = _option(60.0, "seconds after which a log file is written")
    log_requests: bool = _option(False, "log every request with its client, not only failures")
    health_route: str = _option("", "another path for the readiness check")
    predict_route: str = _option("", "another path for predictions")


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of a command line and an environment.

    Vertex AI's AIP_HTTP_PORT, AIP_HEALTH_ROUTE, AIP_PREDICT_ROUTE and AIP_STORAGE_URI and SageMaker's
    SAGEMAKER_BIND_TO_PORT replace options that aren't given.

    Raises:
        ValueError: There is no model, or a value is invalid.
    """
    given = {
        "port": environment.get("AIP_HTTP_PORT") or environment.get("SAGEMAKER_BIND_TO_PORT"),
        "health_route": environment.get("AIP_HEALTH_ROUTE"),
        "predict_route": environment.get("AIP_PREDICT_ROUTE"),
        "model": environment.get("AIP_STORAGE_URI"),
    }
    fields = dataclasses.fields(Settings)
    given |= {
        field.name: environment.get(PREFIX + field.name.upper()) or given.get(field.name) for field in fields
    }
    given |= {name: text for name, text in vars(_parser().parse_args(arguments)).items() if text}
    given.pop("command", None)
    values = {field.name: _converted(field, text) for field in fields if (text := given[field.name])}
    settings = Settings(**values)
    if not settings.model and not settings.repository:
        mounted = next((mount for mount in MOUNTS if Path(mount).is_dir()), "")
        settings = dataclasses.replace(settings, model=mounted)
    _check(settings)
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flowparts.serving",
        description="Serve a model over HTTP and gRPC. Each option can also be given by the environment, as "
        f"{PREFIX}<OPTION>; the bearer token that clients must send only there, as {PREFIX}TOKEN.",
    )
    parser.add_argument("command", nargs="?", choices=["serve"], help="ignored; SageMaker passes it")
    for field in dataclasses.fields(Settings):
        shown = "" if field.default == "" else f" ({field.default})"
        flag: dict[str, Any] = {"nargs": "?", "const": "true"} if field.type is bool else {}
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            help=(field.metadata["help"] + shown).replace("%", "%%"),
            metavar="|".join(field.metadata["choices"]) or field.type.__name__.upper(),  # type: ignore[union-attr]
            **flag,
        )
    return parser


def _converted(field: "dataclasses.Field[Any]", text: str) -> Any:
    option = f"--{field.name.replace('_', '-')}"
    choices = field.metadata["choices"]
    if choices and text not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, not {text!r}")
    if field.type is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"{option} must be true or false, not {text!r}")
        return text.lower() in ("true", "1")
    try:
        return field.type(text)  # type: ignore[operator]
    except ValueError:
        kind = "a whole number" if field.type is int else "a number"
        raise ValueError(f"{option} must be {kind}, not {text!r}") from None


def _check(settings: Settings) -> None:
    if not settings.model and not settings.repository:
        raise ValueError(
            f"no model to serve: give --model DIRECTORY_OR_URI, or mount one at {' or '.join(MOUNTS)}"
        )
    if settings.model and settings.repository:
        raise ValueError("--model and --repository exclude each other; give one of them")
    if settings.repository and settings.workers > 1:
        raise ValueError("--repository requires --workers=1; run more servers instead")
    if not settings.name or set(settings.name) & set("/:?#% "):
        raise ValueError(
            f"--name must be usable in a URL, without / : ? # % and spaces, not {settings.name!r}"
        )
    for name in ("workers", "max_rows", "max_batch_rows", "max_waiting_rows", "prediction_log_rows"):
        if getattr(settings, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(settings, name)}")
    for name in ("timeout_seconds", "load_seconds", "max_body_mb", "prediction_log_seconds"):
        if not 0 < getattr(settings, name) < float("inf"):
            raise ValueError(
                f"--{name.replace('_', '-')} must be more than 0, not {getattr(settings, name):g}"
            )
    if not 0 <= settings.drain_seconds < float("inf"):
        raise ValueError(f"--drain-seconds must be 0 or more, not {settings.drain_seconds:g}")
    if not 0 <= settings.prediction_log_fraction <= 1:
        raise ValueError(
            f"--prediction-log-fraction must be between 0 and 1, not {settings.prediction_log_fraction:g}"
        )
    if settings.prediction_log_days < 0:
        raise ValueError(f"--prediction-log-days must be 0 or more, not {settings.prediction_log_days}")
    if settings.prediction_log_keys and settings.unknown_fields == "reject":
        raise ValueError(
            "--prediction-log-keys aren't features, and --unknown-fields=reject refuses other fields; "
            "leave out one of the two"
        )
    for name in ("port", "grpc_port"):
        if not 0 <= getattr(settings, name) < 65_536:
            raise ValueError(
                f"--{name.replace('_', '-')} must be between 0 and 65535, not {getattr(settings, name)}"
            )
    for name in ("health_route", "predict_route"):
        route = getattr(settings, name)
        if route and not route.startswith("/"):
            raise ValueError(f"--{name.replace('_', '-')} must start with /, not {route!r}")
