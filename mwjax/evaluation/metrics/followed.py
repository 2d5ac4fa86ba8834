"""Actions followed: the part of the frames where a key or an axis of the camera is asked for, and read off as asked."""

import functools
from collections.abc import Callable

import numpy as np

from mwjax.evaluation.control import STILL, bin_degrees, classes
from mwjax.evaluation.metric import Metric, Values
from mwjax.evaluation.metrics.control import FAMILY, READ, VALUES


def keys_followed(task: tuple[str, ...], values: Values) -> tuple[float, float]:
    """(frames read as asked, frames asked) of a pair of buttons or a single one."""
    asked = classes(values["asked_buttons"], task)
    read = classes(values["buttons"], task)
    return float(np.sum((asked == read)[asked > 0])), float(np.sum(asked > 0))


def turns_followed(axis: int, values: Values) -> tuple[float, float]:
    """(frames read to turn the way that was asked, frames asked to turn), of pitch (0) or yaw (1)."""
    asked = values["asked_camera"][:, axis]
    read = bin_degrees(values["camera"][:, axis])
    turns = np.abs(asked) > STILL
    return float(np.sum((np.sign(asked) == np.sign(read))[turns])), float(np.sum(turns))


def _metric(key: str, title: str, part: Callable[[Values], tuple[float, float]]) -> Metric:
    return Metric(
        key=key,
        title=title,
        better=1,
        measurement=READ,
        values=VALUES,
        part=part,
        about="on the frames where it is asked for",
        family=FAMILY,
    )


METRICS = (
    _metric("walk", "back/forward followed", functools.partial(keys_followed, ("back", "forward"))),
    _metric("strafe", "left/right followed", functools.partial(keys_followed, ("left", "right"))),
    _metric("jump", "jump followed", functools.partial(keys_followed, ("jump",))),
    _metric("sneak", "sneak/sprint followed", functools.partial(keys_followed, ("sneak", "sprint"))),
    _metric("yaw", "yaw followed", functools.partial(turns_followed, 1)),
    _metric("pitch", "pitch followed", functools.partial(turns_followed, 0)),
)
