"""Texts drawn token by token. The graph draws; here are its noise, what was seen, and where a text ends."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lectern.card import Card
from lectern.v1 import generate_pb2 as pb
from services.codecs.text import special_id
from services.errors import InvalidArgument
from services.limits import Limits
from services.runtime.search import Rows

START, END, BODY = "<s>", "</s>", "<body>"
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


def prompt_ids(request: pb.GenerateTextRequest, card: Card, tokenizer: Tokenizer) -> list[int]:
    """The tokens that a text goes on from: whole poems as examples, then form, title and beginning of the new one.

    Raises:
        InvalidArgument: names the field at fault.
    """
    if request.form and request.form not in card.labels:
        raise InvalidArgument.field("form", f"is {request.form!r}; {card.name} knows: {', '.join(card.labels)}")
    start, end, body = (special_id(tokenizer, token) for token in (START, END, BODY))
    form = [special_id(tokenizer, f"<{request.form}>")] if request.form else []

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    *examples, beginning = request.prompt.split("\n")
    found: list[int] = []
    for example in examples:
        if characters := ids(example):
            found += [start, *form, body, *characters, end]
    return [*found, start, *form, *ids(request.title), body, *ids(beginning)]


class Noise:
    """Uniform noise of each draw, from numpy's PCG64 of the seed; none if the likeliest token is wanted."""

    def __init__(self, draws: Draws) -> None:
        self._random = None if draws.greedy else np.random.Generator(np.random.PCG64(draws.seed))

    def next(self) -> NDArray[np.float32]:
        value = 0.0 if self._random is None else self._random.random(dtype=np.float32)
        return np.array([[value]], np.float32)


class Writing:
    """One text as it is written. A `Search` of `services.runtime.search`, which begins when the prompt was read.

    While it is decoded, `tokens` and `log_probabilities` grow at their ends; `reason` is set when they are whole.

    Args:
        past: what the graph gave for the prompt: keys and values [H, T, D] by name.
        token, log_probability: the first that was drawn.
        seen: bool [vocabulary], the tokens that count as repeated; kept up to date.
        most: tokens to write.
    """

    width = 1

    def __init__(
        self,
        past: Mapping[str, NDArray[Any]],
        draws: Draws,
        noise: Noise,
        token: int,
        log_probability: float,
        seen: NDArray[np.bool_],
        end: int,
        most: int,
    ) -> None:
        self.past = past
        self.length = next(iter(past.values())).shape[1]
        self.constants: Mapping[str, NDArray[Any]] = draws.inputs()
        self.tokens: list[int] = []
        self.log_probabilities: list[float] = []
        self.reason = pb.FINISH_REASON_UNSPECIFIED
        self._noise = noise
        self._seen = seen
        self._end = end
        self._most = most
        self.first = self._take(token, log_probability) or Rows([], {})

    @property
    def done(self) -> bool:
        return self.reason != pb.FINISH_REASON_UNSPECIFIED

    def advance(self, outputs: Mapping[str, NDArray[Any]]) -> Rows | None:
        return self._take(int(outputs["next"][0, 0]), float(outputs["log_probability"][0, 0]))

    def _take(self, token: int, log_probability: float) -> Rows | None:
        if token == self._end:
            self.reason = pb.FINISH_REASON_END
            return None
        self.log_probabilities.append(log_probability)  # first: there is one for each token that is seen
        self.tokens.append(token)
        self._seen[token] = True
        if len(self.tokens) >= self._most:
            self.reason = pb.FINISH_REASON_LENGTH
            return None
        inputs = {"tokens": np.array([[token]]), "noise": self._noise.next(), "seen": self._seen[None]}
        return Rows([0], inputs)


class Stops:
    """Holds text back while it may be the beginning of one that ends it all."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """What may be sent now that `text` was written."""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
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
