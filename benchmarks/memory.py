"""Each capability in a memory cgroup of its pod's limit, under the largest inputs that it allows: is it killed?

    python -m benchmarks.memory                    # every capability, 60 s each; writes docs/benchmarks/memory.md
    python -m benchmarks.memory --capability classify --seconds 10 --limit 1024

Sixteen callers send the largest allowed input of each kind in turn, while another client asks for something small; its
99th percentile is compared with that of an idle server. Needs root, for the cgroup.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path

import grpc
import numpy as np
import soundfile
from PIL import Image

import lectern
from lectern.errors import LecternError
from services.server.capabilities import CAPABILITIES

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "benchmarks" / "memory.md"
EXAMPLES = ROOT / "docs" / "examples"
CALLERS = 16
CALL_SECONDS = 60.0
IDLE_CALLS = 200
MEBIBYTE = 2**20
Call = Callable[[lectern.Client], object]


class Cgroup:
    """A memory control group, of version 1 or 2 (cgroups(7))."""

    def __init__(self, name: str, limit: int) -> None:
        first = Path("/sys/fs/cgroup/memory")
        self._first = first.is_dir()
        self._path = (first if self._first else Path("/sys/fs/cgroup")) / name
        self._path.mkdir()
        (self._path / ("memory.limit_in_bytes" if self._first else "memory.max")).write_text(str(limit))

    def enter(self) -> None:
        """Put the calling process into it."""
        (self._path / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def peak(self) -> int:
        """Most bytes that were in use, page cache included."""
        return int((self._path / ("memory.max_usage_in_bytes" if self._first else "memory.peak")).read_text())

    def remove(self) -> None:
        self._path.rmdir()


def picture(
    width: int, height: int, kind: str = "PNG", *, noise: bool = False, mode: str = "RGB", **options: int
) -> bytes:
    """An image file, of one colour or of noise."""
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, len(mode)), np.uint8)
        image = Image.fromarray(pixels, mode)
    else:
        image = Image.new(mode, (width, height), "teal")
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def recording(seconds: int, rate: int, kind: str) -> bytes:
    """A file of noise."""
    samples = (np.random.default_rng(0).normal(0, 3000, seconds * rate)).astype(np.int16)
    soundfile.write(buffer := io.BytesIO(), samples, rate, format=kind)
    return buffer.getvalue()


def largest(capability: str) -> dict[str, Call]:
    """The largest allowed input of each kind, by what it is."""
    flat, deep = picture(7000, 7000), picture(7000, 7000, mode="RGBA")
    noise = picture(2000, 1900, noise=True, mode="RGBA")
    jpeg = picture(7000, 7000, "JPEG", quality=30)
    progressive = picture(3000, 3000, "JPEG", noise=True, quality=60, progressive=True)
    small = [picture(32, 32, noise=True)] * 256
    pictures: dict[str, bytes] = {
        "flat PNG 7000 x 7000": flat,
        "RGBA PNG 7000 x 7000": deep,
        "noise PNG, 15 MB": noise,
        "JPEG 7000 x 7000": jpeg,
        "progressive JPEG 3000 x 3000": progressive,
    }
    text = "The ship sailed on. " * 6000
    wave, flac = recording(300, 16_000, "WAV"), recording(300, 48_000, "FLAC")

    def each(call: Callable[[lectern.Client, bytes], object]) -> dict[str, Call]:
        return {name: (lambda client, data=data: call(client, data)) for name, data in pictures.items()}  # type: ignore[misc]

    def options() -> dict[str, float]:
        return {"timeout": CALL_SECONDS}

    match capability:
        case "classify":
            return each(lambda c, data: c.classify_image(data, **options())) | {
                "256 PNGs 32 x 32": lambda c: c.classify_image(small, **options()),
                "300 s of WAV": lambda c: c.classify_audio(wave, **options()),
                "300 s of FLAC, 48 kHz": lambda c: c.classify_audio(flac, **options()),
                "256 texts": lambda c: c.classify_text([text[:2000]] * 256, **options()),
                "a text of 120 KB": lambda c: c.classify_text(text, **options()),
            }
        case "explain":
            return each(lambda c, data: c.explain(data, "saliency", **options())) | {
                "SHAP of a photo": lambda c: c.explain(small[0], "kernel_shap", **options()),
                "LIME of a text": lambda c: c.explain(text=text[:1000], method="lime", **options()),
                "8 s of WAV": lambda c: c.explain(audio=recording(8, 16_000, "WAV"), span=(0.5, 0.6), **options()),
            }
        case "defend":
            return each(lambda c, data: c.defend(data, ["jpeg", "median"], **options())) | {
                "256 PNGs 32 x 32": lambda c: c.defend(small, ["jpeg"], **options()),
            }
        case "detect_anomaly":
            return each(lambda c, data: c.detect_anomaly(data, include_heat_map=True, **options())) | {
                "256 PNGs 32 x 32": lambda c: c.detect_anomaly(small, include_heat_map=True, **options()),
            }
        case "generate":
            return each(lambda c, data: c.transform_image(data, "printed", **options())) | {
                "64 faces": lambda c: list(c.generate_images(seed=1, count=64, contact_sheet=True, **options())),
                "a poem": lambda c: list(c.generate_text(title="春望", seed=1, **options())),
            }
        case "answer":
            return {
                "6 questions on 120 KB": lambda c: c.answer(["Who sailed?"] * 6, text, **options()),
                "one on 120 KB": lambda c: c.answer("Who sailed?", text, top_k=20, **options()),
                "a story of 512 sentences": lambda c: c.answer_story(["Mary left."] * 512, "Who left?", **options()),
            }
        case "predict":
            rows = np.random.default_rng(0).normal(0, 1, (4096, 116))
            labels = [f"{i % 10}" for i in range(4096)]
            return {
                "4096 rows": lambda c: c.predict(rows, **options()),
                "4096 rows by 4096 examples": lambda c: c.predict_from_examples(
                    rows[:, :64], labels, rows[:, :64], **options()
                ),
            }
        case "act":
            states = np.random.default_rng(0).normal(0, 1, (4096, 8))
            return {
                "4096 observations": lambda c: c.act(states, **options()),
                "an episode with its frames": lambda c: list(c.run_episode(frame_every=1, max_steps=50, **options())),
            }
        case "embed":
            return {
                "256 texts": lambda c: c.embed_text([text[:2000]] * 256, **options()),
                "a text of 120 KB": lambda c: c.embed_text(text, **options()),
                "the words nearest to 256 texts": lambda c: c.nearest([text[:2000]] * 256, **options()),
            }
        case "tag":
            return {
                "256 texts": lambda c: c.tag_text([text[:2000]] * 256, **options()),
                "a text of 120 KB": lambda c: c.tag_text(text, **options()),
            }
        case "translate":
            return {
                "256 sentences": lambda c: c.translate(["Where is the library?"] * 256, **options()),
                "8 beams": lambda c: c.translate(text[:2000], beam_size=8, **options()),
                "256 sentences in another style": lambda c: c.rewrite(["Come to us."] * 256, "archaic", **options()),
            }
    raise LookupError(f"largest() has no inputs for {capability}: add them")


def small_call(capability: str, channel: grpc.Channel) -> Callable[[], object]:
    """What the other client asks for: the capability's example."""
    descriptor = CAPABILITIES[capability]
    request = descriptor.example(EXAMPLES)
    path = f"/{descriptor.service.full_name}/{descriptor.rpc_of(request)}"
    ask = channel.unary_stream(path, request_serializer=type(request).SerializeToString)
    return lambda: list(ask(request, timeout=60))


