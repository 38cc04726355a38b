from typing import Any

import pytest

from backends import plain_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[no, yes, off, y]", ["no", "yes", "off", "y"]),
        ("[2023, 007, 1_0, 0x1F]", [2023, "007", "1_0", "0x1F"]),
        ("[2024-01-01, 12:30:00]", ["2024-01-01", "12:30:00"]),
        ("[1e-05, 1e5, -.5, 1.]", [1e-05, 1e5, -0.5, 1.0]),
        ("[true, False, null, ~]", [True, False, None, None]),
        ("[]", []),
        ("[Linear]", ["Linear"]),
        ("{2023: string, no: number}", {"2023": "string", "no": "number"}),
        ('{"a": [1, 2.5, "x"]}', {"a": [1, 2.5, "x"]}),
        ("", None),
    ],
)
def test_scalars_have_the_types_that_json_gives_them(text: str, value: Any) -> None:
    assert plain_yaml.load(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".nan", "it holds nan, which isn't a JSON number"),
        ("[1e400]", "it holds inf, which isn't a JSON number"),
        ("!!set {a}", "it holds a set, which JSON doesn't have"),
        ("!!timestamp 2024-01-01", "it holds a date, which JSON doesn't have"),
        ("{true: 1}", "it has the key True; write it in quotes"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("&a [*a]", "nested too deeply"),
        ("[1", "expected"),
    ],
)
def test_values_without_a_json_form_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain_yaml.load(text)
