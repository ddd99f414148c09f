"""Draw docs/pictures/generated.png with a running server: `python docs/make_generated.py [HOST:PORT]`.

Faces of the first seeds, a path between two seeds, a garment of each label; handwritten digits and what they would look
like in print, printed ones and what they would look like by hand.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import lectern
from training.served import png

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "pictures" / "generated.png"
COLUMNS = 10
SIDE, MARGIN, NAMES = 64, 6, 140
FROM_SEED, TO_SEED = 3, 8


def main() -> None:
    """Ask the server and paste its answers, a row for each kind."""
    with np.load(ROOT / "training" / "data" / "slivers" / "style_translator.npz") as data:
        styles = {name: [png(d) for d in data[f"{name}_images"][:COLUMNS]] for name in ("handwritten", "printed")}
    with lectern.Client(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001") as client:
        rows = {
            "faces": [r.image for r in client.generate_images(0, COLUMNS)],
            "from seed to seed": [r.image for r in client.generate_images(FROM_SEED, to_seed=TO_SEED, steps=COLUMNS)],
            "garments": [r.image for r in client.generate_images(0, COLUMNS, model="garment_generator")],
        }
        for source, target in (("handwritten", "printed"), ("printed", "handwritten")):
            rows[source] = styles[source]
            rows[f"as if {target}"] = [client.transform_image(image, target).image for image in styles[source]]
    cell = SIDE + MARGIN
    sheet = Image.new("RGB", (NAMES + COLUMNS * cell, MARGIN + len(rows) * cell), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, (name, images) in enumerate(rows.items()):
        top = MARGIN + row * cell
        draw.text((MARGIN, top + SIDE // 2), name, "black", font, anchor="lm")
        for column, image in enumerate(images):
            picture = Image.open(io.BytesIO(image)).convert("RGB")
            sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (NAMES + column * cell, top))
    sheet.save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
