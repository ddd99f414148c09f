"""Grad-CAM: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
2017."""

from __future__ import annotations

import numpy as np
from PIL import Image

from services.explain.methods.asking import Derive, Floats


async def grad_cam(x: Floats, derive: Derive, *, layer: str) -> Floats:
    """Where the layer's weighted channels are positive, `[height, width, 1]` for an image x `[height, width,
    channels]`; in the output's unit, enlarged bilinearly from the layer's map."""
    (batch,) = [batch async for batch in derive(x[None])]
    positive = Image.fromarray(batch.maps[layer][0].clip(min=0))
    height, width = x.shape[:2]
    return np.asarray(positive.resize((width, height), Image.Resampling.BILINEAR), np.float32)[..., None]
