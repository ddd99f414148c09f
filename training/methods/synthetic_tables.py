"""Random tables with classes, from which a network learns to learn (Müller et al., "Transformers Can Do Bayesian
Inference", 2022): a prior over what tables may be like.

Four kinds: causal models, which are random networks whose inner units are columns and classes (Hollmann et al.,
"TabPFN", 2023); clusters; linear rules; and trees. Then columns are bent, rounded, made categories or made useless,
some cells are lost and some labels are wrong. Everything is drawn for many tables at once, B of them, of N rows, F
columns and C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from artifacts.card import DataSource

MOST_FEATURES, MOST_CLASSES, MOST_EXAMPLES = 64, 10, 512
GROUP = 4  # tables of one kind that are drawn together


@dataclass(frozen=True)
class Tables:
    """Tables of one size.

    Args:
        rows: float32 [B, N, F]; NaN = missing.
        labels: int64 [B, N].
        examples: how many rows, the first, are examples; the others are asked about.
    """

    rows: Tensor
    labels: Tensor
    examples: int

    @property
    def asked(self) -> Tensor:
        """The labels of the other rows [B, Q]; -1 where no example has the class."""
        shown, asked = self.labels[:, : self.examples], self.labels[:, self.examples :]
        seen = torch.zeros(len(shown), MOST_CLASSES, dtype=torch.bool).scatter_(1, shown, True)
        return asked.masked_fill(~seen.gather(1, asked), -1)


@dataclass(frozen=True)
class Sizes:
    """How large tables are.

    Args:
        examples, features: the least and the most; 10 to 20 are as frequent as 100 to 200.
        queries: rows that are asked about.
        rows: of all tables of a batch together, about.
    """

    examples: tuple[int, int] = (16, 400)
    features: tuple[int, int] = (2, MOST_FEATURES)
    queries: int = 64
    rows: int = 1024


class Prior:
    """Draws tables.

    Args:
        seed: the same one gives the same tables.
    """

    def __init__(self, sizes: Sizes, *seed: int) -> None:
        self.sizes = sizes
        self.random = np.random.default_rng(seed)
        self.torch = torch.Generator().manual_seed(int(self.random.integers(2**62)))

    def batch(self) -> Tables:
        """Tables of one size, of several kinds."""
        sizes = self.sizes
        examples, features = self._about(*sizes.examples), self._about(*sizes.features)
        classes = 2 if self.random.random() < 0.3 else self._about(2, MOST_CLASSES)
        examples = max(examples, 3 * classes)
        rows = examples + sizes.queries
        kinds: list[Callable[[int, int, int, int], tuple[Tensor, Tensor]]]
        kinds = [*[self._causal] * 3, *[self._clusters] * 3, self._linear, self._trees]
        drawn = []
        for _ in range(max(1, round(sizes.rows / rows / GROUP))):
            kind = kinds[int(self.random.integers(len(kinds)))]
            columns, labels = kind(GROUP, rows, features, classes)
            drawn.append((self._spoilt(columns), self._mislabelled(labels, classes)))
        columns, labels = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        names = torch.rand(len(labels), classes, generator=self.torch).argsort(1)
        return Tables(columns, names.gather(1, labels), examples)

    def _about(self, least: int, most: int) -> int:
        """A number between two, as likely small as large."""
        return round(float(np.exp(self.random.uniform(np.log(least), np.log(most)))))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.torch)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.torch)

    # Kinds of tables: columns [B, N, F] and labels [B, N].

    def _causal(self, tables: int, rows: int, features: int, classes: int) -> tuple[Tensor, Tensor]:
        """Columns and classes are units of a random network."""
        h = self._causes(tables, rows, int(self.random.integers(2, 3 + features)))
        units = [h] if self.random.random() < 0.5 else []
        noise = 10 ** self.random.uniform(-3, -0.3)
        kept = self.random.uniform(0.15, 1)
        width = int(self.random.integers(4, 8 + features))
        for _ in range(int(self.random.integers(1, 5))):
            weight = self._normal(tables, h.shape[2], width) * (self._uniform(tables, h.shape[2], width) < kept)
            h = h @ weight / max(1.0, kept * h.shape[2]) ** 0.5 + 0.5 * self._normal(tables, 1, width)
            h = self._bent(h) + noise * self._normal(*h.shape)
            units.append(h)
        while sum(unit.shape[2] for unit in units) < features + classes:
            units.append(h + self.random.uniform(0.1, 1) * self._normal(*h.shape))
        scores = classes if self.random.random() < 0.5 else 1
        return self._parted(torch.cat(units, 2), features, scores, classes)

    def _clusters(self, tables: int, rows: int, features: int, classes: int) -> tuple[Tensor, Tensor]:
        """Each class is one cluster or a few, of its own shape or of one that all have."""
        each = 1 if self.random.random() < 0.6 else int(self.random.integers(2, 5))
        count, hidden = classes * each, int(self.random.integers(1, features + 1))
        places = self._normal(tables, count, hidden) * 10 ** self.random.uniform(-0.2, 0.7) / hidden**0.25
        spread = (self.random.uniform(0, 0.8) * self._normal(tables, count, hidden)).exp()
        weights = (self.random.uniform(0, 1) * self._normal(tables, count)).softmax(1)
        own = torch.multinomial(weights, rows, replacement=True, generator=self.torch)
        index = own[..., None].expand(-1, -1, hidden)
        h = places.gather(1, index) + spread.gather(1, index) * self._normal(tables, rows, hidden)
        columns = h @ self._normal(tables, hidden, features) / hidden**0.5
        columns = columns + self.random.uniform(0, 0.7) * self._normal(tables, rows, features)
        if self.random.random() < 0.3:
            columns = self._bent(columns)
        return columns, own % classes

    def _linear(self, tables: int, rows: int, features: int, classes: int) -> tuple[Tensor, Tensor]:
        """The class is the largest of linear scores, or where one falls."""
        columns = self._correlated(tables, rows, features)
        scores = classes if self.random.random() < 0.5 else 1
        weight = self._normal(tables, features, scores)
        weight = weight * (self._uniform(tables, features, 1) < self.random.uniform(0.2, 1))
        totals = columns @ weight + 1e-3 * self._normal(tables, rows, scores)
        totals = totals / totals.std(1, keepdim=True)
        return columns, self._classes(totals + self.random.uniform(0, 0.5) * self._normal(*totals.shape), classes)

    def _trees(self, tables: int, rows: int, features: int, classes: int) -> tuple[Tensor, Tensor]:
        """Scores are sums of what the leaves of oblivious trees say."""
        columns = self._correlated(tables, rows, features)
        scores = classes if self.random.random() < 0.5 else 1
        depth = int(self.random.integers(1, 5))
        totals = torch.zeros(tables, rows, scores)
        for _ in range(int(self.random.integers(1, 9))):
            asked = (self._uniform(tables, depth) * features).long()
            values = columns.gather(2, asked[:, None].expand(-1, rows, -1))
            at = (self._uniform(tables, 1, depth) * rows).long()
            bits = (values > values.gather(1, at)).long()
            leaf = (bits * 2 ** torch.arange(depth)).sum(2, keepdim=True)
            totals += self._normal(tables, 2**depth, scores).gather(1, leaf.expand(-1, -1, scores))
        return columns, self._classes(totals + 0.05 * self._normal(*totals.shape), classes)

    # Their parts.

    def _causes(self, tables: int, rows: int, count: int) -> Tensor:
        """What nothing else causes: normal, uniform, or in clusters [B, N, K]."""
        kind = self.random.random()
        if kind < 0.4:
            return self._normal(tables, rows, count)
        if kind < 0.7:
            return 3**0.5 * (2 * self._uniform(tables, rows, count) - 1)
        places = self._normal(tables, int(self.random.integers(2, 9)), count)
        own = (self._uniform(tables, rows) * places.shape[1]).long()[..., None].expand(-1, -1, count)
        return places.gather(1, own) + self.random.uniform(0.1, 0.7) * self._normal(tables, rows, count)

    def _correlated(self, tables: int, rows: int, features: int) -> Tensor:
        """Columns of which some depend on others."""
        own = self._causes(tables, rows, features)
        hidden = int(self.random.integers(1, features + 1))
        shared = self._normal(tables, rows, hidden) @ self._normal(tables, hidden, features) / hidden**0.5
        share = self._uniform(tables, 1, features) * self.random.uniform(0, 1)
        mixed: Tensor = (1 - share).sqrt() * own + share.sqrt() * shared
        return mixed

    def _bent(self, h: Tensor) -> Tensor:
        """One function of all units of a layer."""
        functions: list[Callable[[Tensor], Tensor]] = [
            torch.tanh,
            torch.relu,
            lambda x: x,
            lambda x: torch.sin(2 * x),
            torch.abs,
            lambda x: x.square() - 1,
            torch.sign,
            lambda x: torch.nn.functional.leaky_relu(x, 0.2),
            lambda x: (-x.square()).exp(),
        ]
        return functions[int(self.random.integers(len(functions)))](h)

    def _parted(self, units: Tensor, features: int, scores: int, classes: int) -> tuple[Tensor, Tensor]:
        """Some units [B, N, U] as columns, and others as scores of classes."""
        tables, rows, count = units.shape
        chosen = self._uniform(tables, count).argsort(1)[:, : features + scores]
        parts = units.gather(2, chosen[:, None].expand(-1, rows, -1))
        return parts[..., :features], self._classes(parts[..., features:], classes)

    def _classes(self, scores: Tensor, classes: int) -> Tensor:
        """The largest of C scores [B, N, C], or where one score [B, N, 1] falls among random borders: labels [B, N]."""
        if scores.shape[2] > 1:
            scaled = (scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + 1e-6)
            bias = self.random.uniform(0, 0.7) * self._normal(len(scores), 1, classes)
            return (scaled + bias + 1e-3 * self._normal(*scaled.shape)).argmax(2)
        parts = classes if self.random.random() < 0.7 else int(self.random.integers(classes, 2 * classes + 1))
        sizes = self._uniform(len(scores), parts) + self.random.uniform(0.1, 2)
        borders = (sizes.cumsum(1) / sizes.sum(1, keepdim=True))[:, :-1]
        ranks = scores[..., 0].argsort(1).argsort(1) / scores.shape[1]
        part = (ranks[..., None] > borders[:, None]).sum(2)
        names = torch.cat([torch.arange(classes), torch.randint(classes, (parts - classes,), generator=self.torch)])
        return names[part]

    # What happens to tables.

    def _spoilt(self, columns: Tensor) -> Tensor:
        """Columns as people record them."""
        tables, rows, features = columns.shape
        scaled = (columns - columns.mean(1, keepdim=True)) / (columns.std(1, keepdim=True) + 1e-6)
        scaled = self._warped(scaled)
        if self.random.random() < 0.4:
            scaled = self._rounded(scaled)
        if self.random.random() < 0.4:  # columns that have nothing to do with the class
            useless = self._uniform(tables, 1, features) < self.random.uniform(0, 0.7)
            scaled = torch.where(useless, scaled.gather(1, self._uniform(tables, rows, features).argsort(1)), scaled)
        if self.random.random() < 0.25:
            lost = self._uniform(tables, rows, features) < self._uniform(tables, 1, features) * self.random.uniform(
                0, 0.5
            )
            scaled = scaled.masked_fill(lost, torch.nan)
        return scaled

    def _warped(self, x: Tensor) -> Tensor:
        """Some columns on another scale: skewed, with heavy tails, or bounded."""
        kind = self._uniform(len(x), 1, x.shape[2])
        strength = 0.3 + 1.2 * self._uniform(len(x), 1, x.shape[2])
        share = self.random.uniform(0, 0.7)
        x = torch.where(kind < 0.4 * share, (strength * x.clamp(-4, 4)).exp(), x)
        x = torch.where((kind > 0.4 * share) & (kind < 0.6 * share), x.sign() * x.abs() ** (1 + strength), x)
        return torch.where((kind > 0.6 * share) & (kind < share), (2 * strength * x).tanh(), x)

    def _rounded(self, x: Tensor) -> Tensor:
        """Some columns in steps, and some as categories whose numbers mean nothing."""
        tables, _, features = x.shape
        kind = self._uniform(tables, 1, features)
        levels = 1 + (self._uniform(tables, 1, features) * 8).floor()
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        steps = ((x - low) / (high - low + 1e-6) * levels).round()
        numbers = self._uniform(tables, 10, features).argsort(1).float()
        categories = numbers.gather(1, steps.long().clamp(0, 9))
        share = self.random.uniform(0, 1)
        x = torch.where(kind < 0.5 * share, steps, x)
        return torch.where((kind > 0.5 * share) & (kind < share), categories, x)

    def _mislabelled(self, labels: Tensor, classes: int) -> Tensor:
        """Labels [B, N], some of them drawn at random."""
        if self.random.random() < 0.6:
            return labels
        wrong = self._uniform(*labels.shape) < self._uniform(len(labels), 1) * self.random.uniform(0, 0.3)
        return torch.where(wrong, (self._uniform(*labels.shape) * classes).long(), labels)


def card_entry(train: int, validation: int) -> DataSource:
    """The card's entry: so many tables were drawn; the checksum is this file's."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return DataSource(
        source="synthetic tables (training/methods/synthetic_tables.py)",
        version="1",
        sha256=digest,
        licence="MIT",
        train=train,
        validation=validation,
        test=0,
    )
