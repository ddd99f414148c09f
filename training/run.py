"""What every recipe shares: device and precision (Lightning Fabric), seeds, progress, resumable checkpoints."""

from __future__ import annotations

import ctypes
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.fabric import Fabric, seed_everything
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from training.cpu import cpu_name
from training.data import SLIVERS
from training.data.fetch import cache_dir
from training.optimise import descend

T = TypeVar("T")
B = TypeVar("B")  # a batch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
REPOSITORY = Path("exported")
EXPORTED = Path(__file__).parents[1] / "exported"  # the models of this checkout, which others learn from


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
    repository: Path = REPOSITORY
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

    def fit(
        self,
        fabric: Fabric,
        model: nn.Module,
        optimizer: Optimizer,
        batches: Callable[[int], Iterable[B]],
        loss: Callable[[B], Tensor],
        *,
        epochs: int,
        settings: object,
        count: int | None = None,
        rate: Callable[[float], float] | None = None,
        schedule: LRScheduler | None = None,
        largest_gradient: float | None = None,
        watch: Callable[[], Mapping[str, float]] = dict,
        label: str = "",
        **state: Any,
    ) -> None:
        """Go down the gradient of one loss for some epochs, with a progress bar and a checkpoint after each.

        Args:
            model, optimizer: as `fabric.setup` returns them.
            batches: of an epoch, which fit moves to the device.
            loss: the mean of a batch.
            settings: a checkpoint made with others is left alone; None keeps none.
            count: how many batches an epoch has, where they have no length.
            rate: the share of the optimizer's learning rates at a progress of 0..1.
            schedule: or a schedule of torch's, of which each batch is a step.
            largest_gradient: the norm that gradients are scaled down to.
            watch: figures to print after an epoch.
            label: which of the run's networks it is.
            state: further stateful objects that a checkpoint holds.
        """
        state |= {"model": model, "optimizer": optimizer} | ({} if schedule is None else {"schedule": schedule})
        full_rates = [group["lr"] for group in optimizer.param_groups]
        to_do = range(epochs) if settings is None else self.epochs(fabric, epochs, state, settings)
        for epoch in to_do:
            model.train()
            losses = 0.0
            items = batches(epoch)
            total = count or len(items)  # type: ignore[arg-type]
            for i, batch in enumerate(self.track(items, f"{label or self.name} epoch {epoch + 1}/{epochs}", total)):
                if rate is not None:
                    share = rate((epoch + i / total) / epochs)
                    for group, full_rate in zip(optimizer.param_groups, full_rates, strict=True):
                        group["lr"] = full_rate * share
                value = loss(fabric.to_device(batch))
                descend(fabric, optimizer, value, model, largest_gradient)
                if schedule is not None:
                    schedule.step()
                losses += float(value.detach())
            if label:
                self.console.print(label, end="  ", highlight=False)
            self.log(epoch=epoch + 1, loss=losses / (i + 1), **watch())

    def kept(self, what: str, made_from: object, make: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """An array that takes long to make, kept as a checkpoint until the run ends; `what` it is, and what from."""
        path = self._checkpoint((what, made_from)).with_suffix(".npy")
        self._checkpoints.add(path)
        if not path.is_file() or self.restart:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.npy")
            np.save(partial, make())
            partial.replace(path)
        array: NDArray[np.float32] = np.load(path)
        return array

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
