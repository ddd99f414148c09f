"""Logits of texts and of pairs: the mean vector by an encoder, then the classifier's own graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from artifacts.card import TextPreprocessing
from artifacts.windows import question_windows
from lectern.v1.classify_pb2 import SentencePair
from services.codecs.text import check_text, encode, load_tokenizer, read_windows
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
        InvalidArgument: as `read_windows`.
    """
    tokenizer = model.assets[preprocessing.tokenizer]
    _, windows = await read_windows(texts, tokenizer, preprocessing.max_tokens, limits)
    means = await mean_vectors(windows, model.graphs["encoder"], call.deadline, call.priority)
    outputs = await model.graphs["forward"].infer({"mean_vector": means}, call.deadline, call.priority)
    return outputs["logits"]


async def logits_of_pairs(
    pairs: Sequence[SentencePair], model: Model, preprocessing: TextPreprocessing, limits: Limits, call: Call
) -> NDArray[np.float32]:
    """Logits `[N, classes]` of pairs of sentences.

    Raises:
        InvalidArgument: there are none or too many, or the sentences of one are empty or too long.
    """
    if not pairs:
        raise InvalidArgument.field("pairs", "is empty; send at least one pair")
    if len(pairs) > limits.texts:
        raise InvalidArgument.field("pairs", f"has {len(pairs)} pairs; the most in one request is {limits.texts}")
    sentences = {
        f"pairs[{i}].{name}": getattr(pair, name) for i, pair in enumerate(pairs) for name in ("premise", "hypothesis")
    }
    for field, sentence in sentences.items():
        check_text(sentence, limits, field)
    tokens = await encode(load_tokenizer(model.assets[preprocessing.tokenizer]), sentences, special=False)
    windows = []
    for i, (premise, hypothesis) in enumerate(zip(tokens[::2], tokens[1::2], strict=True)):
        most, size = preprocessing.max_tokens - 3, len(premise.ids) + len(hypothesis.ids)
        if size > most:
            raise InvalidArgument.field(
                f"pairs[{i}]", f"has {size} tokens in both sentences; the most this model takes is {most}"
            )
        windows.append(question_windows(premise.ids, hypothesis.ids, preprocessing.max_tokens))
    means = await mean_vectors(windows, model.graphs["encoder"], call.deadline, call.priority)
    outputs = await model.graphs["forward"].infer({"mean_vector": means}, call.deadline, call.priority)
    return outputs["logits"]
