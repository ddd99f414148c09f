"""SmoothGrad through the server beside its gradient graph alone, in turns; writes docs/benchmarks/explain.md."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import onnxruntime

import lectern
from benchmarks.options import EXPORTED, ROOT, Options, written_by
from benchmarks.servers import Contestant, running
from services.runtime.config import parse_config
from training.served import png

GRAPH = "image_classifier_gradient"
SAMPLES, BRIEF_SAMPLES = 50, 10
ROUNDS = 9
CALLERS = 4
TIMEOUT = 120


def run(options: Options) -> None:
    """Time both, alone and with several callers, and write the report.

    Raises:
        RuntimeError: an explanation is not one.
    """
    rounds, samples = options.rounds_or(ROUNDS), BRIEF_SAMPLES if options.brief else SAMPLES
    with np.load(ROOT / "training" / "data" / "slivers" / "image_classifier.npz") as data:
        photo = data["images"][0]
    graph = Bare(photo, samples)
    with running(Contestant("Lectern", "lectern", arguments=("explain",)), EXPORTED, ["image_classifier"]) as server:
        times: dict[str, list[float]] = {"bare": [], "one": [], "several": []}
        with lectern.Client(server.target, timeout=TIMEOUT) as client:
            attribution = client.explain(png(photo), "smooth_grad", samples=samples).attribution
            values = np.frombuffer(attribution.values, "<f4").reshape(attribution.shape)
            if values.shape[:2] != photo.shape[:2] or not np.isfinite(values).all() or not values.any():
                raise RuntimeError(f"no explanation of a photo {photo.shape}: {values}")
            for number in range(rounds):
                print(f"round {number + 1}/{rounds}", file=sys.stderr)
                times["bare"].append(graph.seconds())
                times["one"].append(timed(lambda: client.explain(png(photo), "smooth_grad", samples=samples)))
                times["several"].append(
                    timed(lambda: asyncio.run(together(server.target, png(photo), samples))) / CALLERS
                )
    bare, one, several = (1000 * statistics.median(seconds) for seconds in times.values())
    options.write(
        "explain.md",
        "# Explanations\n\n"
        f"{written_by()}: SmoothGrad of {samples} samples of one photo, medians of {rounds} rounds in turns. The bare "
        f"graph runs the same samples in the same batches of {graph.batch}, in one thread.\n\n"
        "| | ms an explanation | over the bare graph |\n| --- | --- | --- |\n"
        f"| bare gradient graph | {bare:.0f} | 1.00 |\n"
        f"| ExplainService, one caller | {one:.0f} | {one / bare:.2f} |\n"
        f"| ExplainService, {CALLERS} callers | {several:.0f} | {several / bare:.2f} |\n",
    )


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


async def together(target: str, photo: bytes, samples: int) -> None:
    """Several callers at once."""
    async with lectern.aio.Client(target, timeout=TIMEOUT) as client:
        await asyncio.gather(*(client.explain(photo, "smooth_grad", samples=samples, seed=i) for i in range(CALLERS)))


def timed(work: Callable[[], object]) -> float:
    """Seconds that a function takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
