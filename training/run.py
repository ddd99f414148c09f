"""What every recipe shares: device and precision (Lightning Fabric), seeds, progress, resumable checkpoints."""

from __future__ import annotations

import ctypes
import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric, seed_everything
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.cpu import cpu_name
from training.data.fetch import cache_dir

T = TypeVar("T")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
SLIVERS = Path(__file__).parents[1] / "tests" / "data"


@dataclass
class Run:
    """One execution of a recipe.

    Args:
        name: the model's name, e.g. `image_classifier`.
        fast: end to end in seconds on the committed sliver of data (`sliver`), for checking a recipe.
        seed: of everything random; the same seed on the same device gives the same model.
        device: `auto`, `cpu` or `cuda`.
        restart: ignore a checkpoint left by an interrupted run.
        repository: where the model will be exported, and where those are that it stands on.
    """

    name: str
    fast: bool = False
    seed: int = 0
    device: str = "auto"
    restart: bool = False
    repository: Path = Path("exported")
    console: Console = field(default_factory=Console)
    seconds: float = 0.0
    _checkpoints: set[Path] = field(default_factory=set)

    def fabric(self, precision: Any = "32-true") -> Fabric:
        """A seeded Fabric on one device."""
        seed_everything(self.seed, verbose=False)
        fabric = Fabric(accelerator=self.device, devices=1, precision=precision)
        fabric.launch()
        return fabric

    @property
    def sliver(self) -> Path:
        """The committed sliver of data that a fast run trains on, without its suffix."""
        return SLIVERS / self.name

    def epochs(self, fabric: Fabric, total: int, state: dict[str, Any], settings: object) -> Iterator[int]:
        """Yield the epochs still to do, after restoring `state`, and checkpoint it after each.

        An interrupted run continues with the same command; a checkpoint made with other `settings` is left alone.
        `state` maps names to stateful objects (modules, optimizers, schedulers); restored in place.
        """
        path = self._checkpoint(settings)
        self._checkpoints.add(path)
        first = 0
        if path.is_file() and not self.restart:
            first, self.seconds = (extra := fabric.load(path, state))["epoch"], extra["seconds"]
            self.console.print(f"resuming {self.name} after epoch {first} of {total} (from {path})")
        for epoch in range(first, total):
            started = time.monotonic()
            yield epoch
            self.seconds += time.monotonic() - started
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            fabric.save(partial, {**state, "epoch": epoch + 1, "seconds": self.seconds})
            partial.replace(path)  # a run that is stopped while it saves keeps the previous checkpoint

    def forget_checkpoints(self) -> None:
        """Remove this run's checkpoints: what they led to has been exported."""
        for path in self._checkpoints:
            path.unlink(missing_ok=True)

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Iterate with a progress bar on a terminal."""
        if not self.console.is_terminal:
            yield from items
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield from progress.track(items, description=description, total=total)

    def log(self, **values: float) -> None:
        """Print one line of live figures."""
        self.console.print("  ".join(f"{name} {value:.4g}" for name, value in values.items()), highlight=False)

    def _checkpoint(self, settings: object) -> Path:
        digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
        return cache_dir() / "checkpoints" / f"{self.name}-seed{self.seed}-{digest}.pt"


def keep_memory() -> None:
    """Have glibc keep freed memory for the next step: a fifth of a large model's time on a CPU went into giving pages
    back and asking for them again."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use that many threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(fabric: Fabric) -> str:
    """The device as a card names it."""
    if fabric.device.type == "cuda":
        return torch.cuda.get_device_name(fabric.device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"
