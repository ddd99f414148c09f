"""Encoded images to uint8 arrays and back."""

from __future__ import annotations

import asyncio
import io
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

from lectern.card import ImagePreprocessing
from lectern.kinds import kind_of
from services import budget, pools
from services.codecs.picture_files import TooManyPartsError, endings, pixels_only
from services.codecs.timing import decoded
from services.errors import InvalidArgument
from services.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP")
# What is decoded on the event loop takes less than 2 ms together.
INLINE_PIXELS = 64 * 64
INLINE_BYTES = 32 * 1024
INLINE_IMAGES = 4
IMAGES_TOGETHER = 16  # in one item of the codec pool
# Pictures are averaged to this many times the size that is needed, before they are resampled to it.
OVERSAMPLING = 4
STRIP_ROWS = 16
REDUCIBLE = ("L", "LA", "RGB", "RGBA")

# A JPEG without its end marker is decoded four times, to see that nothing else is missing.
MOST_UNENDED_PIXELS = 16_000_000
# What EXIF's orientation asks for; 1 is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Our own limit is lower than Pillow's and refuses with a clear error, so its warning says nothing new.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Picture:
    """A file whose header was read: its pixels, still encoded, and their orientation as EXIF numbers it."""

    content: bytes
    image: Image.Image
    orientation: int


