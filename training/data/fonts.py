"""Kana and kanji drawn by Debian's free Japanese and Chinese fonts: a character is a class, a font a writer.

Test characters are seen in no other split, and so are the test fonts; the same holds for validation. A split is every
drawing of its characters by its fonts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from artifacts.card import DataSource
from training.data.fetch import Debian

SIZE, EM = 28, 24
TEST_CHARACTERS, VALIDATION_CHARACTERS = 600, 200
KANA = tuple(chr(c) for c in (*range(0x3041, 0x3094), *range(0x30A1, 0x30F5)))
# Level 1 of the standard JIS X 0208, the 2,965 kanji in daily use: rows 16 to 47, the last with 51.
KANJI = tuple(
    bytes([0xA0 + row, 0xA0 + column]).decode("euc_jp")
    for row in range(16, 48)
    for column in range(1, 95)
    if row < 47 or column <= 51
)
MISSING = chr(0x10FFFF)  # no font has it, so drawing it shows what a font draws for a character it lacks

OFL = "OFL-1.1"
PUBLIC_DOMAIN = "public domain"


@dataclass(frozen=True)
class Package:
    """A Debian package and the font files of it that are drawn."""

    source: Debian
    files: tuple[str, ...]


def _package(name: str, version: str, sha256: str, licence: str, *files: str) -> Package:
    return Package(Debian(f"fonts-{name}", version, sha256, licence), files)


TRAIN = (
    _package(
        "aoyagi-kouzan-t",
        "20160404-6",
        "6e961f85ca7cd69e9357666db55f3409bea3619abc123cb3a168823e55a2a90d",
        PUBLIC_DOMAIN,
        "AoyagiKouzanT.ttf",
    ),
    _package(
        "aoyagi-soseki",
        "20070207-17",
        "d5d32b6d26155a5731c1a766d0e66ccd63778c5eebc955cf868a63b86c269585",
        PUBLIC_DOMAIN,
        "aoyagi-soseki.ttf",
    ),
    _package(
        "dotgothic16",
        "1.000-20210120-2",
        "970fd4b56295b515788dfea8eb442e4fcffcdb57b03e80ffbcb2775f7b153dde",
        OFL,
        "DotGothic16-Regular.ttf",
    ),
    _package(
        "ipaexfont-mincho",
        "00401-5",
        "1165917e97744c542bc832fe4b46fc0d55b446543da6e6773ecc5d036162bccd",
        "IPA-1.0",
        "ipaexm.ttf",
    ),
    _package(
        "kanjistrokeorders",
        "4.003~dfsg-1",
        "e90f1f37f84c4741f1cba873fe0df000c3b2c9ad66e9b0a757096f73c8883045",
        "BSD-3-Clause",
        "KanjiStrokeOrders_v4.003.ttf",
    ),
    _package(
        "kouzan-mouhitsu",
        "20170411-3",
        "924536ceff9359b99996e56cd24633df67d696a343ba46f9e3106e8cee228dbe",
        PUBLIC_DOMAIN,
        "kouzan-mouhitsu.ttf",
        "kouzan-mouhitsu-gyosho.ttf",
        "KouzanBrushFontSousyo.ttf",
    ),
    _package(
        "konatu", "20121218-11", "72163bf8300a59c53438d510c564eb4c35439e6ac56bda2f5cc04052c9850a98", "MIT", "Konatu.ttf"
    ),
    _package(
        "mona",
        "1:2.90-1.1",
        "c58ceae953dd26c2470b50a2b85dc3add8f64bb4e5092d3fcd02b1321817e2d6",
        PUBLIC_DOMAIN,
        "mona.ttf",
    ),
    _package(
        "oradano-mincho-gsrr",
        "0.2018-3",
        "4394a54a57f99539d4d2de7aef8a71133ab3f65948ef71cd2fcec9e9fc652e3f",
        "free for any purpose (Oradano Mincho)",
        "OradanoGSRR.ttf",
    ),
    _package(
        "rocknroll",
        "1.000-20210120-2",
        "4993542455f142a75ecd1838d769986993d2f56abd2cd79b189841079b1bbffe",
        OFL,
        "RocknRollOne-Regular.ttf",
    ),
    _package(
        "sawarabi-gothic",
        "20161015-4",
        "2fe2add38a94ba26a86f18727583821201f8f46691ebb1c01e85b9f2b236cb96",
        "CC-BY-3.0",
        "sawarabi-gothic-medium.ttf",
    ),
    _package(
        "sawarabi-mincho",
        "20220815-1",
        "a63cca0c7da5d6de86824060c79ee4628beea54f701a8f49196d73337d01d5e7",
        OFL,
        "sawarabi-mincho-medium.ttf",
    ),
    _package(
        "stick",
        "1.000-20210120-2",
        "ddc9236a7e4a3a6d029178d208093821510e61d7658fd3e1b716485a97df90f1",
        OFL,
        "Stick-Regular.ttf",
    ),
    _package(
        "vlgothic",
        "20220612-1",
        "81b0a42456747e7ec2f801028b254c33f8c720a99e15140c23f0861329687448",
        "M+ and Sazanami (free) and BSD-3-Clause",
        "VL-Gothic-Regular.ttf",
    ),
    _package(
        "wqy-microhei",
        "0.2.0-beta-3.1",
        "239163df984eea5c9da3b551aee374936222cdbd67f1a1be3cdcf3d76143ad66",
        "Apache-2.0",
        "wqy-microhei.ttc",
    ),
    _package(
        "yozvox-yozfont-antique",
        "14.04-2",
        "f3889c30d9f145f99d19e90ec35037657bbfba110df5130d8f8714cdeb7ed62f",
        OFL,
        "YOzRAF.ttf",
        "YOzBAF.ttf",
    ),
)
VALIDATION = (
    _package(
        "dejima-mincho",
        "227-16",
        "c86e6a7e9e54708ea9c0daa9ca321746890ab6d7c08493de65f3b90d9fa9100d",
        "MIT",
        "dejima-mincho-r227.ttf",
    ),
    _package("seto", "6.20-8", "1ce0b6124d635036d64462d7f0bece68d79608713a51d0664d4aa03da882fe2c", OFL, "setofont.ttf"),
    _package(
        "yusei-magic",
        "1.000-20210130-2",
        "4030d34292e317ecc9dc10a68ae309a8c27ec93f256c058d248017b5051beede",
        OFL,
        "YuseiMagic-Regular.ttf",
    ),
)
# One of each style, and no other design of theirs in training: brush, pen, Mincho, rounded Gothic, display.
TEST = (
    _package(
        "arphic-ukai",
        "0.2.20080216.2-5",
        "b9db73184895b067f7911f9adbf3b137df99c2d4ec5425b4ad779a9834b7110b",
        "Arphic Public License",
        "ukai.ttc",
    ),
    _package(
        "kiloji",
        "1:2.1.0-25",
        "d80100f41da216751b3d80a27dd573d12a5cde02d883d2867d866e6895527c6e",
        "BSD-3-Clause",
        "kiloji.ttf",
    ),
    _package(
        "morisawa-bizud-mincho",
        "1.05-2",
        "5485a86859483ffaa7d668ad024c6c088187d34e67cbf5faa9aed882bf45b43a",
        OFL,
        "BIZUDMincho-Regular.ttf",
    ),
    _package(
        "motoya-l-maruberi",
        "1.01-5",
        "22af24c8dd84ace4709b4a8e899f81e8d290c0c36c0f43c49af2c185c9988c31",
        "Apache-2.0",
        "MTLmr3m.ttf",
    ),
    _package(
        "reggae",
        "1.000-20210120-2",
        "8fa9711914c8687397d795384b4a72bee33f22dfba8aed2ed84a5c3bf2b69f4f",
        OFL,
        "ReggaeOne-Regular.ttf",
    ),
)


@dataclass(frozen=True)
class Glyphs:
    """Drawings: images uint8 [N, 28, 28] with ink 255 on 0, and for each the numbers of its character and writer."""

    images: NDArray[np.uint8]
    characters: NDArray[np.int64]
    writers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.characters)


@dataclass(frozen=True)
class Fonts:
    train: Glyphs
    validation: Glyphs
    test: Glyphs


def load(track: Callable[[Iterable[Path], str, int], Iterable[Path]]) -> Fonts:
    """Draw every split; the fonts are fetched on first use (130 MB).

    Args:
        track: wraps (items, description, count) to show progress.
    """
    test, validation, train = split_characters()
    return Fonts(draw(TRAIN, train, track), draw(VALIDATION, validation, track), draw(TEST, test, track))


def load_test(track: Callable[[Iterable[Path], str, int], Iterable[Path]]) -> Glyphs:
    """The test split alone."""
    return draw(TEST, split_characters()[0], track)


def split_characters() -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Characters of the test, validation and training split. Kana are for training only: Omniglot has them too."""
    kanji = sorted(KANJI, key=lambda c: hashlib.sha1(c.encode()).digest())  # noqa: S324 - a fixed shuffle
    first, second = TEST_CHARACTERS, TEST_CHARACTERS + VALIDATION_CHARACTERS
    return tuple(kanji[:first]), tuple(kanji[first:second]), (*KANA, *kanji[second:])


