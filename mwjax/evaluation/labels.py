"""What was asked for: the actions beside a video, as labels for what an inverse dynamics model reads off."""

import pathlib

from mwjax.data.actions import Actions, of_whole_scene, parse_action_list, read_actions
from mwjax.data.scenes import read_scene
from mwjax.data.text import parse_json, read_text
from mwjax.errors import InputError
from mwjax.evaluation.control import labels
from mwjax.evaluation.metric import ASKED, Values


def _read(path: pathlib.Path, collisions: bool) -> Actions:
    if path.suffix.lower() != ".json":
        return read_actions(str(path))
    value = parse_json(read_text(path), str(path))
    if not isinstance(value, dict):
        return parse_action_list(value)
    if isinstance(value.get("job"), dict):  # what mwjax.sample writes
        return _asked(value["job"].get("actions"))
    return of_whole_scene(read_scene(path, labelled=collisions), str(path), collisions=collisions)


def _asked(actions: object) -> Actions:
    if not isinstance(actions, str | list):
        raise InputError("its job has no actions")
    return read_actions(actions)


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
    if len(actions[0]) < frames:
        raise InputError(f"{path} has actions for {len(actions[0])} frames, the video has {frames}")
    actions = tuple(rows[:frames] for rows in actions)
    buttons, camera = labels(actions, offset=offset)
    return {f"{ASKED}buttons": buttons, f"{ASKED}camera": camera}, actions
