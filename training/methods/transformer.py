"""Layers of a Transformer (Vaswani et al., "Attention Is All You Need", 2017) that normalise before each part (Xiong et
al., 2020), in three forms of one computation: whole sequences for training; packed ones, of which only tokens are
computed, and steps with a cache for serving.

A step takes keys and values of the past as they lie in the server's memory, with more room than is filled, and gives
only the new ones: nothing of the past is copied. It has few operations, and products that add their bias themselves: at
a handful of tokens each costs more than its arithmetic. Below, N sequences, H heads of D dimensions, W = H x D.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED = -1e9


@dataclass(frozen=True)
class Past:
    """Keys and values [N, H, P, D], and what is added to the scores of these places, and of T new ones behind them if
    these attend to each other: 0, or MASKED for a place that does not count, [N, 1, 1 or T, P or P + T].

    Args:
        steps: T; `x.shape[0] // N` of what `Layer.step` takes.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    steps: int = 1


class Packing:
    """Of sequences that fill `length` [N, 1] of S places, which places are filled; with at least one in each.

    Products with matrices take the M filled places alone, [M, W]; attention takes all, [N, S, W], where what lies in
    empty ones means nothing.
    """

    def __init__(self, length: Tensor, size: int) -> None:
        filled = torch.arange(size, device=length.device)[None] < length.clamp(min=1)
        self.bias = filled_bias(length.clamp(min=1), size)
        self._places = filled.flatten().nonzero()[:, 0]
        self._rows = (filled.flatten().long().cumsum(0) - 1).reshape(filled.shape)

    def pack(self, x: Tensor) -> Tensor:
        """[N, S, ...] -> [M, ...]."""
        return x.flatten(0, 1).index_select(0, self._places)

    def unpack(self, x: Tensor) -> Tensor:
        """[M, W] -> [N, S, W]."""
        return F.embedding(self._rows, x)


