"""Action sequences for showing and measuring control: one thing held for a whole clip."""

import numpy as np

from mwjax.data.actions import KEYS, Actions

SHOWCASE = ("turn_right", "turn_left", "look_down", "look_up", "forward", "backward", "left", "right")


def hold(frames: int, *, keys: str = "", pitch: float = 0.0, yaw: float = 0.0) -> Actions:
    """`keys` (space-separated names) and a rotation in degrees per frame, held from frame 1 on."""
    keyboard, mouse = np.zeros((frames, 7), np.float32), np.zeros((frames, 2), np.float32)
    for key in keys.split():
        keyboard[1:, KEYS.index(key)] = 1
    mouse[1:] = pitch, yaw
    return keyboard, mouse


def showcase(frames: int) -> list[Actions]:
    """One sequence for each name in SHOWCASE."""
    return [
        hold(frames, yaw=4), hold(frames, yaw=-4), hold(frames, pitch=1.5), hold(frames, pitch=-1.5),
        hold(frames, keys="w"), hold(frames, keys="s"), hold(frames, keys="a"), hold(frames, keys="d"),
    ]  # fmt: skip
