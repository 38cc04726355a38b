"""The server's options: from the command line, else from the environment, else what the platform says."""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "FLOWPARTS_SERVING_"
# Where SageMaker and KServe put a model.
MOUNTS = ("/opt/ml/model", "/mnt/models")


def _option(default: Any, text: str, choices: Sequence[str] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """What a server is started with; each option may also be given as FLOWPARTS_SERVING_<OPTION>."""

    model: str = _option("", "model directory or its URI (file://, s3://, gs://)")
    repository: str = _option("", "directory of models that are loaded by request, instead of one model")
    digest: str = _option("", "digest that the files of the model must have")
    name: str = _option("model", "the model's name in the addresses")
    host: str = _option("0.0.0.0", "address to listen on")  # noqa: S104 - a container is reached from outside
    port: int = _option(8080, "HTTP port; 0 takes a free one")
    grpc_port: int = _option(8081, "gRPC port of the Open Inference Protocol; 0 serves no gRPC")
    workers: int = _option(1, "processes, each with the model")
    timeout_seconds: float = _option(60.0, "time for a request, unless it brings X-Request-Timeout-Ms")
    load_seconds: float = _option(300.0, "time for loading a model")
    drain_seconds: float = _option(5.0, "time after SIGTERM in which requests are still taken")
    max_rows: int = _option(10_000, "most rows in a request")
    max_body_mb: float = _option(16.0, "largest request body, in MB of 1,000,000 bytes")
    max_batch_rows: int = _option(256, "most rows of waiting requests that are scored together")
    max_waiting_rows: int = _option(20_000, "rows that may wait before further requests are refused")
    unknown_fields: str = _option("ignore", "fields that the model doesn't know", ("ignore", "reject"))
    unknown_categories: str = _option(
        "accept", "text values that the model hasn't seen in training", ("accept", "reject")
    )
    cors_origins: str = _option("", "origins that browsers may call from, by commas; * for any")
    prediction_log: str = _option("", "directory for a table of requests and predictions")
    prediction_log_keys: str = _option(
        "", "fields of the rows that are logged beside the features, by commas"
    )
    prediction_log_mask: str = _option(
        "",
        "features and keys of which the log holds only a hash, by commas; keyed by "
        f"{PREFIX}PREDICTION_LOG_SECRET",
    )
    prediction_log_days: int = _option(180, "days after which a day of the log is deleted; 0 keeps all")
    prediction_log_fraction: float = _option(1.0, "fraction of the requests to log, 0 to 1")
    prediction_log_rows: int = _option(10_000, "rows after which a file of the log is written")
    prediction_log_seconds: float = _option(60.0, "seconds after which a file of the log is written")
    log_requests: bool = _option(False, "log every request, with who asked, not only those that went wrong")
    health_route: str = _option("", "a further address that answers whether the server is ready")
    predict_route: str = _option("", "a further address that predicts")


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of a command line and an environment.

    Vertex AI's AIP_HTTP_PORT, AIP_HEALTH_ROUTE, AIP_PREDICT_ROUTE and AIP_STORAGE_URI and SageMaker's
    SAGEMAKER_BIND_TO_PORT stand in for options that aren't given.

    Raises:
        ValueError: There is no model, or a value makes no sense.
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
        f"{PREFIX}<OPTION>; the bearer token that requests must bring only there, as {PREFIX}TOKEN.",
    )
    parser.add_argument(
        "command", nargs="?", choices=["serve"], help="what SageMaker starts a container with"
    )
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
        raise ValueError("--repository takes one worker, the one that is told what to load; run more servers")
    if not settings.name or set(settings.name) & set("/:?#% "):
        raise ValueError(
            f"--name must be usable in an address, without / : ? # % and spaces, not {settings.name!r}"
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
            "--prediction-log-keys are fields that the model doesn't know, which --unknown-fields=reject "
            "refuses; leave out one of the two"
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
