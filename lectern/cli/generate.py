"""`lectern generate`: things made of noise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.connection import Connection, takes_connection
from lectern.cli.output import STDIN, STDOUT, read_text, write

DEFAULT_COUNT = 16


def images(
    connection: Connection,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**64 - 1, help="Of the first image, the next has the next.", show_default="drawn"),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="How many images.", show_default="16; with --to-seed 8 on the path")
    ] = None,
    to_seed: Annotated[
        int | None, typer.Option(min=0, max=2**64 - 1, help="Change one image into this one.", show_default=False)
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="Up to 1; less = more typical images, and less varied.", show_default="1"),
    ] = None,
    label: Annotated[str, typer.Option(help="What to draw, of a model with labels.", show_default="each in turn")] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for a contact sheet of all, or directory for a file of each; - is standard output.",
            show_default="MODEL-SEED.png, in a pipe -",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="One of `lectern models`.")] = "face_generator",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
) -> None:
    """Make images: a contact sheet, or a directory of files.

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
                directory.mkdir(parents=True, exist_ok=True)
                name = f"{response.seed}-{to_seed}-{response.index:02}" if path else str(response.seed)
                write(directory / f"{response.model}-{name}.png", response.image)
            else:
                write(out or Path(f"{response.model}-{response.seed}.png"), response.image)


def poem(
    connection: Connection,
    prompt: Annotated[str, typer.Argument(help="What it begins with; - is standard input.", show_default=False)] = "",
    title: Annotated[str, typer.Option(help="What it is about.", show_default="the model's choice")] = "",
    form: Annotated[str, typer.Option(help="E.g. 五言絕句 or 七言律詩.", show_default="the model's choice")] = "",
    temperature: Annotated[
        float | None,
        typer.Option(help="Less = more predictable; 0 = always the likeliest.", show_default="the model's"),
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Choose among so many; 0 = all.")] = 0,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among those that make up so much.", show_default="the model's")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="1 to 5; more = fewer repeated characters.", show_default="the model's")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**64 - 1, show_default="drawn")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends it.", show_default=False)] = None,
    max_tokens: Annotated[int, typer.Option(min=0, help="0 = until it ends.")] = 0,
    stream: Annotated[bool, typer.Option("--stream", help="Print it as it is written.")] = False,
    model: Annotated[str, typer.Option(help="One of `lectern models`.")] = "poem_generator",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
) -> None:
    """Write a poem.

    The same seed writes the same poem every time. A prompt of several lines holds examples before the last line.

    \b
    lectern generate poem "床前明月光，" --stream
    lectern generate poem --title 春望 --form 五言律詩 --seed 7
    """
    beginning = read_text(STDIN).rstrip("\n") if prompt == "-" else prompt
    text = beginning.rpartition("\n")[2]
    with connection.client() as client:
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
            text += response.text
            if stream:
                typer.echo(text, nl=False)
                sys.stdout.flush()
                text = ""
    typer.echo(text)


generate = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Make images out of noise, and poems.")
generate.command()(takes_connection(images))
generate.command()(takes_connection(poem))
