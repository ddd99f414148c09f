"""Passive defences as requests ask for them, which clean an image before a model sees it, and chains of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from artifacts import squeezing
from artifacts.card import ImagePreprocessing
from lectern.v1 import defend_pb2 as pb
from services import pools
from services.answering import find
from services.defend.classifier import Classifier
from services.defend.methods.gaussian_smoothing import gaussian_smoothing
from services.defend.methods.pixels import Floats, Images, Randoms, rounded
from services.defend.methods.resampling import Resampling
from services.defend.methods.resize_and_pad import resize_and_pad
from services.errors import InvalidArgument
from services.limits import Limits
from services.parameters import number, whole
from services.rpc import Call
from services.runtime.repository import Model, Repository

ROBUST, PURIFIER = "robust_classifier", "image_purifier"
RANDOM_DRAWS = 8
Backward = Callable[[Floats], Floats]


class Defence(Protocol):
    """One way to clean images."""

    @property
    def words(self) -> str:
        """What it is, for people."""

    @property
    def random(self) -> bool:
        """Whether it draws."""

    async def clean(self, images: Images, randoms: Randoms) -> tuple[Images, Backward]:
        """Cleaned images, drawn for each by its own generator, and how gradients come back through it: exactly if it is
        linear, as they are if not (BPDA, Athalye et al., "Obfuscated Gradients Give a False Sense of Security", 2018).
        """


@dataclass(frozen=True)
class Squeezing:
    """What is neither linear nor random: `function` of images."""

    words: str
    function: Callable[[Images], Images]
    random = False

    async def clean(self, images: Images, randoms: Randoms) -> tuple[Images, Backward]:
        function = self.function
        return await pools.codecs.run(function, images), _unchanged


@dataclass(frozen=True)
class Linear:
    """What is linear but for rounding; `resampling` is drawn for images of a height and width."""

    words: str
    resampling: Callable[[int, int, Randoms], Resampling]
    random: bool

    async def clean(self, images: Images, randoms: Randoms) -> tuple[Images, Backward]:
        _, height, width, _ = images.shape
        drawn = self.resampling(height, width, randoms)
        return rounded(drawn.apply(images.astype(np.float32))), drawn.adjoint


@dataclass(frozen=True)
class Purifier:
    """A model that rebuilds images."""

    words: str
    model: Model
    call: Call
    random = False

    async def clean(self, images: Images, randoms: Randoms) -> tuple[Images, Backward]:
        graph = self.model.graphs["forward"]
        inputs = {graph.config.inputs[0].name: images}
        outputs = await graph.infer(inputs, self.call.deadline, self.call.priority)
        return rounded(outputs[graph.config.outputs[0].name]), _unchanged


@dataclass(frozen=True)
class Chain:
    """Defences in their order, and the model behind them: the one that is attacked, or a robust one in its place."""

    defences: tuple[Defence, ...]
    classifier: Classifier
    words: str

    @property
    def draws(self) -> int:
        """How many an attack that knows the defences averages over, unless the request says."""
        return RANDOM_DRAWS if any(defence.random for defence in self.defences) else 1

    async def clean(self, images: Images, randoms: Randoms) -> tuple[Images, Backward]:
        """As of `Defence`."""
        backwards = []
        for defence in self.defences:
            images, backward = await defence.clean(images, randoms)
            backwards.append(backward)

        def back(gradients: Floats) -> Floats:
            for one in reversed(backwards):
                gradients = one(gradients)
            return gradients

        return images, back

    async def logits(self, images: Images, seed: int) -> Floats:
        """What the model behind the defences says of images."""
        cleaned, _ = await self.clean(images, defence_randoms(seed, len(images)))
        return await self.classifier.logits(cleaned)


def defence_randoms(seed: int, count: int) -> Randoms:
    """A generator for each image; not the one that an attack on it draws from."""
    return [np.random.default_rng(((seed + i) % 2**64, 1)) for i in range(count)]


def read_chain(
    requested: Sequence[pb.Defence],
    classifier: Classifier,
    repository: Repository,
    limits: Limits,
    field: str = "defences",
) -> Chain:
    """The chain of a request's defences.

    Raises:
        InvalidArgument: a defence or one of its parameters is not known, or does not fit the model.
        NotFound, Unavailable: a model that it needs.
    """
    if len(requested) > limits.defences:
        raise InvalidArgument.field(field, f"has {len(requested)}; the most in one request are {limits.defences}")
    defences: list[Defence] = []
    words, behind = [], classifier
    for i, one in enumerate(requested):
        at = f"{field}[{i}]"
        if one.WhichOneof("kind") == "robust_model":
            name = one.robust_model.model or ROBUST
            behind = Classifier.find(repository, name, classifier.call, f"{at}.robust_model.model")
            classifier.check_alike(behind, f"{at}.robust_model.model")
            words.append(name)
        else:
            defences.append(_read(one, classifier, repository, at))
            words.append(defences[-1].words)
    return Chain(tuple(defences), behind, " + ".join(words) or "none")


def _read(requested: pb.Defence, classifier: Classifier, repository: Repository, at: str) -> Defence:
    kind = requested.WhichOneof("kind")
    match kind:
        case "gaussian":
            sigma = number(requested.gaussian, "sigma", 1, 8, f"{at}.gaussian.sigma")
            return Linear(f"Gaussian {sigma:g}", lambda h, w, _: gaussian_smoothing(h, w, sigma), random=False)
        case "median":
            window = whole(requested.median, "window", 3, 2, 9, f"{at}.median.window")
            return Squeezing(f"median {window}", lambda images: squeezing.median(images, window))
        case "jpeg":
            quality = whole(requested.jpeg, "quality", 50, 1, 95, f"{at}.jpeg.quality")
            return Squeezing(f"JPEG {quality}", lambda images: squeezing.jpeg(images, quality))
        case "bit_depth":
            bits = whole(requested.bit_depth, "bits", 4, 1, 8, f"{at}.bit_depth.bits")
            return Squeezing(f"{bits} bits", lambda images: squeezing.bit_depth(images, bits))
        case "resize_and_pad":
            least = number(requested.resize_and_pad, "least", 0.875, 1, f"{at}.resize_and_pad.least")
            if least < 0.5:
                raise InvalidArgument.field(f"{at}.resize_and_pad.least", f"is {least:g}; it must be 0.5 to 1")
            return Linear("resize and pad", lambda h, w, randoms: resize_and_pad(h, w, least, randoms), random=True)
        case "autoencoder":
            return _purifier(requested.autoencoder, classifier, repository, f"{at}.autoencoder.model")
    known = ", ".join(pb.Defence.DESCRIPTOR.fields_by_name)
    raise InvalidArgument.field(at, f"is not set, or not known here; there are: {known}")


def _purifier(requested: pb.Autoencoder, classifier: Classifier, repository: Repository, field: str) -> Purifier:
    model, rebuilt = find(repository, requested.model or PURIFIER, 0, ImagePreprocessing, "defend", field=field)
    if model.card.labels:
        raise InvalidArgument.field(field, f"{model.card.name} does not rebuild images")
    if (rebuilt.height, rebuilt.width, rebuilt.channels) != classifier.shape:
        raise InvalidArgument.field(field, f"{model.card.name} takes other images than {classifier.card.name}")
    return Purifier("autoencoder", model, classifier.call)


def _unchanged(gradients: Floats) -> Floats:
    return gradients
