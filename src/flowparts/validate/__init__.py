"""Profile tables, and detect columns that leak the label."""
