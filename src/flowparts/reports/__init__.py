"""HTML reports: charts, tables and the page around them."""

from flowparts.reports._text import Block, format_number
from flowparts.reports.charts import bars, heatmap, histogram, lines, scatter
from flowparts.reports.page import callout, facts, grid, page, pictures, section, table, tag

__all__ = [
    "Block",
    "bars",
    "callout",
    "facts",
    "format_number",
    "grid",
    "heatmap",
    "histogram",
    "lines",
    "page",
    "pictures",
    "scatter",
    "section",
    "table",
    "tag",
]
