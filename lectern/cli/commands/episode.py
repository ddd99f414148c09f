"""`lectern episode`: an episode that a policy plays on the server, with pictures."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lectern.cli.app import ASK, LONG, command
from lectern.cli.connection import Connection
from lectern.cli.options import MAX_UINT32, MAX_UINT64, Model, Sample, Version
from lectern.cli.output import WRONG_USAGE, as_document, fail, print_json

if TYPE_CHECKING:
    from lectern.v1.act_pb2 import RunEpisodeResponse

STEP_MS = 20  # 50 steps are a second in the environment
GIF_FRAME_EVERY = 4
GIF_WIDTH = 300
LAST_FRAME_MS = 2000
COLOURS = 64


@command(ASK, timeout=LONG)
def episode(
    connection: Connection,
    seed: Annotated[int, typer.Option(min=0, max=MAX_UINT64, help="Of the environment, and of the draws.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.gif|DIRECTORY", help="Save an animation, or each frame as PNG.", show_default="no frames"
        ),
    ] = None,
    model: Model = "lunar_lander",
    version: Version = 0,
    max_steps: Annotated[
        int | None, typer.Option(min=1, max=MAX_UINT32, help="Stop after this many steps.", show_default="1000")
    ] = None,
    sample: Sample = False,
    frame_every: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_UINT32, help="Steps from frame to frame.", show_default="4 in a GIF, else 1"),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_UINT32, help="Of a frame, in pixels.", show_default="300 in a GIF, else 600"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, a result for each step.")] = False,
) -> None:
    """Let a policy play an episode on the server.

    \b
    lectern episode --seed 7
    lectern episode --seed 7 --out landing.gif
    lectern episode --seed 7 --out frames --frame-every 10
    """
    animated = out is not None and out.suffix.lower() == ".gif"
    if out is not None:
        _check_out(out, animated)
        frame_every = frame_every or (GIF_FRAME_EVERY if animated else 1)
        width = width or (GIF_WIDTH if animated else None)
    with connection.client(quiet=True) as client:
        responses = client.run_episode(
            seed,
            model,
            version,
            max_steps=max_steps or 0,
            sample=sample,
            frame_every=frame_every or 0 if out else 0,
            frame_width=width or 0,
        )
        steps = list(_with_status(responses))
    frames = {step.step: step.frame for step in steps if step.frame}
    if out is not None:
        (_save_gif if animated else _save_pngs)(frames, out)
    last = steps[-1]
    if as_json:
        results = [_step_document(step) for step in steps]
        print_json({"model": last.model, "version": last.version, "seed": seed, "results": results})
    else:
        end = "ended" if last.terminated else "cut off"
        saved = f"; {len(frames)} frames in {out}" if out else ""
        typer.echo(f"{end} after {last.step} steps, total reward {last.total_reward:.1f}{saved}")


def _check_out(out: Path, animated: bool) -> None:
    """Check, before anything is played, that the pictures can be written."""
    if animated:
        try:
            import PIL  # noqa: F401
        except ImportError:
            fail("a GIF needs Pillow: pip install pillow")
        if not out.parent.is_dir():
            fail(f"{out.parent}: no such directory", WRONG_USAGE)
    elif out.exists() and not out.is_dir():
        fail(f"{out}: is a file; name a GIF or a directory", WRONG_USAGE)


def _with_status(steps: Iterable[RunEpisodeResponse]) -> Iterator[RunEpisodeResponse]:
    """The steps, with a status line on a terminal."""
    from rich.console import Console

    with Console(stderr=True).status("playing") as status:
        for step in steps:
            status.update(f"step {step.step}  {step.action.label:<12}  total reward {step.total_reward:.1f}")
            yield step


def _save_gif(frames: dict[int, bytes], out: Path) -> None:
    """Save frames, PNG by step, as an animation at the environment's own speed; the last one stays for a while."""
    from PIL import Image

    images = [Image.open(io.BytesIO(frame)).quantize(COLOURS) for frame in frames.values()]
    durations = [(after - before) * STEP_MS for before, after in itertools.pairwise(frames)]
    images[0].save(out, save_all=True, append_images=images[1:], duration=[*durations, LAST_FRAME_MS], loop=0)


def _save_pngs(frames: dict[int, bytes], out: Path) -> None:
    """Save frames, PNG by step, each in a file named after its step."""
    out.mkdir(parents=True, exist_ok=True)
    for number, frame in frames.items():
        (out / f"{number:04d}.png").write_bytes(frame)


def _step_document(step: RunEpisodeResponse) -> dict[str, Any]:
    """A step for JSON; the whole document says model and version."""
    document = as_document(step)
    del document["model"], document["version"]
    return {**document, "observation": document["observation"]["features"]}
