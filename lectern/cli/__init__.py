"""The command `lectern`.

Each command's file imports gRPC, numpy or IPython only when it runs, so that `lectern --help` answers at once.
Exit codes: 0 done, 1 the request failed, 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lectern.cli.act import act
from lectern.cli.answer import answer
from lectern.cli.calibrate_detector import calibrate_detector
from lectern.cli.classify import classify
from lectern.cli.classify_few_shot import classify_few_shot
from lectern.cli.connection import takes_connection
from lectern.cli.console import console
from lectern.cli.defend import attack, defend, robustness
from lectern.cli.detect_anomaly import detect_anomaly
from lectern.cli.episode import episode
from lectern.cli.evaluate import evaluate
from lectern.cli.explain import compare_explanations, explain, explain_model
from lectern.cli.failures import run
from lectern.cli.generate import generate
from lectern.cli.listen import listen
from lectern.cli.make_explainable import make_explainable
from lectern.cli.models import models
from lectern.cli.predict import predict
from lectern.cli.promote import promote
from lectern.cli.serve import serve
from lectern.cli.token import token
from lectern.cli.train import train
from lectern.cli.transform import transform
from lectern.cli.translate import translate
from lectern.cli.triton import triton
from lectern.cli.verify_speaker import verify_speaker

__all__ = ["app", "main"]

app = typer.Typer(
    name="lectern",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # `run` puts them in words; locals hold the token
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command()(takes_connection(models))
app.command()(takes_connection(classify))
app.command()(takes_connection(classify_few_shot))
app.command()(takes_connection(answer))
app.command()(takes_connection(listen))
app.command()(takes_connection(verify_speaker))
app.command()(takes_connection(predict))
app.command()(takes_connection(translate))
app.command()(takes_connection(detect_anomaly))
app.command()(takes_connection(explain))
app.command()(takes_connection(compare_explanations))
app.command()(takes_connection(explain_model))
for command in (attack, defend, robustness):
    app.command()(takes_connection(command))
app.add_typer(generate, name="generate")
app.command()(takes_connection(transform))
app.command(context_settings={"ignore_unknown_options": True})(takes_connection(act))  # numbers may begin with a minus
app.command()(takes_connection(episode))
app.command()(takes_connection(console))
app.command()(takes_connection(evaluate))
app.add_typer(token)
app.command()(train)
app.command()(promote)
app.command()(make_explainable)
app.command()(calibrate_detector)
app.command()(triton)


@app.command()
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

    \b
    lectern serve                      start a server on this machine
    lectern models                     what it serves, and how good each model is
    lectern classify cat.png dog.jpg   what is on these pictures
    lectern classify speech.wav        which phones sound in it, and when
    lectern verify-speaker a.wav b.wav whether both are of one speaker
    lectern classify-few-shot --help   which of some new classes, from a few examples of each
    lectern classify --text "..."      whether a text speaks well or ill
    lectern answer --context FILE ...  what a text says to a question
    lectern predict rows.csv           a number for each row of a table
    lectern translate "I can cook."    the same in Chinese
    lectern detect-anomaly shoe.png    whether it looks unlike the training pictures
    lectern explain cat.png --out why.png   what in a picture makes it a cat
    lectern defend cat.png --defence jpeg   whether a picture was made to fool, and what helps
    lectern generate images --seed 7   faces that nobody drew
    lectern transform seven.png        a digit by hand, as if it were printed
    lectern episode --out landing.gif  a flight to the moon, as an animation
    """


def main() -> None:
    """Run the command line and exit."""
    run(app)
