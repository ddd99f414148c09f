"""`lectern generate`: images and poems that a model makes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.app import ASK, LONG, app, command
from lectern.cli.connection import Connection
from lectern.cli.files import STDIN, STDOUT, read_text
from lectern.cli.options import MAX_UINT64, Model, Version
from lectern.cli.output import show_notices
from lectern.cli.pictures import Scale, write_picture

DEFAULT_COUNT = 16
_MODELS = "the model's"

generate = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Generate images, or a poem.")
app.add_typer(generate, name="generate", rich_help_panel=ASK)


@command(ASK, generate, timeout=LONG)
def images(
    connection: Connection,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_UINT64, help="Of the first image; image i has seed + i.", show_default="drawn"),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="How many images.", show_default="16; with --to-seed 8 on the path")
    ] = None,
    to_seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_UINT64, help="Change one image into this one.", show_default=False)
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="Up to 1; less = more typical and less varied images.", show_default="1"),
    ] = None,
    label: Annotated[
        str, typer.Option(help="What to draw, where the model has labels.", show_default="each in turn")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for a contact sheet of all, or directory for a file of each; - is standard output.",
            show_default="MODEL-SEED.png, in a pipe -",
        ),
    ] = None,
    scale: Scale = 0,
    model: Model = "face_generator",
    version: Version = 0,
) -> None:
    """Generate images: a contact sheet, or a directory of files.

    The same seed gives the same image every time.

    \b
    lectern generate images --seed 7
    lectern generate images --seed 7 --count 64 --truncation 0.7 --out faces/
    lectern generate images --seed 7 --to-seed 12 --count 10 --out path.png
    lectern generate images --model garment_generator --label dress | display -
    """
    if out is None and not sys.stdout.isatty():
        out = STDOUT
    directory = out if out not in (None, STDOUT) and (out.is_dir() or not out.suffix) else None
    path = to_seed is not None
    with connection.client() as client:
        responses = client.generate_images(
            seed,
            None if path else count or DEFAULT_COUNT,
            to_seed=to_seed,
            steps=count if path else None,
            truncation=truncation,
            label=label,
            contact_sheet=directory is None,
            model=model,
            version=version,
        )
        for response in responses:
            if directory:
                name = f"{response.seed}-{to_seed}-{response.index:02}" if path else str(response.seed)
                write_picture(directory / f"{response.model}-{name}.png", response.image, scale)
            else:
                write_picture(out or Path(f"{response.model}-{response.seed}.png"), response.image, scale)


@command(ASK, generate, timeout=LONG)
def poem(
    connection: Connection,
    prompt: Annotated[
        str, typer.Argument(help="The beginning of the poem; - is standard input.", show_default=False)
    ] = "",
    title: Annotated[str, typer.Option(help="What it is about.", show_default="the model's choice")] = "",
    form: Annotated[str, typer.Option(help="E.g. 五言絕句 or 七言律詩.", show_default="the model's choice")] = "",
    temperature: Annotated[
        float | None,
        typer.Option(help="Less = more predictable; 0 = always the most probable token.", show_default=_MODELS),
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Choose among this many most probable tokens; 0 = all.")] = 0,
    top_p: Annotated[
        float | None,
        typer.Option(help="Choose among the tokens that together have this probability.", show_default=_MODELS),
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="1 to 5; more = fewer repeated characters.", show_default=_MODELS)
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_UINT64, show_default="drawn")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the poem.", show_default=False)] = None,
    max_tokens: Annotated[int, typer.Option(min=0, help="0 = until the poem ends.")] = 0,
    stream: Annotated[bool, typer.Option("--stream", help="Print the poem as it is generated.")] = False,
    model: Model = "poem_generator",
    version: Version = 0,
) -> None:
    """Generate a poem.

    The same seed gives the same poem every time. A prompt of several lines has examples before its last line.

    \b
    lectern generate poem "床前明月光，" --stream
    lectern generate poem --title 春望 --form 五言律詩 --seed 7
    """
    beginning = read_text(STDIN).rstrip("\n") if prompt == "-" else prompt
    text = beginning.rpartition("\n")[2]
    with connection.client(quiet=stream) as client:
        for response in client.generate_text(
            beginning,
            title=title,
            form=form,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop or [],
            max_tokens=max_tokens,
            model=model,
            version=version,
        ):
            show_notices(response.notices)
            text += response.text
            if stream:
                typer.echo(text, nl=False)
                sys.stdout.flush()
                text = ""
    typer.echo(text)
