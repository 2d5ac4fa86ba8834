"""Who plays while recording: the paper's holding policy, and GameFactory's per-frame random policy for comparison."""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np

from mwjax.data.actions import Action
from mwjax.errors import InputError
from mwjax.ranges import FRAMES, Range, check_number
from mwjax.worlds.world import Observation


@runtime_checkable
class Policy(Protocol):
    """Chooses an action for every step of an episode."""

    def start(self, rng: np.random.Generator) -> None:
        """Begin an episode; all that is drawn in it comes from `rng`."""

    def act(self, observation: Observation, *, blind: bool) -> Action:
        """What to hold next. blind: whether a wall fills the view, as the world says."""


@dataclasses.dataclass
class HoldPolicy:
    """Every key group and the mouse hold a value for a randomly drawn duration; opposites come up equally often.

    hold: shortest and longest duration in frames.
    still: probabilities of neither walking key, and of neither sideways key.
    yaw, pitch: (smallest, largest) magnitude in degrees per frame. max_pitch: bound on the absolute camera pitch.
    mouse: probabilities of (still, yaw, pitch, both). special: of (none, jump, sneak, sprint).
    """

    hold: tuple[int, int] = (16, 48)
    still: tuple[float, float] = (0.3, 0.3)
    yaw: tuple[float, float] = (1.0, 5.0)
    pitch: tuple[float, float] = (0.5, 2.0)
    max_pitch: float = 15.0
    mouse: tuple[float, float, float, float] = (0.45, 0.3, 0.15, 0.1)
    special: tuple[float, float, float, float] = (0.7, 0.1, 0.1, 0.1)

    def check(self) -> None:
        """Raises InputError for what cannot be drawn."""
        _check_bounds("hold", self.hold, Range(least=1, most=FRAMES.most, whole=True))
        _check_turns(self.yaw, self.pitch, self.max_pitch)
        for name in ("still", "mouse", "special"):
            for part in getattr(self, name):
                check_number(part, f"policy_options: {name}", Range(least=0, most=1))
        for name in ("mouse", "special"):
            total = sum(getattr(self, name))
            if abs(total - 1) > 1e-8:
                raise InputError(f"policy_options: {name} are probabilities that sum to {total:g}, not 1")

    def start(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._held = {"ws": 0, "ad": 0, "scs": 0, "mouse": (0.0, 0.0)}
        self._left = dict.fromkeys(self._held, 0)  # frames for which it is still held
        self._escaping = False
        self._was = None

    def act(self, observation: Observation, *, blind: bool) -> Action:
        if blind:
            self._escape()
        elif self._escaping and max(self._left.values()) == 0:
            self._escaping = False
            self._held["ws"] = 1
            self._left["ws"] = self._duration()
        elif self._blocked(observation):
            self._left["ws"] = 0
            self._left["ad"] = 0
        self._was = observation.position
        for group in self._left:
            if self._left[group] == 0:
                self._left[group] = self._duration()
                self._held[group] = self._draw(group)
            self._left[group] -= 1
        pitch, yaw = self._held["mouse"]
        pitch = _within(observation.pitch, pitch, self.max_pitch)
        self._held["mouse"] = (pitch, yaw)
        return Action(ws=self._held["ws"], ad=self._held["ad"], scs=self._held["scs"], pitch=pitch, yaw=yaw)

    def _escape(self) -> None:
        """Back off and turn away from the wall, one way, until the view is free; then walk on."""
        if not self._escaping:
            self._escaping = True
            sign = float(self._rng.choice((-1.0, 1.0)))
            yaw = sign * float(self._rng.uniform(self.yaw[1] / 2, self.yaw[1]))
            self._held = {"ws": 2, "ad": 0, "scs": 0, "mouse": (0.0, round(yaw, 3))}
        self._left = dict.fromkeys(self._left, int(self._rng.integers(2, 6)))

    def _blocked(self, observation: Observation) -> bool:
        """Whether walking keys have been held for a few frames and the last one moved nothing."""
        if self._was is None or not (self._held["ws"] or self._held["ad"]):
            return False
        return self._left["ws"] < self.hold[0] and np.allclose(self._was, observation.position, atol=0.02)

    def _duration(self) -> int:
        return int(self._rng.integers(*self.hold, endpoint=True))

    def _draw(self, group: str) -> int | tuple[float, float]:
        if group == "mouse":
            return self._draw_mouse()
        if group == "scs":
            return int(self._rng.choice(4, p=self.special))
        still = self.still[("ws", "ad").index(group)]
        return int(self._rng.choice(3, p=(still, (1 - still) / 2, (1 - still) / 2)))

    def _draw_mouse(self) -> tuple[float, float]:
        mode = self._rng.choice(4, p=self.mouse)
        pitch = _signed(self._rng, self.pitch) if mode in (2, 3) else 0.0
        yaw = _signed(self._rng, self.yaw) if mode in (1, 3) else 0.0
        return round(pitch, 3), round(yaw, 3)


@dataclasses.dataclass
class RandomPolicy:
    """GameFactory's policy: every key group and the mouse drawn anew each frame.

    yaw, pitch: (smallest, largest) magnitude in degrees per frame. max_pitch: bound on the absolute camera pitch.
    """

    yaw: tuple[float, float] = (0.0, 5.0)
    pitch: tuple[float, float] = (0.0, 2.0)
    max_pitch: float = 15.0

    def check(self) -> None:
        """Raises InputError for what cannot be drawn."""
        _check_turns(self.yaw, self.pitch, self.max_pitch)

    def start(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def act(self, observation: Observation, *, blind: bool) -> Action:
        yaw = _signed(self._rng, self.yaw)
        pitch = _within(observation.pitch, _signed(self._rng, self.pitch), self.max_pitch)
        ws, ad, scs = (int(self._rng.integers(codes)) for codes in (3, 3, 4))
        return Action(ws=ws, ad=ad, scs=scs, pitch=round(pitch, 3), yaw=round(yaw, 3))


def _check_bounds(name: str, bounds: tuple[float, float], allowed: Range) -> None:
    """Raises InputError unless both are allowed, and the first is not above the second."""
    for bound in bounds:
        check_number(bound, f"policy_options: {name}", allowed)
    if bounds[0] > bounds[1]:
        raise InputError(f"policy_options: {name} {bounds[0]:g}, {bounds[1]:g} must not fall")


def _check_turns(yaw: tuple[float, float], pitch: tuple[float, float], max_pitch: float) -> None:
    """Raises InputError for turns, in degrees, that nobody can make."""
    _check_bounds("yaw", yaw, Range(least=0, most=180))
    _check_bounds("pitch", pitch, Range(least=0, most=180))
    check_number(max_pitch, "policy_options: max_pitch", Range(least=0, most=90))


def _signed(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """A magnitude drawn between the bounds, up or down alike."""
    return float(rng.uniform(*bounds) * rng.choice((-1, 1)))


def _within(at: float, turn: float, bound: float) -> float:
    """`turn`, or the turn back where it would lead from `at` beyond ±bound."""
    if abs(at + turn) > bound:
        return float(-np.sign(at) * abs(turn))
    return float(turn)


POLICIES = {"hold": HoldPolicy, "random": RandomPolicy}
