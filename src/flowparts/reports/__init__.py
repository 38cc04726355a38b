"""Pages for people: charts, tables and the page around them."""
