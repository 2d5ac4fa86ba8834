"""Actions as the model takes them: keyboard [f, 7] (w s a d space shift ctrl) and mouse [f, 2] (pitch, yaw; degrees per frame).

Row 0 is always empty: nothing acted before the first frame. Positive pitch looks down, positive yaw turns right.
"""

import argparse
import csv
import json
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from mwjax.errors import InputError, command

KEYS = ("w", "s", "a", "d", "space", "shift", "ctrl")
MOUSE = ("pitch", "yaw")
DEGREES = 15.0  # the datasets store rotations in units of 15 degrees

Actions = tuple[np.ndarray, np.ndarray]


def mirror(keyboard: np.ndarray, mouse: np.ndarray) -> Actions:
    """The actions with left and right exchanged."""
    return keyboard[:, [0, 1, 3, 2, 4, 5, 6]], mouse * np.array([1, -1], mouse.dtype)


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


def parse_short(text: str) -> Actions:
    """The short form: "w*20, w+yaw:3*20, space@30" holds w for 20 frames, then w while turning 3 degrees a frame, and presses space on frame 30.

    What is held: keys (w s a d space shift ctrl), pitch:DEGREES and yaw:DEGREES, joined by +, or none. Raises InputError naming the part.
    """
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    presses = []
    for part in (p.strip() for p in text.split(",")):
        held, mark, count = re.fullmatch(r"([^*@]*)([*@]?)(.*)", part).groups()
        if not mark or not count.strip().isdigit() or int(count) < 1:
            raise InputError(f"action {part!r} is neither WHAT*FRAMES nor WHAT@FRAME, as in w+yaw:3*20 or space@30")
        keyboard, mouse = np.zeros(7, np.float32), np.zeros(2, np.float32)
        for word in (w.strip() for w in held.split("+")):
            name, _, value = word.partition(":")
            if word in KEYS:
                keyboard[KEYS.index(word)] = 1
            elif name in MOUSE and re.fullmatch(r"[-+]?\d+(\.\d*)?", value):
                mouse[MOUSE.index(name)] = float(value)
            elif word != "none":
                raise InputError(f"action {part!r}: {word!r} is none of {', '.join(KEYS)}, pitch:DEGREES, yaw:DEGREES, none")
        if mark == "*":
            rows += [(keyboard, mouse)] * int(count)
        else:
            presses.append((part, int(count), keyboard, mouse))
    keyboard, mouse = (np.stack([np.zeros(n, np.float32), *(row[i] for row in rows)]) for i, n in enumerate((7, 2)))
    for part, frame, keys, moves in presses:
        if frame > len(rows):
            raise InputError(f"action {part!r} is after the last frame, {len(rows)}")
        keyboard[frame] = np.maximum(keyboard[frame], keys)
        mouse[frame] += moves
    return keyboard, mouse


def parse_table(text: str) -> Actions:
    """CSV with a column for any of w s a d space shift ctrl pitch yaw and a row a frame; the first row is frame 0 and must be empty."""
    rows = list(csv.DictReader(text.splitlines()))
    names = list(rows[0]) if rows else []
    odd = [name for name in names if name not in KEYS + MOUSE]
    if not rows or odd:
        raise InputError(f"a CSV of actions needs a header of {', '.join(KEYS + MOUSE)}" + (f"; {odd[0]!r} is none of them" if odd else " and a row a frame"))
    try:
        table = {name: np.array([float(row[name]) for row in rows], np.float32) for name in names}
    except (TypeError, ValueError):
        raise InputError(f"the CSV of actions has a row that is not {len(names)} numbers") from None
    empty = np.zeros(len(rows), np.float32)
    keyboard, mouse = (np.stack([table.get(name, empty) for name in group], -1) for group in (KEYS, MOUSE))
    if keyboard[0].any() or mouse[0].any():
        raise InputError("the first row of the CSV of actions is frame 0, before which nothing acted; it must be all zeros")
    return keyboard, mouse


def read_actions(text: str) -> Actions:
    """Actions from the original's list, the short form, or a file: a list (.json), a scene of the dataset (.json) or a table (.csv)."""
    if text.lstrip().startswith("["):
        return _parse_json(text, "the action list")
    path = pathlib.Path(text)
    if path.suffix not in (".json", ".csv"):
        return parse_short(text)
    try:
        source = path.read_text()
    except FileNotFoundError:
        raise InputError(f"actions {text!r}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"actions {text!r} cannot be read ({error})") from None
    return parse_table(source) if path.suffix == ".csv" else _parse_json(source, str(path))


def _parse_json(source: str, where: str) -> Actions:
    try:
        value = json.loads(source)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    if isinstance(value, dict):
        try:
            return from_scene(value["actions"], 0, 1 + max(map(int, value["actions"])))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{where} is no scene of the dataset: its actions lack or spoil {error}") from None
    return parse_action_list(value)


def timeline(keyboard: np.ndarray, mouse: np.ndarray) -> str:
    """What is held when, a line per stretch of equal frames."""
    lines, start = [], 1
    rows = np.concatenate([keyboard, mouse], 1)
    for frame in range(1, len(rows)):
        if frame + 1 == len(rows) or (rows[frame + 1] != rows[frame]).any():
            held = [name for name, on in zip(KEYS, keyboard[frame], strict=True) if on]
            held += [f"{name}:{value:g}" for name, value in zip(MOUSE, mouse[frame], strict=True) if value]
            lines.append(f"frames {start:4d} to {frame:4d}  {' + '.join(held) or 'none'}")
            start = frame + 1
    return "\n".join([*lines, f"{len(rows)} frames with the first, which is empty"])


def from_scene(actions: Mapping[str, Mapping], start: int, stop: int, *, collisions: bool = True) -> Actions:
    """Rows for frames start … stop − 1 of a scene's JSON `actions`. The first row and missing entries are empty.

    A collision clears the walking keys, an invalid jump clears space, unless `collisions` is off; the mouse is left as it is.
    """
    keyboard, mouse = np.zeros((stop - start, 7), np.float32), np.zeros((stop - start, 2), np.float32)
    for frame in range(max(start, 0) + 1, stop):
        entry = actions.get(str(frame))
        if entry is None:
            continue
        walks = not (collisions and entry.get("collision"))
        jumps = not (collisions and entry.get("jump_invalid"))
        row = keyboard[frame - start]
        row[0], row[1] = walks * (entry["ws"] == 1), walks * (entry["ws"] == 2)
        row[2], row[3] = walks * (entry["ad"] == 1), walks * (entry["ad"] == 2)
        row[4], row[5], row[6] = jumps * (entry["scs"] == 1), entry["scs"] == 2, entry["scs"] == 3
        mouse[frame - start] = entry["pitch_delta"] * DEGREES, entry["yaw_delta"] * DEGREES
    return keyboard, mouse


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mwjax.data.actions", description="Print what is held when.")
    parser.add_argument("actions", help="action list, short form, or a .json or .csv file")
    print(timeline(*read_actions(parser.parse_args(argv).actions)))


if __name__ == "__main__":
    main()
