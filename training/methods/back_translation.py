"""Learning to rewrite texts in another style without a pair (Lample et al., "Unsupervised Machine Translation Using
Monolingual Corpora Only", 2018): a text is written anew from what noise, or the network itself, made of it.

- Denoising: words of the other style stand for some of the text's own (`style_words`), others are left out or masked.
- Back-translation: the network rewrites the text in the other style, and learns to write the text from that. What the
  network reads is its own, what it writes is a person's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.methods.pointer import PointerGenerator, rewrite
from training.methods.style_words import PIECE, StyleWords
from training.methods.tokens import END_ID, PADDING_ID

MASK = " \ufffd"  # which no text has, so it is an unknown token
_PAUSE = re.compile(r"(?<=[.?!;:])\s+")


@dataclass(frozen=True)
class Noise:
    """What is done to a text that is to be written anew.

    Args:
        left_out, masked: shares of its words.
        unchanged: share of the texts that are read as they are: what is in the style already stays as it is.
        parts: share of the texts of which one sentence or clause is taken in place of the whole.
        denoised: share of the batches of the later epochs that are noise and not back-translation.
    """

    left_out: float = 0.05
    masked: float = 0.05
    unchanged: float = 0.1
    parts: float = 0.4
    denoised: float = 0.75


@dataclass(frozen=True)
class Batch:
    """Texts [N, S] that fill `lengths` [N, 1] places, and what is to be written [N, T], from the style's token to the
    end."""

    source: Tensor
    lengths: Tensor
    target: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        return Batch(*(t.to(device, non_blocking=non_blocking) for t in (self.source, self.lengths, self.target)))


@dataclass(frozen=True)
class Lessons:
    """Makes batches of texts.

    Args:
        texts: of each style.
        styles: the token of each style.
        words: how to make a text of each style look like the other.
        batch_tokens: of the sources, with padding.
    """

    net: PointerGenerator
    tokenizer: Tokenizer
    texts: Sequence[Sequence[str]]
    styles: Sequence[int]
    words: Sequence[StyleWords]
    noise: Noise
    batch_tokens: int

    def count(self, seed: Sequence[int]) -> int:
        """How many batches `batches` has."""
        return len(self._groups(np.random.default_rng(seed))[1])

    def batches(self, seed: Sequence[int], back: bool) -> Iterator[Batch]:
        """Every text once, texts of about the same length together; of `back` also by back-translation, with the
        network as it is by then."""
        random = np.random.default_rng(seed)
        items, groups = self._groups(random)
        for group in groups:
            own = [items[i] for i in group]
            if back and random.random() >= self.noise.denoised:
                yield self._back_translated(own, random)
            else:
                yield self._denoised(own, random)

    def _groups(self, random: np.random.Generator) -> tuple[list[tuple[str, int]], list[list[int]]]:
        items = [(self._part(text, random), style) for style, own in enumerate(self.texts) for text in own]
        lengths = [len(one.ids) for one in self.tokenizer.encode_batch_fast([text for text, _ in items])]
        order = (np.array(lengths) + random.uniform(0, 2, len(items))).argsort(kind="stable").tolist()
        groups, group = [], list[int]()
        for i in order:
            if group and (lengths[i] + 2) * (len(group) + 1) > self.batch_tokens:
                groups.append(group)
                group = []
            group.append(i)
        groups.append(group)
        return items, [groups[int(i)] for i in random.permutation(len(groups))]

    def _part(self, text: str, random: np.random.Generator) -> str:
        if random.random() >= self.noise.parts:
            return text
        parts = _PAUSE.split(text)
        return parts[int(random.integers(len(parts)))]

    def _denoised(self, items: Sequence[tuple[str, int]], random: np.random.Generator) -> Batch:
        read = []
        for text, style in items:
            if random.random() < self.noise.unchanged:
                read.append(text)
            else:
                swapped = self.words[style].swap(text, random)
                read.append(self._with_gaps(swapped, random))
        return self._batch(read, items)

    def _with_gaps(self, pieces: Sequence[str], random: np.random.Generator) -> str:
        chances = random.random(len(pieces))
        kept = zip(pieces, chances.tolist(), strict=True)
        masked = self.noise.left_out + self.noise.masked
        return "".join(MASK if c < masked else piece for piece, c in kept if c >= self.noise.left_out)

    def _back_translated(self, items: Sequence[tuple[str, int]], random: np.random.Generator) -> Batch:
        others = [1 - style for _, style in items]
        training = self.net.training
        self.net.eval()
        written = rewrite_texts(self.net, self.tokenizer, [text for text, _ in items], [self.styles[o] for o in others])
        self.net.train(training)
        return self._batch([self._with_gaps(PIECE.findall(text), random) for text in written], items)

    def _batch(self, read: Sequence[str], items: Sequence[tuple[str, int]]) -> Batch:
        most = self.net.shape.longest
        wanted = encode(self.tokenizer, [text for text, _ in items], most - 1)
        starts = [self.styles[style] for _, style in items]
        source, lengths = padded(encode(self.tokenizer, read, most))
        target, _ = padded([[start, *ids] for start, ids in zip(starts, wanted, strict=True)])
        return Batch(source, lengths, target)


def encode(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> list[list[int]]:
    """At most so many token ids of each text, its end the last."""
    return [
        [*one.ids[: most - 1], END_ID] if len(one.ids) > most else one.ids for one in tokenizer.encode_batch_fast(texts)
    ]


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows as one tensor [N, S], and the length of each [N, 1]; S is a multiple of 8: fewer shapes, for which the CPU's
    kernels are prepared once."""
    longest = -(-max(map(len, rows)) // 8) * 8
    filled = [[*row, *[PADDING_ID] * (longest - len(row))] for row in rows]
    return torch.tensor(filled), torch.tensor([[len(row)] for row in rows])


def rewrite_texts(
    net: PointerGenerator, tokenizer: Tokenizer, texts: Sequence[str], styles: Sequence[int]
) -> list[str]:
    """Texts in the styles of these tokens, the likeliest token at each step."""
    device = net.places.device
    source, lengths = (t.to(device) for t in padded(encode(tokenizer, texts, net.shape.longest)))
    limits = [longest(length, net.shape.longest) for length in lengths[:, 0].tolist()]
    written = rewrite(net, source, lengths, torch.tensor(styles, device=device), limits)
    return tokenizer.decode_batch(written)


def longest(source_tokens: int, most: int) -> int:
    """Most tokens of what is written: loops end there."""
    return min(most - 1, 2 * source_tokens + 10)
