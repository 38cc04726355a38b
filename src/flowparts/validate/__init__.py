"""What a table holds, and what in it gives the label away."""
