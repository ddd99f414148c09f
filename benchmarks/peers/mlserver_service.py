"""A graph as a model of MLServer; its own process and environment run this file."""

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]
from onnx_graph import Graph  # type: ignore[import-not-found]


class OnnxModel(MLModel):
    """The model of its own name in the repository at its URI."""

    async def load(self) -> bool:
        self.graph = Graph(self.settings.parameters.uri, self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = self.graph.run(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output(self.graph.output, rows)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