async def decode_images(
    encoded: Sequence[bytes], preprocessing: ImagePreprocessing, limits: Limits, field: str = "images"
) -> NDArray[np.uint8]:
    """PNG, JPEG or WebP files as one array uint8 `[N, height, width, channels]`, sized as the card says.

    EXIF orientation is applied, transparency is laid on white, 16-bit values are scaled to 8 bits, and of an animation
    the first frame is taken. Other metadata is not read, so that nothing in it can spoil sound pixels.

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
    if len(encoded) <= INLINE_IMAGES and sum(map(len, encoded.values())) <= INLINE_BYTES:
        pictures = {name: open_image(data, limits, name) for name, data in encoded.items()}
        if sum(picture.image.width * picture.image.height for picture in pictures.values()) <= INLINE_PIXELS:
            arrays = [to_array(picture, preprocessing, name) for name, picture in pictures.items()]
            decoded("image", started)
            return np.stack(arrays)
    names = list(encoded)
    groups = [names[i : i + IMAGES_TOGETHER] for i in range(0, len(names), IMAGES_TOGETHER)]
    tasks = [
        asyncio.ensure_future(_decode_group({n: encoded[n] for n in group}, preprocessing, limits)) for group in groups
    ]
    try:
        parts = await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # the first failure, or a caller that left, ends the others
            task.cancel()
    decoded("image", started)
    return np.stack([array for part in parts for array in part])


async def _decode_group(
    encoded: Mapping[str, bytes], preprocessing: ImagePreprocessing, limits: Limits
) -> list[NDArray[np.uint8]]:
    """The arrays of a few files, decoded on the codec pool: headers first, then the pixels when there is memory."""

    def headers() -> list[Picture]:
        return [open_image(data, limits, name) for name, data in encoded.items()]

    def pixels() -> list[NDArray[np.uint8]]:
        return [to_array(picture, preprocessing, name) for name, picture in zip(encoded, pictures, strict=True)]

    pictures = await pools.codecs.run(headers)
    needed = max(map(_decoding_bytes, pictures))  # one after the other
    async with budget.decoding.hold(needed, next(iter(encoded))):
        return await pools.codecs.run(pixels)


def open_image(data: bytes, limits: Limits, field: str) -> Picture:
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
        content, orientation = pixels_only(data)
        image = _opened(content)
    except TooManyPartsError as error:
        raise InvalidArgument.field(field, str(error)) from None
    except UnidentifiedImageError:
        raise InvalidArgument.field(field, _not_an_image(data)) from None
    except Image.DecompressionBombError:
        raise InvalidArgument.field(field, f"is too large when decoded; {too_many}") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever a malformed file makes them raise
        raise InvalidArgument.field(field, f"cannot be read as an image: {error}") from None
    if image.width * image.height > limits.image_pixels:
        raise InvalidArgument.field(field, f"is {image.width} x {image.height} pixels when decoded; {too_many}")
    return Picture(content, image, orientation)


def to_array(picture: Picture, preprocessing: ImagePreprocessing, field: str) -> NDArray[np.uint8]:
    """Decode, orient, convert and resize to uint8 `[height, width, channels]`.

    Raises:
        InvalidArgument: the file is truncated or corrupt.
    """
    size = (preprocessing.width, preprocessing.height)
    mode = "RGB" if preprocessing.channels == 3 else "L"
    try:
        image = _reduced(_decoded(picture, mode, size), size)
        if picture.orientation in TURNS:
            image = image.transpose(TURNS[picture.orientation])
        image = _to_mode(image, mode)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever a malformed file makes them raise
        raise InvalidArgument.field(field, f"is truncated or corrupt: {error}") from None
    if image.size != size:
        image = image.resize(size, Image.Resampling[preprocessing.resample.upper()])
    array = np.asarray(image)
    return array if array.ndim == 3 else array[:, :, None]


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """A PNG file of uint8 `[height, width, 3 or 1]`."""
    buffer = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(buffer, "PNG")
    return buffer.getvalue()


def contact_sheet(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images of one size, row by row in a grid as nearly square as can be; what stays empty is white."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width, channels = images[0].shape
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[: len(images)] = images
    grid = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=FORMATS)


def _decoded(picture: Picture, mode: str, size: tuple[int, int]) -> Image.Image:
    """The pixels of a file; a JPEG much larger than needed is decoded at a fraction of its size.

    Raises:
        OSError: they are not all there.
    """
    image = picture.image
    pixels = image.width * image.height
    image.draft(mode, size)
    try:
        image.load()
    except OSError:
        if image.format != "JPEG" or pixels > MOST_UNENDED_PIXELS:
            raise
        candidates = endings(picture.content)
        # In full: a fraction may leave out what is missing.
        if not candidates or not _alike(candidates):
            raise
        image = _opened(candidates[0])
        image.draft(mode, size)
    return image


def _decoding_bytes(picture: Picture) -> int:
    """Memory that decoding a file takes at its peak."""
    image = picture.image
    bands = len(image.getbands())
    a_pixel = bands
    if image.mode not in REDUCIBLE:
        a_pixel += 16  # wide integers, and colours in place of a palette's numbers
    if image.format == "WEBP":
        a_pixel += 2 * bands  # libwebp's own picture, and its bytes
    if image.info.get("progressive"):
        a_pixel += 2 * bands  # coefficients of all scans
    return image.width * image.height * a_pixel


def _reduced(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture that is many times larger than needed, averaged to a few times that size, strip by strip: what follows
    makes copies of it."""
    factor = min(image.width // size[0], image.height // size[1]) // OVERSAMPLING
    if factor < 2 or image.mode not in REDUCIBLE:
        return image
    reduced = Image.new(image.mode, (-(-image.width // factor), -(-image.height // factor)))
    rows = factor * STRIP_ROWS
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        reduced.paste(strip.reduce(factor), (0, top // factor))
    return reduced


def _alike(files: Sequence[bytes]) -> bool:
    first, *others = map(_opened, files)
    return not any(ImageChops.difference(first, other).getbbox() for other in others)


def _not_an_image(data: bytes) -> str:
    kind = kind_of(data)
    formats = ", ".join(FORMATS)
    if kind.name in ("a PNG picture", "a JPEG picture", "a WebP picture"):
        return f"cannot be read as an image: it begins as {kind.name} does, and its header is cut or corrupt"
    return f"is not a {formats} image; it looks like {kind.name}"


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I"):  # 16-bit greyscale: Pillow's own conversion would clip it to white
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
