"""A text as it is written token by token: how tokens are drawn, its prompt, noise, and where it ends."""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from artifacts.card import Card
from lectern.v1 import generate_pb2 as pb
from services.codecs.text import special_id
from services.errors import InvalidArgument
from services.limits import Limits
from services.runtime.device_memory import NEW
from services.runtime.graph import Graph
from services.runtime.search import Prompt, Rows

START, END, BODY = "<s>", "</s>", "<body>"
_STOPS = str.maketrans(",.?!;", "，。？！；")
MOST_TEMPERATURE = MOST_PENALTY = 5.0


@dataclass(frozen=True, slots=True)
class Draws:
    """How tokens are drawn; `noise` 0 takes the likeliest."""

    temperature: float
    top_k: int
    top_p: float
    penalty: float
    seed: int
    greedy: bool

    def inputs(self) -> dict[str, NDArray[Any]]:
        """As the graph takes them, of one row."""
        values = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p, "penalty": self.penalty}
        return {name: np.array([value], np.float32) for name, value in values.items()}


def draws_of(request: pb.GenerateTextRequest, card: Card) -> Draws:
    """How a request wants tokens drawn; what it leaves open is the card's decision.

    Raises:
        InvalidArgument: names the field at fault.
    """

    def chosen(name: str) -> float:
        return float(getattr(request, name) if request.HasField(name) else card.decision[name])

    temperature, top_p, penalty = chosen("temperature"), chosen("top_p"), chosen("repetition_penalty")
    if not 0 <= temperature <= MOST_TEMPERATURE:
        raise InvalidArgument.field("temperature", f"is {temperature}; it must be 0 to {MOST_TEMPERATURE:g}")
    if not 0 < top_p <= 1:
        raise InvalidArgument.field("top_p", f"is {top_p}; it must be more than 0 and at most 1")
    if not 1 <= penalty <= MOST_PENALTY:
        raise InvalidArgument.field("repetition_penalty", f"is {penalty}; it must be 1 to {MOST_PENALTY:g}")
    return Draws(
        temperature=temperature or 1.0,
        top_k=request.top_k,
        top_p=top_p,
        penalty=penalty,
        seed=request.seed if request.HasField("seed") else secrets.randbits(64),
        greedy=temperature == 0,
    )


def check_stops(stops: Sequence[str], limits: Limits) -> None:
    """Raises InvalidArgument if there are too many, or an empty one."""
    if len(stops) > limits.stop_texts:
        raise InvalidArgument.field("stop", f"has {len(stops)} texts; the most is {limits.stop_texts}")
    if not all(stops):
        raise InvalidArgument.field("stop", "has an empty text, which would end every text before it begins")


def readable(text: str, tokenizer: Tokenizer) -> tuple[str, str]:
    """A text with the stops of Chinese in place of a keyboard's and without what the model has no tokens for; and, each
    once, the characters that were left out."""
    text = unicodedata.normalize("NFC", text).translate(_STOPS)
    lacking = {c for c in text if not c.isspace() and tokenizer.token_to_id(c) is None}
    return "".join(c for c in text if c not in lacking), "".join(c for c in dict.fromkeys(text) if c in lacking)


def prompt_ids(form: str, title: str, prompt: str, card: Card, tokenizer: Tokenizer) -> list[int]:
    """The tokens that a text goes on from: whole poems as examples, then form, title and beginning of the new one.

    Raises:
        InvalidArgument: names the field at fault.
    """
    if form and form not in card.labels:
        raise InvalidArgument.field("form", f"is {form!r}; {card.name} knows: {', '.join(card.labels)}")
    start, end, body = (special_id(tokenizer, token) for token in (START, END, BODY))
    marks = [special_id(tokenizer, f"<{form}>")] if form else []

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    *examples, beginning = prompt.split("\n")
    tokens: list[int] = []
    for example in examples:
        if characters := ids(example):
            tokens += [start, *marks, body, *characters, end]
    return [*tokens, start, *marks, *ids(title), body, *ids(beginning)]


