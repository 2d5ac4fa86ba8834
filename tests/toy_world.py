"""A world of a few lines, as one would add it: an endless striped floor, seen from above."""

import sys

import numpy as np

from mwjax.data.actions import Action
from mwjax.errors import InputError
from mwjax.worlds.world import Observation


class ToyWorld:
    """Level toy:N gives N frames a step. Walking moves a quarter of a metre a frame; x = 0 is a wall."""

    def __init__(self, name: str, *, size: tuple[int, int], fps: float | None = None):
        self.check(name, size=size, fps=fps)
        self.size = size
        self.fps = fps or 10.0
        self.words = self.describe(name)
        self.biome = "stripes"
        self.frames = int(name.removeprefix("toy:"))

    @staticmethod
    def check(name: str, *, size: tuple[int, int], fps: float | None = None) -> None:
        if not name.removeprefix("toy:").isdigit():
            raise InputError(f"level {name!r} is no toy; use toy:FRAMES")
        if size[0] % 2 or size[1] % 2:
            raise InputError(f"frame size {size[0]}x{size[1]} must be even")

    @staticmethod
    def describe(name: str) -> str:
        return "a striped floor"

    def reset(self, *, seed: int) -> Observation:
        self.x = float(np.random.default_rng(seed).integers(0, 4))
        self.pitch = 0.0
        return self._observe()

    def step(self, action: Action) -> tuple[list[Observation], bool]:
        seen = []
        for _ in range(self.frames):
            self.x = max(0.0, self.x + 0.25 * (action.ws == 1) - 0.25 * (action.ws == 2))
            self.pitch += action.pitch
            seen.append(self._observe())
        return seen, False

    def is_blind(self, observation: Observation) -> bool:
        return observation.position[0] == 0

    def _observe(self) -> Observation:
        height, width = self.size
        stripes = (np.arange(width) + round(4 * self.x)) // 4 % 2 * 200
        rgb = np.broadcast_to(stripes[None, :, None], (height, width, 3)).astype(np.uint8)
        return Observation(rgb, None, (self.x, 0.0, 0.0), self.pitch, 0.0)

    def close(self) -> None:
        assert "vizdoom" not in sys.modules
