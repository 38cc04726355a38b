import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowparts.util import metadata

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet="a{}=1ü\n", max_size=400),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


def described(facts: dict[str, Any]) -> dict[str, Any]:
    artifact = SimpleNamespace(metadata={})
    metadata.describe(artifact, facts)
    return dict(artifact.metadata)


@given(st.dictionaries(st.text(min_size=1, max_size=30), VALUES, max_size=60))
def test_whatever_the_facts_the_metadata_is_what_every_backend_keeps(facts: dict[str, Any]) -> None:
    kept = described(facts)
    assert len(json.dumps(kept, allow_nan=False, ensure_ascii=False).encode()) <= metadata.MAX_BYTES
    for value in kept.values():
        assert isinstance(value, str | int | float | bool)
        assert not isinstance(value, str) or "{{" not in value
        assert not isinstance(value, int) or abs(value) <= 2**53


def test_scalars_and_short_text_stay_and_lists_are_counted() -> None:
    facts = {"rows": 5, "ratio": 0.5, "good": True, "name": "ü", "columns": ["a", "b"]}
    assert described(facts) == {**facts, "columns": 2}


@pytest.mark.parametrize("value", [None, {"a": 1}, float("nan"), float("inf")])
def test_metadata_that_backends_refuse_or_change_is_dropped(value: Any) -> None:
    assert described({"value": value, "rows": 1}) == {"rows": 1}


def test_long_text_is_cut_and_large_whole_numbers_are_written_out() -> None:
    kept = described({"text": "x" * 1000, "number": 2**53 + 1})
    assert kept == {"text": "x" * 197 + "...", "number": "9007199254740993"}


@pytest.mark.parametrize("text", ["{{=1+1}}", "a {{workflow.name}} b", "{{{x}}}", "{{{{"])
def test_no_template_is_left_in_plain_text(text: str) -> None:
    assert "{{" not in metadata.plain(text)
    assert metadata.plain(text).replace(" ", "") == text.replace(" ", "")
