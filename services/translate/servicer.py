"""TranslateService: texts into another language, sentence by sentence, or into another style, line by line."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from artifacts.card import RewritingPreprocessing, TranslationPreprocessing
from artifacts.carrying import Names
from lectern.v1 import translate_pb2 as pb
from services import notices, pools
from services.answering import answering
from services.codecs.language import not_english_each
from services.codecs.text import INLINE_CHARACTERS, check_text, check_texts, load_tokenizer, special_id
from services.codecs.timing import decoded
from services.errors import InvalidArgument
from services.limits import Limits
from services.rpc import Call
from services.runtime.decode import Decoder, Decoders
from services.runtime.repository import Model, Repository
from services.runtime.search import Prompt
from services.translate import CAPABILITY
from services.translate.beams import BeamSearch, Hypothesis
from services.translate.loops import without_loops
from services.translate.rewriting import Rewriter
from services.translate.script import simplified, simplified_parts
from services.translate.sentences import Reader, Sentence, between, split

START, END = "<s>", "</s>"
# The RPC for models of each kind.
RPCS: dict[type[BaseModel], str] = {TranslationPreprocessing: "Translate", RewritingPreprocessing: "Rewrite"}


@dataclass(frozen=True, slots=True)
class Choices:
    """How a request wants sentences searched."""

    beam_size: int
    length_penalty: float
    count: int = 1
    alignment: bool = False
    simplified: bool = False


class TranslateServicer:
    """Answers TranslateService from the models of the capability `translate`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits
        self._decoders = Decoders()

    async def Translate(self, request: pb.TranslateRequest, call: Call) -> pb.TranslateResponse:
        translator = self._translator(request, call)
        choices = translator.choices(request, self._limits)
        check_texts(request.texts, self._limits, blank=True)
        texts = [await translator.sentences(text) for text in request.texts]
        sentences = [sentence for text in texts for sentence in text]
        if len(sentences) > self._limits.sentences:
            most = f"the most in one request is {self._limits.sentences}"
            raise InvalidArgument.field("texts", f"have {len(sentences)} sentences; {most}")
        searches = translator.searches(sentences, choices)
        languages = await not_english_each(request.texts)
        await translator.decoder.finish(searches, call.deadline, call.priority)
        searches_left = iter(searches)
        results = []
        for source, text in zip(request.texts, texts, strict=True):
            searched = [(s, next(searches_left).over) for s in text]
            inline = len(source) * choices.beam_size <= INLINE_CHARACTERS
            results.append(await pools.inline_or_codecs(inline, translator.translations, source, searched, choices))
        for i, (result, looks) in enumerate(zip(results, languages, strict=True)):
            result.notices.extend(notices.language(translator.model.card.name, looks, f"texts[{i}]"))
        return pb.TranslateResponse(
            model=translator.model.card.name, version=translator.model.card.version, results=results
        )

    async def StreamTranslate(
        self, request: pb.StreamTranslateRequest, call: Call
    ) -> AsyncIterator[pb.StreamTranslateResponse]:
        translator = self._translator(request, call)
        choices = translator.choices(request, self._limits)
        check_text(request.text, self._limits, blank=True)
        sentences = await translator.sentences(request.text)
        if len(sentences) > self._limits.sentences:
            most = f"the most in one request is {self._limits.sentences}"
            raise InvalidArgument.field("text", f"has {len(sentences)} sentences; {most}")
        (looks,) = await not_english_each([request.text])
        reservations = notices.language(translator.model.card.name, looks, "text")
        if not sentences:
            yield pb.StreamTranslateResponse(
                model=translator.model.card.name,
                version=translator.model.card.version,
                text=between(request.text, 0, len(request.text)).strip("\n"),
                final=True,
            )
        for index, sentence in enumerate(sentences):
            (search,) = translator.searches([sentence], choices)
            before, after = _around(request.text, sentences, index)
            sent = ""
            async with aclosing(translator.decoder.steps(search, call.deadline, call.priority)) as steps:
                async for _ in steps:
                    done, best = search.done, search.best  # in this order: what is done does not change
                    if not done and sentence.reading.meanings:
                        continue  # its stand-ins are no part of the answer
                    text = before + sentence.reading.restored(translator.text(best, choices)) + (after if done else "")
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

    async def Rewrite(self, request: pb.RewriteRequest, call: Call) -> pb.RewriteResponse:
        model, kind = answering(self._repository, call, request, CAPABILITY, RewritingPreprocessing, rpcs=RPCS)
        name, rewriter = model.card.name, Rewriter(model, kind, request.style)
        check_texts(request.texts, self._limits, blank=True)
        cut = [await rewriter.pieces(text) for text in request.texts]
        if (count := sum(map(len, cut))) > self._limits.sentences:
            most = f"the most in one request is {self._limits.sentences}"
            raise InvalidArgument.field("texts", f"have {count} lines, or parts of long lines; {most}")
        searched = [[(piece, rewriter.search(piece)) for piece in own] for own in cut]
        languages = await not_english_each(request.texts)
        searches = [search for own in searched for _, search in own]
        await self._decoders.of(model.graphs["step"]).finish(searches, call.deadline, call.priority)
        results = []
        for i, (text, own, looks) in enumerate(zip(request.texts, searched, languages, strict=True)):
            result = await rewriter.result(text, own)
            lacking = "".join(dict.fromkeys("".join(piece.left_out for piece, _ in own)))
            result.notices.extend(notices.language(name, looks, f"texts[{i}]"))
            result.notices.extend(notices.left_out(name, lacking, f"texts[{i}]"))
            results.append(result)
        return pb.RewriteResponse(model=name, version=model.card.version, results=results)

    def _translator(self, request: pb.TranslateRequest | pb.StreamTranslateRequest, call: Call) -> Translator:
        model, preprocessing = answering(
            self._repository, call, request, CAPABILITY, TranslationPreprocessing, rpcs=RPCS
        )
        return Translator(model, preprocessing, self._decoders.of(model.graphs["step"]))


