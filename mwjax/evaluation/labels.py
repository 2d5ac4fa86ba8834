"""What was asked for: the actions beside a video, as labels for what an inverse dynamics model reads off."""

import json
import pathlib

from mwjax.data.actions import Actions, from_scene, read_actions
from mwjax.data.clips import read_scene
from mwjax.errors import InputError
from mwjax.evaluation.control import labels
from mwjax.evaluation.metric import ASKED, Values


def _read(path: pathlib.Path, collisions: bool) -> Actions:
    value = json.loads(path.read_text()) if path.suffix == ".json" else None
    if isinstance(value, dict) and isinstance(value.get("job"), dict):  # what mwjax.sample writes
        return read_actions(value["job"]["actions"])
    if isinstance(value, dict):
        rows = read_scene(path)["actions"]
        return from_scene(rows, 0, 1 + max(map(int, rows)), collisions=collisions)
    return read_actions(str(path))


def read_labels(path: pathlib.Path, frames: int, *, collisions: bool, offset: int) -> tuple[Values, Actions]:
    """Buttons and camera that were asked for, and the actions themselves, of the first `frames` frames.

    path: NAME.json, a scene of the dataset, an action list or what mwjax.sample wrote; NAME.csv where there is no such
    file. collisions: clear keys that a collision kept from acting. offset: see control.labels. Raises InputError for
    what is missing, damaged or too short.
    """
    path = path if path.exists() else path.with_suffix(".csv")
    if not path.exists():
        raise InputError(f"{path.with_suffix('.json')} is missing")
    try:
        actions = _read(path, collisions)
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
        raise InputError(f"{path} holds no actions that can be read ({type(error).__name__}: {error})") from None
    if len(actions[0]) < frames:
        raise InputError(f"{path} has actions for {len(actions[0])} frames, the video has {frames}")
    actions = tuple(rows[:frames] for rows in actions)
    buttons, camera = labels(actions, offset=offset)
    return {f"{ASKED}buttons": buttons, f"{ASKED}camera": camera}, actions
