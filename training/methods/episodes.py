"""Few-shot episodes: which images show new classes, which are to be sorted into them, and how drawings are varied."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.data.fonts import Glyphs


@dataclass(frozen=True)
class Episode:
    """Support and query images uint8 [S, H, W] and [Q, H, W], and the class of each, from 0, int64 [S] and [Q]."""

    support: NDArray[np.uint8]
    labels: NDArray[np.int64]
    queries: NDArray[np.uint8]
    answers: NDArray[np.int64]


def fixed_episodes(glyphs: Glyphs, count: int, ways: int, seed: int = 0) -> Iterator[Episode]:
    """One-shot episodes of `ways` characters; for each, one writer's drawing is shown and all others are asked."""
    random = np.random.default_rng(seed)
    characters = _by_character(glyphs)
    for _ in range(count):
        chosen = [random.permutation(characters[c]) for c in random.choice(len(characters), ways, replace=False)]
        asked = [drawings[1:] for drawings in chosen]
        yield Episode(
            support=glyphs.images[[drawings[0] for drawings in chosen]],
            labels=np.arange(ways),
            queries=glyphs.images[np.concatenate(asked)],
            answers=np.repeat(np.arange(ways), [len(a) for a in asked]),
        )


class EpisodeSampler:
    """Training episodes of varied drawings from several sets at once.

    Args:
        sets: drawings to choose characters from.
        ways: how many characters of each set an episode has.
        drawings: how many drawings of each character it has.
        seed: of everything random.
    """

    def __init__(self, sets: Sequence[Glyphs], ways: Sequence[int], drawings: int, seed: int) -> None:
        self._sets = [(torch.from_numpy(s.images), _by_character(s)) for s in sets]
        self._ways, self._drawings = ways, drawings
        self._random = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self) -> Tensor:
        """Drawings float32 [sum(ways), drawings, H, W] with values 0..255."""
        chosen = []
        for (images, characters), ways in zip(self._sets, self._ways, strict=True):
            for character in self._random.choice(len(characters), ways, replace=False):
                drawn = characters[character]
                index = self._random.choice(drawn, self._drawings, replace=len(drawn) < self._drawings)
                chosen.append(images[torch.from_numpy(index)])
        return vary(torch.stack(chosen).float(), self._generator)


def vary(drawings: Tensor, random: torch.Generator) -> Tensor:
    """New characters from old: float32 [C, D, H, W] to the same shape.

    A character's drawings are turned, mirrored, sheared and bent all alike, which makes another character of it; then
    each by itself, with strokes made wider or narrower, as writers differ.
    """
    count, each, height, width = drawings.shape
    character = _affine(count, math.pi, 0.15, 0.2, 0.0, random)
    character[:, 0] *= torch.where(torch.rand(count, 1, generator=random) < 0.5, -1.0, 1.0)
    writer = _affine(count * each, 0.25, 0.18, 0.2, 0.1, random).reshape(count, each, 3, 3)
    matrix = (character[:, None] @ writer)[..., :2, :]
    grid = F.affine_grid(matrix.flatten(0, 1), [count * each, 1, height, width], align_corners=False)
    grid = grid.reshape(count, each, height, width, 2) + _bend(count, 0.08, height, width, random)[:, None]
    grid = grid.flatten(0, 1) + _bend(count * each, 0.05, height, width, random)
    varied = F.grid_sample(_change_strokes(drawings.flatten(0, 1)[:, None], random), grid, align_corners=False)
    return varied.reshape(drawings.shape)


def _affine(count: int, turn: float, stretch: float, shear: float, shift: float, random: torch.Generator) -> Tensor:
    """Matrices [count, 3, 3] of random maps from new to old coordinates, up to the given angle and shares."""
    turn_, x, y, shear_, left, up, zoom = (torch.rand(7, count, generator=random) * 2 - 1).unbind()
    angle, zoom = turn_ * turn, torch.exp(zoom * stretch)
    rows = [
        torch.stack([angle.cos() * zoom * (1 + x * stretch), -angle.sin() * zoom + shear_ * shear, left * shift], 1),
        torch.stack([angle.sin() * zoom, angle.cos() * zoom * (1 + y * stretch), up * shift], 1),
        torch.tensor([0.0, 0.0, 1.0]).expand(count, 3),
    ]
    return torch.stack(rows, 1)


def _bend(count: int, strength: float, height: int, width: int, random: torch.Generator) -> Tensor:
    """Smooth displacements [count, H, W, 2], from normal ones on a coarse grid."""
    coarse = torch.randn(count, 2, 4, 4, generator=random) * strength
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def _change_strokes(images: Tensor, random: torch.Generator) -> Tensor:
    """Strokes [N, 1, H, W] of which some are wider, some narrower."""
    padded = F.pad(images, (0, 1, 0, 1))
    wider = F.max_pool2d(padded, 2, 1)
    narrower = 0.35 * images - 0.65 * F.max_pool2d(-padded, 2, 1)
    # Narrowing only where strokes are wide enough to stay.
    wide = images.mean((1, 2, 3), keepdim=True) > 40
    choice = torch.rand(len(images), 1, 1, 1, generator=random)
    changed = torch.where(wide, narrower, wider)
    return torch.where(choice < 0.35, changed, images)


def _by_character(glyphs: Glyphs) -> list[NDArray[np.int64]]:
    """Positions of each character's drawings."""
    order = np.argsort(glyphs.characters, kind="stable")
    return np.split(order, np.cumsum(np.bincount(glyphs.characters))[:-1])
