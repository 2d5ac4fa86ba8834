"""Actions: what is held during a frame, as the data set writes it (`Action`) and as the model takes it (`Actions`).

`Actions` are two arrays, keyboard [f, 7] (in the order of KEYS) and mouse [f, 2] (pitch, yaw; degrees per frame).
Row 0 is always empty: nothing acted before the first frame. Positive pitch looks down, positive yaw turns right.
"""

import argparse
import dataclasses
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from mwjax.data.scenes import check_scene
from mwjax.data.tables import parse_table
from mwjax.data.text import parse_json, read_text
from mwjax.errors import InputError, command
from mwjax.ranges import Range, check_number, shown

GROUPS = {"ws": ("w", "s"), "ad": ("a", "d"), "scs": ("space", "shift", "ctrl")}  # of keys that exclude each other
KEYS = tuple(key for group in GROUPS.values() for key in group)  # w s a d space shift ctrl
MOUSE = ("pitch", "yaw")
DEGREES = 15.0  # the datasets store rotations in units of 15 degrees

MOST_FRAMES = 100_000  # of a list of actions, or a clip
MOST_DEGREES = 360  # in a frame
MOST_CHARACTERS = 500_000  # of the short form

# What is a number to us; Python takes more for one (nan, 1_000, ²).
NUMBER = re.compile(r"[-+]?(?:[0-9]{1,60}\.?[0-9]{0,60}|\.[0-9]{1,60})(?:[eE][-+]?[0-9]{1,3})?")
COUNT = re.compile(r"[0-9]{1,9}")
PART = re.compile(r"([^*@]*)([*@]?)(.*)", re.DOTALL)  # of the short form: what is held, how, for how long or when
TURN = re.compile(r"[-+]?[0-9]{1,60}(?:\.[0-9]{0,60})?")

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
LISTED = tuple(KEYS.index(key) for key in ("w", "s", "a", "d", "shift", "ctrl"))  # the first six numbers of an entry


def parse_action_list(action_list: object) -> Actions:
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
    for start, end, fields in zip(ends, ends[1:], rows, strict=False):
        keyboard[start + 1 : end + 1, LISTED] = fields[:6]
        mouse[start + 1 : end + 1] = fields[7:9]
    for word in action_list[-1].split():
        if not COUNT.fullmatch(word) or not 1 <= int(word) <= ends[-1]:
            raise InputError(f"space frame {shown(word)} of the action list is not between 1 and {ends[-1]}")
        keyboard[int(word), KEYS.index("space")] = 1
    return keyboard, mouse


def _parse_entry(index: int, entry: object) -> tuple[int, list[float]]:
    """End frame and the nine numbers of an entry of an action list."""
    named = f"action list entry {index}"
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], str):
        raise InputError(f"{named} is {shown(entry)}; it must be [end_frame, nine numbers in a string]")
    end, words = entry[0], entry[1].split()
    if isinstance(end, str) and COUNT.fullmatch(end):
        end = int(end)
    check_number(end, f"{named}: end_frame", Range(least=1, most=MOST_FRAMES - 1))
    if end != int(end):
        raise InputError(f"{named}: end_frame is {end}; it must be a whole number")
    if len(words) != 9:
        raise InputError(f"{named} has {len(words)} numbers, not 9 (w s a d shift ctrl _ mouse_y mouse_x)")
    keys = [parse_key(word, named) for word in words[:6]]
    return int(end), [*keys, 0.0, *(parse_degrees(word, named) for word in words[7:])]


def parse_key(word: str, named: str) -> float:
    """0 or 1. Raises InputError for anything else."""
    if not NUMBER.fullmatch(word) or float(word) not in (0, 1):
        raise InputError(f"{named}: a key is {shown(word)}; it must be 0 or 1")
    return float(word)


def parse_degrees(word: str, named: str) -> float:
    """What the mouse turns in a frame. Raises InputError for what is no number of degrees."""
    if not NUMBER.fullmatch(word) or abs(float(word)) > MOST_DEGREES:
        most = f"it must be a number of degrees from -{MOST_DEGREES} to {MOST_DEGREES}"
        raise InputError(f"{named}: the mouse is {shown(word)}; {most}")
    return float(word)


