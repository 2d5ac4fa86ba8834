"""Actions: what is held during a frame, as the data set writes it (`Action`) and as the model takes it (`Actions`).

`Actions` are two arrays, keyboard [f, 7] (in the order of KEYS) and mouse [f, 2] (pitch, yaw; degrees per frame).
Row 0 is always empty: nothing acted before the first frame. Positive pitch looks down, positive yaw turns right.
"""

import argparse
import csv
import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from mwjax.errors import InputError, command

GROUPS = {"ws": ("w", "s"), "ad": ("a", "d"), "scs": ("space", "shift", "ctrl")}  # of keys that exclude each other
KEYS = tuple(key for group in GROUPS.values() for key in group)  # w s a d space shift ctrl
MOUSE = ("pitch", "yaw")
DEGREES = 15.0  # the datasets store rotations in units of 15 degrees

Actions = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Action:
    """What is held during one frame, in the dataset's encoding.

    ws: 0 none, 1 forward, 2 backward. ad: 0 none, 1 left, 2 right. scs: 0 none, 1 jump, 2 sneak, 3 sprint.
    pitch, yaw: camera rotation in degrees per frame; positive looks down and turns right.
    """

    ws: int = 0
    ad: int = 0
    scs: int = 0
    pitch: float = 0.0
    yaw: float = 0.0

    @classmethod
    def of(cls, keyboard: np.ndarray, mouse: np.ndarray) -> "Action":
        """From a row of keys [7] and of mouse degrees [2], as the model takes them."""
        w, s, a, d, space, shift, ctrl = (keyboard != 0).tolist()
        pitch, yaw = map(float, mouse)
        return cls(ws=_which(w, s), ad=_which(a, d), scs=_which(space, shift, ctrl), pitch=pitch, yaw=yaw)


def _which(*held: bool) -> int:
    """1, 2 or 3 for the first that is held, 0 for none."""
    return next((code for code, pressed in enumerate(held, 1) if pressed), 0)


def no_actions(frames: int) -> Actions:
    """`frames` empty rows."""
    return np.zeros((frames, len(KEYS)), np.float32), np.zeros((frames, len(MOUSE)), np.float32)


def mirror(keyboard: np.ndarray, mouse: np.ndarray) -> Actions:
    """The actions with left and right exchanged."""
    a = KEYS.index("a")
    d = KEYS.index("d")
    exchanged = keyboard.copy()
    exchanged[:, [a, d]] = keyboard[:, [d, a]]
    return exchanged, mouse * np.array([1, -1], mouse.dtype)


LIST_FORM = '[[end_frame, "w s a d shift ctrl _ mouse_y mouse_x"], …, "space frames"]'


def parse_action_list(action_list: list) -> Actions:
    """The original's syntax, LIST_FORM; space frames are those on which space is pressed.

    Each entry holds from the end of the one before up to and including its own end_frame; there are last end_frame + 1
    rows. Raises InputError naming the entry for ends out of order, wrong field counts, or space frames out of range.
    """
    if not isinstance(action_list, list) or len(action_list) < 2 or not isinstance(action_list[-1], str):
        raise InputError(f'an action list is {LIST_FORM}; the last entry may be ""')
    ends = [0]
    rows = []
    for index, entry in enumerate(action_list[:-1]):
        end, fields = _parse_entry(index, entry)
        if end <= ends[-1]:
            raise InputError(
                f"action list entry {index} ends at frame {end}, not after {ends[-1]}; entries must be in order"
            )
        ends.append(end)
        rows.append(fields)
    keyboard, mouse = no_actions(ends[-1] + 1)
    listed = [KEYS.index(key) for key in ("w", "s", "a", "d", "shift", "ctrl")]
    for start, end, fields in zip(ends, ends[1:], rows, strict=False):
        keyboard[start + 1 : end + 1, listed] = fields[:6]
        mouse[start + 1 : end + 1] = fields[7:9]
    for word in action_list[-1].split():
        if not word.isdigit() or not 1 <= int(word) <= ends[-1]:
            raise InputError(f"space frame {word!r} of the action list is not between 1 and {ends[-1]}")
        keyboard[int(word), KEYS.index("space")] = 1
    return keyboard, mouse


def _parse_entry(index: int, entry: list) -> tuple[int, list[float]]:
    """End frame and the nine numbers of an entry of an action list."""
    try:
        end = int(entry[0])
        fields = [float(value) for value in entry[1].split()]
    except (TypeError, ValueError, IndexError, AttributeError):
        raise InputError(
            f"action list entry {index} is {entry!r}; it must be [end_frame, nine numbers in a string]"
        ) from None
    if len(fields) != 9:
        raise InputError(
            f"action list entry {index} has {len(fields)} numbers, not 9 (w s a d shift ctrl _ mouse_y mouse_x)"
        )
    return end, fields


