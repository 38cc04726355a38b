from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.mark_data_seen import mark_data_seen
from flowparts.components.monitor.new_data_arrived import new_data_arrived
from flowparts.components.validate.profile_table import profile_table


@dsl.pipeline
def example(outside: str, source: str = "sample://breast_cancer"):
    table = ingest_table(source=source).outputs["table"]
    looked = new_data_arrived(table=table, state_uri=f"{outside}/seen.json").set_caching_options(False)
    used = profile_table(table=table)
    seen = mark_data_seen(mark=looked.outputs["mark"], state_uri=f"{outside}/seen.json").set_caching_options(
        False
    )
    seen.after(used)


def test_an_invalid_mark_is_not_remembered(artifact: Callable[..., Any], tmp_path: Path) -> None:
    state_uri = tmp_path / "seen.json"
    mark = artifact("mark")
    with pytest.raises(ValueError, match="the mark is missing"):
        mark_data_seen.python_func(mark=mark, state_uri=str(state_uri))
    Path(mark.path).parent.mkdir(parents=True)
    Path(mark.path).write_text('{"other": 1}')
    with pytest.raises(ValueError, match="the mark isn't a state file of the data that was seen"):
        mark_data_seen.python_func(mark=mark, state_uri=str(state_uri))
    assert not state_uri.exists()


def test_a_state_file_that_cant_be_written_gives_a_one_line_error(
    artifact: Callable[..., Any], tmp_path: Path
) -> None:
    mark = artifact("mark")
    Path(mark.path).parent.mkdir(parents=True)
    Path(mark.path).write_text('{"seen": {"rows": 1, "fingerprint": "a"}}')
    with pytest.raises(ValueError, match=r"can't read .*IsADirectoryError"):
        mark_data_seen.python_func(mark=mark, state_uri=str(tmp_path))