class Translator:
    """A model that translates, with its tokenizers."""

    def __init__(self, model: Model, preprocessing: TranslationPreprocessing, decoder: Decoder) -> None:
        self.model = model
        self.decoder = decoder
        self._most = preprocessing.max_tokens
        self._script = preprocessing.script
        tokenizer = load_tokenizer(model.assets[preprocessing.source])
        self._reader = Reader(_names(model.assets[preprocessing.names]), tokenizer, preprocessing.max_tokens)
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
        simplified = self._is_simplified(request.script)
        if not isinstance(request, pb.TranslateRequest):
            return Choices(beams, penalty, simplified=simplified)
        if request.count > beams:
            raise InvalidArgument.field(
                "count", f"is {request.count}; a search by {beams} beams finds no more than that"
            )
        return Choices(beams, penalty, request.count or 1, request.alignment, simplified)

    def _is_simplified(self, script: pb.Script) -> bool:
        """Whether what the model writes is to be converted; raises InvalidArgument if it cannot be."""
        if script not in pb.Script.values():
            raise InvalidArgument.field("script", f"is {script}; there are: {', '.join(pb.Script.keys()[1:])}")
        if script != pb.SCRIPT_UNSPECIFIED and self._script is None:
            raise InvalidArgument.field("script", f"is for models that write Chinese; {self.model.card.name} does not")
        return script == pb.SCRIPT_HANS

    async def sentences(self, text: str) -> list[Sentence]:
        """The sentences of a text; none if it has no words."""
        started = time.monotonic()
        inline = len(text) <= INLINE_CHARACTERS
        sentences = await pools.inline_or_codecs(inline, split, text, self._reader)
        decoded("text", started)
        return sentences

    def searches(self, sentences: Iterable[Sentence], choices: Choices) -> list[BeamSearch]:
        """A search for each sentence, which the decoder has the encoder read first."""
        start, end = (special_id(self._target, token) for token in (START, END))
        return [
            BeamSearch(
                self._prompt(sentence.encoding.ids),
                start=start,
                end=end,
                size=choices.beam_size,
                length_penalty=choices.length_penalty,
                longest=min(self._most - 1, 2 * len(sentence.encoding.ids) + 10),
                attention=choices.alignment,
            )
            for sentence in sentences
        ]

    def _prompt(self, ids: list[int]) -> Prompt:
        return Prompt(self.model.graphs["forward"], {"tokens": np.array([ids]), "length": np.array([[len(ids)]])})

    def text(self, hypothesis: Hypothesis, choices: Choices) -> str:
        """What the model wrote, with its stand-ins, in the script that is asked for."""
        text = self._target.decode(list(hypothesis.tokens))
        return simplified(text) if choices.simplified else text

    def finished(self, sentence: Sentence, hypothesis: Hypothesis, choices: Choices) -> str:
        """What the client gets of it."""
        text = sentence.reading.restored(without_loops(self.text(hypothesis, choices), sentence.reading.text))
        return f"{text.rstrip('。，')}，" if sentence.goes_on else text

    def translations(
        self, source: str, searched: Sequence[tuple[Sentence, Sequence[Hypothesis]]], choices: Choices
    ) -> pb.TextTranslations:
        """The translations of one text, whose sentences have these hypotheses."""
        distinct = [(s, self._distinct(s, hypotheses, choices)) for s, hypotheses in searched]
        results = []
        for rank in range(min((len(hypotheses) for _, hypotheses in distinct), default=1)):
            parts = [self._sentence(source, s, hypotheses[rank], choices) for s, hypotheses in distinct]
            score = sum(part.score for part in parts) / max(1, len(parts))
            results.append(pb.Translation(text=_joined(source, parts), score=score, sentences=parts))
        return pb.TextTranslations(translations=results)

    def _distinct(self, sentence: Sentence, hypotheses: Iterable[Hypothesis], choices: Choices) -> list[Hypothesis]:
        """The best that do not read alike, those first that keep what the sentence carries and do not loop."""
        best: dict[str, Hypothesis] = {}
        for hypothesis in hypotheses:
            best.setdefault(self.text(hypothesis, choices), hypothesis)
        source = sentence.reading
        faulty = {text: not source.keeps(text) or without_loops(text, source.text) != text for text in best}
        return [best[text] for text in sorted(best, key=faulty.__getitem__)][: choices.count]

    def _sentence(
        self, source: str, sentence: Sentence, hypothesis: Hypothesis, choices: Choices
    ) -> pb.TranslatedSentence:
        message = pb.TranslatedSentence(
            source_start=sentence.start,
            source_end=sentence.end,
            text=self.finished(sentence, hypothesis, choices),
            score=hypothesis.score,
        )
        if choices.alignment:
            shown = [i for i, special in enumerate(sentence.encoding.special_tokens_mask) if not special]
            for i in shown:
                start, end = sentence.place(i)
                start = end - len(source[start:end].lstrip())  # a token has the space before it
                message.source_tokens.add(text=source[start:end], start=start, end=end)
            tokens = [self._target.decode([token]) for token in hypothesis.tokens]
            if choices.simplified:
                tokens = simplified_parts(tokens)
            for token, weights in zip(tokens, hypothesis.attention, strict=True):
                message.tokens.add(text=token, attention=weights[shown])
        return message


@functools.lru_cache(maxsize=8)
def _names(content: bytes) -> Names:
    return Names.of(content)


def _around(source: str, sentences: Sequence[Sentence], index: int) -> tuple[str, str]:
    """What stands before a sentence and, of the last one, after it; no line break begins or ends a text."""
    before = between(source, sentences[index - 1].end if index else 0, sentences[index].start)
    last = index == len(sentences) - 1
    after = between(source, sentences[index].end, len(source)) if last else ""
    return before if index else before.lstrip("\n"), after.rstrip("\n")


def _joined(source: str, parts: Iterable[pb.TranslatedSentence]) -> str:
    """The sentences' translations as one text, with what the source has between them."""
    text, end = "", 0
    for part in parts:
        text += between(source, end, part.source_start) + part.text
        end = part.source_end
    return (text + between(source, end, len(source))).strip("\n")
