"""Draw docs/pictures/anomalies.png with a running server: `python docs/make_anomalies.py [HOST:PORT]`.

Each column is a picture of the test splits; below it lie its reconstruction, its heat map and the answer.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import lectern
from training.data.anomalies import corrupt
from training.served import png

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "pictures" / "anomalies.png"
SIDE, MARGIN, LINE = 112, 8, 18


def main() -> None:
    """Ask the server and paste its answers."""
    with np.load(ROOT / "training" / "data" / "slivers" / "anomaly_detector_test.npz") as data:
        clothes, digits, kanji = data["images"], data["mnist"], data["kanji"]
    damaged = corrupt(clothes[:12], np.random.default_rng(4))
    chosen = [clothes[9], clothes[2], clothes[8], damaged[2], damaged[4], damaged[5], digits[0], kanji[3]]
    with lectern.Client(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001") as client:
        results = client.detect_anomaly(
            [png(picture) for picture in chosen], include_reconstruction=True, include_heat_map=True
        ).results
    cell = SIDE + MARGIN
    sheet = Image.new("RGB", (len(chosen) * cell + MARGIN, 3 * cell + LINE + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, (picture, result) in enumerate(zip(chosen, results, strict=True)):
        left = MARGIN + column * cell
        for row, file in enumerate((png(picture), result.reconstruction, result.heat_map)):
            image = Image.open(io.BytesIO(file)).convert("RGB")
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, MARGIN + row * cell))
        text = f"{'anomaly' if result.anomalous else 'normal'}, p {result.probability:.2f}"
        draw.text((left, MARGIN + 3 * cell - 4), text, "black", font)
    TARGET.parent.mkdir(exist_ok=True)
    sheet.save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
