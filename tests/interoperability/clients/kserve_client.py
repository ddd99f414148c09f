"""KServe's SDK as its users call it: prints, as JSON, what the server at argv[1] answers for the photos in argv[2]."""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput


async def main(target: str, photos: np.ndarray) -> dict[str, object]:
    async with InferenceGRPCClient(target) as client:
        answers: dict[str, object] = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready("image_classifier"),
        }
        for binary in (True, False):
            tensor = InferInput("images", list(photos.shape), "UINT8")
            tensor.set_data_from_numpy(photos, binary_data=binary)
            output = RequestedOutput("logits", {"binary_data": binary})
            request = InferRequest("image_classifier", [tensor], request_outputs=[output])
            response = await client.infer(request)
            answers["raw" if binary else "typed"] = response.outputs[0].as_numpy().tolist()
            answers["sent"] = tensor.parameters
    return answers


json.dump(asyncio.run(main(sys.argv[1], np.load(sys.argv[2]))), sys.stdout)
