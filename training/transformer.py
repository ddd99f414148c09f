"""Layers of a Transformer (Vaswani et al., "Attention Is All You Need", 2017) that normalise before each part (Xiong et
al., 2020), in two forms of one computation: whole sequences for training, and steps with a cache for serving.

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
    """Keys and values [N, H, P, D], of which those with `bias` [N, 1, 1, P] 0 count; MASKED ones are empty places."""

    keys: Tensor
    values: Tensor
    bias: Tensor


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

    def extend(self, x: Tensor, past: Past) -> tuple[Tensor, Tensor, Tensor]:
        """Self-attention of new tokens to the past and to each other; also their keys and values [N, H, T, D]."""
        weight = torch.cat([self.query.weight * self.scale, self.key_value.weight])
        bias = torch.cat([self.query.bias * self.scale, self.key_value.bias])
        queries, keys, values = (self._split(part) for part in F.linear(x, weight, bias).chunk(3, dim=-1))
        among = queries @ keys.transpose(2, 3)
        if x.dim() == 3:
            among = among + causal_bias(x.shape[1], x.device)
        weights = torch.cat([queries @ past.keys.transpose(2, 3) + past.bias, among], dim=3).softmax(3)
        size = past.keys.shape[2]
        mixed = weights[..., :size] @ past.values + weights[..., size:] @ values
        return self._join(mixed, x), keys, values

    def look_up(self, x: Tensor, memory: Past) -> tuple[Tensor, Tensor]:
        """Attention of new tokens to what never changes; also its weights [N, H, T, P]."""
        queries = self._split(F.linear(x, self.query.weight * self.scale, self.query.bias * self.scale))
        weights = (queries @ memory.keys.transpose(2, 3) + memory.bias).softmax(3)
        return self._join(weights @ memory.values, x), weights

    def _split(self, x: Tensor) -> Tensor:
        """[N, W] or [N, T, W] -> [N, H, T, D]."""
        heads = x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        return heads[:, :, None] if x.dim() == 2 else heads.transpose(1, 2)

    def _join(self, mixed: Tensor, x: Tensor) -> Tensor:
        """[N, H, T, D] -> the shape of x."""
        joined: Tensor = self.output((mixed if x.dim() == 2 else mixed.transpose(1, 2)).flatten(x.dim() - 1))
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

    def step(self, x: Tensor, past: Past, memory: Past | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """New tokens [N, T, W] after `past`, or one of each sequence [N, W], which is faster.

        Returns outputs, keys, values, and the weights of attention to the memory.
        """
        attended, keys, values = self.attention.extend(self.norm(x), past)
        x, weights = x + attended, None
        if memory is not None:
            found, weights = self.memory_attention.look_up(self.memory_norm(x), memory)
            x = x + found
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


def causal_bias(length: int, device: torch.device) -> Tensor:
    """Bias [length, length] that keeps each place from those after it."""
    place = torch.arange(length, device=device)
    return (place[None] > place[:, None]).float() * MASKED
