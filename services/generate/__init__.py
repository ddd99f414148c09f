"""GenerateService."""
