"""ExplainService."""
