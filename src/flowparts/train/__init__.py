"""From tables to models: estimators, candidates, networks."""

__all__ = [
    "budgets",
    "calibration",
    "candidates",
    "constraints",
    "ensemble",
    "ensemble_report",
    "estimators",
    "failures",
    "held_out",
    "networks",
    "portfolio",
    "problem",
    "selection",
    "stages",
    "trainers",
]
