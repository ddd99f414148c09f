"""Environments of gymnasium, an optional extra: steps, and pictures as PNG files."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lectern.distribution import how_to_install
from services.errors import Unimplemented

FRAME_WIDTH = 600  # as the environment draws it
MIN_FRAME_WIDTH = 16

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


@dataclass(frozen=True, slots=True)
class Step:
    """What one action led to; `frame` is a PNG, or empty."""

    observation: NDArray[np.float32]
    reward: float
    terminated: bool
    truncated: bool
    frame: bytes


class Environment:
    """One environment at the start of an episode. Making, stepping and drawing take long enough to want a thread.

    Args:
        name: gymnasium's, e.g. `LunarLander-v3`.
        seed: of everything random in it.
        frame_width: width of its pictures in pixels; None = it draws none.

    Raises:
        Unimplemented: gymnasium, or what this environment needs beside it, is not installed.
    """

    def __init__(self, name: str, seed: int, frame_width: int | None) -> None:
        try:
            import Box2D  # noqa: F401
            import gymnasium
            import pygame  # noqa: F401
        except ImportError as error:
            raise Unimplemented(
                f"this server cannot play {name}: {error}. To install what that needs, {how_to_install('episodes')}"
            ) from error
        self._environment = gymnasium.make(name, render_mode=None if frame_width is None else "rgb_array")
        self._frame_width = frame_width
        self.observation: NDArray[np.float32] = self._environment.reset(seed=seed)[0]

    def step(self, action: int, draw: bool) -> Step:
        """Take one action; the last step of an episode is drawn in any case, if any is."""
        observation, reward, terminated, truncated, _ = self._environment.step(action)
        self.observation = observation
        frame = b""
        if self._frame_width is not None and (draw or terminated or truncated):
            frame = self._frame(self._frame_width)
        return Step(observation, float(reward), terminated, truncated, frame)

    def _frame(self, width: int) -> bytes:
        image = Image.fromarray(np.asarray(self._environment.render(), np.uint8))
        if image.width != width:
            image = image.resize((width, image.height * width // image.width))
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()
