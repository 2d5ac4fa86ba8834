"""What a game must offer to be recorded: a small Gymnasium-shaped protocol."""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Action:
    """What is held during one frame, in the dataset's encoding.

    ws: 0 none, 1 forward, 2 backward. ad: 0 none, 1 left, 2 right. scs: 0 none, 1 jump, 2 sneak, 3 sprint.
    pitch, yaw: camera rotation in degrees per frame; positive looks down and turns right.
    """

    ws: int = 0
    ad: int = 0
    scs: int = 0
    pitch: float = 0.0
    yaw: float = 0.0

    @classmethod
    def of(cls, keyboard: np.ndarray, mouse: np.ndarray) -> "Action":
        """From a row of keys (w s a d space shift ctrl) and of mouse degrees (pitch, yaw), as the model takes them."""
        w, s, a, d, space, shift, ctrl = (bool(key) for key in keyboard)
        return cls(1 if w else 2 if s else 0, 1 if a else 2 if d else 0, 1 if space else 2 if shift else 3 if ctrl else 0, float(mouse[0]), float(mouse[1]))


@dataclasses.dataclass(frozen=True)
class Observation:
    """What is seen and known after a frame. Positions are in metres (east, up, north), angles in degrees."""

    rgb: np.ndarray  # uint8 [h, w, 3]
    depth: np.ndarray  # uint8 [h, w], larger is farther
    position: tuple[float, float, float]
    pitch: float
    yaw: float


@runtime_checkable
class World(Protocol):
    """A game that is stepped frame by frame, and is the same for the same seed and actions."""

    def reset(self, *, seed: int) -> Observation:
        """Start at a place and heading drawn from `seed`."""

    def step(self, action: Action) -> tuple[Observation, bool]:
        """Hold `action` for one frame; returns what is seen then and whether the episode has ended."""

    def close(self) -> None: ...