class Attention(nn.Module):
    """Multi-head attention from [N, T, W] to the same or another sequence [N, S, W]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale: float = (width / heads) ** -0.5  # of queries: their products with keys have unit variance
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor) -> Tensor:
        """`bias` is added to what the softmax takes: MASKED where a place must not be seen."""
        keys, values = self.keys_values(source)
        # Written out: PyTorch's fused kernel is several times slower than this on a CPU, at these lengths.
        weights = (self.queries(x) @ keys.transpose(2, 3) + bias).softmax(3)
        return self.merge(weights.to(values.dtype) @ values)

    def queries(self, x: Tensor) -> Tensor:
        """[N, T, W] -> [N, H, T, D], scaled."""
        queries: Tensor = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) * self.scale
        return queries

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """[N, S, W] -> keys and values [N, H, S, D]."""
        both = self.key_value(source).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2)
        return both[:, : self.heads], both[:, self.heads :]

    def merge(self, mixed: Tensor) -> Tensor:
        """[N, H, T, D] -> [N, T, W]."""
        merged: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return merged

    def among(self, x: Tensor, packing: Packing) -> Tensor:
        """Self-attention of whole sequences that are packed, [M, W]."""
        parts = torch.unflatten(packing.unpack(self._linear(x)), -1, (3 * self.heads, -1))
        queries, keys, values = parts.transpose(1, 2).chunk(3, dim=1)
        mixed = (queries @ keys.transpose(2, 3) + packing.bias).softmax(3) @ values
        attended: Tensor = self.output(packing.pack(mixed.transpose(1, 2)).flatten(1))
        return attended

    def _linear(self, x: Tensor) -> Tensor:
        """[.., W] -> queries, scaled, keys and values [.., 3 * W] in one product."""
        weight = torch.cat([self.query.weight * self.scale, self.key_value.weight])
        bias = torch.cat([self.query.bias * self.scale, self.key_value.bias])
        return F.linear(x, weight, bias)

    def extend(self, x: Tensor, past: Past) -> tuple[Tensor, Tensor, Tensor]:
        """Self-attention of new tokens to the past and to each other; also their keys and values [N, H, T, D]."""
        queries, keys, values = self._split(self._linear(x), past, 3)
        scores = torch.cat([queries @ past.keys.transpose(2, 3), queries @ keys.transpose(2, 3)], dim=3)
        weights = (scores + past.bias).softmax(3)
        of_past, of_new = torch.split(weights, [past.keys.shape[2], keys.shape[2]], dim=3)
        new = of_new * values if past.steps == 1 else of_new @ values
        return self._join(of_past @ past.values + new), keys, values

    def look_up(self, x: Tensor, memory: Past) -> tuple[Tensor, Tensor]:
        """Attention of new tokens to what never changes; also its weights [N, H, T, P]."""
        (queries,) = self._split(F.linear(x, self.query.weight * self.scale, self.query.bias * self.scale), memory, 1)
        weights = (queries @ memory.keys.transpose(2, 3) + memory.bias).softmax(3)
        return self._join(weights @ memory.values), weights

    def _split(self, x: Tensor, past: Past, parts: int) -> Sequence[Tensor]:
        """[N * T, parts * W] -> so many of [N, H, T, D]."""
        heads, size = self.heads * parts, x.shape[-1] // (self.heads * parts)
        if past.steps == 1:
            return x.reshape(-1, heads, 1, size).chunk(parts, dim=1)
        return x.reshape(-1, past.steps, heads, size).transpose(1, 2).chunk(parts, dim=1)

    def _join(self, mixed: Tensor) -> Tensor:
        """[N, H, T, D] -> [N * T, W]."""
        rows = mixed if mixed.shape[2] == 1 else mixed.transpose(1, 2)
        joined: Tensor = self.output(rows.reshape(-1, self.heads * mixed.shape[3]))
        return joined


class SequenceDropout(nn.Module):
    """Dropout of the same features at every place of a sequence (Gal and Ghahramani, "A Theoretically Grounded
    Application of Dropout in Recurrent Neural Networks", 2016): as [N, T, W] needs only [N, W] random numbers, the CPU
    does not spend a fifth of its time on them."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        kept = torch.rand(len(x), 1, x.shape[2], device=x.device) >= self.rate
        dropped: Tensor = x * (kept / (1 - self.rate)).to(x.dtype)
        return dropped


class Layer(nn.Module):
    """Self-attention, attention to a memory if there is one, and a feed-forward net, each added to its input."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, memory: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        if memory:
            self.memory_norm = nn.LayerNorm(width)
            self.memory_attention = Attention(width, heads)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, width)
        self.dropout = SequenceDropout(dropout)

    def forward(
        self, x: Tensor, bias: Tensor, memory: Tensor | None = None, memory_bias: Tensor | None = None
    ) -> Tensor:
        h = self.norm(x)
        x = x + self.dropout(self.attention(h, h, bias))
        if memory is not None and memory_bias is not None:
            x = x + self.dropout(self.memory_attention(self.memory_norm(x), memory, memory_bias))
        added: Tensor = self.dropout(self._feed_forward(x))
        return x + added

    def packed(self, x: Tensor, packing: Packing) -> Tensor:
        """As `forward` without a memory, of the filled places [M, W] alone."""
        x = x + self.attention.among(self.norm(x), packing)
        return x + self._feed_forward(x)

    def step(self, x: Tensor, past: Past, memory: Past | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """New tokens [N * T, W] after `past`, in rows, since a product with a matrix then adds its bias itself.

        Returns outputs, keys, values, and the weights of attention to the memory.
        """
        attended, keys, values = self.attention.extend(self.norm(x), past)
        x, weights = x + attended, None
        if memory is not None:
            recalled, weights = self.memory_attention.look_up(self.memory_norm(x), memory)
            x = x + recalled
        return x + self._feed_forward(x), keys, values, weights

    def _feed_forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(self.dropout(F.relu(self.hidden(self.hidden_norm(x)))))
        return y


def stack(layers: Iterable[Layer]) -> Sequence[Layer]:
    """Layers as a part of a module."""
    return cast("Sequence[Layer]", nn.ModuleList(layers))


def positions(length: int, width: int) -> Tensor:
    """Sines, then cosines, of geometrically spaced frequencies [length, width], rounded to float16."""
    frequencies = torch.exp(torch.arange(width // 2) * (-math.log(10000.0) / (width // 2 - 1)))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).half().float()


def filled_bias(length: Tensor, size: int) -> Tensor:
    """Bias [N, 1, 1, size] for attention to the first `length` [N, 1] places."""
    empty = torch.arange(size, device=length.device)[None] >= length
    return (empty.float() * MASKED)[:, None, None]


def step_bias(length: Tensor, size: int, steps: int) -> Tensor:
    """Bias [N, 1, T, P + T] for attention of T new tokens to the first `length` [N, 1] of P places and each other."""
    past = filled_bias(length, size).expand(-1, -1, steps, -1)
    return torch.cat([past, causal_bias(steps, length.device).expand(len(length), 1, -1, -1)], dim=3)


def causal_bias(length: int, device: torch.device) -> Tensor:
    """Bias [length, length] that keeps each place from those after it."""
    place = torch.arange(length, device=device)
    return (place[None] > place[:, None]).float() * MASKED
