"""PGD through the server beside its gradient graph alone, in turns; writes docs/benchmarks/defend.md."""

from __future__ import annotations

import asyncio
import statistics
import sys

import numpy as np

import lectern
from benchmarks.explain import CALLERS, TIMEOUT, Bare, timed
from benchmarks.options import EXPORTED, ROOT, Options, written_by
from benchmarks.servers import Contestant, running
from training.served import png

SIZE, BRIEF = (16, 10), (4, 3)  # photos, steps
ROUNDS = 9


def run(options: Options) -> None:
    """Time both, with one caller and with several, and write the report.

    Raises:
        RuntimeError: the attack did not mislead the model in most photos, as it does where it works.
    """
    rounds, (count, steps) = options.rounds_or(ROUNDS), BRIEF if options.brief else SIZE
    with np.load(ROOT / "training" / "data" / "slivers" / "image_classifier_test.npz") as data:
        photos = [png(photo) for photo in data["images"][:count]]
        graph = Bare(data["images"][0], count * steps)
    contestant = Contestant("Lectern", "lectern", arguments=("defend",))
    with running(contestant, EXPORTED, ["image_classifier"], LECTERN_ALLOW_ATTACKS="true") as server:
        times: dict[str, list[float]] = {"bare": [], "one": [], "several": []}
        with lectern.Client(server.target, timeout=TIMEOUT) as client:
            misled = sum(r.success for r in client.attack(photos, "pgd", steps=steps).results)
            if misled <= count / 2:
                raise RuntimeError(f"only {misled} of {count} attacks succeeded")
            for number in range(rounds):
                print(f"round {number + 1}/{rounds}", file=sys.stderr)
                times["bare"].append(graph.seconds())
                times["one"].append(timed(lambda: client.attack(photos, "pgd", steps=steps)))
                times["several"].append(timed(lambda: asyncio.run(together(server.target, photos, steps))))
    bare, one, several = (1000 * statistics.median(seconds) for seconds in times.values())
    options.write(
        "defend.md",
        "# Attacks\n\n"
        f"{written_by()}: PGD of {steps} steps on {count} photos, medians of {rounds} rounds in turns. "
        f"The bare graph runs as many gradients in batches of {graph.batch}, in one thread; the service also decodes, "
        "asks what the model says before and after, and encodes.\n\n"
        "| | ms | over the bare graph |\n| --- | --- | --- |\n"
        f"| bare gradient graph | {bare:.0f} | 1.00 |\n"
        f"| DefendService.Attack, one caller | {one:.0f} | {one / bare:.2f} |\n"
        f"| DefendService.Attack, {CALLERS} callers with {count // CALLERS} photos each | {several:.0f} | "
        f"{several / bare:.2f} |\n",
    )


async def together(target: str, photos: list[bytes], steps: int) -> None:
    """Several callers at once, each with a part of the photos."""
    share = len(photos) // CALLERS
    async with lectern.aio.Client(target, timeout=TIMEOUT) as client:
        parts = [photos[i * share : (i + 1) * share] for i in range(CALLERS)]
        await asyncio.gather(*(client.attack(part, "pgd", steps=steps) for part in parts))
