"""Keyboard and camera precision: what an inverse dynamics model reads off a video, against what was asked for."""

from collections.abc import Sequence

import numpy as np

from mwjax.evaluation.control import (
    OURS,
    STILL,
    TASKS,
    bin_degrees,
    camera_hits,
    camera_loss,
    classes,
    confusion,
    macro_scores,
    task_hits,
    task_name,
)
from mwjax.evaluation.inverse_dynamics import read_off
from mwjax.evaluation.metric import Curve, Measurement, Metric, Needs, Values, each_video
from mwjax.evaluation.networks.idm import IDMConfig
from mwjax.types import Array, Bool

VALUES = ("buttons", "camera", "asked_buttons", "asked_camera")
FAMILY = "keyboard and camera precision"


def _measure(network: tuple[IDMConfig, dict], frames: np.ndarray, reference: None) -> dict[str, Array]:
    buttons, camera = read_off(*network, frames)
    return {"buttons": buttons, "camera": camera}


def _followed_camera(values: Values) -> Bool[np.ndarray, " f"]:
    return camera_hits(bin_degrees(values["camera"]), values["asked_camera"])


def _camera_loss(values: Values) -> float:
    return camera_loss(bin_degrees(values["camera"]), values["asked_camera"])


def key_confusions(videos: Sequence[Values]) -> dict[str, dict]:
    """For every pair of keys and jump: how many frames of each class were read as each. Never asked for: left out."""
    out = {}
    for task in OURS:
        names = ["none", *task]
        read = np.concatenate([classes(values["buttons"], task) for values in videos])
        asked = np.concatenate([classes(values["asked_buttons"], task) for values in videos])
        table = confusion(read, asked, len(names))
        if table[1:].any():
            out[task_name(task)] = {"names": names, "table": table.tolist(), "scores": macro_scores(table)}
    return out


def camera_confusions(videos: Sequence[Values]) -> dict[str, dict]:
    """For yaw and pitch: how many frames of each direction were read as each. Never asked for: left out."""
    read = np.concatenate([bin_degrees(values["camera"]) for values in videos])
    asked = np.concatenate([values["asked_camera"] for values in videos])
    out = {}
    for axis, name, negative, positive in ((1, "yaw", "left", "right"), (0, "pitch", "up", "down")):
        moves = [np.sign(a[:, axis]) * (np.abs(a[:, axis]) > STILL) for a in (read, asked)]
        table = confusion(*(move.astype(int) % 3 for move in moves), 3)  # 0 still, 1 positive, 2 negative
        if table[1:].any():
            names = ["still", positive, negative]
            out[name] = {"names": names, "table": table.tolist(), "scores": macro_scores(table)}
    return out


READ = Measurement(name="control", group="control", needs=Needs(network="idm", actions=True), run=_measure)


def _keyboard(name: str) -> Metric:
    """Keyboard precision over the tasks of one published benchmark, a name of TASKS."""
    tasks = TASKS[name]

    def hits(values: Values) -> Bool[np.ndarray, "tasks f"]:
        return task_hits(values["buttons"], values["asked_buttons"], tasks)

    return Metric(
        key="keyboard",
        title="keyboard precision",
        better=1,
        measurement=READ,
        values=VALUES,
        part=each_video(lambda values: hits(values).mean()),
        curve=Curve(title="keyboard precision", of_video=lambda values: hits(values).mean(0)),
        confusions=key_confusions,
        about=f"mean over the tasks {', '.join(map(task_name, tasks))}",
        family=FAMILY,
        published={"Micro-World I2W": 0.7224, "Oasis": 0.6474},
        when={"tasks": name},
    )


METRICS = (
    *map(_keyboard, TASKS),
    Metric(
        key="camera",
        title="camera precision",
        better=1,
        measurement=READ,
        values=VALUES,
        part=each_video(lambda values: _followed_camera(values).mean()),
        curve=Curve(title="camera precision", of_video=_followed_camera),
        confusions=camera_confusions,
        about="nine directions",
        family=FAMILY,
        published={"Micro-World I2W": 0.5055, "Oasis": 0.3770},
    ),
    Metric(
        key="camera_loss",
        title="camera loss, bins",
        better=-1,
        measurement=READ,
        values=VALUES,
        part=each_video(_camera_loss),
        family=FAMILY,
    ),
)
