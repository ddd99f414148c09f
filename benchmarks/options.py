"""What all benchmarks are told, and what all their reports say first."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import grpc
import onnxruntime

from training.cpu import cpu_name

ROOT = Path(__file__).parents[1]
EXPORTED = ROOT / "exported"
BRIEF_SECONDS = 0.5


@dataclass(frozen=True)
class Options:
    """How much is measured, and where reports go.

    Args:
        brief: whether to run a benchmark's set-up and one short cell alone: does it still work?
        reports: directory of the reports.
        seconds: of each measurement, in place of the benchmark's own choice.
        rounds: through all cells, of which medians are reported, likewise.
        device: `cuda`: what `device` measures, and further rows of `throughput`.
        only: parts of the names of the servers, or graphs, to measure.
    """

    brief: bool
    reports: Path
    seconds: float | None = None
    rounds: int | None = None
    device: str = "cpu"
    only: tuple[str, ...] = ("",)

    def seconds_or(self, usual: float) -> float:
        return self.seconds or (BRIEF_SECONDS if self.brief else usual)

    def rounds_or(self, usual: int) -> int:
        return self.rounds or (1 if self.brief else usual)

    def write(self, name: str, text: str) -> None:
        """Write the report `name`, a Markdown file, and print it."""
        (self.reports / name).write_text(text)
        print(text)


def written_by() -> str:
    """How every report begins: by what, on which machine, with which software."""
    return (
        f"Written by `make bench` on {os.cpu_count()} cores, {cpu_name()}, {platform.system()}, Python "
        f"{platform.python_version()}, grpcio {grpc.__version__}, ONNX Runtime {onnxruntime.__version__}"
    )
