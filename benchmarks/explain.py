"""SmoothGrad through the server beside its gradient graph alone, in turns; writes docs/benchmarks/explain.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

import lectern
from benchmarks.servers import Contestant, running
from services.runtime.config import parse_config
from training.evaluate import png

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "benchmarks" / "explain.md"
EXPORTED = ROOT / "exported"
GRAPH = "image_classifier_gradient"
SAMPLES = 50
CALLERS = 4
TIMEOUT = 120


def main() -> None:
    """Time both, alone and with several callers, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="each of one explanation by either; medians are reported")
    rounds = parser.parse_args().rounds
    with np.load(ROOT / "tests" / "data" / "image_classifier.npz") as data:
        photo = data["images"][0]
    graph = Bare(photo, SAMPLES)
    with running(Contestant("Lectern", "lectern", arguments=("explain",)), EXPORTED, ["image_classifier"]) as server:
        times: dict[str, list[float]] = {"bare": [], "one": [], "several": []}
        with lectern.Client(server.target, timeout=TIMEOUT) as client:
            client.explain(png(photo), "smooth_grad", samples=SAMPLES)
            for number in range(rounds):
                print(f"round {number + 1}/{rounds}", file=sys.stderr)
                times["bare"].append(graph.seconds())
                times["one"].append(timed(lambda: client.explain(png(photo), "smooth_grad", samples=SAMPLES)))
                times["several"].append(timed(lambda: asyncio.run(together(server.target, png(photo)))) / CALLERS)
    bare, one, several = (1000 * statistics.median(found) for found in times.values())
    REPORT.write_text(
        "# Explanations\n\n"
        f"Written by `make bench` on {os.cpu_count()} cores ({platform.system()}, ONNX Runtime "
        f"{onnxruntime.__version__}): SmoothGrad of {SAMPLES} samples of one photo, medians of {rounds} rounds in "
        f"turns. The bare graph runs the same samples in the same batches of {graph.batch}, in one thread.\n\n"
        "| | ms an explanation | over the bare graph |\n| --- | --- | --- |\n"
        f"| bare gradient graph | {bare:.0f} | 1.00 |\n"
        f"| ExplainService, one caller | {one:.0f} | {one / bare:.2f} |\n"
        f"| ExplainService, {CALLERS} callers | {several:.0f} | {several / bare:.2f} |\n"
    )
    print(REPORT.read_text())


class Bare:
    """The gradient graph in a session like the server's, with as many samples as one request takes."""

    def __init__(self, photo: np.ndarray, samples: int) -> None:
        version = max(int(path.name) for path in (EXPORTED / GRAPH).glob("[0-9]*"))
        config = parse_config(GRAPH, (EXPORTED / GRAPH / "config.pbtxt").read_bytes())
        self.batch = config.max_batch_size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        self._session = onnxruntime.InferenceSession(EXPORTED / GRAPH / str(version) / "model.onnx", options)
        self._inputs = {t.name: np.zeros((samples, *t.shape), np.float32) for t in config.inputs}
        self._inputs["images"] += photo
        self._inputs["weights"][:, 0] = 1
        self.seconds()

    def seconds(self) -> float:
        """Time of one request's runs."""
        samples = len(self._inputs["weights"])
        return timed(lambda: [self._run(start) for start in range(0, samples, self.batch)])

    def _run(self, start: int) -> None:
        part = {name: array[start : start + self.batch] for name, array in self._inputs.items()}
        self._session.run(None, part)


async def together(target: str, photo: bytes) -> None:
    """Several callers at once."""
    async with lectern.aio.Client(target, timeout=TIMEOUT) as client:
        await asyncio.gather(*(client.explain(photo, "smooth_grad", samples=SAMPLES, seed=i) for i in range(CALLERS)))


def timed(work: Callable[[], object]) -> float:
    """Seconds that a function takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
