"""Encoded images to uint8 arrays."""

from __future__ import annotations

import asyncio
import io
import time
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lectern.card import ImagePreprocessing
from services.codecs.timing import decoded
from services.errors import InvalidArgument
from services.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP")
# Decoding more pixels than this takes long enough to delay other callers, so it leaves the event loop.
INLINE_PIXELS = 128 * 128

# Our own limit is lower than Pillow's and refuses with a clear error, so its warning says nothing new.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


async def decode_images(
    encoded: Sequence[bytes], preprocessing: ImagePreprocessing, limits: Limits, field: str = "images"
) -> NDArray[np.uint8]:
    """PNG, JPEG or WebP files as one array uint8 `[N, height, width, channels]`, sized as the card says.

    EXIF orientation is applied, transparency is laid on white, 16-bit values are scaled to 8 bits, and of an animation
    the first frame is taken.

    Raises:
        InvalidArgument: none or too many images, or one that is empty, too large, or not an image; names the field.
    """
    if not encoded:
        raise InvalidArgument.field(field, "is empty; send at least one image")
    if len(encoded) > limits.images:
        raise InvalidArgument.field(field, f"has {len(encoded)} images; the most in one request is {limits.images}")
    return await decode_named({f"{field}[{i}]": data for i, data in enumerate(encoded)}, preprocessing, limits)


async def decode_named(
    encoded: Mapping[str, bytes], preprocessing: ImagePreprocessing, limits: Limits
) -> NDArray[np.uint8]:
    """As `decode_images`, for files by the names of their fields; the caller has bounded their number.

    Raises:
        InvalidArgument: one is empty, too large, or not an image; names its field.
    """
    started = time.monotonic()
    arrays = []
    for name, data in encoded.items():
        image = open_image(data, limits, name)
        if image.width * image.height <= INLINE_PIXELS:
            arrays.append(to_array(image, preprocessing, name))
        else:
            arrays.append(await asyncio.to_thread(to_array, image, preprocessing, name))
    decoded("image", started)
    return np.stack(arrays)


def open_image(data: bytes, limits: Limits, field: str) -> Image.Image:
    """Read the header only; pixels stay encoded.

    Raises:
        InvalidArgument: see `decode_images`.
    """
    if not data:
        raise InvalidArgument.field(field, "has no bytes")
    if len(data) > limits.image_bytes:
        raise InvalidArgument.field(field, f"has {len(data):,} bytes; the most is {limits.image_bytes:,}")
    too_many = f"the most pixels are {limits.image_pixels:,}"
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise InvalidArgument.field(field, f"is not a {', '.join(FORMATS)} image") from None
    except Image.DecompressionBombError:
        raise InvalidArgument.field(field, f"is too large when decoded; {too_many}") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever a malformed file makes them raise
        raise InvalidArgument.field(field, f"cannot be read as an image: {error}") from None
    if image.width * image.height > limits.image_pixels:
        raise InvalidArgument.field(field, f"is {image.width} x {image.height} pixels when decoded; {too_many}")
    return image


def to_array(image: Image.Image, preprocessing: ImagePreprocessing, field: str) -> NDArray[np.uint8]:
    """Decode, orient, convert and resize to uint8 `[height, width, channels]`.

    Raises:
        InvalidArgument: the file is truncated or corrupt.
    """
    size = (preprocessing.width, preprocessing.height)
    mode = "RGB" if preprocessing.channels == 3 else "L"
    try:
        image.draft(mode, size)  # a JPEG much larger than needed is decoded at a fraction of its size
        image = _to_mode(ImageOps.exif_transpose(image), mode)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever a malformed file makes them raise
        raise InvalidArgument.field(field, f"is truncated or corrupt: {error}") from None
    if image.size != size:
        image = image.resize(size, Image.Resampling[preprocessing.resample.upper()])
    array = np.asarray(image)
    return array if array.ndim == 3 else array[:, :, None]


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        image.load()
        return image
    if image.mode.startswith("I"):  # 16-bit greyscale: Pillow's own conversion would clip it to white
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
