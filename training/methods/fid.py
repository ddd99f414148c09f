"""Fréchet distance between sets of images (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017).

The features are those of a network that never changes: version 1 of `image_classifier`, whose file is checked against
its checksum, at the last layer before its logits: 256 maxima over the image. The layers before are convolutions, so it
takes images at their own size. Distances compare only with others by this network and of as many images.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from scipy import linalg

from training.data.fetch import FetchError, sha256_file
from training.run import EXPORTED

FEATURE_NET = EXPORTED / "image_classifier" / "1" / "model.onnx"
FEATURE_NET_SHA256 = "a4b32189acb7e2a09d4231f990bdd5a2c061ff388286f4e5f2b20c69345890b6"
FEATURES = "div_1"
BATCH = 32


def features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Features [N, 256] of images uint8 [N, H, W, 3], H and W at least 16.

    Raises:
        FetchError: the feature network's file is not there, or it is another one.
    """
    if not FEATURE_NET.is_file() or sha256_file(FEATURE_NET) != FEATURE_NET_SHA256:
        raise FetchError(f"{FEATURE_NET} is not the network that distances are measured with: restore it from git")
    model = onnx.load(FEATURE_NET)
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[1:3]:
        dimension.dim_param = ""
        dimension.ClearField("dim_value")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return np.concatenate([session.run(None, {"images": batch})[0] for batch in batches]).astype(np.float64)


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Squared Fréchet distance of the normal distributions fitted to features [N, D] and [M, D]."""
    difference = a.mean(0) - b.mean(0)
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of the product's square root, by eigenvalues: none is negative but for rounding.
    values = linalg.eigvals(covariance_a @ covariance_b).real.clip(min=0)
    return float(difference @ difference + np.trace(covariance_a) + np.trace(covariance_b) - 2 * np.sqrt(values).sum())


def fid(images: NDArray[np.uint8], reference: NDArray[np.float64]) -> float:
    """Distance of images uint8 [N, H, W, 3] from the reference's features."""
    return frechet_distance(features(images), reference)
