"""The translator's decoding on a GPU: are its tokens the CPU's, and does it pay that keys and values stay there?"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.runtime.decode import Decoder
from services.runtime.graph import HOST, Graph, Memory
from services.runtime.onnx_engine import OnnxEngine
from services.runtime.search import Prompt
from services.translate.beams import BeamSearch

ENCODER, STEP = "translator_en_zh", "translator_en_zh_step"
ROWS = (1, 16, 64)
LONGEST = 48  # tokens of a translation
START, END = 2, 3
LEAST_EQUAL = 0.9  # of the translations: the tokens are random, so their likeliest successors are often near a tie

Load = Callable[[OnnxEngine, str], Graph]


@dataclass(frozen=True)
class Decoded:
    """Tokens a second of so many sentences at once.

    Args:
        equal: share of translations that are the CPU's.
        cpu: on the CPU. host: on the device, with what rows have read in the process's memory. device: in the device's.
    """

    rows: int
    equal: float
    cpu: float
    host: float
    device: float


def decoding(engine: OnnxEngine, load: Load, counts: tuple[int, ...] = ROWS) -> list[Decoded]:
    """Translate once on the CPU and twice on the engine's device."""
    own, reference = (tuple(load(e, name) for name in (ENCODER, STEP)) for e in (engine, OnnxEngine("cpu")))
    results = []
    for count in counts:
        expected, cpu = translated(*reference, count, HOST)
        translated(*own, count, own[1].memory)  # kernels are chosen and memory is taken
        _, host = translated(*own, count, HOST)
        tokens, device = translated(*own, count, own[1].memory)
        equal = sum(a == b for a, b in zip(expected, tokens, strict=True)) / count
        results.append(Decoded(count, equal, cpu, host, device))
    return results


def translated(encoder: Graph, step: Graph, count: int, memory: Memory) -> tuple[list[tuple[int, ...]], float]:
    """Greedy translations of random sentences, and tokens a second."""
    random, before = np.random.default_rng(0), step.memory
    sentences = [random.integers(4, 1000, (1, random.integers(5, 60))) for _ in range(count)]
    searches = [
        BeamSearch(
            Prompt(encoder, {"tokens": tokens, "length": np.array([[tokens.size]])}),
            start=START,
            end=END,
            size=1,
            length_penalty=1.0,
            longest=LONGEST,
        )
        for tokens in sentences
    ]
    step.memory = memory
    started = time.perf_counter()
    try:
        asyncio.run(Decoder(step).finish(searches, math.inf, 0))
    finally:
        step.memory = before
    hypotheses = [search.best.tokens for search in searches]
    return hypotheses, sum(map(len, hypotheses)) / (time.perf_counter() - started)


def table(results: list[Decoded]) -> list[str]:
    """Lines of the report."""
    return [
        "",
        "## Decoding",
        "",
        f"Tokens a second of `{STEP}` for greedy translations of random sentences, all at once, of at most {LONGEST} "
        "tokens each.",
        "",
        "| sentences | as on the CPU | CPU | keys and values in the process's memory | in the device's memory |",
        "| ---: | ---: | ---: | ---: | ---: |",
        *(f"| {r.rows} | {r.equal:.2f} | {r.cpu:,.0f} | {r.host:,.0f} | {r.device:,.0f} |" for r in results),
    ]