class Noise:
    """Uniform noise of each draw, from numpy's PCG64 of the seed; none if the likeliest token is wanted."""

    def __init__(self, draws: Draws) -> None:
        self._random = None if draws.greedy else np.random.Generator(np.random.PCG64(draws.seed))

    def next(self) -> NDArray[np.float32]:
        value = 0.0 if self._random is None else self._random.random(dtype=np.float32)
        return np.array([[value]], np.float32)


class Writing:
    """One text as it is written. A `Search` of `services.runtime.search`.

    Its first step takes the prompt's last token; the graph reads those before it at once. While it is decoded, `tokens`
    and `log_probabilities` grow at their ends; `reason` is set when they are whole.

    Args:
        prompt: at least one token.
        vocabulary: its size.
        most: tokens to write.
    """

    width = 1
    length = 0
    past: Mapping[str, NDArray[Any]] = {}

    def __init__(self, graph: Graph, prompt: Sequence[int], draws: Draws, vocabulary: int, end: int, most: int) -> None:
        self.constants: Mapping[str, NDArray[Any]] = draws.inputs()
        self.tokens: list[int] = []
        self.log_probabilities: list[float] = []
        self.reason = pb.FINISH_REASON_UNSPECIFIED
        self.prompt = _read_first(graph, prompt[:-1]) if len(prompt) > 1 else None
        self._noise = Noise(draws)
        self._seen = np.zeros(vocabulary, np.bool_)
        self._seen[prompt] = True
        self._end = end
        self._most = most
        self.first = self._rows(prompt[-1])

    @property
    def done(self) -> bool:
        return self.reason != pb.FINISH_REASON_UNSPECIFIED

    def begin(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        self.past = {name.removeprefix(NEW): value for name, value in outputs.items() if name.startswith(NEW)}
        self.length = next(iter(self.past.values())).shape[1]

    def advance(self, outputs: Mapping[str, NDArray[Any]]) -> Rows | None:
        token = int(outputs["next"][0, 0])
        if token == self._end:
            self.reason = pb.FINISH_REASON_END
            return None
        self.log_probabilities.append(float(outputs["log_probability"][0, 0]))  # one for each token that is seen
        self.tokens.append(token)
        self._seen[token] = True
        if len(self.tokens) >= self._most:
            self.reason = pb.FINISH_REASON_LENGTH
            return None
        return self._rows(token)

    def _rows(self, token: int) -> Rows:
        return Rows([0], {"tokens": np.array([[token]]), "noise": self._noise.next(), "seen": self._seen[None]})


def _read_first(graph: Graph, tokens: Sequence[int]) -> Prompt:
    """A prompt of which only the keys and values are wanted, so whatever its draw takes is the same for everybody."""
    inputs: dict[str, NDArray[Any]] = {
        spec.name: np.ones((1, *(1 if size < 0 else size for size in spec.shape)), spec.dtype)
        for spec in graph.config.inputs
    }
    ids = np.array([tokens])
    return Prompt(graph, inputs | {"tokens": ids, "length": np.zeros((1, 1), np.int64)}, key=ids.tobytes())


class Stops:
    """Holds text back while it may be the beginning of one that ends it all."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.reached = False

    def add(self, text: str) -> str:
        """What may be sent now that `text` was written."""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.reached = True
            return self._held[: min(places)]
        most = max((size for stop in self._stops for size in _overlaps(self._held, stop)), default=0)
        sent, self._held = self._held[: len(self._held) - most], self._held[len(self._held) - most :]
        return sent

    def rest(self) -> str:
        """What was held back to the end."""
        return self._held


def _overlaps(text: str, stop: str) -> Iterator[int]:
    """Lengths of the beginnings of `stop` that `text` ends with."""
    return (size for size in range(1, min(len(text), len(stop) - 1) + 1) if text.endswith(stop[:size]))
