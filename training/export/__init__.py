"""Export: torch modules to ONNX graphs with measured parity, Triton configs and cards, written as one version; imports
no method and no recipe."""
