"""Graphs as APIs of LitServe: `python litserve_service.py REPOSITORY PORT MODEL...` takes raw values at /MODEL."""

import sys
from typing import Annotated

import litserve
from fastapi import Body, Response
from onnx_graph import MAX_BATCH, MAX_WAIT, Graph


class OnnxApi(litserve.LitAPI):
    """One model of the repository. Without a wait for its batches the worker polls, and takes a core from the rest."""

    def __init__(self, repository: str, model: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH, api_path=f"/{model}", batch_timeout=MAX_WAIT)
        self.repository, self.model = repository, model

    def setup(self, device: str) -> None:
        self.graph = Graph(self.repository, self.model)

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, x: list[bytes]) -> list[bytes]:
        return self.graph.answer(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    repository, port, *models = sys.argv[1:]
    apis = [OnnxApi(repository, model) for model in models]
    # Its documentation recommends the fast queue above 100 requests/s.
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning", access_log=False)
