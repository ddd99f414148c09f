"""A Transformer that writes a word of its own or copies one of the source (See, Liu and Manning, "Get To The Point:
Summarization with Pointer-Generator Networks", 2017), whose first token says in which style to write.

Source and target share one vocabulary of byte-pair encodings, so whatever can be read can be copied, and there are no
words outside of it. Below, N sequences of S tokens, T tokens written, W = width, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.methods.tokens import END_ID, PADDING_ID, UNKNOWN_ID
from training.methods.transformer import (
    MASKED,
    Layer,
    Past,
    SequenceDropout,
    causal_bias,
    filled_bias,
    positions,
    stack,
    step_bias,
)

CANDIDATES = 9  # of each sequence and step: enough for eight beams, one of which may end
PLACES = 256  # tokens of a sequence at most, whatever a model's texts have
TINY = 1e-9  # added to probabilities of which logarithms are taken


@dataclass(frozen=True)
class Shape:
    """Sizes of a network.

    Args:
        longest: tokens of a text, read or written; at most `PLACES`.
        copies: whether it may copy; without, it is the same network that writes every token itself.
    """

    width: int
    heads: int
    hidden: int
    layers: int
    vocabulary: int
    longest: int
    dropout: float
    copies: bool = True


@dataclass(frozen=True)
class Memory:
    """What the decoder looks up of sources [N, S].

    Args:
        tokens: the sources' ids [N, S].
        states: what the encoder made of them [N, S, W].
        copy_keys: what the pointer compares its query with [N, S, W].
        bias: of attention to places, MASKED where nothing is, [N, 1, 1, S].
    """

    tokens: Tensor
    states: Tensor
    copy_keys: Tensor
    bias: Tensor


class PointerGenerator(nn.Module):
    """Sources int64 [N, S], how many tokens of them count [N, 1], and what is written so far [N, T], a style's token
    first -> what `mixture` makes probabilities of."""

    places: Tensor
    encoder: Sequence[Layer]
    decoder: Sequence[Layer]

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        sizes = (width, shape.heads, shape.hidden, shape.dropout)
        self.scale = width**0.5
        self.words = nn.Embedding(shape.vocabulary, width)  # read, written and, transposed, the output layer
        self.encoder = stack(Layer(*sizes) for _ in range(shape.layers))
        self.decoder = stack(Layer(*sizes, memory=True) for _ in range(shape.layers))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.copy_key, self.copy_query = nn.Linear(width, width), nn.Linear(width, width)
        self.gate = nn.Linear(2 * width, 1)
        self.dropout = SequenceDropout(shape.dropout)
        self.register_buffer("places", positions(PLACES, width))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.words.weight, std=width**-0.5)

    def forward(self, tokens: Tensor, lengths: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        memory = self.encode(tokens, lengths)
        x = self.dropout(self.words(target) * self.scale + self.places[: target.shape[1]])
        causal = causal_bias(target.shape[1], target.device)
        for layer in self.decoder:
            x = layer(x, causal, memory.states, memory.bias)
        return self.mixture(self.decoder_norm(x), memory)

    def encode(self, tokens: Tensor, lengths: Tensor) -> Memory:
        bias = filled_bias(lengths, tokens.shape[1])
        x = self.dropout(self.words(tokens) * self.scale + self.places[: tokens.shape[1]])
        for layer in self.encoder:
            x = layer(x, bias)
        states = self.encoder_norm(x)
        return Memory(tokens, states, self.copy_key(states), bias)

    def mixture(self, features: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Of features [N, T, W]: logits of what it would write itself [N, T, V], how probable it is to copy each place
        of the source if it copies [N, T, S], and the logit of writing itself [N, T, 1]."""
        banned = torch.zeros(self.shape.vocabulary, device=features.device)
        banned[[PADDING_ID, UNKNOWN_ID]] = MASKED
        logits = F.linear(features, self.words.weight, banned)
        unreadable = (memory.tokens == UNKNOWN_ID).float()[:, None] * MASKED
        scores = self.copy_query(features) @ memory.copy_keys.transpose(1, 2) * self.shape.width**-0.5
        attention = (scores.float() + memory.bias[:, 0] + unreadable).softmax(2)
        context = attention.to(memory.states.dtype) @ memory.states
        return logits, attention, self.gate(torch.cat([features, context], dim=2))

    def log_likelihood(self, tokens: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Log-probability of every token after the first of `target` [N, T], in nats, [N, T - 1]."""
        logits, attention, gate = self(tokens, lengths, target[:, :-1])
        wanted = target[:, 1:]
        written = -F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="none")
        written = written.view(wanted.shape)
        if not self.shape.copies:
            return written
        copied = (attention * (tokens[:, None] == wanted[:, :, None])).sum(2)
        gate = gate[:, :, 0].float()
        return torch.logaddexp(written + F.logsigmoid(gate), (copied + TINY).log() + F.logsigmoid(-gate))


class Encoder(nn.Module):
    """Token ids int64 [N, S] and how many count [N, 1] -> the ids [N, 1, S], what the pointer compares with, and the
    states that it averages [N, 1, S, W], and each decoder layer's keys and values [N, H, S, D]."""

    def __init__(self, net: PointerGenerator) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor, length: Tensor) -> tuple[Tensor, ...]:
        memory = self.net.encode(tokens, length.clamp(min=1))
        keys_values = [layer.memory_attention.keys_values(memory.states) for layer in self.net.decoder]
        flat = [part for pair in keys_values for part in pair]
        return tokens[:, None] * 1, memory.copy_keys[:, None], memory.states[:, None], *flat


