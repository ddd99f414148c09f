"""Tokens of a text model that was made elsewhere, as `artifacts.windows` sends them.

A server sends `[CLS] tokens [SEP]`, filled up with `[PAD]`, in the numbers that all models trained here use; the tokens
between are in the model's own numbers. What its tokenizer puts around a text, and what it fills up with, becomes part
of its graph.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from onnx import TensorProto
from tokenizers import Tokenizer

from artifacts.graph_surgery import AddError, Surgery
from artifacts.windows import PAD

PADS = ("[PAD]", "<pad>", "<|padding|>")
SAMPLES = ("a", "the", "0", "x")
REST = 2**62  # to the end of an axis


@dataclass(frozen=True)
class Around:
    """The ids that a tokenizer puts before and after a text, and the one that fills up rows."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int


def around(tokenizer: Tokenizer) -> Around:
    """What a tokenizer puts around a text.

    Raises:
        AddError: no sample has tokens, or more than one token follows a text.
    """
    pads = (tokenizer.token_to_id(name) for name in PADS)
    pad = tokenizer.padding["pad_id"] if tokenizer.padding else next((one for one in pads if one is not None), PAD)
    for sample in SAMPLES:
        own = tokenizer.encode(sample, add_special_tokens=False).ids
        whole = tokenizer.encode(sample).ids
        for start in range(len(whole) - len(own) + 1 if own else 0):
            if whole[start : start + len(own)] == own:
                found = Around(tuple(whole[:start]), tuple(whole[start + len(own) :]), pad)
                if len(found.after) > 1:
                    raise AddError(f"its tokenizer puts {len(found.after)} tokens after a text; one at most is served")
                return found
    raise AddError("its tokenizer makes no tokens of English words: it is for something else")


def plain(tokenizer: bytes) -> bytes:
    """A tokenizer.json that puts nothing around a text, neither pads nor truncates."""
    document = json.loads(tokenizer)
    document |= {"post_processor": None, "padding": None, "truncation": None}
    return json.dumps(document, ensure_ascii=False).encode()


def own_ids(graph: Surgery, ids: str, tokens: Around) -> tuple[str, str]:
    """The ids that the model wants for those that a server sends [N, T], and the mask of those that count."""
    used = graph.node("Cast", graph.node("Not", graph.node("Equal", ids, graph.constant(PAD))), to=TensorProto.INT64)
    last = graph.node("ReduceSum", used, graph.constant([1]), keepdims=1)  # [N, 1]: where [SEP] is, from 1
    ones = graph.node("Add", graph.node("Mul", ids, graph.constant(0)), graph.constant(1))
    place = graph.node("CumSum", ones, graph.constant(1))  # [N, T], from 1
    after = graph.constant(tokens.after[0] if tokens.after else tokens.pad)
    swapped = graph.node("Where", graph.node("Equal", place, last), after, ids)
    filled = graph.node("Where", graph.node("Greater", place, last), graph.constant(tokens.pad), swapped)
    end = last if tokens.after else graph.node("Sub", last, graph.constant(1))
    mask = graph.node("Cast", graph.node("Not", graph.node("Greater", place, end)), to=TensorProto.INT64)
    # Without [CLS], and behind what the tokenizer puts first.
    rest = (graph.constant([1]), graph.constant([REST]), graph.constant([1]))
    filled, mask = graph.node("Slice", filled, *rest), graph.node("Slice", mask, *rest)
    if not tokens.before:
        return filled, mask
    zero = graph.node("Mul", last, graph.constant(0))
    first = graph.node("Add", zero, graph.constant([list(tokens.before)]))
    counted = graph.node("Add", zero, graph.constant([[1] * len(tokens.before)]))
    return graph.node("Concat", first, filled, axis=1), graph.node("Concat", counted, mask, axis=1)
