"""Who plays while recording: the paper's holding policy, and GameFactory's per-frame random policy for comparison."""

import dataclasses

import numpy as np

from mwjax.worlds.world import Action, Observation

NEAR = 6  # median of the depth buffer below which a wall fills the view


def is_staring(observation: Observation) -> bool:
    """Whether a wall or the floor fills the view: nothing could be learnt from such frames."""
    return float(np.median(observation.depth)) < NEAR


@dataclasses.dataclass
class HoldPolicy:
    """Every key group and the mouse hold a value for a randomly drawn duration; opposite classes come up equally often.

    hold: shortest and longest duration in frames. still: probabilities of neither walking key, and of neither sideways key.
    yaw, pitch: (smallest, largest) magnitude in degrees per frame.
    max_pitch: bound on the absolute camera pitch in degrees. mouse: probabilities of (still, yaw, pitch, both).
    """

    hold: tuple[int, int] = (16, 48)
    still: tuple[float, float] = (0.3, 0.3)
    yaw: tuple[float, float] = (1.0, 5.0)
    pitch: tuple[float, float] = (0.5, 2.0)
    max_pitch: float = 15.0
    mouse: tuple[float, float, float, float] = (0.45, 0.3, 0.15, 0.1)
    special: tuple[float, float, float, float] = (0.7, 0.1, 0.1, 0.1)  # none, jump, sneak, sprint

    def start(self, rng: np.random.Generator) -> None:
        self._rng, self._left, self._held, self._was = rng, dict.fromkeys(("ws", "ad", "scs", "mouse"), 0), {}, None

    def act(self, observation: Observation) -> Action:
        draw = {"ws": lambda: self._direction(self.still[0]), "ad": lambda: self._direction(self.still[1]), "scs": self._special, "mouse": self._mouse}
        if is_staring(observation):
            # Back off and turn away from the wall, one way, until the view is free; then walk on.
            if not self._held.get("escape"):
                sign = float(self._rng.choice((-1.0, 1.0)))
                self._held.update(escape=True, ws=2, ad=0, scs=0, mouse=(0.0, round(sign * float(self._rng.uniform(self.yaw[1] / 2, self.yaw[1])), 3)))
            self._left = dict.fromkeys(self._left, int(self._rng.integers(2, 6)))
        elif self._held.get("escape") and max(self._left.values()) == 0:
            self._left["ws"] = int(self._rng.integers(*self.hold, endpoint=True))
            self._held.update(escape=False, ws=1)
        elif self._blocked(observation):
            self._left.update(ws=0, ad=0)
        self._was = observation.position
        for group in self._left:
            if self._left[group] == 0:
                self._left[group] = int(self._rng.integers(*self.hold, endpoint=True))
                self._held[group] = draw[group]()
            self._left[group] -= 1
        pitch, yaw = self._held["mouse"]
        if abs(observation.pitch + pitch) > self.max_pitch:  # bounce off the bound
            pitch = -np.sign(observation.pitch) * abs(pitch)
            self._held["mouse"] = (pitch, yaw)
        return Action(ws=self._held["ws"], ad=self._held["ad"], scs=self._held["scs"], pitch=float(pitch), yaw=float(yaw))

    def _blocked(self, observation: Observation) -> bool:
        """Whether walking keys have been held for a few frames and the last one moved nothing."""
        walks = self._held.get("ws") or self._held.get("ad")
        return bool(walks) and self._left["ws"] < self.hold[0] and self._was is not None and np.allclose(self._was, observation.position, atol=0.02)

    def _direction(self, still: float) -> int:
        return int(self._rng.choice(3, p=(still, (1 - still) / 2, (1 - still) / 2)))

    def _special(self) -> int:
        return int(self._rng.choice(4, p=self.special))

    def _mouse(self) -> tuple[float, float]:
        mode = self._rng.choice(4, p=self.mouse)
        pitch = self._rng.uniform(*self.pitch) * self._rng.choice((-1, 1)) if mode in (2, 3) else 0.0
        yaw = self._rng.uniform(*self.yaw) * self._rng.choice((-1, 1)) if mode in (1, 3) else 0.0
        return round(float(pitch), 3), round(float(yaw), 3)


@dataclasses.dataclass
class RandomPolicy:
    """GameFactory's policy: every key group and the mouse drawn anew each frame."""

    yaw: tuple[float, float] = (0.0, 5.0)
    pitch: tuple[float, float] = (0.0, 2.0)
    max_pitch: float = 15.0

    def start(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def act(self, observation: Observation) -> Action:
        yaw = self._rng.uniform(*self.yaw) * self._rng.choice((-1, 1))
        pitch = self._rng.uniform(*self.pitch) * self._rng.choice((-1, 1))
        if abs(observation.pitch + pitch) > self.max_pitch:
            pitch = -np.sign(observation.pitch) * abs(pitch)
        ws, ad, scs = int(self._rng.integers(3)), int(self._rng.integers(3)), int(self._rng.integers(4))
        return Action(ws=ws, ad=ad, scs=scs, pitch=round(float(pitch), 3), yaw=round(float(yaw), 3))


POLICIES = {"hold": HoldPolicy, "random": RandomPolicy}