def parse_short(text: str) -> Actions:
    """The short form: "w*20, w+yaw:3*20, space@30" holds w for 20 frames, then w while turning 3 degrees a frame, and
    presses space on frame 30.

    What is held: keys (w s a d space shift ctrl), pitch:DEGREES and yaw:DEGREES, joined by +, or none. Raises
    InputError naming the part.
    """
    rows: list[Actions] = []
    presses = []
    for part in (p.strip() for p in text.split(",")):
        held, mark, count = re.fullmatch(r"([^*@]*)([*@]?)(.*)", part).groups()
        if not mark or not count.strip().isdigit() or int(count) < 1:
            raise InputError(f"action {part!r} is neither WHAT*FRAMES nor WHAT@FRAME, as in w+yaw:3*20 or space@30")
        row = _parse_held(part, held)
        if mark == "*":
            rows += [row] * int(count)
        else:
            presses.append((part, int(count), row))
    keyboard, mouse = (np.concatenate(group) for group in zip(no_actions(1), *rows, strict=True))
    for part, frame, (keys, moves) in presses:
        if frame > len(rows):
            raise InputError(f"action {part!r} is after the last frame, {len(rows)}")
        keyboard[frame] = np.maximum(keyboard[frame], keys[0])
        mouse[frame] += moves[0]
    return keyboard, mouse


def _parse_held(part: str, held: str) -> Actions:
    """One row of what a part of the short form holds."""
    keyboard, mouse = no_actions(1)
    for word in (w.strip() for w in held.split("+")):
        name, _, value = word.partition(":")
        if word in KEYS:
            keyboard[0, KEYS.index(word)] = 1
        elif name in MOUSE and re.fullmatch(r"[-+]?\d+(\.\d*)?", value):
            mouse[0, MOUSE.index(name)] = float(value)
        elif word != "none":
            known = ", ".join(KEYS)
            raise InputError(f"action {part!r}: {word!r} is none of {known}, pitch:DEGREES, yaw:DEGREES, none")
    return keyboard, mouse


def parse_table(text: str) -> Actions:
    """CSV with a column for any of w s a d space shift ctrl pitch yaw and a row a frame; the first row is frame 0 and
    must be empty."""
    rows = list(csv.DictReader(text.splitlines()))
    names = list(rows[0]) if rows else []
    odd = [name for name in names if name not in KEYS + MOUSE]
    if not rows or odd:
        wrong = f"; {odd[0]!r} is none of them" if odd else " and a row a frame"
        raise InputError(f"a CSV of actions needs a header of {', '.join(KEYS + MOUSE)}{wrong}")
    try:
        table = {name: np.array([float(row[name]) for row in rows], np.float32) for name in names}
    except (TypeError, ValueError):
        raise InputError(f"the CSV of actions has a row that is not {len(names)} numbers") from None
    empty = np.zeros(len(rows), np.float32)
    keyboard, mouse = (np.stack([table.get(name, empty) for name in group], -1) for group in (KEYS, MOUSE))
    if keyboard[0].any() or mouse[0].any():
        raise InputError(
            "the first row of the CSV of actions is frame 0, before which nothing acted; it must be all zeros"
        )
    return keyboard, mouse


def read_actions(text: str) -> Actions:
    """Actions from the original's list, the short form, or a file: a list (.json), a scene of the dataset (.json) or a
    table (.csv)."""
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


def from_scene(actions: Mapping[str, Mapping], start: int, stop: int, *, collisions: bool = True) -> Actions:
    """Rows for frames start … stop − 1 of a scene's JSON `actions`. The first row and missing entries are empty.

    A collision clears the walking keys, an invalid jump clears space, unless `collisions` is off; the mouse is left as
    it is.
    """
    keyboard, mouse = no_actions(stop - start)
    for frame in range(max(start, 0) + 1, stop):
        entry = actions.get(str(frame))
        if entry is None:
            continue
        pressed = {key: entry[group] == code for group, keys in GROUPS.items() for code, key in enumerate(keys, 1)}
        if collisions and entry.get("collision"):
            pressed |= dict.fromkeys(("w", "s", "a", "d"), False)
        if collisions and entry.get("jump_invalid"):
            pressed["space"] = False
        keyboard[frame - start] = [pressed[key] for key in KEYS]
        mouse[frame - start] = entry["pitch_delta"] * DEGREES, entry["yaw_delta"] * DEGREES
    return keyboard, mouse


def timeline(keyboard: np.ndarray, mouse: np.ndarray) -> str:
    """What is held when, a line per stretch of equal frames."""
    lines = []
    start = 1
    rows = np.concatenate([keyboard, mouse], 1)
    for frame in range(1, len(rows)):
        if frame + 1 == len(rows) or (rows[frame + 1] != rows[frame]).any():
            held = [name for name, on in zip(KEYS, keyboard[frame], strict=True) if on]
            held += [f"{name}:{value:g}" for name, value in zip(MOUSE, mouse[frame], strict=True) if value]
            lines.append(f"frames {start:4d} to {frame:4d}  {' + '.join(held) or 'none'}")
            start = frame + 1
    return "\n".join([*lines, f"{len(rows)} frames with the first, which is empty"])


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mwjax.data.actions", description="Print what is held when.")
    parser.add_argument("actions", help="action list, short form, or a .json or .csv file")
    print(timeline(*read_actions(parser.parse_args(argv).actions)))


if __name__ == "__main__":
    main()
