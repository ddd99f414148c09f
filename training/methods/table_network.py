"""A network that classifies rows of a table by rows of which it sees the classes (Hollmann et al., "TabPFN", 2023).

Each row is a token. Tokens attend to examples alone, so what is said of a row does not depend on what else is asked.
A row has four forms, all relative to the examples: standardised, as shares of the examples that are smaller,
decorrelated within classes, and which cells are missing. Its class is read off the examples that the last layer finds
alike, as in a matching network (Vinyals et al., "Matching Networks for One Shot Learning", 2016). Below, B tables, S
examples, Q queries, N = S + Q, F columns, W the width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.methods.synthetic_tables import MOST_CLASSES, MOST_FEATURES

FORMS = 4  # of a row
LARGEST = 5.0  # standard deviations; what lies farther out is drawn in
KNOTS = 32  # of a column's distribution
ITERATIONS = 14  # of an inverse square root
FLOOR = 1e-4  # probability of a class that no example resembles


@dataclass(frozen=True)
class Shape:
    """The size of a network."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 256


class Block(nn.Module):
    """Attention of all rows to the examples, and a feed-forward network."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm, self.inner_norm = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.query = nn.Linear(shape.width, shape.width)
        self.key_value = nn.Linear(shape.width, 2 * shape.width)
        self.output = nn.Linear(shape.width, shape.width)
        self.widen, self.narrow = nn.Linear(shape.width, shape.inner), nn.Linear(shape.inner, shape.width)

    def forward(self, x: Tensor, examples: int) -> Tensor:
        normed = self.norm(x)
        queries = split(self.query(normed), self.heads)
        keys, values = split(self.key_value(normed[:, :examples]), 2 * self.heads).chunk(2, dim=1)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        widened: Tensor = x + self.narrow(F.gelu(self.widen(self.inner_norm(x)), approximate="tanh"))
        return widened


class TableNetwork(nn.Module):
    """Rows in all their forms float32 [B, N, 4, F], of which the first S are examples, the size of each table [B, 3],
    and the classes of the examples int64 [B, S] -> logarithms of the probabilities of classes, float32 [B, Q, C]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.encoder = nn.Parameter(torch.randn(FORMS, MOST_FEATURES, width))
        self.size = nn.Linear(3, width)
        self.classes = nn.Embedding(MOST_CLASSES + 1, width)  # the last: not known
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        self.key, self.query = nn.Linear(width, width), nn.Linear(width, width)
        self.votes = nn.Linear(width, shape.heads)  # how much a query trusts each head

    def forward(self, forms: Tensor, size: Tensor, labels: Tensor) -> Tensor:
        examples, features = labels.shape[1], forms.shape[3]
        encoder = (self.encoder[:, :features] * features**-0.5).flatten(0, 1)
        unknown = torch.full_like(forms[:, examples:, 0, 0], MOST_CLASSES).long()
        classes = self.classes(torch.cat([labels, unknown], 1))
        x = forms.flatten(2) @ encoder + self.size(size)[:, None] + classes
        for block in self.blocks:
            x = block(x, examples)
        return self.read(self.norm(x), labels)

    def read(self, x: Tensor, labels: Tensor) -> Tensor:
        """The classes of the examples that each query resembles."""
        count = labels.shape[1]
        queries, keys = split(self.query(x[:, count:]), self.heads), split(self.key(x[:, :count]), self.heads)
        one_hot = F.one_hot(labels, MOST_CLASSES).to(queries.dtype)[:, None].expand(-1, self.heads, -1, -1)
        classes = F.scaled_dot_product_attention(queries, keys, one_hot)  # [B, H, Q, C]
        trust = self.votes(x[:, count:]).softmax(2).transpose(1, 2)[..., None]
        probabilities: Tensor = (classes * trust).sum(1)
        return (probabilities + FLOOR).log()


