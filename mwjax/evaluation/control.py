"""Keyboard and camera precision: actions read off a video by an inverse dynamics model, against those asked for.

Conventions are those of the published benchmarks (Matrix-Game's GameWorldScore, MineWorld); see `TASKS` and the
functions.
"""

import numpy as np

from mwjax.data.actions import KEYS, Actions
from mwjax.evaluation.networks.idm import BUTTONS
from mwjax.types import Bool, Float, Int

MAXIMUM = 10.0  # degrees at which the camera is cut
BIN = 2.0  # width of a bin after compression
MU = 10.0  # strength of the compression
STILL = 0.01  # degrees per frame that still count as no camera motion

# A task is a pair of opposite buttons (classes: neither or both, first, second) or a single one (classes: up, down).
MATRIX = (("back", "forward"), ("left", "right"), ("attack",), ("jump",))
MINEWORLD = (
    ("back", "forward"),
    ("left", "right"),
    ("sneak", "sprint"),
    ("use",),
    ("attack",),
    ("jump",),
    ("drop",),
)
OURS = (("back", "forward"), ("left", "right"), ("sneak", "sprint"), ("jump",))  # what the seven keys can say
TASKS = {"matrix": MATRIX, "mineworld": MINEWORLD, "keys": OURS}
KEY_OF_BUTTON = {
    "forward": "w",
    "back": "s",
    "left": "a",
    "right": "d",
    "jump": "space",
    "sneak": "shift",
    "sprint": "ctrl",
}

DIRECTIONS = ("still", "up", "down", "left", "right", "up left", "up right", "down left", "down right")
_DIRECTION = np.array([[5, 1, 6], [3, 0, 4], [7, 2, 8]])  # [pitch: up, still, down][yaw: left, still, right]


def camera_bin(degrees: Float[np.ndarray, "*b"]) -> Int[np.ndarray, "*b"]:
    """The bin, 0 to 10 (5 is still), of degrees per frame: compressed by a μ-law, as in VPT."""
    cut = np.clip(np.asarray(degrees, np.float64), -MAXIMUM, MAXIMUM)
    compressed = np.sign(cut) * MAXIMUM * np.log1p(MU * np.abs(cut) / MAXIMUM) / np.log1p(MU)
    return np.round((compressed + MAXIMUM) / BIN).astype(int)


def bin_degrees(bins: Int[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    """Degrees per frame in the middle of a bin."""
    value = BIN * np.asarray(bins) - MAXIMUM
    return np.sign(value) * MAXIMUM * ((1 + MU) ** (np.abs(value) / MAXIMUM) - 1) / MU


def direction(camera: Float[np.ndarray, "*b 2"]) -> Int[np.ndarray, "*b"]:
    """Index into DIRECTIONS of (pitch, yaw) in degrees per frame; positive pitch looks down, positive yaw right.

    As in the original, a value of exactly STILL makes the frame still, whatever the other axis does.
    """
    step = np.sign(camera).astype(int) * (np.abs(camera) > STILL)
    return np.where((np.abs(camera) == STILL).any(-1), 0, _DIRECTION[step[..., 0] + 1, step[..., 1] + 1])


def labels(actions: Actions, *, offset: int = 0) -> tuple[Int[np.ndarray, "f buttons"], Float[np.ndarray, "f 2"]]:
    """(buttons, camera in degrees) at each frame. Row i of the actions leads to frame i.

    offset 0 asks for that action at frame i (as the original's settings do); 1 for the one that leads away from frame
    i, which is what VPT was trained on; the last frame then repeats the row before.
    """
    keyboard, mouse = actions
    frames = len(keyboard)
    held = dict(zip(KEYS, keyboard.T > 0, strict=True))
    never = np.zeros(frames, bool)
    buttons = np.stack([held.get(KEY_OF_BUTTON.get(button), never) for button in BUTTONS], -1).astype(int)
    rows = np.minimum(np.arange(frames) + offset, frames - 1)
    return buttons[rows], mouse[rows].astype(np.float64)


def classes(buttons: Int[np.ndarray, "*b buttons"], task: tuple[str, ...]) -> Int[np.ndarray, "*b"]:
    """The class of each frame in a task; both buttons of a pair at once count as neither."""
    pressed = [buttons[..., BUTTONS.index(name)] > 0 for name in task]
    if len(task) == 1:
        return pressed[0].astype(int)
    return (pressed[0] & ~pressed[1]) + 2 * (pressed[1] & ~pressed[0]).astype(int)


def task_name(task: tuple[str, ...]) -> str:
    return "/".join(task)


def task_hits(
    predicted: Int[np.ndarray, "f buttons"], asked: Int[np.ndarray, "f buttons"], tasks: tuple[tuple[str, ...], ...]
) -> Bool[np.ndarray, "tasks f"]:
    """Whether each frame's class is right, per task. Micro precision of single-label classes is their mean."""
    return np.stack([classes(predicted, task) == classes(asked, task) for task in tasks])


def camera_hits(predicted: Float[np.ndarray, "f 2"], asked: Float[np.ndarray, "f 2"]) -> Bool[np.ndarray, " f"]:
    """Whether each frame's direction is right."""
    return direction(predicted) == direction(asked)


def camera_loss(predicted: Float[np.ndarray, "f 2"], asked: Float[np.ndarray, "f 2"]) -> float:
    """Mean distance in bins, over pitch and yaw of all frames."""
    return float(np.mean(np.abs(camera_bin(predicted) - camera_bin(asked))))


def confusion(
    predicted: Int[np.ndarray, " n"], asked: Int[np.ndarray, " n"], count: int
) -> Int[np.ndarray, "count count"]:
    """How many frames of each asked class (row) were read as each class (column)."""
    return np.bincount(asked * count + predicted, minlength=count * count).reshape(count, count)


def macro_scores(table: Int[np.ndarray, "n n"]) -> dict[str, float]:
    """Precision, recall and F1 from a confusion matrix: micro, macro over the classes that occur, and of every class.

    0 where undefined.
    """
    hits = np.diag(table).astype(float)
    read, asked = table.sum(0), table.sum(1)
    precision, recall = (np.divide(hits, n, out=np.zeros_like(hits), where=n > 0) for n in (read, asked))
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(hits), where=both > 0)
    named = {"precision": precision, "recall": recall, "f1": f1}
    occurs = (read + asked) > 0
    out = {f"{name}_micro": float(hits.sum() / max(table.sum(), 1)) for name in named}
    out |= {f"{name}_macro": float(values[occurs].mean()) for name, values in named.items()}
    for i in range(len(table)):
        out |= {f"class_{i}/{name}": float(values[i]) for name, values in named.items()}
    return out
