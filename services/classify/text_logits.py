"""Logits of texts: the mean vector of a text by an encoder, then the classifier's own graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from artifacts.card import TextPreprocessing
from services.codecs.text import read_windows
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Model
from services.runtime.token_windows import mean_vectors


async def logits_of(
    texts: Sequence[str], model: Model, preprocessing: TextPreprocessing, limits: Limits, call: Call
) -> NDArray[np.float32]:
    """Logits `[N, classes]` of texts; a text longer than the encoder's window is read window by window.

    Raises:
        InvalidArgument: as `read_windows`.
    """
    tokenizer = model.assets[preprocessing.tokenizer]
    _, windows = await read_windows(texts, tokenizer, preprocessing.max_tokens, limits)
    means = await mean_vectors(windows, model.graphs["encoder"], call.deadline, call.priority)
    outputs = await model.graphs["forward"].infer({"mean_vector": means}, call.deadline, call.priority)
    return outputs["logits"]
