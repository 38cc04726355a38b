import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from flowparts.components.validate.profile_table import profile_table


def test_writes_statistics_and_a_page(
    table: Callable[..., dsl.Dataset], artifact: Callable[..., Any], open_page: Callable[[Path], Any]
) -> None:
    frame = pl.DataFrame({"age": [31, 42, None, 42], "plan": ["a", "b", "b", "b"], "constant": [1.5] * 4})
    statistics, report = artifact("statistics"), artifact("report", dsl.HTML)
    profile_table.python_func(table=table(frame), statistics=statistics, profile_report=report)
    measured = json.loads(Path(statistics.path).read_text(encoding="utf-8"))
    assert [column["name"] for column in measured["columns"]] == ["age", "plan", "constant"]
    assert measured["columns"][0]["nulls"] == 1
    assert measured["warnings"][-1]["column"] == "constant"
    assert statistics.metadata == {"rows": 4, "warnings": len(measured["warnings"])}
    assert "always 1.5" in open_page(Path(report.path)).find_element("tag name", "main").text


def test_an_empty_table_leaves_nothing_behind(
    table: Callable[..., dsl.Dataset], artifact: Callable[..., Any]
) -> None:
    statistics, report = artifact("statistics"), artifact("report", dsl.HTML)
    with pytest.raises(ValueError, match="the table has no rows"):
        profile_table.python_func(
            table=table(pl.DataFrame({"x": []}, schema={"x": pl.Int64})),
            statistics=statistics,
            profile_report=report,
        )
    assert not Path(statistics.path).exists()
    assert not Path(report.path).exists()
