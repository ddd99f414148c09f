"""The command `lectern` and how its subcommands register: each is a file in `commands/`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from lectern.channel import DEFAULT_TIMEOUT
from lectern.cli.connection import takes_connection

ASK, SERVE, TRAIN = "Ask a model", "Run a server", "Make models"
"""Panels of `lectern --help`."""
LONG, LONGEST = 300.0, 3600.0
"""Seconds that a command's answer may take: of one that asks a model often, and of one that makes a whole table."""

Function = TypeVar("Function", bound=Callable[..., None])

app = typer.Typer(
    name="lectern",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # `failures.run` prints messages; typer's tracebacks would show the token
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(
    panel: str, group: typer.Typer = app, *, timeout: float = DEFAULT_TIMEOUT, **settings: Any
) -> Callable[[Function], Function]:
    """Register a function as the command of its name.

    Args:
        panel: where `lectern --help` lists it.
        group: what it is a command of; `lectern` itself if not given.
        timeout: seconds that an answer may take unless the user says otherwise.
        settings: as of `typer.Typer.command`.

    A function whose first parameter is `connection` gets the options of `Connection`.
    """

    def register(function: Function) -> Function:
        connects = next(iter(inspect.signature(function).parameters), "") == "connection"
        typed = takes_connection(function, timeout) if connects else function
        group.command(rich_help_panel=panel, **settings)(typed)
        return function

    return register


@command(SERVE, hidden=True)
def version() -> None:
    """Print the version."""
    from lectern import distribution

    typer.echo(f"lectern {distribution.version()}")


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    print_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Every model of a deep-learning course, served over gRPC.

    `lectern --install-completion` lets the Tab key complete commands, models and methods in bash, zsh and fish.

    \b
    lectern serve                           start a server on this machine
    lectern loadtest                        say what a server holds
    lectern models                          list its models, with how good each is
    lectern show image_classifier           show a model's card: its use, figures, failures, data
    lectern top                             watch what the server does
    lectern doctor                          say what is wrong with this machine
    lectern classify cat.png dog.jpg        name what is on these pictures
    lectern classify speech.wav             list the phones in it, with times
    lectern classify --text "..."           say whether a text is positive or negative
    lectern verify-speaker a.wav b.wav      say whether both are the same speaker
    lectern classify-few-shot --help        learn new classes from a few examples of each
    lectern answer --context FILE ...       answer questions from a text
    lectern words king - man + woman        list the words nearest to a sum of words
    lectern search "..." --in FILE ...      find the sentences of files that mean nearly that
    lectern answer-story FILE "..."         answer a question about a story, and show where it looked
    lectern predict rows.csv                predict a number for each row of a table
    lectern translate "I can cook."         translate English into Chinese
    lectern rewrite --style archaic "..."   rewrite English as the King James Version has it, or back
    lectern detect-anomaly shoe.png         say whether it looks unlike the training pictures
    lectern explain cat.png --out why.png   show what in a picture makes it a cat
    lectern defend cat.png --defence jpeg   clean a picture, and say whether it was attacked
    lectern generate images --seed 7        generate faces
    lectern transform seven.png             redraw a handwritten digit as a printed one
    lectern episode --out landing.gif       play a landing on the moon, as an animation
    """
