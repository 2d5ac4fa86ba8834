"""Actions as the model takes them: keyboard [f, 7] (w s a d space shift ctrl) and mouse [f, 2] (pitch, yaw; degrees per frame).

Row 0 is always empty: nothing acted before the first frame. Positive pitch looks down, positive yaw turns right.
"""

import json
import pathlib
from collections.abc import Mapping

import numpy as np

from mwjax.errors import InputError

KEYS = ("w", "s", "a", "d", "space", "shift", "ctrl")
DEGREES = 15.0  # the datasets store rotations in units of 15 degrees

Actions = tuple[np.ndarray, np.ndarray]


def parse_action_list(action_list: list) -> Actions:
    """The original's syntax: [[end_frame, "w s a d shift ctrl _ mouse_y mouse_x"], …, "frames on which space is pressed"].

    Each entry holds from the end of the one before up to and including its own end_frame; there are last end_frame + 1 rows.
    Raises InputError naming the entry for ends out of order, wrong field counts, or space frames out of range.
    """
    if not isinstance(action_list, list) or len(action_list) < 2 or not isinstance(action_list[-1], str):
        raise InputError('an action list is [[end_frame, "w s a d shift ctrl _ mouse_y mouse_x"], …, "space frames"]; the last entry may be ""')
    ends = [0]
    rows = []
    for index, entry in enumerate(action_list[:-1]):
        try:
            end, fields = int(entry[0]), [float(v) for v in entry[1].split()]
        except (TypeError, ValueError, IndexError, AttributeError):
            raise InputError(f"action list entry {index} is {entry!r}; it must be [end_frame, nine numbers in a string]") from None
        if len(fields) != 9:
            raise InputError(f"action list entry {index} has {len(fields)} numbers, not 9 (w s a d shift ctrl _ mouse_y mouse_x)")
        if end <= ends[-1]:
            raise InputError(f"action list entry {index} ends at frame {end}, not after {ends[-1]}; entries must be in order")
        ends.append(end)
        rows.append(fields)
    keyboard, mouse = np.zeros((ends[-1] + 1, 7), np.float32), np.zeros((ends[-1] + 1, 2), np.float32)
    for start, end, fields in zip(ends, ends[1:], rows, strict=False):
        keyboard[start + 1 : end + 1, [0, 1, 2, 3, 5, 6]] = fields[:6]
        mouse[start + 1 : end + 1] = fields[7:9]
    for word in action_list[-1].split():
        if not word.isdigit() or not 1 <= int(word) <= ends[-1]:
            raise InputError(f"space frame {word!r} of the action list is not between 1 and {ends[-1]}")
        keyboard[int(word), 4] = 1
    return keyboard, mouse


def read_action_list(text: str) -> Actions:
    """An action list as JSON text, or the path of a JSON file that holds one."""
    path = pathlib.Path(text)
    try:
        source = path.read_text() if not text.lstrip().startswith("[") else text
    except OSError:
        raise InputError(f"action list {text!r} is neither a JSON list nor a readable file") from None
    try:
        return parse_action_list(json.loads(source))
    except json.JSONDecodeError as error:
        raise InputError(f"action list is not JSON: {error}") from None


def from_scene(actions: Mapping[str, Mapping], start: int, stop: int) -> Actions:
    """Rows for frames start … stop − 1 of a scene's JSON `actions`. The first row and missing entries are empty.

    A collision clears the walking keys, an invalid jump clears space; the mouse is left as it is.
    """
    keyboard, mouse = np.zeros((stop - start, 7), np.float32), np.zeros((stop - start, 2), np.float32)
    for frame in range(max(start, 0) + 1, stop):
        entry = actions.get(str(frame))
        if entry is None:
            continue
        walks = not entry.get("collision")
        jumps = not entry.get("jump_invalid")
        row = keyboard[frame - start]
        row[0], row[1] = walks * (entry["ws"] == 1), walks * (entry["ws"] == 2)
        row[2], row[3] = walks * (entry["ad"] == 1), walks * (entry["ad"] == 2)
        row[4], row[5], row[6] = jumps * (entry["scs"] == 1), entry["scs"] == 2, entry["scs"] == 3
        mouse[frame - start] = entry["pitch_delta"] * DEGREES, entry["yaw_delta"] * DEGREES
    return keyboard, mouse
