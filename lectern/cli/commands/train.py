"""`lectern train`: train the next version of a model."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.app import TRAIN, command
from lectern.cli.completion import recipe
from lectern.cli.output import WRONG_USAGE, fail, fail_for_missing


@command(TRAIN)
def train(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Model, e.g. image_classifier.", show_default="with --all, every one", autocompletion=recipe
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Train every model that is shipped, one after another.")] = False,
    round_name: Annotated[
        str | None,
        typer.Option(
            "--round",
            metavar="NAME",
            help="With --all: pass over the models that an earlier or another process of this name has trained.",
        ),
    ] = None,
    index: Annotated[
        int | None,
        typer.Option(
            help="With --round: train one of all, counted from 0, once those are trained that it learns from."
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="A check that takes seconds, on the small sample that comes with the code.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to train.")] = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Model repository to write the version to.",
            show_default="exported; build/exported with --fast; build/unshipped if the data may not be shipped",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start again where an interrupted run could be continued.")
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Serve the new version even if it is worse than the served one.")
    ] = False,
    requantize: Annotated[
        bool,
        typer.Option("--requantize", help="Instead of training, round the served weights to 8 bits again."),
    ] = False,
    further: Annotated[
        bool, typer.Option("--further", help="Train the served version's weights on, where the recipe can.")
    ] = False,
) -> None:
    """Train a model and export it to ONNX as its next version; running servers load it without a restart.

    A version that is worse than the served one, on the first metric of the test split or on a fresh set, is written but
    not served; `lectern promote` serves it later.

    After Ctrl-C or SIGTERM, the same command continues from the last complete epoch.

    \b
    lectern train image_classifier --fast
    lectern train covid_regressor --seed 1 --output other-models
    lectern train --all --round november
    """
    if (name is None) != every:
        fail("name one model, or give --all", WRONG_USAGE)
    if (round_name is not None and not every) or (index is not None and round_name is None):
        fail("--round goes with --all, and --index with --round", WRONG_USAGE)
    try:
        from training import TrainingError
        from training.rounds import train_all
        from training.train import train as train_one
    except ImportError as error:
        fail_for_missing("training", error, "cpu", "train")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the first process of a container ignores it otherwise
    run = partial(
        train_one,
        fast=fast,
        seed=seed,
        device=device,
        output=output,
        restart=restart,
        promote=promote,
        requantize=requantize,
        further=further,
    )
    try:
        if name is None:
            train_all(run, round_name, index)
        else:
            run(name)
    except TrainingError as error:
        fail(str(error))
