"""Layers of a Transformer (Vaswani et al., "Attention Is All You Need", 2017) that normalise before each part (Xiong et
al., 2020), in two forms of one computation: whole sequences for training, and steps with a cache for serving.

A step takes keys and values of the past as they lie in the server's memory, with more room than is filled, and gives
only the new ones: nothing of the past is copied. Below, N sequences, H heads of D dimensions, W = H x D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor | None = None, causal: bool = False) -> Tensor:
        keys, values = self.keys_values(source)
        mixed = F.scaled_dot_product_attention(self.queries(x), keys, values, attn_mask=bias, is_causal=causal)
        return self.merge(mixed)

    def queries(self, x: Tensor) -> Tensor:
        """[N, T, W] -> [N, H, T, D]."""
        queries: Tensor = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
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
        """Self-attention of new tokens [N, T, W] to the past and to each other; also their keys and values."""
        queries = self.queries(x) * self._scale()
        keys, values = self.keys_values(x)
        among = queries @ keys.transpose(2, 3) + causal_bias(x.shape[1])
        weights = torch.cat([queries @ past.keys.transpose(2, 3) + past.bias, among], dim=3).softmax(3)
        size = past.keys.shape[2]
        mixed = weights[..., :size] @ past.values + weights[..., size:] @ values
        return self.merge(mixed), keys, values

    def look_up(self, x: Tensor, memory: Past) -> tuple[Tensor, Tensor]:
        """Attention to what never changes; also its weights [N, H, T, P]."""
        weights = (self.queries(x) * self._scale() @ memory.keys.transpose(2, 3) + memory.bias).softmax(3)
        return self.merge(weights @ memory.values), weights

    def _scale(self) -> float:
        return float((self.query.out_features / self.heads) ** -0.5)


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
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        causal: bool = False,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
    ) -> Tensor:
        h = self.norm(x)
        x = x + self.dropout(self.attention(h, h, bias, causal))
        if memory is not None:
            x = x + self.dropout(self.memory_attention(self.memory_norm(x), memory, memory_bias))
        return x + self.dropout(self._feed_forward(x))

    def step(self, x: Tensor, past: Past, memory: Past | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """New tokens [N, T, W] after `past`: outputs, keys, values, and the weights of attention to the memory."""
        attended, keys, values = self.attention.extend(self.norm(x), past)
        x, weights = x + attended, None
        if memory is not None:
            found, weights = self.memory_attention.look_up(self.memory_norm(x), memory)
            x = x + found
        return x + self._feed_forward(x), keys, values, weights

    def _feed_forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(self.dropout(F.relu(self.hidden(self.hidden_norm(x)))))
        return y


def positions(length: int, width: int) -> Tensor:
    """Sines, then cosines, of geometrically spaced frequencies [length, width], rounded to float16."""
    frequencies = torch.exp(torch.arange(width // 2) * (-math.log(10000.0) / (width // 2 - 1)))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).half().float()


def filled_bias(length: Tensor, size: int) -> Tensor:
    """Bias [N, 1, 1, size] for attention to the first `length` [N, 1] places."""
    empty = torch.arange(size, device=length.device)[None] >= length
    return (empty.float() * MASKED)[:, None, None]


def causal_bias(length: int) -> Tensor:
    """Bias [length, length] that keeps each place from those after it."""
    place = torch.arange(length)
    return (place[None] > place[:, None]).float() * MASKED
