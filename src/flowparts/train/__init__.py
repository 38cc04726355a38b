"""From tables to models: estimators, candidates, networks."""
