"""`python -m benchmarks`: runs every benchmark, or those that are named, and writes docs/benchmarks.

With --brief each runs its set-up and one short cell, to see that it still works, and writes no report.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.options import ROOT, Options

# Modules with a function `run(options)`.
BENCHMARKS = ("throughput", "streams", "saturation", "explain", "defend", "decoding", "rpcs", "start")
DEVICE = "device"  # what runs on a GPU; it needs no h2load, and in a server's environment no torch


def main(arguments: Sequence[str] | None = None) -> None:
    """Run them one after the other; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = (*BENCHMARKS, DEVICE)
    default = f"without one, {DEVICE} on a GPU, else all others"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; {default}")
    parser.add_argument("--brief", action="store_true", help="set-up and one short cell of each; writes no report")
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--rounds", type=int, help="through all cells; medians are reported")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: a GPU, if there is one")
    parser.add_argument("--only", nargs="+", default=("",), help="parts of the names of servers or graphs to measure")
    given = vars(parser.parse_args(arguments))
    given["only"] = tuple(given["only"])
    chosen = given.pop("names") or ((DEVICE,) if given["device"] == "cuda" else BENCHMARKS)
    if unknown := set(chosen) - set(names):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    if set(chosen) != {DEVICE} and shutil.which("h2load") is None:
        sys.exit("h2load is missing: apt-get install nghttp2-client")
    with tempfile.TemporaryDirectory() as directory:
        reports = Path(directory) if given["brief"] else ROOT / "docs" / "benchmarks"
        failed = [name for name in chosen if not succeeds(name, Options(reports=reports, **given))]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def succeeds(name: str, options: Options) -> bool:
    """Whether a benchmark ran to its end; says how it did not."""
    started = time.monotonic()
    try:
        importlib.import_module(f"benchmarks.{name}").run(options)
    except Exception:  # the others are measured all the same
        traceback.print_exc()
        print(f"{name}: failed", file=sys.stderr)
        return False
    print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return True


if __name__ == "__main__":
    main()
