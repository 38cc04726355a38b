import math
import re
import xml.dom.minidom
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowparts import reports

NASTY = [
    "<script>alert(1)</script>",
    "é",
    "数据",
    "x" * 300,
    "a&b\"'",
    "",
    "nul\x00\x1b",
    "{{ title }}",
    "\ud800",
]
finite = st.floats(allow_nan=False, allow_infinity=False)
anything = st.floats()


def well_formed(block: str) -> str:
    """Parse a block as XML, which is stricter than a browser, and return it."""
    xml.dom.minidom.parseString(f"<div>{block.replace('&ensp;', ' ')}</div>")
    assert "nan" not in re.findall(r'="([^"]*)"', block)
    return block


def numbers_in_svg(block: str) -> list[float]:
    return [float(text) for text in re.findall(r' (?:x|y|width|height|cx|cy)="([^"]*)"', block)]


def test_page_is_one_file_without_scripts_or_addresses() -> None:
    page = reports.page("Title", reports.callout("fine", "good"), subtitle="of nothing")
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<title>Title</title>" in page


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_text_from_outside_is_shown_and_never_markup(name: str) -> None:
    blocks = [
        reports.section(name, reports.callout(name)),
        reports.facts({name: name}),
        reports.table([{name: name, "n": 1}], caption=name),
        reports.bars({name: 1.0, "other": 2.0}, {name: (0.5, 1.5)}, label=name),
        reports.histogram([0, 1], [1], label=name),
        reports.lines({name: ([0, 1], [0, 1]), "b": ([0], [1])}, name, name),
        reports.scatter([1], [2], name, name),
        reports.heatmap([[1.0]], [name], [name], name, name),
        reports.grid(reports.tag(name)),
    ]
    page = reports.page(name, *blocks, subtitle=name)
    for block in blocks:
        well_formed(block)
    assert "<script" not in page
    page.encode()


def test_plain_text_among_the_blocks_is_escaped() -> None:
    assert "<b>" not in reports.page("t", "<b>bold</b>")  # type: ignore[arg-type]


def test_equal_input_gives_equal_pages() -> None:
    def page() -> str:
        return reports.page("t", reports.lines({"a": ([0, 1], [1, 2])}, "x", "y"), reports.bars({"a": 1 / 3}))

    assert page() == page()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (1234.56, "1,235"),
        (1e-7, "1e-07"),
        (2.5e20, "2.5e+20"),
        (None, "\N{EN DASH}"),
        (math.nan, "\N{EN DASH}"),
        (-math.inf, "-∞"),
        (True, "yes"),
        (datetime(2026, 1, 2, 3, 4), "2026-01-02 03:04:00"),
        ("text", "text"),
    ],
    ids=str,
)
def test_numbers_are_written_for_readers(value: object, text: str) -> None:
    assert reports.format_number(value) == text


def test_table_aligns_columns_of_numbers_right_and_others_left() -> None:
    block = reports.table(
        [{"name": "a", "value": 0.5, "share": "12.5%"}, {"name": "b", "value": None, "share": "1%"}]
    )
    assert re.findall(r'<th scope="col" class="(\w*)"', block) == ["", "number", "number"]


def test_table_keeps_markup_of_a_block_cell() -> None:
    assert "<em>x</em>" in reports.table([{"a": reports.Block("<em>x</em>")}])


def test_unknown_callout_level_is_refused() -> None:
    with pytest.raises(ValueError, match="callout level 'terrible' is not one of: good, bad, note"):
        reports.callout("x", "terrible")


def test_histogram_needs_one_edge_more_than_counts() -> None:
    with pytest.raises(ValueError, match="a histogram of 2 counts needs 3 edges, not 2"):
        reports.histogram([0, 1], [1, 2])


def test_charts_without_values_say_so() -> None:
    empty = [
        reports.bars({}, label="size"),
        reports.histogram([], [], "size"),
        reports.lines({}, "x", "size"),
        reports.lines({"a": ([], [])}, "x", "size"),
        reports.scatter([math.nan], [1], "x", "size"),
        reports.heatmap([], [], [], "size"),
    ]
    assert set(empty) == {'<p class="muted">size: no values</p>'}


def test_bars_are_as_long_as_their_values() -> None:
    block = reports.bars({"half": 1.0, "whole": 2.0, "minus": -1.0})
    lengths = [float(width) for width in re.findall(r'class="bar"[^>]* width="([\d.]+)"', block)]
    assert lengths[1] / lengths[0] == pytest.approx(2, rel=0.02)
    assert lengths[2] == pytest.approx(lengths[0], rel=0.02)


