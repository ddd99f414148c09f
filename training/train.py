"""`lectern train`: runs a recipe, exports it, and prints what it reached."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.table import Table

from artifacts.card import Card, known
from artifacts.versions import VersionError, present_versions, read_card
from training import TrainingError, recipes
from training.comparison import compare, comparison_table
from training.data.fetch import FetchError
from training.export.parity import ExportError
from training.export.version import write_versions
from training.recipes import ENCODER, Recipe
from training.run import EXPORTED, REPOSITORY, Run, keep_memory
from training.trained import Trained

UNSHIPPED_REPOSITORY = Path("build/unshipped")
FAST_REPOSITORY = Path("build/exported")
LOG_WIDTH = 160

Make: TypeAlias = Callable[[Run], Trained | tuple[Trained, ...]]


def train(
    name: str,
    *,
    fast: bool = False,
    seed: int = 0,
    device: str = "auto",
    output: Path | None = None,
    restart: bool = False,
    promote: bool = False,
    requantize: bool = False,
    further: bool = False,
    console: Console | None = None,
) -> list[Card]:
    """Train model `name`, export it as the next version in `output`, or the next few, and return their cards.

    Where a version is served already, it stays so unless the new one is at least as good.

    Args:
        fast: train on the committed sliver in seconds; exported to `build/exported` by default, never to `exported`.
        promote: have the new version served even if it is worse.
        requantize: make the new version of the served one's weights, rounded anew, in place of training.
        further: train the served version's weights on.

    Raises:
        TrainingError: unknown name, data that cannot be had, an export that does not match torch, or a served version
            that cannot be read.
        OSError: nothing can be written to `output`.
        KeyboardInterrupt: stopped by the user; the same command resumes after the last whole epoch.
    """
    recipe = recipes.load(name)
    keep_memory()
    console = console or Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    if output is None:
        output = FAST_REPOSITORY if fast else REPOSITORY if recipe.SHIPPED else UNSHIPPED_REPOSITORY
    run = Run(name, fast=fast, seed=seed, device=device, restart=restart, repository=output, console=console)
    # Better now than after hours of training:
    _served_card(output / name)
    output.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=output).close()
    _meet_needs(recipe, run)
    make: Make = recipe.train
    command = f"lectern train {shlex.quote(name)} --seed {seed}" + (" --fast" if fast else "")
    if requantize:
        make, command = _other_way(name, recipe, "requantize", "does not compute in 8 bits"), f"{command} --requantize"
    elif further:
        make, command = _other_way(name, recipe, "train_further", "cannot be trained further"), f"{command} --further"
    try:
        trained = make(run)
        versions = trained if isinstance(trained, tuple) else (trained,)
        served = _served_card(output / name)
        comparisons = compare(served.metrics, versions[-1].metrics) if served else []
        promoted = promote or all(comparison.as_good for comparison in comparisons)
        cards = write_versions(name, versions, output, command, seed, run.seconds, promoted)
    except (FetchError, ExportError, VersionError) as error:
        raise TrainingError(str(error)) from error
    run.forget_checkpoints()
    console.print(summary(cards))
    for card in cards:
        path = output / name / str(card.version)
        console.print(f"exported {path}  (parity {known(card.parity).max_abs_diff:.1e})", highlight=False)
    if served:
        new = cards[-1].version
        console.print(comparison_table(comparisons, served.version, new))
        if promoted:
            outcome = f"promoted: version {new} is served in place of version {served.version}"
        else:
            command = shlex.join(["lectern", "promote", name, "--repository", str(output)])
            outcome = (
                f"not promoted: version {served.version} stays in service; to serve {new} all the same, `{command}`"
            )
        console.print(outcome, highlight=False, soft_wrap=True)
    return cards


def _other_way(name: str, recipe: Recipe, function: str, problem: str) -> Make:
    """A function that some recipes have in place of `train`."""
    make: Make | None = getattr(recipe, function, None)
    if make is None:
        raise TrainingError(f"{name} {problem}; train it in the ordinary way")
    return make


def _meet_needs(recipe: Recipe, run: Run) -> None:
    """See that the models which a recipe reads are there; an encoder that is not is trained first.

    Raises:
        TrainingError: another is not.
    """
    for role, needed in recipe.NEEDS.items():
        if role != ENCODER:
            if _served_card(EXPORTED / needed) is None:
                raise TrainingError(f"{run.name} needs a {role}, {needed}, which {EXPORTED} lacks: train that first")
        elif not (run.repository / needed).is_dir():
            run.console.print(f"{run.name} stands on {needed}, which {run.repository} lacks: training that first")
            train(
                needed,
                fast=run.fast,
                seed=run.seed,
                device=run.device,
                output=run.repository,
                restart=run.restart,
                console=run.console,
            )


def _served_card(model: Path) -> Card | None:
    """The card of the version that is served, if there is any.

    Raises:
        TrainingError: it cannot be read.
    """
    try:
        return read_card(model) if present_versions(model) else None
    except VersionError as error:
        raise TrainingError(f"{error}; mend or remove it before another version is trained") from error


def summary(cards: list[Card]) -> Table:
    """Each metric beside its target, and below it the baselines on the same split."""
    table = Table("model", "metric", "split", "n", "value", "95 % interval", "target")
    for card in cards:
        model = f"{card.name} v{card.version}"
        for metric in card.metrics:
            figures = (f"{metric.value:.4f}", metric.interval_text, metric.target_text)
            table.add_row(model, metric.name, metric.split, str(metric.n), *figures)
            model = ""
        for baseline in card.baselines:
            table.add_row("", baseline.name, "test", "", f"{baseline.value:.4f}", "", "baseline", style="dim")
    return table
