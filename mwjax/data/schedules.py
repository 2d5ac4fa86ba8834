"""Action sequences for showing and measuring control: one thing held for a whole clip."""

from mwjax.data.actions import KEYS, Actions, no_actions

# name: what is held, as `hold` takes it
SHOWCASE = {
    "turn_right": {"yaw": 4.0},
    "turn_left": {"yaw": -4.0},
    "look_down": {"pitch": 1.5},
    "look_up": {"pitch": -1.5},
    "forward": {"keys": "w"},
    "backward": {"keys": "s"},
    "left": {"keys": "a"},
    "right": {"keys": "d"},
}


def hold(frames: int, *, keys: str = "", pitch: float = 0.0, yaw: float = 0.0) -> Actions:
    """`keys` (names, separated by spaces) and a rotation in degrees per frame, held from frame 1 on."""
    keyboard, mouse = no_actions(frames)
    for key in keys.split():
        keyboard[1:, KEYS.index(key)] = 1
    mouse[1:] = pitch, yaw
    return keyboard, mouse


def showcase(frames: int) -> list[Actions]:
    """One sequence for each name in SHOWCASE."""
    return [hold(frames, **held) for held in SHOWCASE.values()]
