"""ClassifyService."""
