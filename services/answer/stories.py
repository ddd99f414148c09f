"""Stories as a memory network reads them, and what it says of them as messages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from artifacts.card import StoryPreprocessing
from artifacts.stories import Story, Word, story
from lectern.v1 import answer_pb2 as pb
from services.codecs.tensors import softmax
from services.codecs.text import Tokens, check_text, encode, load_tokenizer
from services.errors import InvalidArgument
from services.limits import Limits

SENTENCES, QUESTION = "sentences", "question"


async def read(
    sentences: Sequence[str], question: str, preprocessing: StoryPreprocessing, tokenizer: bytes, limits: Limits
) -> Story:
    """The words of a story, as far as the model remembers it, and of a question.

    Raises:
        InvalidArgument: there is no sentence, there are too many, or one has no words or too many.
    """
    if not sentences:
        raise InvalidArgument.field(SENTENCES, "is empty; send at least one sentence")
    if len(sentences) > limits.story_sentences:
        many = f"has {len(sentences)} sentences; the most in one request is {limits.story_sentences}"
        raise InvalidArgument.field(SENTENCES, many)
    texts = {f"{SENTENCES}[{i}]": sentence for i, sentence in enumerate(sentences)} | {QUESTION: question}
    for field, text in texts.items():
        check_text(text, limits, field)
    remembered = list(texts)[-preprocessing.max_sentences - 1 :]
    encoded = await encode(load_tokenizer(tokenizer), {field: texts[field] for field in remembered})
    for field, tokens in zip(remembered, encoded, strict=True):
        if len(tokens.ids) > preprocessing.max_words:
            most = f"the most this model takes is {preprocessing.max_words}"
            raise InvalidArgument.field(field, f"has {len(tokens.ids)} words; {most}: send shorter sentences, one each")
    *told, asked = (_words(texts[field], tokens) for field, tokens in zip(remembered, encoded, strict=True))
    return story(told, asked, preprocessing.max_sentences, preprocessing.max_words)


def _words(text: str, tokens: Tokens) -> list[Word]:
    places = zip(tokens.ids, tokens.starts, tokens.ends, strict=True)
    return [Word(text[start:end], number) for number, start, end in places]


def answers(read: Story, logits: NDArray[np.float32], labels: Sequence[str]) -> list[pb.StoryAnswer]:
    """Everything that could be answered, best first, by logits [len(labels)]."""
    texts = read.answers(labels)
    probabilities = softmax(logits[None, list(texts)])[0].tolist()
    scored = sorted(zip(probabilities, texts.values(), strict=True), key=lambda answer: -answer[0])
    return [pb.StoryAnswer(text=text, probability=probability) for probability, text in scored]


def hops(attention: NDArray[np.float32], count: int) -> list[pb.Hop]:
    """Where each hop looked among `count` sentences, by its attention [H, S] to the remembered ones, the last first."""
    remembered = attention[:, : min(count, attention.shape[1])][:, ::-1]
    whole = np.pad(remembered, ((0, 0), (count - remembered.shape[1], 0)))
    return [pb.Hop(attention=weights) for weights in whole.tolist()]
