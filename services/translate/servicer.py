"""TranslateService: texts into another language, sentence by sentence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from lectern.card import TranslationPreprocessing
from lectern.v1 import translate_pb2 as pb
from services import notices, pools
from services.codecs.language import not_english_each
from services.codecs.text import INLINE_CHARACTERS, check_text, check_texts, load_tokenizer, special_id
from services.codecs.timing import decoded
from services.errors import InvalidArgument
from services.limits import Limits
from services.rpc import Call
from services.runtime.decode import Decoder, Decoders
from services.runtime.graph import Array
from services.runtime.repository import Model, Repository
from services.translate.beams import BeamSearch, Hypothesis
from services.translate.sentences import Sentence, split

CAPABILITY = "translate"
DEFAULT_MODEL = "translator_en_zh"
START, END = "<s>", "</s>"
PADDED_TO = 8  # lengths of sentences that the encoder takes together


@dataclass(frozen=True, slots=True)
class Choices:
    """How a request wants sentences searched."""

    beam_size: int
    length_penalty: float
    count: int = 1
    alignment: bool = False


class TranslateServicer:
    """Answers TranslateService from the models of the capability `translate`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits
        self._decoders = Decoders()

    async def Translate(self, request: pb.TranslateRequest, call: Call) -> pb.TranslateResponse:
        translator = self._find(request.model, request.version, call)
        choices = translator.choices(request, self._limits)
        check_texts(request.texts, self._limits)
        texts = [await translator.sentences(t, f"texts[{i}]") for i, t in enumerate(request.texts)]
        sentences = [sentence for text in texts for sentence in text]
        if len(sentences) > self._limits.sentences:
            most = f"the most in one request is {self._limits.sentences}"
            raise InvalidArgument.field("texts", f"have {len(sentences)} sentences; {most}")
        searches = await translator.searches(sentences, choices, call)
        languages = await not_english_each(request.texts)
        await translator.decoder.finish(searches, call.deadline, call.priority)
        found = iter(searches)
        results = [
            translator.translations(source, [(s, next(found).over) for s in text], choices)
            for source, text in zip(request.texts, texts, strict=True)
        ]
        for i, (result, looks) in enumerate(zip(results, languages, strict=True)):
            result.notices.extend(notices.language(translator.model.card.name, looks, f"texts[{i}]"))
        return pb.TranslateResponse(
            model=translator.model.card.name, version=translator.model.card.version, results=results
        )

    async def StreamTranslate(
        self, request: pb.StreamTranslateRequest, call: Call
    ) -> AsyncIterator[pb.StreamTranslateResponse]:
        translator = self._find(request.model, request.version, call)
        choices = translator.choices(request, self._limits)
        check_text(request.text, self._limits)
        sentences = await translator.sentences(request.text, "text")
        if len(sentences) > self._limits.sentences:
            most = f"the most in one request is {self._limits.sentences}"
            raise InvalidArgument.field("text", f"has {len(sentences)} sentences; {most}")
        (looks,) = await not_english_each([request.text])
        reservations = notices.language(translator.model.card.name, looks, "text")
        for index, sentence in enumerate(sentences):
            (search,) = await translator.searches([sentence], choices, call)
            sent = ""
            async with aclosing(translator.decoder.steps(search, call.deadline, call.priority)) as steps:
                async for _ in steps:
                    done, best = search.done, search.best  # in this order: what is done does not change
                    text = translator.text(best)
                    if text == sent and not done:
                        continue
                    sent = text
                    yield pb.StreamTranslateResponse(
                        model=translator.model.card.name,
                        version=translator.model.card.version,
                        sentence=index,
                        sentences=len(sentences),
                        text=text,
                        final=done,
                        score=best.score if done else 0.0,
                        notices=reservations,
                    )
                    reservations = []

    def _find(self, name: str, version: int, call: Call) -> Translator:
        model = self._repository.find(name or DEFAULT_MODEL, version, CAPABILITY)
        call.model = f"{model.card.name}/{model.card.version}"
        if not isinstance(model.card.preprocessing, TranslationPreprocessing):
            raise InvalidArgument.field("model", f"{model.card.name} does not translate")
        return Translator(model, model.card.preprocessing, self._decoders.of(model.graphs["step"]))


