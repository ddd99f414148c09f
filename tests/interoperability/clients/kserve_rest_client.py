"""KServe's SDK over REST as its users call it: prints, as JSON, what the server at argv[1] answers for the photos in
argv[2]."""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODEL = "image_classifier"


async def main(url: str, photos: np.ndarray) -> dict[str, object]:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    answers: dict[str, object] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, MODEL),
    }
    for binary in (True, False):
        tensor = InferInput("images", list(photos.shape), "UINT8")
        tensor.set_data_from_numpy(photos, binary_data=binary)
        output = RequestedOutput("logits", {"binary_data": binary})
        request = InferRequest(MODEL, [tensor], request_outputs=[output])
        response = await client.infer(url, request, model_name=MODEL)
        answers["raw" if binary else "typed"] = response.outputs[0].as_numpy().tolist()
    await client.close()
    return answers


json.dump(asyncio.run(main(sys.argv[1], np.load(sys.argv[2]))), sys.stdout)
