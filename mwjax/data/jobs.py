"""Videos to make: the lines of a jobs file, where each video goes; whatever is wrong is one line before any work."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mwjax.data.actions import Actions, read_actions
from mwjax.data.text import parse_json, read_text
from mwjax.errors import InputError
from mwjax.ranges import SEED, check_number, shown

JOB_KEYS = ("prompt", "negative", "image", "actions", "seed", "out")
OUT = "sample.mp4"  # unless a name is given


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One video to make, checked. out: files, the format of each by its suffix. rows: what `actions` says, frame by
    frame."""

    prompt: str
    negative: str
    image: str
    actions: str
    seed: int
    out: tuple[pathlib.Path, ...]
    rows: Actions

    @property
    def record(self) -> pathlib.Path:
        """The JSON file beside the video."""
        return self.out[0].with_suffix(".json")

    @property
    def described(self) -> dict:
        """As a line of a jobs file."""
        return {key: getattr(self, key) for key in JOB_KEYS} | {"out": [str(path) for path in self.out]}


def is_text(value: Any) -> bool:
    """Whether a value is text that a file can hold."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a pair
        return False
    return True


def as_typed(text: str) -> str:
    """An argument of the command line; where the terminal's encoding cannot say it, read as UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def is_name(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != "" and "\0" not in value


def is_output(value: Any) -> bool:
    """Whether a value is a name of a file, or several."""
    return is_name(value) or (isinstance(value, list) and value != [] and all(map(is_name, value)))


def is_actions(value: Any) -> bool:
    """Whether a value is text, or the original's list."""
    return is_text(value) or isinstance(value, list)


def _is_seed(value: Any) -> bool:
    check_number(value, "seed", SEED)
    return True


# What each key of a line must be, and the words for it.
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "prompt": (is_text, "text"),
    "negative": (is_text, "text"),
    "image": (is_text, "text, the name of a picture"),
    "actions": (is_actions, 'text such as "w*8, yaw:4*8", or a list'),
    "seed": (_is_seed, ""),
    "out": (is_output, "the name of a file, or a list of names"),
}


def read_jobs(path: str) -> list[tuple[str, dict]]:
    """The lines of a jobs file, each with where it is. Raises InputError naming the line for what is not a job.

    A file with a single object over several lines, as it is written beside a video, is one job.
    """
    text = read_text(path, "--jobs")
    lines = [(f"--jobs {path} line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"--jobs {path} lists no videos")
    if len(lines) > 1 and (lines[0][1].strip() == "{" or _is_whole(text)):
        lines = [(f"--jobs {path}", text)]
    return [(where, checked_row(parse_json(line, where), where)) for where, line in lines]


def _is_whole(text: str) -> bool:
    """Whether text is one JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def checked_row(row: Any, where: str) -> dict:
    """A line of a jobs file, its keys known and its values of their kinds. Raises InputError."""
    if isinstance(row, dict) and "job" in row:  # as written beside a video
        row = row["job"]
    if not isinstance(row, dict):
        raise InputError(f'{where} is {shown(row)}, not an object such as {{"prompt": "a cave", "seed": 1}}')
    for key, value in row.items():
        if key not in KINDS:
            raise InputError(f"{where}: {shown(key)} is none of {', '.join(JOB_KEYS)}")
        check, words = KINDS[key]
        try:
            right = check(value)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if not right:
            raise InputError(f"{where}: {key} is {shown(value)}; it must be {words}")
    return row


def make_jobs(rows: Sequence[tuple[str, Mapping]], common: Mapping[str, Any], out: Sequence[str]) -> list[Job]:
    """The videos of checked rows. common: of what a row leaves out. out: names for rows without; where there are
    several rows, they are numbered. Raises InputError naming the row."""
    jobs = []
    for number, (where, row) in enumerate(rows, 1):
        values = dict(common) | dict(row)
        if isinstance(values["actions"], list):
            values["actions"] = json.dumps(values["actions"])
        names = row.get("out", list(out))
        paths = [pathlib.Path(name) for name in ([names] if isinstance(names, str) else names)]
        if "out" not in row and where:  # several videos need several names
            paths = [path.with_stem(f"{path.stem}_{number:04d}") if path.name else path for path in paths]
        try:
            actions = read_actions(values["actions"])
        except InputError as error:
            raise InputError(f"{where}: {error}" if where else str(error)) from None
        jobs.append(Job(**values | {"out": tuple(paths), "rows": actions}))
    check_apart(jobs)
    return jobs


def check_apart(jobs: Iterable[Job]) -> None:
    """Raises InputError if two videos would be written to the same file, or one into another's folder of frames."""
    taken: dict[pathlib.Path, pathlib.Path] = {}
    for job in jobs:
        for path in (*job.out, job.record):
            place = path.absolute().parent.resolve() / path.name
            if place in taken:
                raise InputError(f"--out: {path} would be written twice; give every video a name of its own")
            taken[place] = path
    for place, path in taken.items():
        for above in place.parents:
            if above in taken:
                raise InputError(
                    f"--out {path} lies in {taken[above]}, which is written as well; choose another folder"
                )


FRAME = re.compile(r"frame_\d{4,}\.png")


def holds_frames_alone(folder: pathlib.Path) -> bool:
    """Whether nothing but frames that were written here would be lost with a folder."""
    return all(FRAME.fullmatch(path.name) and path.is_file() and not path.is_symlink() for path in folder.iterdir())
