"""Open Inference Protocol v2: every graph, raw, for any KServe or Triton client."""
