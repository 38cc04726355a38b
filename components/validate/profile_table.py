from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from .. import runs_in


@runs_in("base")
def profile_table(table: Input[Dataset], statistics: Output[Artifact], profile_report: Output[HTML]) -> None:
    """Profile every column of a table: missing and distinct values, range, quantiles, histogram, top values.

    Columns with more than about 100,000 distinct values are profiled approximately and marked as such.

    Args:
        table: The table to profile.
        statistics: JSON with rows, missing_cells, duplicate_rows, warnings, and for each column its name,
            type, count, nulls, distinct, exact, top_values, and where they apply min, max, mean, std,
            skewness, quantiles, histogram and text lengths.
        profile_report: HTML page with the same statistics: warnings first, then a card with a chart for each
            column.
    """
    from flowparts import tables
    from flowparts.util import metadata, outputs
    from flowparts.validate import profile

    measured, described = profile.profile(tables.scan(table.path)), tables.description(table.path)
    source = "; ".join(
        [described["source"], *(f"left out: {each}" for each in described.get("rows_left_out", []))]
    )
    outputs.write_json(statistics.path, measured)
    outputs.write_text(profile_report.path, profile.render(measured, source))
    metadata.describe(statistics, {"rows": measured["rows"], "warnings": measured["warnings"]})
