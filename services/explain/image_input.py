"""Images as what is explained: their pixels on the scale of the card's exponent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from artifacts.card import ImagePreprocessing
from lectern.v1 import explain_pb2 as pb
from services.codecs.images import decode_named
from services.errors import InvalidArgument
from services.explain.methods.asking import Floats
from services.explain.network import Network, by_forward_graph, explanation_of
from services.explain.subject import Request, Subject, check_kind, read_target
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Model

BLUR = 8  # of the longer side of an image, one in so many is the blur's standard deviation


@dataclass(frozen=True)
class ImageKind:
    """An image: x is `[height, width, channels]`, 0 to 255."""

    x: Floats
    exponent: float

    @classmethod
    def of(cls, image: NDArray[np.uint8], exponent: float) -> ImageKind:
        return cls((255 * (image / 255) ** exponent).astype(np.float32), exponent)

    @property
    def pixels(self) -> tuple[int, int]:
        height, width, _ = self.x.shape
        return height, width

    @property
    def noise_scale(self) -> Floats:
        return np.float32(255) * np.ones((), np.float32)

    @property
    def image(self) -> NDArray[np.uint8]:
        """The image as it was sent, `[height, width, channels]`."""
        return np.asarray(self.encoded(self.x[None])[0])

    def baseline(self, given: int, default: int) -> Floats:
        match given or default:
            case pb.BASELINE_BLACK:
                return np.zeros_like(self.x)
            case pb.BASELINE_WHITE:
                return np.full_like(self.x, 255)
            case pb.BASELINE_MEAN:
                return np.broadcast_to(self.x.mean((0, 1)), self.x.shape).astype(np.float32)
            case pb.BASELINE_BLUR:
                blur = ImageFilter.GaussianBlur(max(self.pixels) / BLUR)
                image = self.image
                picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).filter(blur)
                return ImageKind.of(np.asarray(picture).reshape(image.shape), self.exponent).x
        raise ValueError(f"is {given}; send one of Baseline's values")

    def groups(self, cells: int) -> NDArray[np.int64]:
        side = max(self.pixels)
        rows, columns = (np.arange(n) * cells // side for n in self.pixels)
        return np.asarray(rows[:, None] * (columns[-1] + 1) + columns, np.int64)

    def windows(self, size: int, stride: int) -> list[tuple[slice, ...]]:
        # As captum's: the last window of a row or column may reach beyond the edge.
        tops, lefts = (range(0, -(-max(n - size, 0) // stride) * stride + 1, stride) for n in self.pixels)
        return [(slice(i, i + size), slice(j, j + size)) for i in tops for j in lefts]

    def spread(self, values: Floats) -> Floats:
        return values[..., None]

    def encoded(self, xs: Floats) -> NDArray[np.uint8]:
        """Inputs `[N, *x.shape]` as the graph `forward` takes them."""
        return np.asarray((255 * (xs.clip(0, 255) / 255) ** (1 / self.exponent)).round(), np.uint8)


async def read_image(
    request: Request, model: Model, preprocessing: ImagePreprocessing, call: Call, limits: Limits
) -> Subject:
    """The image and target of a request, with the model's answer.

    Raises:
        InvalidArgument: the model cannot be explained, or takes no image; or the image or the target is bad.
    """
    explanation = explanation_of(model.card)
    check_kind(request, "image", model.card)
    (image,) = await decode_named({"input.image": request.input.image}, preprocessing, limits)
    kind = ImageKind.of(image, explanation.exponent)
    network = Network(model, call, by_forward_graph(model, kind.encoded, explanation, call), explanation)
    labels = model.card.labels or (explanation.output,)
    (outputs,) = await network.outputs(kind.x[None])
    return Subject(network, kind, labels, outputs, read_target(request, labels, outputs, model.card))


def grey_image(model: Model, call: Call) -> tuple[Network, ImageKind]:
    """A model of images, and no image in particular: a grey one of its size.

    Raises:
        InvalidArgument: the model cannot be explained, or takes no images.
    """
    explanation, preprocessing = explanation_of(model.card), model.card.preprocessing
    if not isinstance(preprocessing, ImagePreprocessing):
        raise InvalidArgument.field("model", f"{model.card.name} does not take images")
    shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
    kind = ImageKind.of(np.full(shape, 128, np.uint8), explanation.exponent)
    return Network(model, call, by_forward_graph(model, kind.encoded, explanation, call), explanation), kind
