"""Check the options of components that don't depend on the data, before anything runs."""

from collections.abc import Mapping
from typing import Any

from flowparts import ingest
from flowparts.deploy import common, operations, probe, rollout
from flowparts.deploy import options as deploy_options
from flowparts.evaluate import directions
from flowparts.ingest import image_files
from flowparts.predict import export
from flowparts.prepare import preprocess, split
from flowparts.register import champion, registry
from flowparts.train import trainers
from flowparts.util import names

_LISTS = ("null_values", "column_names", "exclude_columns", "key", "slice_columns", "key_columns")


def check(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ValueError if an option is invalid.

    A port's name means the same in every component. Ports that aren't known here, and checks that depend on
    the data, are left to the steps.

    Args:
        given: Port to value of the options that were set; empty text and empty lists stand for "not given".
        defaults: Port to value of the other options.
    """
    found = {name: value for name, value in {**defaults, **given}.items() if value not in ("", [], {}, None)}
    lists = {name: names.texts(found.get(name), name) for name in _LISTS}
    ingest.Options(
        file_format=found.get("file_format"),
        column_types=found.get("column_types"),
        null_values=lists["null_values"] or None,
        on_bad_rows=found.get("on_bad_rows", "fail"),
        delimiter=found.get("delimiter"),
        decimal=found.get("decimal"),
        column_names=lists["column_names"] or None,
        on_missing_label=found.get("on_missing_label", "drop"),
        time_column=found.get("time_column"),
        # A pipeline that reads a prediction log sets the column of times itself.
        window_days=found.get("window_days", 0.0) if "time_column" in {**defaults, **given} else 0.0,
    )
    image_files.Options("uri", "label", found.get("on_bad_images", "quarantine"))
    split.check_options(
        (0.7, 0.15, 0.15), lists["key"] or None, found.get("group_by"), found.get("time_column")
    )
    split.check_min_class_rows(found.get("min_class_rows", split.MIN_CLASS_ROWS))
    if "trainer" in found or "effort" in found:
        tried = {"effort": found["effort"]} if "effort" in found else {}
        trainers.check(found.get("trainer", "sklearn"), **tried, has_candidates="candidates" in found)
    if "task" in found:
        preprocess.check_options(found.get("label", ""), found["task"], lists["exclude_columns"], None, 1)
        directions.chosen(found.get("metric"), found["task"])
        # Defaults are valid, and checking estimators takes seconds of imports.
        if found.get("trainer") == "sklearn" and given.get("candidates"):
            from flowparts.train import candidates

            candidates.build(given["candidates"], found["task"], candidates.Options())
    if found.get("trainer") == "keras" and given.get("network"):
        from flowparts.train.networks import tabular_model

        tabular_model.settings(given["network"], 0)
    if "metric" in found:
        directions.higher_is_better(found["metric"])
    champion.check_limits(found.get("margin", 0.0), found.get("floor"))
    if "model_name" in found:
        registry.require_name(found["model_name"])
    if "deploy_target" in found:
        operations.options(found["deploy_target"], found.get("deploy_options", {}))
    if "endpoint_name" in found:
        common.check_name(found["endpoint_name"])
    if "traffic_fraction" in found:
        deploy_options.percent_of(found["traffic_fraction"])
    if "requests" in found and "seconds" in found:
        limits = {name: found[name] for name in ("max_error_rate", "max_slowdown") if name in found}
        rollout.Watch(found["requests"], found["seconds"], probe.Rules(**limits))
    if "warm_seconds" in found:
        rollout.check_warm_seconds(found["warm_seconds"])
    # Defaults are valid, and the rules need libraries that the base image lacks.
    named = ("reasons", "min_new_rows", "max_age_days")
    if rules := {name: found[name] for name in named if name in given and name in found}:
        from flowparts.monitor import retraining

        reasons = names.texts(rules.pop("reasons", None), "reasons") or retraining.REASONS
        retraining.Rules(reasons, **rules)
    if "destination" in found:
        export.format_of(found["destination"])
