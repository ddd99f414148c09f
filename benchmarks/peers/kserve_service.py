"""Graphs as custom models of KServe's own server: `python kserve_service.py --repository DIRECTORY MODEL...`.

It does not batch: KServe's batcher is a sidecar for HTTP, and no part of this server.
"""

import argparse

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server
from onnx_graph import Graph


class OnnxModel(Model):
    """One model of the repository."""

    def __init__(self, repository: str, name: str) -> None:
        super().__init__(name)
        self.graph = Graph(repository, name)
        self.ready = True

    def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        rows = self.graph.run(payload.inputs[0].as_numpy())
        output = InferOutput(self.graph.output, list(rows.shape), "FP32")
        output.set_data_from_numpy(rows)
        return InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.add_argument("--repository")
    parser.add_argument("models", nargs="+")
    given = parser.parse_args()
    ModelServer().start([OnnxModel(given.repository, name) for name in given.models])
