"""Attacks: small changes of images that make a model err.

Sizes are of pixel values, 0 to 255. Image i draws from its own generator, so that what becomes of it does not depend on
what else is attacked with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lectern.v1 import defend_pb2 as pb
from services.defend.classifier import Classifier, Floats, Images, Indices
from services.defend.defences import Chain, Randoms, rounded
from services.defend.resampling import Resampling, shrunk, unchanged
from services.errors import InvalidArgument
from services.limits import Limits
from services.parameters import number, whole
from services.runtime.repository import Repository

RANGE = 255
CHUNK = 16  # images that are attacked together: one batch of most gradient graphs
EPSILON = {pb.NORM_LINF: 8 / 255, pb.NORM_L2: 0.5}
STEPS, QUERIES = 10, 200
SMALLEST_SHARE = 0.875  # of its side to which DI-MI-FGSM shrinks an image
NAMES = {
    "fgsm": "FGSM",
    "i_fgsm": "I-FGSM",
    "mi_fgsm": "MI-FGSM",
    "di_mi_fgsm": "DI-MI-FGSM",
    "pgd": "PGD",
    "square": "Square",
}
TOLERANCE = 1e-3  # of a pixel value, by which sums of steps may be off


@dataclass(frozen=True)
class Goal:
    """What is attacked: the model behind its defences, which shall take images for a class, or no longer for one.

    Args:
        chain: the model that answers, with what stands before it.
        source: whose gradients are followed.
        draws: of random defences, for each gradient.
        classes: of each image, the target or the true class.
        targeted: whether it is the target.
        seed: of the first image.
    """

    chain: Chain
    source: Classifier
    draws: int
    classes: Indices
    targeted: bool
    seed: int

    def part(self, chosen: slice) -> Goal:
        """The same of some images."""
        seed = self.seed + (chosen.start or 0)
        return Goal(self.chain, self.source, self.draws, self.classes[chosen], self.targeted, seed)

    async def directions(self, xs: Floats, randoms: Randoms, views: Resampling | None) -> Floats:
        """Where images `xs` have to go: gradients, seen through `views`, of what shall grow."""
        seen = xs if views is None else views.apply(xs)
        total = np.zeros_like(xs)
        for _ in range(self.draws):
            if self.chain.defences:
                cleaned, back = await self.chain.clean(rounded(seen), randoms)
                total += back(await self.source.gradients(cleaned.astype(np.float32), self.classes))
            else:
                total += await self.source.gradients(seen, self.classes)
        total = total if views is None else views.adjoint(total)
        return total if self.targeted else -total

    async def margins(self, images: Images) -> Floats:
        """How far the model is from what is wanted, in logits `[N]`; below 0 = it is there."""
        logits = await self.chain.logits(images, self.seed)
        rows = np.arange(len(logits))
        own = logits[rows, self.classes]
        others = logits.copy()
        others[rows, self.classes] = -np.inf
        gap = own - others.max(1)
        return np.asarray(-gap if self.targeted else gap)

    def reached(self, logits: Floats) -> list[bool]:
        """Of each image, whether the model errs as is wanted."""
        return [bool(hit) for hit in (logits.argmax(1) == self.classes) == self.targeted]


@dataclass(frozen=True)
class GradientAttack:
    """Steps along gradients. FGSM, I-FGSM, MI-FGSM, DI-MI-FGSM and PGD are this one with some parts left out.

    Args:
        norm: of pb.Norm.
        epsilon: how far images may go; `step`: how far at once; both in pixel values.
        decay: what is kept of the sum of gradients; 0 = nothing.
        diversity: share of steps whose gradients are of a shrunk image.
        random_start: whether to start somewhere within epsilon.
    """

    words: str
    norm: int
    epsilon: float
    step: float
    steps: int
    decay: float = 0.0
    diversity: float = 0.0
    random_start: bool = False
    follows_gradients = True

    async def run(self, images: Images, goal: Goal) -> Floats:
        """The attacked images, float32 of 0 to 255."""
        origin = images.astype(np.float32)
        randoms = [np.random.Generator(np.random.PCG64((goal.seed + i) % 2**64)) for i in range(len(images))]
        xs = self._started(origin, randoms) if self.random_start else origin
        momentum = np.zeros_like(origin)
        for _ in range(self.steps):
            direction = await goal.directions(xs, randoms, self._views(origin, randoms))
            if self.decay:
                mean = np.abs(direction).mean((1, 2, 3), keepdims=True)
                direction = momentum = self.decay * momentum + direction / np.maximum(mean, np.float32(1e-30))
            moved = np.sign(direction) if self.norm == pb.NORM_LINF else direction / _lengths(direction)
            xs = self._within(xs + np.float32(self.step) * moved, origin)
        return xs

    def _started(self, origin: Floats, randoms: Randoms) -> Floats:
        if self.norm == pb.NORM_LINF:
            drawn = np.stack([random.random(origin.shape[1:], np.float32) for random in randoms])
            return self._within(origin + np.float32(self.epsilon) * (2 * drawn - 1), origin)
        drawn = np.stack([random.standard_normal(origin.shape[1:], np.float32) for random in randoms])
        shares = np.array([random.random(dtype=np.float32) for random in randoms]).reshape(-1, 1, 1, 1)
        return self._within(origin + np.float32(self.epsilon) * shares * drawn / _lengths(drawn), origin)

    def _within(self, xs: Floats, origin: Floats) -> Floats:
        """The nearest images within epsilon whose values are those of pixels."""
        change = xs - origin
        if self.norm == pb.NORM_LINF:
            change = change.clip(-self.epsilon, self.epsilon)
        else:
            change = change * np.minimum(1, np.float32(self.epsilon) / _lengths(change))
        return np.asarray((origin + change).clip(0, RANGE), np.float32)

    def _views(self, origin: Floats, randoms: Randoms) -> Resampling | None:
        if not self.diversity:
            return None
        height, width = origin.shape[1:3]
        chosen = [random.random() < self.diversity for random in randoms]
        views = shrunk(height, width, SMALLEST_SHARE, randoms)
        same = unchanged(height, width)
        for i, seen in enumerate(chosen):
            if not seen:
                views.rows[i], views.columns[i] = same
        return views


@dataclass(frozen=True)
class SquareAttack:
    """Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random search", 2020;
    L-inf. Starts as stripes, then changes squares, ever smaller ones, and keeps what brings the answer nearer."""

    words: str
    epsilon: float
    queries: int
    follows_gradients = False

    async def run(self, images: Images, goal: Goal) -> Floats:
        """The attacked images, float32 of 0 to 255."""
        origin = images.astype(np.float32)
        randoms = [np.random.Generator(np.random.PCG64((goal.seed + i) % 2**64)) for i in range(len(images))]
        height, width, channels = origin.shape[1:]
        stripes = np.stack([random.choice((-1, 1), (1, width, channels)) for random in randoms])
        change = np.broadcast_to(self.epsilon * stripes, origin.shape).astype(np.float32)
        best = np.full(len(images), np.inf, np.float32)
        tried = change
        for query in range(self.queries):
            if not (open_ := np.flatnonzero(best > 0)).size:
                break
            margins = await goal.margins(shrink_to_pixels(_moved(origin, tried), images, self.epsilon))
            better = margins < best
            change = np.where(better[:, None, None, None], tried, change)
            best = np.minimum(best, margins)
            side = max(1, round(math.sqrt(_share(query / self.queries) * height * width)))
            side = min(side, height, width)
            tried = change.copy()
            for i in open_:
                top, left = randoms[i].integers(height - side + 1), randoms[i].integers(width - side + 1)
                signs = randoms[i].choice((-1, 1), (1, 1, channels))
                tried[i, top : top + side, left : left + side] = self.epsilon * signs
        return _moved(origin, change)


Attack = GradientAttack | SquareAttack


def read_attack(method: pb.AttackMethod, limits: Limits, field: str = "method") -> Attack:
    """The attack that was asked for.

    Raises:
        InvalidArgument: none that this server knows, or a parameter is out of bounds.
    """
    kind = method.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument.field(field, f"is not set, or not known here; there are: {', '.join(NAMES)}")
    asked, at = getattr(method, kind), f"{field}.{kind}"
    if kind == "square":
        epsilon = _epsilon(asked, EPSILON[pb.NORM_LINF], at)
        queries = whole(asked, "queries", QUERIES, 1, limits.attack_steps, f"{at}.queries")
        return SquareAttack(f"Square {_size(epsilon)}, {queries} queries", RANGE * epsilon, queries)
    norm = asked.norm or pb.NORM_LINF
    if norm not in EPSILON:
        raise InvalidArgument.field(f"{at}.norm", f"is {norm}; send one of Norm's values")
    epsilon = _epsilon(asked, EPSILON[norm], at)
    given: dict[str, Any] = {"steps": 1, "step": RANGE * epsilon}
    words = f"{NAMES[kind]} {'L2 ' if norm == pb.NORM_L2 else ''}{_size(epsilon)}"
    if kind != "fgsm":
        given["steps"] = whole(asked, "steps", STEPS, 1, limits.attack_steps, f"{at}.steps")
        # Of an epsilon of 0 every step is as good.
        given["step"] = RANGE * number(asked, "step_size", epsilon / 4 or 1, 1, f"{at}.step_size")
        words += f", {given['steps']} steps"
    if "decay" in asked.DESCRIPTOR.fields_by_name:
        given["decay"] = number(asked, "decay", 1, 1, f"{at}.decay")
    if kind == "di_mi_fgsm":
        given["diversity"] = number(asked, "diversity", 0.5, 1, f"{at}.diversity")
    return GradientAttack(words, norm, RANGE * epsilon, random_start=kind == "pgd", **given)


def source_of(asked: Attack, name: str, chain: Chain, repository: Repository, prefix: str = "") -> Classifier:
    """The model whose gradients are followed: that of this name, or the attacked one.

    Raises:
        NotFound, Unavailable, InvalidArgument: see `Classifier.find`; or it has no gradients, or takes other images.
    """
    if not name:
        if asked.follows_gradients:
            chain.classifier.check_gradients("model")
        return chain.classifier
    source = Classifier.find(repository, name, 0, chain.classifier.call, f"{prefix}gradient_of")
    chain.classifier.check_alike(source, f"{prefix}gradient_of")
    source.check_gradients(f"{prefix}gradient_of")
    return source


async def attack(asked: Attack, images: Images, goal: Goal) -> Floats:
    """The attacked images, float32 of 0 to 255."""
    parts = [slice(start, start + CHUNK) for start in range(0, len(images), CHUNK)]
    return np.concatenate([await asked.run(images[part], goal.part(part)) for part in parts])


def shrink_to_pixels(xs: Floats, images: Images, epsilon: float = math.inf) -> Images:
    """Values of pixels, rounded towards those of the original, so that the change grows by nothing."""
    change = xs - images
    whole_steps = np.floor(np.abs(change).clip(max=epsilon) + TOLERANCE)
    return np.asarray(images + np.sign(change) * whole_steps, np.uint8)


def _epsilon(asked: Any, default: float, at: str) -> float:
    value = float(asked.epsilon) if asked.HasField("epsilon") else default
    if not 0 <= value <= 1:
        raise InvalidArgument.field(f"{at}.epsilon", f"is {value:g}; it must be 0 to 1, as a share of the range")
    return value


def _size(epsilon: float) -> str:
    """In words: as so many of 255 values if that is a whole number."""
    steps = epsilon * RANGE
    return f"{round(steps)}/255" if abs(steps - round(steps)) < TOLERANCE else f"{epsilon:.3g}"


def _share(progress: float) -> float:
    """Of the image that a square covers, after the paper's schedule."""
    halvings: Sequence[float] = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
    return 0.3 * 0.5 ** sum(progress > halving for halving in halvings)


def _moved(origin: Floats, change: Floats) -> Floats:
    return np.asarray((origin + change).clip(0, RANGE), np.float32)


def _lengths(values: Floats) -> Floats:
    """L2, of each image; never 0."""
    return np.asarray(np.sqrt(np.square(values).sum((1, 2, 3), keepdims=True)).clip(min=1e-12), np.float32)