class Step(nn.Module):
    """One more token for each of N sequences.

    Takes the last token int64 [N, 1] (at first the style's), how many came before it [N, 1], the length of the source
    [N, 1], keys and values [N, H, ...] of each layer's past, and what the encoder gives. Gives the log-probabilities
    and ids [N, CANDIDATES] of the likeliest next tokens, what share of each one's probability is copying
    [N, CANDIDATES], where it would copy from [N, S], and the new keys and values [N, H, 1, D].
    """

    def __init__(self, net: PointerGenerator) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor, length: Tensor, memory_length: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        mixed, copied, attention, new = self.mixed(tokens, length, memory_length, *caches)
        scores, ids = (mixed + TINY).log().topk(CANDIDATES)
        shares = copied.gather(1, ids) / (mixed.gather(1, ids) + TINY)
        return scores, ids, shares, attention, *new

    def mixed(
        self, tokens: Tensor, length: Tensor, memory_length: Tensor, *caches: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The probability of every next token [N, V], the part of it that is copying, where from, and the new keys and
        values."""
        past, (source, copy_keys, states), looked_up = self._parts(caches)
        features, new = self._features(tokens, length, memory_length, past, looked_up)
        bias = filled_bias(memory_length.clamp(min=1), source.shape[2])
        memory = Memory(source[:, 0], states[:, 0], copy_keys[:, 0], bias)
        logits, attention, gate = self.net.mixture(features[:, None], memory)
        written, attention = logits[:, 0].float().softmax(1), attention[:, 0]
        if not self.net.shape.copies:
            return written, torch.zeros_like(written), attention, new
        share = gate[:, 0].float().sigmoid()
        copied = torch.zeros_like(written).scatter_add(1, source[:, 0], attention) * (1 - share)
        return written * share + copied, copied, attention, new

    def _parts(self, caches: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        count = 2 * len(self.net.decoder)
        return caches[:count], caches[count : count + 3], caches[count + 3 :]

    def _features(
        self, tokens: Tensor, length: Tensor, memory_length: Tensor, past: Sequence[Tensor], memory: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        net = self.net
        past_bias = step_bias(length, past[0].shape[2], steps=1)
        memory_bias = filled_bias(memory_length.clamp(min=1), memory[0].shape[2])
        x = net.words(tokens[:, 0]) * net.scale + F.embedding(length[:, 0], net.places)
        new: list[Tensor] = []
        for i, layer in enumerate(net.decoder):
            before = Past(past[2 * i], past[2 * i + 1], past_bias)
            x, keys, values, _ = layer.step(x, before, Past(memory[2 * i], memory[2 * i + 1], memory_bias))
            new += (keys, values)
        return net.decoder_norm(x), new


@torch.no_grad()
def rewrite(
    net: PointerGenerator, tokens: Tensor, lengths: Tensor, styles: Tensor, longest: Sequence[int]
) -> list[list[int]]:
    """What the network writes of sources [N, S], the likeliest token at each step, in the styles whose tokens are
    `styles` [N]; at most so many tokens each."""
    encoder, step = Encoder(net), Step(net)
    memory, layers, heads = encoder(tokens, lengths), len(net.decoder), net.shape.heads
    size = net.shape.width // heads
    past = [tokens.new_zeros((len(tokens), heads, 0, size), dtype=memory[3].dtype) for _ in range(2 * layers)]
    written: list[list[int]] = [[] for _ in longest]
    rows = torch.arange(len(tokens), device=tokens.device)
    last = styles[:, None]
    for place in range(max(longest)):
        length = torch.full((len(rows), 1), place, device=tokens.device)
        mixed, _, _, new = step.mixed(last, length, lengths, *past, *memory)
        past = [torch.cat([before, after], dim=2) for before, after in zip(past, new, strict=True)]
        last = mixed.argmax(1, keepdim=True)
        for row, token in zip(rows.tolist(), last[:, 0].tolist(), strict=True):
            if token != END_ID:
                written[row].append(token)
        limits = torch.tensor([longest[row] > place + 1 for row in rows.tolist()], device=tokens.device)
        going = ((last[:, 0] != END_ID) & limits).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(rows):
            rows, last, lengths = rows[going], last[going], lengths[going]
            past, memory = [p[going] for p in past], tuple(m[going] for m in memory)
    return written