def draw(
    packages: Iterable[Package],
    characters: tuple[str, ...],
    track: Callable[[Iterable[Path], str, int], Iterable[Path]],
) -> Glyphs:
    """Every character by every font that has it; characters and writers are numbered in the order given."""
    files = [next(p.source.fetch().rglob(name)) for p in packages for name in p.files]
    images, labels, writers = [], [], []
    for writer, file in enumerate(track(files, "draw fonts", len(files))):
        font = ImageFont.truetype(file, EM)
        missing = bytes(font.getmask(MISSING))
        for label, character in enumerate(characters):
            mask = bytes(font.getmask(character))
            if any(mask) and mask != missing:
                images.append(_centred(font, character))
                labels.append(label)
                writers.append(writer)
    return Glyphs(np.stack(images), np.array(labels), np.array(writers))


def card_entries(data: Fonts) -> tuple[DataSource, ...]:
    """What a card says about each package."""
    entries = []
    for split, packages, glyphs in (
        ("train", TRAIN, data.train),
        ("validation", VALIDATION, data.validation),
        ("test", TEST, data.test),
    ):
        first = 0
        for package in packages:
            drawn = np.isin(glyphs.writers, range(first, first + len(package.files))).sum()
            first += len(package.files)
            counts = {"train": 0, "validation": 0, "test": 0, split: int(drawn)}
            entries.append(package.source.card_entry(**counts))
    return tuple(entries)


def _centred(font: ImageFont.FreeTypeFont, character: str) -> NDArray[np.uint8]:
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (SIZE, SIZE))
    position = (SIZE / 2 - (left + right) / 2, SIZE / 2 - (top + bottom) / 2)
    ImageDraw.Draw(image).text(position, character, fill=255, font=font)
    return np.asarray(image)
