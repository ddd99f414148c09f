"""The backend `onnxruntime` for a Triton that has only its python backend; Triton itself runs this file.

It is copied into Triton's backend directory as `onnxruntime/model.py`. One run of the graph answers all requests that
Triton has gathered into a batch.
"""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        # The same parameter as for NVIDIA's backend; the default here is one thread.
        threads = config.get("parameters", {}).get("intra_op_thread_count", {"string_value": "1"})
        options.intra_op_num_threads = int(threads["string_value"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.batches = config["max_batch_size"] > 0

    def execute(self, requests: list) -> list:  # type: ignore[type-arg]
        arrays = [[pb_utils.get_input_tensor_by_name(r, n).as_numpy() for n in self.inputs] for r in requests]
        if len(arrays) == 1 or not self.batches:
            return [self._alone(a) for a in arrays]
        try:
            results = self._run([np.concatenate(column) for column in zip(*arrays, strict=True)])
        except Exception:  # one caller's input must not fail its neighbours
            return [self._alone(a) for a in arrays]
        ends = np.cumsum([len(a[0]) for a in arrays])
        return [
            self._response([r[end - len(a[0]) : end] for r in results]) for a, end in zip(arrays, ends, strict=True)
        ]

    def _alone(self, arrays: list) -> object:  # type: ignore[type-arg]
        try:
            return self._response(self._run(arrays))
        except InvalidArgument as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        except Exception as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

    def _run(self, arrays: list) -> list:  # type: ignore[type-arg]
        results: list = self.session.run(self.outputs, dict(zip(self.inputs, arrays, strict=True)))  # type: ignore[type-arg]
        return results

    def _response(self, arrays: list) -> object:  # type: ignore[type-arg]
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)]
        )
