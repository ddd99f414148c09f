"""Logits of texts: the mean vector of a text by an encoder, then the classifier's own graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from artifacts.card import TextPreprocessing
from artifacts.windows import text_windows
from services.codecs.text import check_texts, encode, load_tokenizer
from services.errors import InvalidArgument
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Model
from services.runtime.token_windows import mean_vectors


async def logits_of(
    texts: Sequence[str], model: Model, preprocessing: TextPreprocessing, limits: Limits, call: Call
) -> NDArray[np.float32]:
    """Logits `[N, classes]` of texts; a text longer than the encoder's window is read window by window.

    Raises:
        InvalidArgument: `check_texts` refuses them, or they are too long together.
    """
    check_texts(texts, limits)
    tokenizer = load_tokenizer(model.assets[preprocessing.tokenizer])
    encodings = await encode(tokenizer, {f"texts[{i}]": text for i, text in enumerate(texts)})
    windows = [text_windows(encoding.ids, preprocessing.max_tokens) for encoding in encodings]
    if (needed := sum(len(one.ids) for one in windows)) > limits.text_windows:
        raise InvalidArgument.field(
            "texts", f"need {needed} windows of tokens; the most is {limits.text_windows}: send fewer or shorter ones"
        )
    means = await mean_vectors(windows, model.graphs["encoder"], call.deadline, call.priority)
    outputs = await model.graphs["forward"].infer({"mean_vector": means}, call.deadline, call.priority)
    return outputs["logits"]
