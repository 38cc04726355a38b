"""How a deployed model fares: what it sees, how good it still is, and who is told."""
