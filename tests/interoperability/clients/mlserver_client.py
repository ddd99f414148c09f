"""MLServer's codecs and gRPC messages: prints, as JSON, what the server at argv[1] answers for argv[2]'s photos."""

from __future__ import annotations

import json
import sys

import grpc
import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.grpc import converters, dataplane_pb2_grpc
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.types import InferenceRequest


def main(target: str, photos: np.ndarray) -> dict[str, object]:
    with grpc.insecure_channel(target) as channel:
        stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
        metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="image_classifier"), timeout=30)
        answers: dict[str, object] = {
            "metadata": converters.ModelMetadataResponseConverter.to_types(metadata).name,
        }
        for raw in (True, False):
            request = InferenceRequest(inputs=[NumpyCodec.encode_input("images", photos)])
            answers["content_type"] = request.inputs[0].parameters.content_type
            message = converters.ModelInferRequestConverter.from_types(
                request, model_name="image_classifier", use_raw=raw
            )
            response = converters.ModelInferResponseConverter.to_types(stub.ModelInfer(message, timeout=30))
            answers["raw" if raw else "typed"] = NumpyCodec.decode_output(response.outputs[0]).tolist()
    return answers


json.dump(main(sys.argv[1], np.load(sys.argv[2])), sys.stdout)