class Translator:
    """A model that translates, with its tokenizers."""

    def __init__(self, model: Model, preprocessing: TranslationPreprocessing, decoder: Decoder) -> None:
        self.model = model
        self.decoder = decoder
        self._most = preprocessing.max_tokens
        self._source = load_tokenizer(model.assets[preprocessing.source])
        self._target = load_tokenizer(model.assets[preprocessing.target])

    def choices(self, request: pb.TranslateRequest | pb.StreamTranslateRequest, limits: Limits) -> Choices:
        """What a request asks for.

        Raises:
            InvalidArgument: names the field at fault.
        """
        decision = self.model.card.decision
        whole = isinstance(request, pb.TranslateRequest)
        beams = request.beam_size or (int(decision["beam_size"]) if whole else 1)
        most = min(limits.beams, self.decoder.widest)
        if beams > most:
            raise InvalidArgument.field("beam_size", f"is {beams}; the most is {most}")
        penalty = request.length_penalty if request.HasField("length_penalty") else decision["length_penalty"]
        if not 0 <= penalty <= 2:
            raise InvalidArgument.field("length_penalty", f"is {penalty}; it must be 0 to 2")
        if not isinstance(request, pb.TranslateRequest):
            return Choices(beams, penalty)
        if request.count > beams:
            raise InvalidArgument.field(
                "count", f"is {request.count}; a search by {beams} beams finds no more than that"
            )
        return Choices(beams, penalty, request.count or 1, request.alignment)

    async def sentences(self, text: str, field: str) -> list[Sentence]:
        """The sentences of a text.

        Raises:
            InvalidArgument: it has none.
        """
        started = time.monotonic()
        if len(text) <= INLINE_CHARACTERS:
            found = split(text, self._source, self._most)
        else:
            found = await pools.codecs.run(split, text, self._source, self._most)
        decoded("text", started)
        if not found:
            raise InvalidArgument.field(field, "has nothing that the model can read")
        return found

    async def searches(self, sentences: Sequence[Sentence], choices: Choices, call: Call) -> list[BeamSearch]:
        """A search for each sentence, which the encoder has read: those of similar length together."""
        groups: dict[int, list[int]] = {}
        for i, sentence in enumerate(sentences):
            groups.setdefault(-(-len(sentence.encoding.ids) // PADDED_TO) * PADDED_TO, []).append(i)
        runs = [self._encode(size, [sentences[i] for i in group], call) for size, group in groups.items()]
        constants: dict[int, dict[str, Array]] = {}
        for group, read in zip(groups.values(), await asyncio.gather(*runs), strict=True):
            constants |= zip(group, read, strict=True)
        start, end = (special_id(self._target, token) for token in (START, END))
        return [
            BeamSearch(
                constants[i],
                start=start,
                end=end,
                size=choices.beam_size,
                length_penalty=choices.length_penalty,
                longest=min(self._most - 1, 2 * len(sentence.encoding.ids) + 10),
                attention=choices.alignment,
            )
            for i, sentence in enumerate(sentences)
        ]

    async def _encode(self, size: int, sentences: Sequence[Sentence], call: Call) -> list[dict[str, Array]]:
        """What the decoder looks up of each sentence, by name."""
        lengths = np.array([[len(sentence.encoding.ids)] for sentence in sentences])
        tokens = np.zeros((len(sentences), size), np.int64)
        for row, sentence in zip(tokens, sentences, strict=True):
            row[: len(sentence.encoding.ids)] = sentence.encoding.ids
        inputs = {"tokens": tokens, "length": lengths}
        memory = await self.model.graphs["forward"].infer(inputs, call.deadline, call.priority)
        return [
            {name: value[i, :, : lengths[i, 0]] for name, value in memory.items()} | {"memory_length": lengths[i]}
            for i in range(len(sentences))
        ]

    def text(self, hypothesis: Hypothesis) -> str:
        return self._target.decode(list(hypothesis.tokens))

    def translations(
        self, source: str, found: Sequence[tuple[Sentence, Sequence[Hypothesis]]], choices: Choices
    ) -> pb.TextTranslations:
        """The translations of one text, whose sentences have these hypotheses."""
        distinct = [(sentence, self._distinct(hypotheses, choices.count)) for sentence, hypotheses in found]
        results = []
        for rank in range(min(len(hypotheses) for _, hypotheses in distinct)):
            parts = [self._sentence(source, s, hypotheses[rank], choices) for s, hypotheses in distinct]
            score = sum(part.score for part in parts) / len(parts)
            results.append(pb.Translation(text=_joined(source, parts), score=score, sentences=parts))
        return pb.TextTranslations(translations=results)

    def _distinct(self, hypotheses: Iterable[Hypothesis], count: int) -> list[Hypothesis]:
        """The `count` best that do not read alike: other tokens may be the same text."""
        best: dict[str, Hypothesis] = {}
        for hypothesis in hypotheses:
            best.setdefault(self.text(hypothesis), hypothesis)
            if len(best) == count:
                break
        return list(best.values())

    def _sentence(
        self, source: str, sentence: Sentence, hypothesis: Hypothesis, choices: Choices
    ) -> pb.TranslatedSentence:
        message = pb.TranslatedSentence(
            source_start=sentence.start, source_end=sentence.end, text=self.text(hypothesis), score=hypothesis.score
        )
        if choices.alignment:
            shown = [i for i, special in enumerate(sentence.encoding.special_tokens_mask) if not special]
            for i in shown:
                start, end = (sentence.start + offset for offset in sentence.encoding.offsets[i])
                start = end - len(source[start:end].lstrip())  # a token has the space before it
                message.source_tokens.add(text=source[start:end], start=start, end=end)
            for token, weights in zip(hypothesis.tokens, hypothesis.attention, strict=True):
                message.tokens.add(text=self._target.decode([token]), attention=weights[shown])
        return message


def _joined(source: str, parts: Iterable[pb.TranslatedSentence]) -> str:
    """The sentences' translations as one text, with the line breaks of the source."""
    text, end = "", 0
    for part in parts:
        if text:
            text += "\n" * source.count("\n", end, part.source_start)
        text, end = text + part.text, part.source_end
    return text
