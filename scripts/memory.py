"""Print the peak memory of a recipe's start, for its MEMORY: `python scripts/memory.py NAME [--seconds 120]`.

The training runs as `lectern train NAME`, with a repository and checkpoints that are thrown away, and is ended after so
many seconds, or when it is done.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from training import recipes
from training.data.fetch import cache_dir
from training.recipes import ENCODER
from training.run import EXPORTED

GIB = 2**30
EVERY_SECONDS = 0.1
TIMES = 2
"""What a training is given, of its peak so far: measuring and exporting come later."""


def main() -> None:
    """Print the peak in GiB, after how many seconds, what the training said last, and the MEMORY that follows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=recipes.names())
    parser.add_argument("--seconds", type=float, default=120.0, help="after which the training is ended")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        prepare(asked.model, home)
        peak, seconds, code = watched(asked.model, home, asked.seconds)
        said = (home / "log").read_text().strip().splitlines()[-1:]
    outcome = "still running" if code is None else f"ended with code {code}"
    print(f"{asked.model}: {peak / GIB:.2f} GiB in {seconds:.0f} s, {outcome}: {' '.join(said)}")
    print(f"MEMORY = {math.ceil(TIMES * peak / GIB)}")


def prepare(model: str, home: Path) -> None:
    """A cache with the data that is there and no checkpoints, and a repository with the encoder that it stands on."""
    for directory in ("cache", "exported"):
        (home / directory).mkdir()
    for entry in cache_dir().iterdir():
        if entry.name not in ("checkpoints", "rounds"):
            (home / "cache" / entry.name).symlink_to(entry)
    if encoder := recipes.load(model).NEEDS.get(ENCODER):
        for graph in EXPORTED.glob(f"{encoder}*"):
            (home / "exported" / graph.name).symlink_to(graph)


def watched(model: str, home: Path, most: float) -> tuple[int, float, int | None]:
    """The largest sum of what its processes had in memory, the seconds, and the exit code if it ended."""
    command = [sys.executable, "-m", "lectern", "train", model, f"--output={home / 'exported'}"]
    environment = os.environ | {"LECTERN_CACHE": str(home / "cache")}
    peak, begin = 0, time.monotonic()
    with (home / "log").open("w") as log:
        process = psutil.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        while (code := process.poll()) is None and time.monotonic() - begin < most:
            peak = max(peak, resident(process))
            time.sleep(EVERY_SECONDS)
        return peak, time.monotonic() - begin, code
    finally:
        for one in [*process.children(recursive=True), process] if process.poll() is None else []:
            one.kill()
        process.wait()


def resident(process: psutil.Process) -> int:
    """Bytes of it and of those that it started; one that has just ended counts nothing."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    main()
