"""Keep the catalogue in README.md up to date: `make readme` writes it, a test compares it."""

import re
from pathlib import Path

from kfp.dsl.base_component import BaseComponent

from backends import catalogue

README = Path(__file__).parents[1] / "README.md"
_START, _END = "<!-- catalogue: written by make readme -->\n", "<!-- end of catalogue -->\n"


def with_catalogue(text: str) -> str:
    """Return the README's text with a new catalogue between its marks."""
    before, _, rest = text.partition(_START)
    _, _, after = rest.partition(_END)
    return before + _START + _catalogue() + _END + after


def _catalogue() -> str:
    lines = ["| pipeline | what it does |", "|---|---|"]
    lines += [
        f"| [{name.replace('_', '-')}](pipelines/{name}.py) | {_first_sentence(part)} |"
        for name, part in catalogue.pipelines().items()
    ]
    lines += ["", "| component | what it does | image |", "|---|---|---|"]
    for name, part in catalogue.components().items():
        stage = catalogue.stage(part)
        container = part.component_spec.implementation.container
        assert container
        image = container.image.partition("flowparts-")[2].partition(":")[0]
        lines.append(
            f"| [{stage}/{name}](components/{stage}/{name}.py) | {_first_sentence(part)} | {image} |"
        )
    return "\n".join(lines) + "\n"


def _first_sentence(part: BaseComponent) -> str:
    return re.split(r"(?<=\.)\s", " ".join((part.description or "").split()), maxsplit=1)[0]


def is_current() -> bool:
    """Return whether the README's catalogue is up to date."""
    text = README.read_text(encoding="utf-8")
    return with_catalogue(text) == text


def write() -> None:
    """Update the README's catalogue."""
    README.write_text(with_catalogue(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write()
