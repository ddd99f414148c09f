"""`lectern episode`: an episode played on the server, with pictures."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lectern.cli.act import MAX_SEED, as_dict
from lectern.cli.connection import Connection
from lectern.cli.output import WRONG_USAGE, fail, print_json, shortest

if TYPE_CHECKING:
    from lectern.v1.act_pb2 import RunEpisodeResponse

STEP_MS = 20  # 50 steps are a second in the environment
GIF_FRAME_EVERY = 4
GIF_WIDTH = 300
LAST_FRAME_MS = 2000
COLOURS = 64
MAX_UINT32 = 2**32 - 1


def episode(
    connection: Connection,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the environment, and of the draws.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.gif|DIRECTORY", help="Save an animation, or each frame as PNG.", show_default="no frames"
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="One of `lectern models`.")] = "lunar_lander",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    max_steps: Annotated[
        int | None, typer.Option(min=1, max=MAX_UINT32, help="Stop after so many.", show_default="1000")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw actions by their probability.")] = False,
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
        check_out(out, animated)
        frame_every = frame_every or (GIF_FRAME_EVERY if animated else 1)
        width = width or (GIF_WIDTH if animated else None)
    steps: list[RunEpisodeResponse] = []
    with connection.client() as client:
        played = client.run_episode(
            seed,
            model,
            version,
            max_steps=max_steps or 0,
            sample=sample,
            frame_every=frame_every or 0 if out else 0,
            frame_width=width or 0,
        )
        steps.extend(watched(played))
    frames = {step.step: step.frame for step in steps if step.frame}
    if out is not None:
        (save_gif if animated else save_pngs)(frames, out)
    last = steps[-1]
    if as_json:
        print_json(
            {"model": last.model, "version": last.version, "seed": seed, "results": list(map(step_as_dict, steps))}
        )
    else:
        end = "ended" if last.terminated else "cut off"
        saved = f"; {len(frames)} frames in {out}" if out else ""
        typer.echo(f"{end} after {last.step} steps, total reward {last.total_reward:.1f}{saved}")


def check_out(out: Path, animated: bool) -> None:
    """See that there is a place for the pictures, before anything is played.

    Raises:
        typer.Exit: there is none, or Pillow is needed and missing.
    """
    if animated:
        try:
            import PIL  # noqa: F401
        except ImportError:
            fail("a GIF needs Pillow: pip install pillow")
        if not out.parent.is_dir():
            fail(f"{out.parent}: no such directory", WRONG_USAGE)
    elif out.exists() and not out.is_dir():
        fail(f"{out}: is a file; name a GIF or a directory", WRONG_USAGE)


def watched(steps: Iterable[RunEpisodeResponse]) -> Iterator[RunEpisodeResponse]:
    """The steps, with a line on a terminal that says how it goes."""
    from rich.console import Console

    with Console(stderr=True).status("playing") as status:
        for step in steps:
            status.update(f"step {step.step}  {step.action.label:<12}  total reward {step.total_reward:.1f}")
            yield step


def save_gif(frames: dict[int, bytes], out: Path) -> None:
    """Frames as PNG by step, as an animation at the environment's own pace; the last one stays a while."""
    from PIL import Image

    images = [Image.open(io.BytesIO(frame)).quantize(COLOURS) for frame in frames.values()]
    pauses = [(after - before) * STEP_MS for before, after in itertools.pairwise(frames)]
    images[0].save(out, save_all=True, append_images=images[1:], duration=[*pauses, LAST_FRAME_MS], loop=0)


def save_pngs(frames: dict[int, bytes], out: Path) -> None:
    """Frames as PNG by step, each as a file named after it."""
    out.mkdir(parents=True, exist_ok=True)
    for number, frame in frames.items():
        (out / f"{number:04d}.png").write_bytes(frame)


def step_as_dict(step: RunEpisodeResponse) -> dict[str, Any]:
    """A step as JSON has it, without its picture."""
    return {
        "step": step.step,
        "observation": [shortest(value) for value in step.observation.features],
        "action": as_dict(step.action),
        "reward": shortest(step.reward),
        "total_reward": shortest(step.total_reward),
        "terminated": step.terminated,
        "truncated": step.truncated,
    }
