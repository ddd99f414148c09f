"""Passive defences, which clean an image before a model sees it, and chains of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lectern import squeezing
from lectern.card import ImagePreprocessing
from lectern.v1 import defend_pb2 as pb
from services import pools
from services.defend.classifier import Classifier, Floats, Images
from services.defend.resampling import Resampling, blur, shrunk
from services.errors import InvalidArgument
from services.limits import Limits
from services.parameters import number, whole
from services.rpc import Call
from services.runtime.repository import Model, Repository

ROBUST, PURIFIER = "robust_classifier", "image_purifier"
RANDOM_DRAWS = 8
Randoms = list[np.random.Generator]
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
        return await pools.codecs.run(function, images), _as_they_are


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
        found = await graph.infer(inputs, self.call.deadline, self.call.priority)
        return rounded(found[graph.config.outputs[0].name]), _as_they_are


@dataclass(frozen=True)
class Chain:
    """Defences in their order, and the model behind them: the one asked about, or a robust one in its place."""

    defences: tuple[Defence, ...]
    classifier: Classifier
    words: str

    @property
    def draws(self) -> int:
        """How many an attack that knows the defences averages over, unless told otherwise."""
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


def rounded(xs: Floats) -> Images:
    """Values as pixels have them."""
    pixels: Images = np.rint(xs.clip(0, 255)).astype(np.uint8)
    return pixels


def read_chain(
    asked: Sequence[pb.Defence], classifier: Classifier, repository: Repository, limits: Limits, field: str = "defences"
) -> Chain:
    """The chain that was asked for.

    Raises:
        InvalidArgument: a defence or one of its parameters is not known, or does not fit the model.
        NotFound, Unavailable: a model that it needs.
    """
    if len(asked) > limits.defences:
        raise InvalidArgument.field(field, f"has {len(asked)}; the most in one request are {limits.defences}")
    defences: list[Defence] = []
    words, behind = [], classifier
    for i, one in enumerate(asked):
        at = f"{field}[{i}]"
        if one.WhichOneof("kind") == "robust_model":
            name = one.robust_model.model or ROBUST
            behind = Classifier.find(repository, name, 0, classifier.call, f"{at}.robust_model.model")
            classifier.check_alike(behind, f"{at}.robust_model.model")
            words.append(name)
        else:
            defences.append(_read(one, classifier, repository, at))
            words.append(defences[-1].words)
    return Chain(tuple(defences), behind, " + ".join(words) or "none")


def _read(asked: pb.Defence, classifier: Classifier, repository: Repository, at: str) -> Defence:
    kind = asked.WhichOneof("kind")
    match kind:
        case "gaussian":
            sigma = number(asked.gaussian, "sigma", 1, 8, f"{at}.gaussian.sigma")
            return Linear(f"Gaussian {sigma:g}", lambda h, w, _: blur(h, w, sigma), random=False)
        case "median":
            window = whole(asked.median, "window", 3, 2, 9, f"{at}.median.window")
            return Squeezing(f"median {window}", lambda images: squeezing.median(images, window))
        case "jpeg":
            quality = whole(asked.jpeg, "quality", 50, 1, 95, f"{at}.jpeg.quality")
            return Squeezing(f"JPEG {quality}", lambda images: squeezing.jpeg(images, quality))
        case "bit_depth":
            bits = whole(asked.bit_depth, "bits", 4, 1, 8, f"{at}.bit_depth.bits")
            return Squeezing(f"{bits} bits", lambda images: squeezing.bit_depth(images, bits))
        case "resize_and_pad":
            least = number(asked.resize_and_pad, "least", 0.875, 1, f"{at}.resize_and_pad.least")
            if least < 0.5:
                raise InvalidArgument.field(f"{at}.resize_and_pad.least", f"is {least:g}; it must be 0.5 to 1")
            return Linear("resize and pad", lambda h, w, randoms: shrunk(h, w, least, randoms), random=True)
        case "autoencoder":
            return _purifier(asked.autoencoder, classifier, repository, f"{at}.autoencoder.model")
    known = ", ".join(pb.Defence.DESCRIPTOR.fields_by_name)
    raise InvalidArgument.field(at, f"is not set, or not known here; there are: {known}")


def _purifier(asked: pb.Autoencoder, classifier: Classifier, repository: Repository, field: str) -> Purifier:
    model = repository.find(asked.model or PURIFIER, 0, "defend")
    takes, wanted = model.card.preprocessing, classifier.preprocessing
    if not isinstance(takes, ImagePreprocessing) or model.card.labels:
        raise InvalidArgument.field(field, f"{model.card.name} does not rebuild images")
    if (takes.height, takes.width, takes.channels) != (wanted.height, wanted.width, wanted.channels):
        raise InvalidArgument.field(field, f"{model.card.name} takes other images than {classifier.card.name}")
    return Purifier("autoencoder", model, classifier.call)


def _as_they_are(gradients: Floats) -> Floats:
    return gradients
