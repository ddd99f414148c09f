"""The HTTP door: every RPC as JSON, behind the same endpoints as over gRPC (docs/http.md)."""
