"""PredictService."""
