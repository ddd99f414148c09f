"""Decodes images to uint8 arrays, and encodes arrays as PNG off the event loop."""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

from artifacts.card import ImagePreprocessing
from lectern.kinds import kind_of
from services import budget, pools
from services.codecs.picture_files import TooManyPartsError, endings, pixels_only
from services.codecs.png import encode_png
from services.codecs.timing import decoded
from services.errors import InvalidArgument
from services.limits import Limits
from services.tasks import gathered

FORMATS = ("PNG", "JPEG", "WEBP")
# Up to these limits images are decoded on the event loop, in less than 2 ms in total.
INLINE_PIXELS = 64 * 64
INLINE_BYTES = 32 * 1024
INLINE_IMAGES = 4
IMAGES_TOGETHER = 16  # images in one item of the codec pool
PIXELS_TOGETHER = 1_000_000  # which take some 10 ms; larger pictures spread over its threads
# Large pictures are first averaged to this many times the target size, then resampled to it.
OVERSAMPLING = 4
STRIP_ROWS = 16
REDUCIBLE = ("L", "LA", "RGB", "RGBA")

# A JPEG without its end marker is decoded four times, to check that nothing else is missing.
MOST_UNENDED_PIXELS = 16_000_000
# The transposition for each EXIF orientation; 1 is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Our own limit is lower than Pillow's and gives a clear error, so Pillow's warning adds nothing.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Picture:
    """A file whose header has been read: its pixels, still encoded, and their EXIF orientation."""

    content: bytes
    image: Image.Image
    orientation: int


async def decode_images(
    encoded: Sequence[bytes], preprocessing: ImagePreprocessing, limits: Limits, field: str = "images"
) -> NDArray[np.uint8]:
    """Decode PNG, JPEG or WebP files to one array uint8 `[N, height, width, channels]`, sized as the card says.

    The EXIF orientation is applied, transparent pixels are laid on white, 16-bit values are scaled to 8 bits, and an
    animation gives its first frame. Other metadata is not read, so that broken metadata cannot spoil an intact picture.

    Raises:
        InvalidArgument: there are no images or too many, or one is empty, too large or not an image; names the field.
    """
    if not encoded:
        raise InvalidArgument.field(field, "is empty; send at least one image")
    if len(encoded) > limits.images:
        raise InvalidArgument.field(field, f"has {len(encoded)} images; the most in one request is {limits.images}")
    return await decode_named({f"{field}[{i}]": data for i, data in enumerate(encoded)}, preprocessing, limits)


async def decode_named(
    encoded: Mapping[str, bytes], preprocessing: ImagePreprocessing, limits: Limits
) -> NDArray[np.uint8]:
    """As `decode_images`, for files given by the names of their fields; the caller has checked their number.

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
    parts = await gathered(_decode_group({n: encoded[n] for n in group}, preprocessing, limits) for group in groups)
    decoded("image", started)
    return np.stack([array for part in parts for array in part])


async def _decode_group(
    encoded: Mapping[str, bytes], preprocessing: ImagePreprocessing, limits: Limits
) -> list[NDArray[np.uint8]]:
    """Decode a few files on the codec pool: the headers first, then the pixels, where there are many of them in several
    items at once."""

    def headers() -> dict[str, Picture]:
        return {name: open_image(data, limits, name) for name, data in encoded.items()}

    pictures = await pools.codecs.run(headers)
    parts = await gathered(_decode_pixels(share, preprocessing) for share in _shares(pictures))
    return [array for part in parts for array in part]


def _shares(pictures: Mapping[str, Picture]) -> list[dict[str, Picture]]:
    """The pictures in their order, as many together as have few pixels in all."""
    shares: list[dict[str, Picture]] = []
    room = 0
    for name, picture in pictures.items():
        pixels = picture.image.width * picture.image.height
        if pixels > room:
            shares.append({})
            room = PIXELS_TOGETHER
        shares[-1][name] = picture
        room -= pixels
    return shares


async def _decode_pixels(pictures: Mapping[str, Picture], preprocessing: ImagePreprocessing) -> list[NDArray[np.uint8]]:
    """Decode pictures one after the other in one item of the codec pool, once there is memory for the largest."""

    def pixels() -> list[NDArray[np.uint8]]:
        return [to_array(picture, preprocessing, name) for name, picture in pictures.items()]

    async with budget.decoding.hold(max(map(_decoding_bytes, pictures.values())), next(iter(pictures))):
        return await pools.codecs.run(pixels)


def open_image(data: bytes, limits: Limits, field: str) -> Picture:
    """Read only the header; the pixels stay encoded.

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


async def encoded(image: NDArray[np.uint8]) -> bytes:
    """As `encode_png`, but a large image is encoded off the event loop."""
    is_small = image.shape[0] * image.shape[1] <= INLINE_PIXELS
    return await pools.inline_or_codecs(is_small, encode_png, image)


def contact_sheet(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Arrange images of one size row by row in a grid that is nearly square; empty cells are white."""
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
    """Decode the pixels of a file; a JPEG much larger than needed is decoded at a fraction of its size.

    Raises:
        OSError: some pixels are missing.
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
        # At full size: decoding at a fraction may skip the missing part.
        if not candidates or not _alike(candidates):
            raise
        image = _opened(candidates[0])
        image.draft(mode, size)
    return image


def _decoding_bytes(picture: Picture) -> int:
    """Peak memory of decoding a file, in bytes."""
    image = picture.image
    bands = len(image.getbands())
    pixel_bytes = bands
    if image.mode not in REDUCIBLE:
        pixel_bytes += 16  # wide integers, and colours instead of palette indices
    if image.format == "WEBP":
        pixel_bytes += 2 * bands  # libwebp's own picture, and its bytes
    if image.info.get("progressive"):
        pixel_bytes += 2 * bands  # coefficients of all scans
    return image.width * image.height * pixel_bytes


def _reduced(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Average a picture that is many times larger than needed to a few times that size, strip by strip, since the next
    steps copy it."""
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
        return f"cannot be read as an image: it begins like {kind.name}, but its header is truncated or corrupt"
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
