"""Lectern: every model of a deep-learning course, served over gRPC."""