def parse_short(text: str) -> Actions:
    """The short form: "w*20, w+yaw:3*20, space@30" holds w for 20 frames, then w while turning 3 degrees a frame, and
    presses space on frame 30.

    What is held: keys (w s a d space shift ctrl), pitch:DEGREES and yaw:DEGREES, joined by +, or none. Raises
    InputError naming the part.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"the actions have {len(text)} characters, of which at most {MOST_CHARACTERS} are read")
    rows: list[Actions] = [no_actions(1)]
    counts = [1]
    presses = []
    parsed: dict[str, Actions] = {}  # the same is often held again
    for part in (p.strip() for p in text.split(",")):
        held, mark, count = PART.fullmatch(part).groups()
        if not mark or not COUNT.fullmatch(count.strip()) or int(count) < 1:
            named = shown(part)
            raise InputError(f"action {named} is neither WHAT*FRAMES nor WHAT@FRAME, as in w+yaw:3*20 or space@30")
        if held not in parsed:
            parsed[held] = _parse_held(part, held)
        if mark == "@":
            presses.append((part, int(count), parsed[held]))
            continue
        rows.append(parsed[held])
        counts.append(int(count))
        if len(counts) > MOST_FRAMES:
            break
    frames = sum(counts)
    check_frames(frames, "the actions")
    keyboard, mouse = (np.repeat(np.concatenate(group), counts, 0) for group in zip(*rows, strict=True))
    for part, frame, (keys, moves) in presses:
        if frame >= frames:
            raise InputError(f"action {shown(part)} is after the last frame, {frames - 1}")
        keyboard[frame] = np.maximum(keyboard[frame], keys[0])
        mouse[frame] += moves[0]
    if np.abs(mouse).max() > MOST_DEGREES:
        raise InputError(f"the actions turn by more than {MOST_DEGREES} degrees in a frame")
    return keyboard, mouse


def check_frames(frames: int, named: str) -> None:
    """Raises InputError for more frames than anything is meant to have."""
    if frames > MOST_FRAMES:
        raise InputError(f"{named} has {frames} frames with the first; at most {MOST_FRAMES} can be asked for")


def _parse_held(part: str, held: str) -> Actions:
    """One row of what a part of the short form holds."""
    keyboard, mouse = no_actions(1)
    for word in (w.strip() for w in held.split("+")):
        name, _, value = word.partition(":")
        if word in KEYS:
            keyboard[0, KEYS.index(word)] = 1
        elif name in MOUSE and TURN.fullmatch(value):
            mouse[0, MOUSE.index(name)] = parse_degrees(value, f"action {shown(part)}")
        elif word != "none":
            known = ", ".join(KEYS)
            raise InputError(
                f"action {shown(part)}: {shown(word)} is none of {known}, pitch:DEGREES, yaw:DEGREES, none"
            )
    return keyboard, mouse


def parse_csv(text: str, named: str = "the CSV of actions") -> Actions:
    """CSV with a column for any of w s a d space shift ctrl pitch yaw and a row a frame; the first row is frame 0 and
    must be empty."""
    table = parse_table(text, named, most=MOST_FRAMES)
    names = [name.strip() for name in table.columns]
    odd = next((name for name in names if name not in KEYS + MOUSE), None)
    if not table.rows or odd is not None:
        wrong = f"; {shown(odd)} is none of them" if odd is not None else " and a row a frame"
        raise InputError(f"{named} needs a header of {', '.join(KEYS + MOUSE)}{wrong}")
    keyboard, mouse = no_actions(len(table.rows))
    for frame, row in enumerate(table.rows):
        where = f"{named} line {row.line}"
        for name, word in zip(names, row.fields, strict=True):
            if name in KEYS:
                keyboard[frame, KEYS.index(name)] = parse_key(word.strip(), where)
            else:
                mouse[frame, MOUSE.index(name)] = parse_degrees(word.strip(), where)
    if keyboard[0].any() or mouse[0].any():
        raise InputError(f"the first row of {named} is frame 0, before which nothing acted; it must be all zeros")
    return keyboard, mouse


def read_actions(source: str | list) -> Actions:
    """Actions from the original's list (also as JSON), the short form, or a file: a list (.json), a scene of the
    dataset (.json) or a table (.csv). Raises InputError."""
    if not isinstance(source, str):
        return parse_action_list(source)
    if source.lstrip().startswith("["):
        return parse_action_list(parse_json(source, "the action list"))
    suffix = pathlib.PurePath(source).suffix.lower()
    if suffix == ".csv":
        return parse_csv(read_text(source, "actions"), source)
    if suffix == ".json":
        return _of_json(parse_json(read_text(source, "actions"), source), source)
    return parse_short(source)


def _of_json(value: object, named: str) -> Actions:
    if not isinstance(value, dict):
        try:
            return parse_action_list(value)
        except InputError as error:
            raise InputError(f"{named}: {error}") from None
    return of_whole_scene(check_scene(value, named), named)


def of_whole_scene(scene: Mapping, named: str, *, collisions: bool = True) -> Actions:
    """Rows for all frames of a checked scene. Raises InputError if it has none, or too many."""
    frames = 1 + max(map(int, scene["actions"]), default=-1)
    if not frames:
        raise InputError(f"{named} is no scene of the dataset: its actions are empty")
    check_frames(frames, named)
    return from_scene(scene["actions"], 0, frames, collisions=collisions)


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