def test_histogram_heights_follow_the_counts_and_one_value_is_still_seen() -> None:
    block = reports.histogram([0, 1, 2, 3, 4], [100, 50, 0, 1])
    heights = [float(height) for height in re.findall(r'class="bar"[^>]* height="([\d.]+)"', block)]
    assert heights[1] / heights[0] == pytest.approx(0.5, rel=0.02)
    assert heights[2] == 0
    assert heights[3] >= 1


def test_histogram_of_timestamps_has_ticks_on_the_calendar() -> None:
    edges = [datetime(2023, 1, 1) + timedelta(days=73 * step) for step in range(11)]
    labels = re.findall(r">(\d{4}(?:-\d\d)?)</text>", reports.histogram(edges, list(range(10))))
    assert labels[0].startswith("2023")
    assert {"2024", "2024-01"} & set(labels)


@pytest.mark.parametrize("unit", ["microseconds", "seconds", "minutes", "hours", "days", "weeks"])
def test_every_span_of_time_gets_a_few_ticks(unit: str) -> None:
    edges = [datetime(2024, 2, 28, 23, 59, 30) + timedelta(**{unit: 7 * step}) for step in range(21)]
    block = reports.histogram(edges, [1] * 20)
    well_formed(block)
    assert unit == "microseconds" or 1 <= len(re.findall(r'text-anchor="middle"', block)) <= 12


def test_timestamps_of_all_times_can_be_drawn() -> None:
    well_formed(reports.histogram([datetime(1, 1, 1), datetime(9999, 12, 31)], [3]))


def test_legend_names_every_series_when_there_are_several() -> None:
    many = reports.lines({f"class {index}": ([0, 1], [0, index]) for index in range(12)}, "x", "y")
    assert re.findall(r"<span>class (\d+)</span>", many) == [str(index) for index in range(12)]
    assert "legend" not in reports.lines({"alone": ([0, 1], [0, 1])}, "x", "y")


def test_diagonal_gives_both_axes_one_range() -> None:
    block = reports.scatter([0, 10], [0, 1], "truth", "prediction", diagonal=True)
    assert block.count(">10</text>") == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(anything, anything), max_size=8), st.booleans())
@example([(5e-324, 1.7e308), (-5e-324, -1.7e308)], True)
@example([(1e16, 1.0), (1e16 + 2, 1.0)], False)
def test_any_numbers_can_be_drawn_inside_the_picture(
    points: list[tuple[float, float]], diagonal: bool
) -> None:
    x, y = [point[0] for point in points], [point[1] for point in points]
    values = {str(index): value for index, value in enumerate(x)}
    for block in (
        reports.scatter(x, y, "x", "y", diagonal),
        reports.lines({"a": (x, y), "b": (y, x)}, "x", "y", diagonal),
        reports.bars(values, {name: (value, value) for name, value in values.items()}),
        reports.heatmap([x, y], ["a", "b"], [str(index) for index in range(len(x))]),
    ):
        assert all(math.isfinite(number) for number in numbers_in_svg(well_formed(block)))
        assert len(block) < 60_000


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=2, max_size=8, unique=True))
@example([1e9, 1e9 + 1e-7])
def test_any_histogram_can_be_drawn_inside_the_picture(edges: list[float]) -> None:
    block = reports.histogram(sorted(edges), list(range(len(edges) - 1)))
    places = [float(text) for text in re.findall(r'class="bar" x="([^"]*)"', well_formed(block))]
    assert all(0 <= place <= 480 for place in places)


def test_page_of_everything_opens_without_an_error(tmp_path: Path, open_page: Callable[[Path], Any]) -> None:
    curve = [step / 20 for step in range(21)]
    page = reports.page(
        "Everything",
        reports.callout("Promoted", "good"),
        reports.facts({"rows": 1234567, "roc_auc": 0.98765}),
        reports.section("Numbers", reports.table([{"metric": name, "value": 0.5} for name in NASTY[:6]])),
        reports.grid(
            reports.bars({name: len(name) for name in NASTY[:6]}, label="length"),
            reports.histogram(curve, list(range(20)), "value"),
            reports.lines(
                {"a": (curve, curve), "b": (curve, [x * x for x in curve])}, "x", "y", diagonal=True
            ),
            reports.heatmap([[5, 1], [2, 8]], ["yes", "no"], ["yes", "no"], "truth", "prediction"),
        ),
    )
    file = tmp_path / "everything.html"
    file.write_text(page, encoding="utf-8")
    driver = open_page(file)
    assert driver.find_element("tag name", "h1").text == "Everything"
    assert len(driver.find_elements("css selector", ".cell figure > svg")) == 4
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
