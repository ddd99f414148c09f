"""EmbedService: the vectors of texts, and the words whose vectors are nearest to a sum of them.

A model gives the mean vector of a text's tokens, or the vector of a sentence, by its graph `forward`; one that has
words to be near to gives the cosine of each with a query by its graph `nearest`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from artifacts.card import TextPreprocessing
from artifacts.windows import SEP, UNK
from lectern.v1 import embed_pb2 as pb
from lectern.v1 import notice_pb2
from services import notices, pools
from services.answering import answering
from services.codecs.language import not_english_each
from services.codecs.text import Tokens, check_text, check_texts, load_tokenizer, windows_of
from services.embed import CAPABILITY
from services.errors import InvalidArgument
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Model, Repository
from services.runtime.token_windows import MEAN, SENTENCE, mean_vectors

NEIGHBOURS = 10
WORDS_NAMED = 10  # in a notice
INLINE_TEXTS = 16  # vectors of more of them would delay other callers


@dataclass(frozen=True, eq=False)
class Embedded:
    """Texts with their tokens, their vectors [N, width], each of length 1 or 0, and what is to be said of each."""

    tokens: Sequence[Tokens]
    vectors: NDArray[np.float32]
    notices: Sequence[Sequence[notice_pb2.Notice]]


class EmbedServicer:
    """Answers EmbedService from the models of the capability `embed`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def EmbedText(self, request: pb.EmbedTextRequest, call: Call) -> pb.EmbedTextResponse:
        model, preprocessing = answering(self._repository, call, request, CAPABILITY, TextPreprocessing)
        check_texts(request.texts, self._limits)
        texts = {f"texts[{i}]": text for i, text in enumerate(request.texts)}
        embedded = await self._embed(model, preprocessing, texts, call)
        results = await pools.inline_or_codecs(len(texts) <= INLINE_TEXTS, _results, embedded)
        return pb.EmbedTextResponse(model=model.card.name, version=model.card.version, results=results)

    async def Nearest(self, request: pb.NearestRequest, call: Call) -> pb.NearestResponse:
        model, preprocessing = answering(self._repository, call, request, CAPABILITY, TextPreprocessing)
        if "nearest" not in model.graphs:
            raise InvalidArgument.field("model", f"{model.card.name} has no words to be near to; it answers EmbedText")
        texts, count = self._query(request), self._count(request)
        embedded = await self._embed(model, preprocessing, texts, call)
        for (field, text), vector in zip(texts.items(), embedded.vectors, strict=True):
            if not vector.any():
                raise InvalidArgument.field(field, f"has no word that {model.card.name} knows: {text}")
        signs = np.repeat(np.array([1, -1], np.float32), [len(request.positive), len(request.negative)])
        query = _of_length_one((signs @ embedded.vectors)[None])
        outputs = await model.graphs["nearest"].infer({"query": query}, call.deadline, call.priority)
        own = {number for one in embedded.tokens for number in one.ids}
        tokenizer = load_tokenizer(model.assets[preprocessing.tokenizer])
        return pb.NearestResponse(
            model=model.card.name,
            version=model.card.version,
            words=_best(outputs["cosines"][0], own, tokenizer, count),
            notices=[notice for each in embedded.notices for notice in each],
        )

    def _query(self, request: pb.NearestRequest) -> dict[str, str]:
        """The texts that are added and those that are subtracted, by their fields.

        Raises:
            InvalidArgument: there are none to add, there are too many, or one of them is no text.
        """
        check_texts(request.positive, self._limits, "positive")
        texts = {f"positive[{i}]": text for i, text in enumerate(request.positive)}
        texts |= {f"negative[{i}]": text for i, text in enumerate(request.negative)}
        if len(texts) > self._limits.texts:
            most = f"the most in one request is {self._limits.texts}, with those of positive"
            raise InvalidArgument.field("negative", f"has {len(request.negative)} texts; {most}")
        for i, text in enumerate(request.negative):
            check_text(text, self._limits, f"negative[{i}]")
        return texts

    def _count(self, request: pb.NearestRequest) -> int:
        if request.top_k > self._limits.neighbours:
            raise InvalidArgument.field("top_k", f"is {request.top_k}; the most is {self._limits.neighbours}")
        return request.top_k or NEIGHBOURS

    async def _embed(
        self, model: Model, preprocessing: TextPreprocessing, texts: Mapping[str, str], call: Call
    ) -> Embedded:
        """Texts by the names of their fields, as vectors.

        Raises:
            InvalidArgument: a text has nothing that could be read, or they are too long together.
        """
        tokenizer, name = model.assets[preprocessing.tokenizer], model.card.name
        tokens, windows = await windows_of(texts, tokenizer, preprocessing.max_tokens, self._limits)
        graph = model.graphs["forward"]
        output = SENTENCE if any(spec.name == SENTENCE for spec in graph.config.outputs) else MEAN
        vectors = await mean_vectors(windows, graph, call.deadline, call.priority, output)
        languages = await not_english_each(list(texts.values()))
        reservations = [
            notices.language(name, looks, field) + notices.left_out_words(name, _unknown(text, own), field)
            for (field, text), own, looks in zip(texts.items(), tokens, languages, strict=True)
        ]
        return Embedded(tokens, _of_length_one(vectors), reservations)


def _results(embedded: Embedded) -> list[pb.EmbeddedText]:
    pairs = zip(embedded.vectors.tolist(), embedded.notices, strict=True)
    return [pb.EmbeddedText(vector=vector, notices=own) for vector, own in pairs]


def _of_length_one(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [N, width] of length 1; those of length 0 stay so."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    shortened = vectors / np.where(lengths == 0, np.float32(1), lengths)
    return shortened.astype(np.float32, copy=False)


def _unknown(text: str, tokens: Tokens) -> str:
    """The first few words of a text that the vocabulary lacks."""
    places = zip(tokens.ids, tokens.starts, tokens.ends, strict=True)
    words = list(dict.fromkeys(text[start:end] for number, start, end in places if number == UNK))
    return ", ".join(words[:WORDS_NAMED]) + (", ..." if len(words) > WORDS_NAMED else "")


def _best(cosines: NDArray[np.float32], own: Collection[int], tokenizer: Tokenizer, count: int) -> list[pb.NearWord]:
    """So many words by their cosines [vocabulary], best first, without special tokens and those of the query."""
    ranked = cosines.copy()
    ranked[[*range(SEP + 1), *own]] = -np.inf
    best = np.argpartition(-ranked, min(count, len(ranked) - 1))[:count]
    ordered = best[np.argsort(-ranked[best], kind="stable")].tolist()
    return [
        pb.NearWord(word=tokenizer.id_to_token(i), cosine=float(ranked[i])) for i in ordered if np.isfinite(ranked[i])
    ]
