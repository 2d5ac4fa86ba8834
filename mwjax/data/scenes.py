"""A scene's JSON, what was done in each frame of a video: checked once, when it is read."""

import functools
import pathlib
import re

import numpy as np

from mwjax.data.detection import detect
from mwjax.data.text import read_json
from mwjax.errors import InputError
from mwjax.ranges import Range, check_number, shown

HELD = {"ws": Range(least=0, most=2), "ad": Range(least=0, most=2), "scs": Range(least=0, most=3)}
TURN = Range(least=-24, most=24)  # in the datasets' unit of 15 degrees: once around in a frame
TURNED = {"pitch_delta": TURN, "yaw_delta": TURN}
LABELLED = ("collision", "jump_invalid")
FRAME = re.compile(r"[0-9]{1,9}")


def check_scene(scene: dict, named: str) -> dict:
    """The scene, its frames under canonical numbers. named: comes before what is wrong in errors.

    Of every frame but the first, which no clip reads, `ws`, `ad`, `scs`, `pitch_delta` and `yaw_delta` must be there
    and in range; `pos`, `collision` and `jump_invalid` must be what they are meant to be where they are there.
    Raises InputError naming the frame.
    """
    actions = scene.get("actions")
    if not isinstance(actions, dict):
        raise InputError(f'{named} is no scene of the dataset: it has no "actions" by number of the frame')
    checked = {}
    for name, entry in actions.items():
        if not FRAME.fullmatch(name):
            raise InputError(f"{named} is no scene of the dataset: frame {shown(name)} of its actions is no number")
        frame = int(name)
        if str(frame) in checked:
            raise InputError(f"{named} is no scene of the dataset: frame {frame} of its actions is there twice")
        _check_frame(entry, frame, named)
        checked[str(frame)] = entry
    return scene | {"actions": checked}


def _check_frame(entry: object, frame: int, named: str) -> None:
    where = f"{named} is no scene of the dataset: frame {frame}"
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {shown(entry)}, not what is held")
    if frame > 0:
        for name, allowed in (*HELD.items(), *TURNED.items()):
            if name not in entry:
                raise InputError(f"{where} lacks {name}")
            check_number(entry[name], f"{where}: {name}", allowed)
            if name in HELD and entry[name] != int(entry[name]):
                raise InputError(f"{where}: {name} is {entry[name]}; it must be a whole number")
    for name in LABELLED:
        if entry.get(name, 0) not in (0, 1, None):
            raise InputError(f"{where}: {name} is {shown(entry[name])}; it must be 0 or 1")
    if "pos" in entry:
        place = entry["pos"]
        if not isinstance(place, list) or len(place) != 3:
            raise InputError(f"{where}: pos is {shown(place)}; it must be three numbers")
        for value in place:
            check_number(value, f"{where}: pos", Range(least=-1e9, most=1e9))


def label(actions: dict, named: str) -> None:
    """Label collisions and invalid jumps from positions where not every frame has them. Raises InputError for frames
    that have neither."""
    if all("collision" in entry for entry in actions.values()):
        return
    for frame, entry in actions.items():
        if frame != "0" and "collision" not in entry and "pos" not in entry:
            raise InputError(f"{named}: frame {frame} has neither a collision label nor pos, to find collisions from")
    frames = sorted((frame for frame, entry in actions.items() if "pos" in entry), key=int)
    positions = np.array([actions[frame]["pos"] for frame in frames], float).reshape(-1, 3)
    jumps = np.array([actions[frame].get("scs", 0) for frame in frames])
    _, collision, invalid = detect(positions, jumps)
    for i, frame in enumerate(frames):
        actions[frame] |= {"collision": int(collision[i]), "jump_invalid": int(invalid[i])}


def read_scene(path: pathlib.Path, *, labelled: bool = True) -> dict:
    """A scene's JSON, with collisions labelled (or as it is). Raises InputError if it is missing, damaged or holds what
    it should not."""
    try:
        stat = path.stat()
        seen = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    except (OSError, ValueError):  # reading it will say what is wrong
        seen = ()
    scene = _read(path, seen, labelled)
    if isinstance(scene, str):
        raise InputError(scene)
    return scene


@functools.lru_cache(maxsize=8)
def _read(path: pathlib.Path, seen: tuple, labelled: bool) -> dict | str:
    """The scene, or what is wrong with it. seen: what tells the file from itself before it was written again."""
    del seen
    try:
        scene = check_scene(read_json(path), str(path))
        if labelled:
            label(scene["actions"], str(path))
    except InputError as error:
        return str(error)
    return scene
