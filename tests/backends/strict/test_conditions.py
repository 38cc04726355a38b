from typing import Any

import pytest

from backends.strict.conditions import condition, selected
from backends.strict.values import BackendError

INPUTS = {
    "pipelinechannel--s": "yes",
    "pipelinechannel--q": 'say "yes" äö',
    "pipelinechannel--n": 3,
    "pipelinechannel--f": 2.5,
    "pipelinechannel--b": True,
}


def value(name: str) -> str:
    return f"inputs.parameter_values['pipelinechannel--{name}']"


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        (f"{value('s')} == 'yes'", True),
        (f"{value('s')} != 'yes'", False),
        (f"!({value('s')} == 'yes')", False),
        (f"int({value('n')}) > 2", True),
        (f"{value('f')} <= double(2)", False),
        (f"{value('f')} >= -2.5", True),
        (f"{value('b')} == true", True),
        (f"{value('b')} == 1", False),  # of different types, so never equal
        (f"{value('q')} == 'say \"yes\" äö'", True),
        (f"!({value('s')} == 'no') && int({value('n')}) == 3", True),
        (f"{value('s')} == 'no' || ({value('b')} == true && {value('f')} < 3.0)", True),
        (f"{value('s')} == 'a\\'b'", False),
    ],
)
def test_conditions_written_by_the_sdk_are_evaluated(text: str, holds: bool) -> None:
    assert condition(text, INPUTS) is holds


def test_text_with_a_single_quote_stops_the_group() -> None:
    with pytest.raises(BackendError, match="keep ' out of what is compared") as raised:
        condition("inputs.parameter_values['pipelinechannel--s'] == 'it's'", INPUTS)
    assert raised.value.words == "ERROR: <input>:1:54: Syntax error: mismatched input 's' expecting <EOF>"


@pytest.mark.parametrize(
    "text",
    [
        f"{value('missing')} == 1",
        f"{value('s')} > 2",
        f"{value('n')}",
        f"{value('s')} == 'a' 'b'",
        "other == 1",
        "size(1) == 1",
        f"int({value('s')}) == 1",
        f"!{value('s')}",
        "",
        "(true",
    ],
    ids=["missing", "order", "no bool", "two texts", "name", "function", "no number", "not", "empty", "open"],
)
def test_a_condition_that_cannot_be_evaluated_stops_the_group(text: str) -> None:
    with pytest.raises(BackendError, match="can't be evaluated"):
        condition(text, INPUTS)


@pytest.mark.parametrize(
    ("text", "given", "found"),
    [
        ('parseJson(string_value)["a"]', {"a": 2}, 2),
        ('parseJson(string_value)["a"]["b"]', {"a": {"b": [1]}}, [1]),
        ("list_value[1]", ["x", "y"], "y"),
        ("string_value", 5, "5"),
    ],
)
def test_a_part_of_a_loops_item(text: str, given: Any, found: Any) -> None:
    assert selected(text, given) == found


def test_a_part_that_is_not_there_stops_the_step() -> None:
    with pytest.raises(BackendError, match="no such key: b"):
        selected('parseJson(string_value)["b"]', {"a": 2})
