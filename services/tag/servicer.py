"""TagService: tags of words as labelled spans of the caller's text, and the text's classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from artifacts.card import Card, TextPreprocessing
from artifacts.tagging import best_tags, spans_of
from artifacts.windows import Windows
from lectern.v1 import tag_pb2 as pb
from services import notices, pools
from services.answering import answering
from services.codecs.language import not_english_each
from services.codecs.tensors import softmax
from services.codecs.text import Tokens, read_windows, whole_characters
from services.limits import Limits
from services.probabilities import best_first
from services.rpc import Call
from services.runtime.repository import Repository
from services.runtime.token_windows import read, stages
from services.tag import CAPABILITY

INLINE_TOKENS = 128  # more of them would delay other callers, so their tags are put together off the event loop


class TagServicer:
    """Answers TagService from the models of the capability `tag`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def TagText(self, request: pb.TagTextRequest, call: Call) -> pb.TagTextResponse:
        model, preprocessing = answering(self._repository, call, request, CAPABILITY, TextPreprocessing)
        tokenizer = model.assets[preprocessing.tokenizer]
        tokens, windows = await read_windows(request.texts, tokenizer, preprocessing.max_tokens, self._limits)
        wanted = ["tags", *(["logits"] if model.card.labels else [])]
        outputs = await read(windows, stages(model), wanted, call.deadline, call.priority)
        inline = sum(len(one.ids) for one in tokens) <= INLINE_TOKENS
        results = await pools.inline_or_codecs(
            inline, _results, list(request.texts), tokens, windows, outputs, model.card, request.top_k
        )
        languages = await not_english_each(request.texts)
        least = model.card.decision.get("unsure", 0.0)
        for i, (result, looks) in enumerate(zip(results, languages, strict=True)):
            result.notices.extend(notices.language(model.card.name, looks, f"texts[{i}]"))
            if result.classes:
                result.notices.extend(notices.unsure(result.classes[0].probability, least, f"texts[{i}]"))
        return pb.TagTextResponse(model=model.card.name, version=model.card.version, results=results)


def _results(
    texts: Sequence[str],
    tokens: Sequence[Tokens],
    windows: Sequence[Windows],
    outputs: dict[str, NDArray[np.float32]],
    card: Card,
    top_k: int,
) -> list[pb.TaggedText]:
    """The answer for each text, from what the graph says of its windows."""
    results, row = [], 0
    for text, own, one in zip(texts, tokens, windows, strict=True):
        rows = slice(row, row := row + len(one.ids))
        inner = [slice(one.before, one.before + size) for size in one.sizes]
        scores = np.concatenate([part[own] for part, own in zip(outputs["tags"][rows], inner, strict=True)])
        result = pb.TaggedText(spans=_spans(text, own, scores, card.tags))
        if card.labels:
            classes = softmax(outputs["logits"][rows]).mean(axis=0, keepdims=True)
            result.classes.extend(best_first(classes, card.labels, top_k)[0])
        results.append(result)
    return results


def _spans(text: str, tokens: Tokens, scores: NDArray[np.float32], tags: Sequence[str]) -> list[pb.LabelledSpan]:
    """The labelled parts of a text, from the scores of each token's tags [T, len(tags)]: a word's are its first's."""
    words = np.asarray(tokens.words)
    firsts = np.flatnonzero(np.diff(words, prepend=-1) != 0)
    lasts = np.append(firsts[1:], len(words)) - 1
    probabilities = softmax(scores[firsts])
    with np.errstate(divide="ignore"):
        chosen = best_tags(np.log(probabilities), tags)
    spans = []
    for span in spans_of(chosen.tolist(), tags, probabilities):
        start, end = whole_characters(text, tokens.starts[firsts[span.start]], tokens.ends[lasts[span.end - 1]])
        spans.append(
            pb.LabelledSpan(label=span.label, text=text[start:end], start=start, end=end, probability=span.probability)
        )
    return spans
