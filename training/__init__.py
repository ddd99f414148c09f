"""Training recipes: one readable file per course model, plus data sources (`data`) and ONNX export (`export`)."""
