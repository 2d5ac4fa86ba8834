"""What a game must offer to be recorded, and the one door to all of them.

Another game is one new file and one line in WORLDS.
"""

import contextlib
import dataclasses
import importlib
import tempfile
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from mwjax.data.actions import Action
from mwjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Observation:
    """What is seen and known after a frame. Positions are in metres (east, up, north), angles in degrees."""

    rgb: np.ndarray  # uint8 [h, w, 3]
    depth: np.ndarray | None  # uint8 [h, w], larger is farther, in the world's own unit; None if it knows none
    position: tuple[float, float, float]
    pitch: float
    yaw: float


@runtime_checkable
class World(Protocol):
    """One level of a game, stepped frame by frame, which is the same for the same seed and actions.

    The classes in WORLDS are called as CLASS(name, size=(height, width), fps=…), where fps None is the world's own, and
    raise what `check` does.
    """

    fps: float
    words: str  # the look of the place, for captions; from the first reset on, and `biome`, its name, likewise
    biome: str

    @staticmethod
    def check(name: str, *, size: tuple[int, int], fps: float | None) -> None:
        """Raise InputError for a level, a frame size or a rate that is not to be had; opens nothing."""

    @staticmethod
    def describe(name: str) -> str:
        """The look of a level in words, as far as its name tells; opens nothing."""

    def reset(self, *, seed: int) -> Observation:
        """Start at a place and heading drawn from `seed`."""

    def step(self, action: Action) -> tuple[list[Observation], bool]:
        """Hold `action`; returns what is seen while it is held and whether the episode has ended.

        A game gives one frame, a world model may give several; where there is nothing to be seen of the end, none.
        """

    def is_blind(self, observation: Observation) -> bool:
        """Whether a wall or the floor fills the view: nothing could be learnt from such frames."""

    def close(self) -> None: ...


class Kind(NamedTuple):
    """A kind of levels: how their names are written, and MODULE:CLASS of their world, imported when it is needed."""

    form: str
    world: str


WORLDS = {
    "arena": Kind("arena:THEME:SEED", "mwjax.worlds.doom:DoomWorld"),
    "scenario": Kind("scenario:NAME[:MAP]", "mwjax.worlds.doom:DoomWorld"),
    "freedoom1": Kind("freedoom1:E1M1", "mwjax.worlds.doom:DoomWorld"),
    "freedoom2": Kind("freedoom2:MAP01", "mwjax.worlds.doom:DoomWorld"),
}


def level_forms() -> str:
    """How the levels of all kinds are written."""
    return ", ".join(kind.form for kind in WORLDS.values())


def check_world(name: str, *, size: tuple[int, int], fps: float | None = None) -> None:
    """Raise InputError unless level `name` can be opened with frames of `size` (height, width); nothing is opened."""
    _world_class(name).check(name, size=size, fps=fps)


def describe_world(name: str) -> str:
    """The look of level `name` in words, for captions; nothing is opened."""
    return _world_class(name).describe(name)


def open_world(name: str, *, size: tuple[int, int], fps: float | None = None) -> World:
    """Open a level such as arena:tech:7. size: (height, width) of its frames. fps: frames a second, or the world's own.

    Raises InputError as check_world does.
    """
    return _world_class(name)(name, size=size, fps=fps)


@contextlib.contextmanager
def world_in_scratch(name: str, *, size: tuple[int, int], fps: float | None = None) -> Iterator[World]:
    """As open_world, in a working directory that goes away with the world: games write files where they stand."""
    with (
        tempfile.TemporaryDirectory(prefix="mwjax_world_", ignore_cleanup_errors=True) as folder,
        contextlib.chdir(folder),
        contextlib.closing(open_world(name, size=size, fps=fps)) as world,
    ):
        yield world


def _world_class(name: str) -> type:
    kind = name.partition(":")[0]
    if kind not in WORLDS:
        raise InputError(f"level {name!r} is of no kind that is known; use one of {level_forms()}")
    module, _, class_name = WORLDS[kind].world.partition(":")
    return getattr(importlib.import_module(module), class_name)
