"""DefendService."""
