"""PGD through the server beside its gradient graph alone, in turns; writes docs/benchmarks/defend.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
from pathlib import Path

import numpy as np
import onnxruntime

import lectern
from benchmarks.explain import CALLERS, EXPORTED, TIMEOUT, Bare, timed
from benchmarks.servers import Contestant, running
from training.evaluate import png

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "benchmarks" / "defend.md"
PHOTOS, STEPS = 16, 10


def main() -> None:
    """Time both, with one caller and with several, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="each of one attack by either; medians are reported")
    rounds = parser.parse_args().rounds
    with np.load(ROOT / "tests" / "data" / "image_classifier_test.npz") as data:
        photos = [png(photo) for photo in data["images"][:PHOTOS]]
        graph = Bare(data["images"][0], PHOTOS * STEPS)
    contestant = Contestant("Lectern", "lectern", arguments=("defend",))
    with running(contestant, EXPORTED, ["image_classifier"], LECTERN_ALLOW_ATTACKS="true") as server:
        times: dict[str, list[float]] = {"bare": [], "one": [], "several": []}
        with lectern.Client(server.target, timeout=TIMEOUT) as client:
            client.attack(photos, "pgd", steps=STEPS)
            for number in range(rounds):
                print(f"round {number + 1}/{rounds}", file=sys.stderr)
                times["bare"].append(graph.seconds())
                times["one"].append(timed(lambda: client.attack(photos, "pgd", steps=STEPS)))
                times["several"].append(timed(lambda: asyncio.run(together(server.target, photos))))
    bare, one, several = (1000 * statistics.median(found) for found in times.values())
    REPORT.write_text(
        "# Attacks\n\n"
        f"Written by `make bench` on {os.cpu_count()} cores ({platform.system()}, ONNX Runtime "
        f"{onnxruntime.__version__}): PGD of {STEPS} steps on {PHOTOS} photos, medians of {rounds} rounds in turns. "
        f"The bare graph runs as many gradients in batches of {graph.batch}, in one thread; the service also decodes, "
        "asks what the model says before and after, and encodes.\n\n"
        "| | ms | over the bare graph |\n| --- | --- | --- |\n"
        f"| bare gradient graph | {bare:.0f} | 1.00 |\n"
        f"| DefendService.Attack, one caller | {one:.0f} | {one / bare:.2f} |\n"
        f"| DefendService.Attack, {CALLERS} callers with {PHOTOS // CALLERS} photos each | {several:.0f} | "
        f"{several / bare:.2f} |\n"
    )
    print(REPORT.read_text())


async def together(target: str, photos: list[bytes]) -> None:
    """Several callers at once, each with a part of the photos."""
    share = PHOTOS // CALLERS
    async with lectern.aio.Client(target, timeout=TIMEOUT) as client:
        parts = [photos[i * share : (i + 1) * share] for i in range(CALLERS)]
        await asyncio.gather(*(client.attack(part, "pgd", steps=STEPS) for part in parts))


if __name__ == "__main__":
    main()
