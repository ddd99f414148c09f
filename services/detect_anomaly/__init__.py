"""DetectAnomalyService."""
