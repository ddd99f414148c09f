"""ONNX Runtime as a model of MLServer; its own process and environment run this file."""

import numpy as np
import onnxruntime
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class OnnxModel(MLModel):
    """Runs the graph at its URI with one thread, as every contestant does."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self.input_types = {i.name: np.uint8 if "uint8" in i.type else np.float32 for i in self.session.get_inputs()}
        self.output_names = [o.name for o in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {
            t.name: np.ascontiguousarray(NumpyCodec.decode_input(t), self.input_types[t.name]) for t in payload.inputs
        }
        results = self.session.run(self.output_names, inputs)
        outputs = [NumpyCodec.encode_output(n, r) for n, r in zip(self.output_names, results, strict=True)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