@contextmanager
def serving(capability: str, group: Cgroup) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server of one capability in the group; ended in the end, if it still runs."""
    command = [
        sys.executable,
        "-m",
        "lectern",
        "serve",
        capability,
        "--port",
        "0",
        "--http-port",
        "0",
        "--metrics-port",
        "0",
    ]
    settings = {"LECTERN_LOG_FORMAT": "json", "LECTERN_LOG_LEVEL": "info", "LECTERN_DRAIN_PAUSE_SECONDS": "0"}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | settings, preexec_fn=group.enter
    )
    log = process.stderr or io.StringIO()
    try:
        for line in log:
            if '"message": "serving"' in line:
                threading.Thread(target=log.read, daemon=True).start()
                yield json.loads(line)["target"], process
                break
        else:
            raise RuntimeError(f"{capability} did not start within its memory")
    finally:
        process.terminate()
        process.wait(60)


def resident(process: subprocess.Popen[str]) -> int:
    """Bytes of memory that it uses."""
    lines = (line.split() for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == "VmRSS:")


def percentile(seconds: list[float]) -> float:
    return float(np.percentile(seconds, 99)) * 1000


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def load(capability: str, target: str, ready: Event, stop: Event, ended: SimpleQueue[Counter[str]]) -> None:
    """Sixteen callers in a process of their own, so that their work does not hold up the other client's."""
    inputs = list(largest(capability).values())

    def call(caller: int) -> Counter[str]:
        codes: Counter[str] = Counter()
        with lectern.Client(target) as client:
            for turn in itertools.count(caller):
                if stop.is_set():
                    return codes
                try:
                    inputs[turn % len(inputs)](client)
                    codes["OK"] += 1
                except LecternError as error:
                    codes[error.code().name] += 1
        return codes

    ready.set()
    with ThreadPoolExecutor(CALLERS) as pool:
        ended.put(sum(pool.map(call, range(CALLERS)), Counter()))