class Served(nn.Module):
    """Examples float32 [S, F], NaN where a cell is missing, their classes int64 [S] and queries [Q, F] -> logarithms of
    the probabilities of the classes, float32 [Q, C].

    Args:
        passes: orders of columns and classes that answers are averaged over, since neither order means anything.
    """

    def __init__(self, net: TableNetwork, passes: int = 1) -> None:
        super().__init__()
        self.net, self.passes = net, passes

    def forward(self, examples: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        forms, size = forms_of(examples[None], labels[None], queries[None])
        turns = torch.arange(self.passes)[:, None]
        columns = torch.ones_like(forms[0, 0, 0]).cumsum(0).long() - 1  # 0 .. F - 1
        features, classes = columns.amax(0) + 1, labels.amax(0).clamp(min=0) + 1
        columns = (columns + turns * features // self.passes) % features  # [P, F]
        turned = torch.unflatten(forms[0].index_select(2, columns.flatten()), 2, (self.passes, -1)).permute(2, 0, 1, 3)
        shift = turns * classes // self.passes
        said: Tensor = self.net(turned, size.expand(self.passes, -1), (labels + shift) % classes).exp()
        numbers = torch.arange(MOST_CLASSES)
        back = torch.where(numbers < classes, (numbers + shift) % classes, numbers)  # [P, C]
        return said.gather(2, back[:, None].expand(-1, said.shape[1], -1)).mean(0).log()


def forms_of(examples: Tensor, labels: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Tables, examples [B, S, F], labels [B, S] and queries [B, Q, F], as the network takes them: all rows in all their
    forms [B, N, 4, F], and the size of each table [B, 3]."""
    rows, known = standardised(examples, queries)
    of_examples = rows[:, : examples.shape[1]]
    one_hot = F.one_hot(labels, MOST_CLASSES).float()
    decorrelated = rows @ decorrelation(of_examples, one_hot)
    forms = torch.stack([rows, ranked(of_examples, rows), decorrelated, 1 - known.float()], 2)
    return forms, sizes(of_examples, one_hot)


def sizes(examples: Tensor, one_hot: Tensor) -> Tensor:
    """How many examples, columns and classes there are [B, 3], on scales of about -1 to 1."""
    ones = torch.ones_like(examples)
    rows, columns, classes = ones[..., 0].sum(1), ones[:, 0].sum(1), one_hot.amax(1).sum(1)
    return torch.stack([rows.log() / 2 - 2, columns.log() / 2 - 1, classes.log() - 1], 1)


def split(x: Tensor, heads: int) -> Tensor:
    """[B, N, H * D] -> [B, H, N, D]."""
    return torch.unflatten(x, 2, (heads, -1)).transpose(1, 2)


def standardised(examples: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """All rows relative to the examples' means and standard deviations [B, N, F], 0 where a cell is missing or its
    column constant; and which cells there are."""
    known = ~examples.isnan()
    count = known.sum(1, keepdim=True).clamp(min=1)
    filled = examples.nan_to_num(0.0)
    largest = filled.abs().amax(1, keepdim=True).clamp(min=1e-30)
    filled = filled / largest
    mean = filled.sum(1, keepdim=True) / count
    deviation = ((filled - mean).square() * known).sum(1, keepdim=True).div(count).sqrt()
    rows = torch.cat([examples, queries], 1)
    known = ~rows.isnan()
    useful = deviation > 1e-5
    scaled = (rows.nan_to_num(0.0) / largest - mean) / torch.where(useful, deviation, 1.0)
    return (scaled * (known & useful)).clamp(-LARGEST, LARGEST), known


def ranked(examples: Tensor, rows: Tensor) -> Tensor:
    """Which share of the examples is smaller than a cell, from -1 to 1, by so many knots of each column."""
    count = examples.shape[1]
    ordered = examples.sort(dim=1).values
    places = ((torch.arange(KNOTS) + 0.5) / KNOTS * count).long()
    knots = ordered.index_select(1, places)[:, :, None]  # [B, K, 1, F]
    above, below = (rows[:, None] > knots).float().sum(1), (rows[:, None] < knots).float().sum(1)
    return (above - below) * (1.7 / KNOTS)


def decorrelation(examples: Tensor, one_hot: Tensor) -> Tensor:
    """The inverse square root of the covariance within classes [B, F, F], shrunk the more the fewer examples there are
    for each column; by Newton's iteration (Higham, "Functions of Matrices", 2008, 6.3)."""
    count, features = examples.shape[1:]
    sizes = one_hot.sum(1)[..., None].clamp(min=1)
    means = one_hot.transpose(1, 2) @ examples / sizes  # [B, C, F]
    within = examples - one_hot @ means
    covariance = within.transpose(1, 2) @ within / count
    identity = torch.eye(features)
    shrinkage = (features + 4) / (features + 4 + count)
    matrix = (1 - shrinkage) * covariance + shrinkage * identity * 0.5
    norm = matrix.square().sum((1, 2), keepdim=True).sqrt()
    y, z = matrix / norm, identity.expand_as(matrix)
    for _ in range(ITERATIONS):
        t = 1.5 * identity - 0.5 * z @ y
        y, z = y @ t, t @ z
    return z * norm.rsqrt()
