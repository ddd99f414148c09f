"""Iconify: the drawings of some 230 icon sets in one npm package; here only those under permissive licences.

`collections.json` names each set's licence, `json/SET.json` holds its drawings as bodies of SVG files.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from training.data.fetch import Npm

PERMISSIVE = (
    "Apache-2.0",
    "BSD-3-Clause",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "OFL-1.1",
    "Unlicense",
)
SOURCE = Npm(
    name="@iconify/json",
    version="2.2.535",
    sha256="1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91",
    licence=f"each icon set's own; only sets under {', '.join(PERMISSIVE)} are used",
)
SETS, FOLDER = "collections.json", "json"
DEFAULT_SIDE = 16  # of a drawing that names no width or height, by Iconify's specification


@dataclass(frozen=True)
class Icon:
    """One drawing: an SVG body and the rectangle of it that is shown."""

    set: str
    name: str
    licence: str
    body: str
    left: float
    top: float
    width: float
    height: float

    @property
    def id(self) -> str:
        """`set:name`, e.g. `noto:cat-face`."""
        return f"{self.set}:{self.name}"

    def fold(self, folds: int) -> int:
        """Which of `folds` equal parts the drawing falls into, by the SHA-1 of its id."""
        return int(hashlib.sha1(self.id.encode(), usedforsecurity=False).hexdigest(), 16) % folds


def icons() -> Iterator[Icon]:
    """Every drawing of the permissive sets, in the order of their ids; the package is fetched on first use (104 MB)."""
    package = SOURCE.fetch() / "package"
    for prefix, about in sorted(json.loads((package / SETS).read_text()).items()):
        licence = about["license"].get("spdx")
        if licence not in PERMISSIVE:
            continue
        drawings = json.loads((package / FOLDER / f"{prefix}.json").read_text())
        for name, icon in sorted(drawings["icons"].items()):
            left, top = (icon.get(key, drawings.get(key, 0)) for key in ("left", "top"))
            width, height = (icon.get(key, drawings.get(key, DEFAULT_SIDE)) for key in ("width", "height"))
            yield Icon(prefix, name, licence, icon["body"], left, top, width, height)


def render(icon: Icon, size: int) -> NDArray[np.uint8]:
    """The drawing uint8 [size, size, 3] (RGB), centred on white; what has no colour of its own is black.

    Raises:
        ValueError: the SVG cannot be drawn.
    """
    side = max(icon.width, icon.height)
    left, top = icon.left - (side - icon.width) / 2, icon.top - (side - icon.height) / 2
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="black" '
        f'viewBox="{left} {top} {side} {side}" width="{side}" height="{side}">{icon.body}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="white", skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
