from pathlib import Path

import pytest
from kfp.dsl.structures import InputSpec

from backends import parameters

INPUTS = {
    "source": InputSpec("String", default="sample://iris", optional=True),
    "seed": InputSpec("Integer", default=0, optional=True),
    "margin": InputSpec("Float", default=0.0, optional=True),
    "strict": InputSpec("Boolean", default=True, optional=True),
    "columns": InputSpec("List", default=[], optional=True),
    "settings": InputSpec("Dict", default={}, optional=True),
}


def test_texts_become_the_declared_types() -> None:
    given = parameters.gather(
        INPUTS,
        None,
        ["source=12", "seed=7", "margin=1", "strict=false", "columns=[a, b]", 'settings={"depth": 3}'],
    )
    assert given == {
        "source": "12",
        "seed": 7,
        "margin": 1.0,
        "strict": False,
        "columns": ["a", "b"],
        "settings": {"depth": 3},
    }
    assert isinstance(given["margin"], float)


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parameters.gather(INPUTS, None, ["source=https://host/x?a=b"]) == {"source": "https://host/x?a=b"}


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text("seed: 1\nmargin: 0.5\n")
    assert parameters.gather(INPUTS, file, ["seed=2"]) == {"seed": 2, "margin": 0.5}


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ("sede=1", "unknown parameter 'sede'; did you mean 'seed'?"),
        ("seed", "parameter 'seed' must be written name=value"),
        ("seed=many", "parameter 'seed' takes a whole number, not 'many'"),
        ("seed=1.5", "parameter 'seed' takes a whole number, not 1.5"),
        ("seed=true", "parameter 'seed' takes a whole number, not True"),
        ("strict=1", "parameter 'strict' takes true or false, not 1"),
        ("columns=a", "parameter 'columns' takes a list such as"),
        ("settings=[", "parameter 'settings' is not valid YAML or JSON"),
    ],
)
def test_a_wrong_parameter_gives_a_one_line_error(pair: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence.replace('?', '[?]')}"):
        parameters.gather(INPUTS, None, [pair])


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", None], ids=["list", "broken", "missing"])
def test_an_unreadable_file_gives_a_one_line_error(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "parameters.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=r"parameters\.yaml"):
        parameters.gather(INPUTS, file, [])


def test_a_parameter_without_default_must_be_given() -> None:
    with pytest.raises(ValueError, match="'label' has no default; give it as -p label=value"):
        parameters.gather({"label": InputSpec("String")}, None, [])


def test_an_environment_file_gives_variables_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# credentials\n\nAWS_KEY=a=b \nEMPTY=\n")
    assert parameters.environment(file) == {"AWS_KEY": "a=b ", "EMPTY": ""}


def test_a_wrong_line_of_an_environment_file_is_named_without_its_value(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("A=1\nmy-token: s3cret\n")
    with pytest.raises(ValueError, match=r"line 2 of .* must be written KEY=VALUE") as refused:
        parameters.environment(file)
    assert "s3cret" not in str(refused.value)
