"""The backend `onnxruntime` for a Triton that has only its python backend: Triton itself runs this file.

Copied into Triton's backend directory as `onnxruntime/model.py`. One run of the graph answers all requests that Triton
gathered into a batch.
"""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: list) -> list:  # type: ignore[type-arg]
        arrays = [[pb_utils.get_input_tensor_by_name(r, n).as_numpy() for n in self.inputs] for r in requests]
        batch = arrays[0] if len(arrays) == 1 else [np.concatenate(column) for column in zip(*arrays, strict=True)]
        try:
            results = self.session.run(self.outputs, dict(zip(self.inputs, batch, strict=True)))
        except Exception as error:
            failed = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            return [failed for _ in requests]
        ends = np.cumsum([len(a[0]) for a in arrays])
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(n, r[end - len(a[0]) : end]) for n, r in zip(self.outputs, results, strict=True)]
            )
            for a, end in zip(arrays, ends, strict=True)
        ]
