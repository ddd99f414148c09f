"""Explanations by taking parts of the input away: occlusion, LIME, RISE, kernel SHAP. They ask the model for answers
alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lectern.v1 import explain_pb2 as pb
from services.errors import InvalidArgument
from services.explain.attribution import Attribution
from services.explain.parameters import field_of, number, whole
from services.explain.subjects import Floats, ImageKind, Subject
from services.limits import Limits

CHUNK = 64  # inputs that are built at once
LIME_WIDTH = 0.25  # of LIME's kernel, as its authors have it for images
LIME_PENALTY = 1.0
CELLS = 8
MOST_CELLS = 32


async def occlusion(subject: Subject, method: pb.Occlusion, seed: int, limits: Limits) -> Attribution:
    """Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", 2014."""
    pixels = subject.kind.pixels
    for name in ("window", "stride"):
        if method.HasField(name) and not isinstance(subject.kind, ImageKind):
            raise InvalidArgument.field(field_of(method, name), "is for images; of other inputs the parts are fixed")
    window = whole(method, "window", min(8, *pixels), 1, min(pixels))
    stride = whole(method, "stride", max(1, window // 4), 1, window)
    windows = subject.kind.windows(window, stride)
    if len(windows) > (most := limits.explanation_samples):
        raise InvalidArgument.field(
            field_of(method, "stride"),
            f"is {stride}: {len(windows)} windows; the most are {most}",
        )
    kept = np.ones((len(windows), *pixels), np.float32)
    for mask, part in zip(kept, windows, strict=True):
        mask[part] = 0
    answers = await masked(subject, kept, subject.baseline(method, pb.BASELINE_MEAN))
    whole_input = (await subject.values(subject.kind.x[None]))[0]
    taken = 1 - kept
    falls = np.tensordot(whole_input - answers, taken, 1) / taken.sum(0)
    return _attribution(subject, falls)


async def lime(subject: Subject, method: pb.Lime, seed: int, limits: Limits) -> Attribution:
    """Ribeiro et al., "Why Should I Trust You?", 2016: ridge regression, with copies weighted by their likeness."""
    samples = whole(method, "samples", 256, 2, limits.explanation_samples)
    groups = _groups(subject, method)
    present = np.random.default_rng(seed).integers(0, 2, (samples, groups.max() + 1)).astype(np.float64)
    present[0] = 1
    baseline = subject.baseline(method, pb.BASELINE_MEAN)
    answers = await masked(subject, present[:, groups], baseline, probability=True)
    distance = 1 - np.sqrt(present.mean(1))  # cosine distance from the input, of which everything is present
    weights = np.sqrt(np.exp(-((distance / LIME_WIDTH) ** 2)))
    centre, level = np.average(present, 0, weights), np.average(answers, weights=weights)
    design, wanted = present - centre, answers - level
    gram = (design.T * weights) @ design + LIME_PENALTY * np.eye(design.shape[1])
    found = np.linalg.solve(gram, (design.T * weights) @ wanted)
    return _attribution(subject, found[groups])


async def rise(subject: Subject, method: pb.Rise, seed: int, limits: Limits) -> Attribution:
    """Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", 2018."""
    if not isinstance(subject.kind, ImageKind):
        raise InvalidArgument.field("method", "rise is for images")
    samples = whole(method, "samples", 256, 2, limits.explanation_samples)
    cells = whole(method, "cells", 6, 2, MOST_CELLS)
    keep = number(method, "keep", 0.5, most=1, below=True)
    masks = smooth_masks(subject.kind.pixels, samples, cells, keep, seed)
    answers = await masked(subject, masks, np.zeros_like(subject.kind.x), probability=True)
    # By each pixel's own share of masks, which varies where they are few.
    found = np.tensordot(answers, masks, 1) / np.maximum(masks.sum(0), 1e-6)
    return _attribution(subject, found, signed=False)


async def kernel_shap(subject: Subject, method: pb.KernelShap, seed: int, limits: Limits) -> Attribution:
    """Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions", 2017.

    Sizes of coalitions are drawn by Shapley's kernel, so that all count alike in the regression; that values add up is
    a constraint of it.
    """
    samples = whole(method, "samples", 256, 2, limits.explanation_samples)
    groups = _groups(subject, method)
    players = int(groups.max()) + 1
    present = coalitions(players, samples, seed)
    baseline = subject.baseline(method, pb.BASELINE_MEAN)
    answers = await masked(subject, np.concatenate([np.eye(2)[:, :1] * np.ones(players), present])[:, groups], baseline)
    full, nothing = answers[0], answers[1]
    # The last player has what the others leave, so that the sum is exact.
    design = present[:, :-1] - present[:, -1:]
    wanted = answers[2:] - nothing - present[:, -1] * (full - nothing)
    found = np.linalg.lstsq(design, wanted, rcond=None)[0]
    values = np.append(found, full - nothing - found.sum())
    shares = values / np.bincount(groups.ravel())
    return _attribution(subject, shares[groups], promised=float(full - nothing))


async def masked(subject: Subject, kept: NDArray[Any], baseline: Floats, *, probability: bool = False) -> Floats:
    """The target's answer `[N]` to inputs of which `kept` `[N, *pixels]` says how much is there, the rest baseline."""
    found = []
    for start in range(0, len(kept), CHUNK):
        part = subject.kind.spread(kept[start : start + CHUNK].astype(np.float32))
        xs = part * subject.kind.x + (1 - part) * baseline
        found.append(await subject.values(xs, probability=probability))
    return np.concatenate(found)


def smooth_masks(pixels: tuple[int, ...], count: int, cells: int, keep: float, seed: int) -> Floats:
    """Random grids, enlarged smoothly and moved by less than a cell: `[count, height, width]`, 0 to 1."""
    random = np.random.default_rng(seed)
    size = -(-max(pixels) // cells)
    height, width = (-(-n // size) for n in pixels)
    grids = (random.random((count, height + 1, width + 1)) < keep).astype(np.float32)
    moves = random.integers(0, size, (count, 2))
    masks = np.empty((count, *pixels), np.float32)
    for mask, grid, (down, right) in zip(masks, grids, moves, strict=True):
        large = Image.fromarray(grid).resize(((width + 1) * size, (height + 1) * size), Image.Resampling.BILINEAR)
        mask[:] = np.asarray(large)[down : down + pixels[0], right : right + pixels[1]]
    return masks.clip(0, 1)


def coalitions(players: int, count: int, seed: int) -> NDArray[np.float64]:
    """Random sets of players, neither none nor all, each followed by its complement: `[count, players]`, 0 or 1."""
    random = np.random.default_rng(seed)
    sizes = np.arange(1, players)
    likelihood = 1 / (sizes * (players - sizes))
    drawn = random.choice(sizes, -(-count // 2), p=likelihood / likelihood.sum())
    ranks = random.random((len(drawn), players)).argsort(1).argsort(1)
    present = (ranks < drawn[:, None]).astype(np.float64)
    return np.stack([present, 1 - present], 1).reshape(-1, players)[:count]


def _groups(subject: Subject, method: pb.Lime | pb.KernelShap) -> NDArray[np.int64]:
    parts = subject.kind.pixels
    if method.HasField("cells") and len(parts) == 1:
        raise InvalidArgument.field(field_of(method, "cells"), "is not for rows and texts, whose parts stand alone")
    most = MOST_CELLS if len(parts) == 1 else min(MOST_CELLS, max(parts))
    return subject.kind.groups(whole(method, "cells", CELLS, 2, most))


def _attribution(
    subject: Subject, values: NDArray[Any], *, signed: bool = True, promised: float | None = None
) -> Attribution:
    shaped = subject.kind.spread(values.astype(np.float32)[None])[0]
    return Attribution(shaped, signed, promised)