def measure(capability: str, limit: int, seconds: float) -> list[str]:
    """A row of the report."""
    group = Cgroup(f"lectern-{capability}-{os.getpid()}", limit)
    context = get_context("spawn")
    ready, stop, counted = context.Event(), context.Event(), context.SimpleQueue()
    refused: Counter[str] = Counter()
    try:
        with serving(capability, group) as (target, process), grpc.insecure_channel(target) as channel:
            small = small_call(capability, channel)
            quiet = percentile([timed(small) for _ in range(IDLE_CALLS)])
            idle = resident(process)
            callers = context.Process(target=load, args=(capability, target, ready, stop, counted))
            callers.start()
            ready.wait()
            taken, end = [], time.monotonic() + seconds
            while time.monotonic() < end and process.poll() is None:
                try:
                    taken.append(timed(small))
                except grpc.RpcError as error:
                    refused[f"small call: {error.code().name}"] += 1
                time.sleep(0.05)
            stop.set()
            ended = counted.get() + refused
            callers.join()
            killed = process.poll() is not None
        codes = ", ".join(f"{name} {count}" for name, count in ended.most_common())
        loaded = percentile(taken) if taken else float("nan")
        return [
            capability,
            f"{limit // MEBIBYTE}",
            f"{idle // MEBIBYTE}",
            f"{group.peak // MEBIBYTE}",
            "killed" if killed else "no",
            codes,
            f"{quiet:.1f}",
            f"{loaded:.1f}",
            f"{loaded / quiet:.1f}",
        ]
    finally:
        group.remove()


def pod_limits() -> dict[str, int]:
    """Bytes of each capability's memory limit."""
    factors = {"Mi": MEBIBYTE, "Gi": 1024 * MEBIBYTE}
    limits = {name: capability.pod.memory_limit for name, capability in CAPABILITIES.items()}
    return {name: int(float(limit[:-2]) * factors[limit[-2:]]) for name, limit in limits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", action="append", choices=CAPABILITIES, help="repeat for several; all if none")
    parser.add_argument("--seconds", type=float, default=60, help="of load on each (60)")
    parser.add_argument("--limit", type=int, help="MiB in place of the pod's")
    given = parser.parse_args()
    limits = pod_limits()
    columns = ["capability", "limit, MiB", "idle", "peak", "killed", "calls", "p99 idle, ms", "loaded", "times"]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    print(*lines, sep="\n")
    for capability in given.capability or CAPABILITIES:
        limit = given.limit * MEBIBYTE if given.limit else limits[capability]
        lines.append(f"| {' | '.join(measure(capability, limit, given.seconds))} |")
        print(lines[-1], flush=True)
    if not given.capability and not given.limit:
        text = __doc__.split("\n\n")[0]
        REPORT.write_text("# Memory\n\n" + text + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
