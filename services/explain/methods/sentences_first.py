"""Explanations of long texts: of each sentence first, then of the words in those that matter.

The hierarchy, and that the words of a sentence share its value, are those of Owen, "Values of Games with A Priori
Unions", 1977, as in the partition explainer of Lundberg's SHAP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.explain.methods.asking import Remaining
from services.explain.methods.lime import lime
from services.explain.methods.occlusion import occlusion


@dataclass(frozen=True)
class LongText:
    """A text, and how closely it is read.

    Args:
        sentences: all of its words, in order.
        share: a sentence matters if its value is at least this share of the largest.
        calls: how often the model may be asked; more if the sentence that matters most needs it.
    """

    sentences: Sequence[slice]
    share: float
    calls: int

    @property
    def words(self) -> int:
        return int(self.sentences[-1].stop)

    @property
    def starts(self) -> list[int]:
        """The first word of each sentence."""
        return [sentence.start for sentence in self.sentences]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Words of each sentence."""
        return np.array([sentence.stop - sentence.start for sentence in self.sentences])

    def places(self, sentences: Sequence[int]) -> NDArray[np.int64]:
        """The words of some sentences."""
        return np.flatnonzero(np.isin(np.repeat(np.arange(len(self.sentences)), self.sizes), sentences))

    def closer(self, values: NDArray[np.floating], each: int) -> list[int]:
        """The sentences whose words are worth asking about, `each` calls a word, by the sentences' values."""
        left = self.calls - each * len(self.sentences)
        chosen: list[int] = []
        for i in np.argsort(-np.abs(values), kind="stable").tolist():
            cost = each * int(self.sizes[i])
            matters = abs(values[i]) >= self.share * np.abs(values).max()
            if self.sizes[i] > 1 and matters and (cost <= left or not chosen):
                chosen.append(i)
                left -= cost
        return chosen


async def occlusion_of_text(text: LongText, remaining: Remaining) -> NDArray[np.float64]:
    """As `occlusion` word by word, `[words]`; the words of a sentence that matters little have equal parts of what it
    changes."""
    changes = await _without_each(text, remaining)
    values = np.repeat(changes / text.sizes, text.sizes)
    places = text.places(text.closer(changes, 1))
    if len(places):
        values[places] = (await occlusion((text.words,), [(slice(i, i + 1),) for i in places], remaining))[places]
    return np.asarray(values)


async def kernel_shap_of_text(text: LongText, remaining: Remaining) -> tuple[NDArray[np.float64], float]:
    """Shapley values of sentences, `[words]`, which words share by theirs, or evenly where the sentence matters little.

    Kernel SHAP of the coalitions with most weight: each part alone, and all but that part. This is exact where no more
    than two parts act on each other: Covert & Lee, "Improving KernelSHAP", 2021, on such pairs.

    Returns:
        The values, and the difference that the whole text makes, which they add up to.
    """
    full, nothing = map(float, await remaining(np.eye(2)[:, :1] * np.ones(text.words)))
    sentences = _sharing(await _pairs(np.repeat(np.eye(len(text.sizes)), text.sizes, 1), remaining), full - nothing)
    values = np.repeat(sentences / text.sizes, text.sizes)
    for i in text.closer(sentences, 2):
        part = text.sentences[i]
        values[part] = _sharing(await _pairs(np.eye(text.words)[part], remaining), sentences[i])
    return values, full - nothing


async def lime_of_text(text: LongText, remaining: Remaining, *, seed: int) -> NDArray[np.float64]:
    """As `lime`, of the words in sentences without which the output changes most and of each other sentence, whose
    words have equal parts of its weight: `[words]`."""
    places = text.places(text.closer(await _without_each(text, remaining), 2))
    groups = np.cumsum(np.isin(np.arange(text.words), [*places, *text.starts])) - 1
    samples = max(text.calls - len(text.sentences) - 1, 2 * len(places), 2)
    values = await lime(groups, remaining, samples=samples, seed=seed)
    return np.asarray(values / np.bincount(groups)[groups])


async def _without_each(text: LongText, remaining: Remaining) -> NDArray[np.float32]:
    """By how much the output falls without each sentence."""
    changes = await occlusion((text.words,), [(sentence,) for sentence in text.sentences], remaining)
    return changes[text.starts]


async def _pairs(parts: NDArray[np.float64], remaining: Remaining) -> NDArray[np.float64]:
    """What each part, a row of `[N, words]`, adds to nothing and what it adds to all others, together: `[N]`."""
    answers = (await remaining(np.concatenate([parts, 1 - parts]))).astype(np.float64)
    alone, others = np.split(answers, 2)
    return alone - others


def _sharing(pairs: NDArray[np.float64], whole: float) -> NDArray[np.float64]:
    """Values of parts that add up to that of the whole."""
    return np.asarray((pairs - pairs.mean()) / 2 + whole / len(pairs))
