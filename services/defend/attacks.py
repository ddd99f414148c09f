"""Attacks as requests ask for them, and what they attack.

Image i draws from its own generator, so that what becomes of it does not depend on what else is attacked with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lectern.v1 import defend_pb2 as pb
from services.defend.classifier import Classifier, Indices
from services.defend.defences import Chain
from services.defend.methods.ball import Ball, L2Ball, LinfBall
from services.defend.methods.di_mi_fgsm import di_mi_fgsm
from services.defend.methods.fgsm import fgsm
from services.defend.methods.i_fgsm import i_fgsm
from services.defend.methods.mi_fgsm import mi_fgsm
from services.defend.methods.pgd import pgd
from services.defend.methods.pixels import RANGE, TOLERANCE, Floats, Images, Randoms, rounded
from services.defend.methods.square import square
from services.errors import InvalidArgument
from services.limits import Limits
from services.parameters import number, whole
from services.runtime.repository import Repository

CHUNK = 16  # images that are attacked together: one batch of most gradient graphs
EPSILON = {pb.NORM_LINF: 8 / 255, pb.NORM_L2: 0.5}
STEPS, QUERIES = 10, 200
NAMES = {
    "fgsm": "FGSM",
    "i_fgsm": "I-FGSM",
    "mi_fgsm": "MI-FGSM",
    "di_mi_fgsm": "DI-MI-FGSM",
    "pgd": "PGD",
    "square": "Square",
}
ALONG_GRADIENTS: dict[str, Callable[..., Awaitable[Floats]]] = {
    "fgsm": fgsm,
    "i_fgsm": i_fgsm,
    "mi_fgsm": mi_fgsm,
    "di_mi_fgsm": di_mi_fgsm,
    "pgd": pgd,
}


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

    def randoms(self) -> Randoms:
        """A generator for each image."""
        return [np.random.Generator(np.random.PCG64((self.seed + i) % 2**64)) for i in range(len(self.classes))]

    async def directions(self, xs: Floats, randoms: Randoms) -> Floats:
        """Where images `xs` have to go: gradients of what shall grow, like xs."""
        total = np.zeros_like(xs)
        for _ in range(self.draws):
            if self.chain.defences:
                cleaned, back = await self.chain.clean(rounded(xs), randoms)
                total += back(await self.source.gradients(cleaned.astype(np.float32), self.classes))
            else:
                total += await self.source.gradients(xs, self.classes)
        return total if self.targeted else -total

    async def margins(self, images: Images) -> Floats:
        """How far the model is from the goal, in logits `[N]`; below 0 = it is there."""
        logits = await self.chain.logits(images, self.seed)
        rows = np.arange(len(logits))
        own = logits[rows, self.classes]
        others = logits.copy()
        others[rows, self.classes] = -np.inf
        gap = own - others.max(1)
        return np.asarray(-gap if self.targeted else gap)

    def reached(self, logits: Floats) -> list[bool]:
        """Of each image, whether the model errs as it should."""
        return [bool(hit) for hit in (logits.argmax(1) == self.classes) == self.targeted]


@dataclass(frozen=True)
class Attack:
    """An attack with its parameters; `words` are for people.

    Args:
        run: gives attacked images, float32 of 0 to 255, for images and the goal.
        follows_gradients: or else it asks for answers alone.
    """

    words: str
    run: Callable[[Images, Goal], Awaitable[Floats]]
    follows_gradients: bool


def read_attack(method: pb.AttackMethod, limits: Limits, field: str = "method") -> Attack:
    """The attack that was asked for.

    Raises:
        InvalidArgument: none that this server knows, or a parameter is out of bounds.
    """
    kind = method.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument.field(field, f"is not set, or not known here; there are: {', '.join(NAMES)}")
    parameters, at = getattr(method, kind), f"{field}.{kind}"
    if kind == "square":
        epsilon = _epsilon(parameters, EPSILON[pb.NORM_LINF], at)
        queries = whole(parameters, "queries", QUERIES, 1, limits.attack_steps, f"{at}.queries")
        words = f"Square {_size(epsilon)}, {queries} queries"
        return Attack(words, partial(_by_answers, epsilon=RANGE * epsilon, queries=queries), follows_gradients=False)
    norm = parameters.norm or pb.NORM_LINF
    if norm not in EPSILON:
        raise InvalidArgument.field(f"{at}.norm", f"is {norm}; send one of Norm's values")
    epsilon = _epsilon(parameters, EPSILON[norm], at)
    ball = L2Ball(RANGE * epsilon) if norm == pb.NORM_L2 else LinfBall(RANGE * epsilon)
    given: dict[str, Any] = {}
    words = f"{NAMES[kind]} {'L2 ' if norm == pb.NORM_L2 else ''}{_size(epsilon)}"
    if kind != "fgsm":
        given["steps"] = whole(parameters, "steps", STEPS, 1, limits.attack_steps, f"{at}.steps")
        # Of an epsilon of 0 every step is as good.
        given["step"] = RANGE * number(parameters, "step_size", epsilon / 4 or 1, 1, f"{at}.step_size")
        words += f", {given['steps']} steps"
    if "decay" in parameters.DESCRIPTOR.fields_by_name:
        given["decay"] = number(parameters, "decay", 1, 1, f"{at}.decay")
    if kind == "di_mi_fgsm":
        given["diversity"] = number(parameters, "diversity", 0.5, 1, f"{at}.diversity")
    method_of_kind = partial(ALONG_GRADIENTS[kind], **given)
    return Attack(words, partial(_by_gradients, method=method_of_kind, ball=ball), follows_gradients=True)


def source_of(method: Attack, name: str, chain: Chain, repository: Repository, prefix: str = "") -> Classifier:
    """The model whose gradients are followed: that of this name, or the attacked one.

    Raises:
        NotFound, Unavailable, InvalidArgument: see `Classifier.find`; or it has no gradients, or takes other images.
    """
    if not name:
        if method.follows_gradients:
            chain.classifier.check_gradients("model")
        return chain.classifier
    source = Classifier.find(repository, name, chain.classifier.call, f"{prefix}gradient_of")
    chain.classifier.check_alike(source, f"{prefix}gradient_of")
    source.check_gradients(f"{prefix}gradient_of")
    return source


async def attack(method: Attack, images: Images, goal: Goal) -> Floats:
    """The attacked images, float32 of 0 to 255."""
    parts = [slice(start, start + CHUNK) for start in range(0, len(images), CHUNK)]
    return np.concatenate([await method.run(images[part], goal.part(part)) for part in parts])


async def _by_gradients(images: Images, goal: Goal, method: Callable[..., Awaitable[Floats]], ball: Ball) -> Floats:
    randoms = goal.randoms()
    return await method(images, partial(goal.directions, randoms=randoms), ball, randoms)


async def _by_answers(images: Images, goal: Goal, epsilon: float, queries: int) -> Floats:
    return await square(images, goal.margins, goal.randoms(), epsilon=epsilon, queries=queries)


def _epsilon(parameters: Any, default: float, at: str) -> float:
    value = float(parameters.epsilon) if parameters.HasField("epsilon") else default
    if not 0 <= value <= 1:
        raise InvalidArgument.field(f"{at}.epsilon", f"is {value:g}; it must be 0 to 1, as a share of the range")
    return value


def _size(epsilon: float) -> str:
    """In words: as so many of 255 values if that is a whole number."""
    steps = epsilon * RANGE
    return f"{round(steps)}/255" if abs(steps - round(steps)) < TOLERANCE else f"{epsilon:.3g}"
