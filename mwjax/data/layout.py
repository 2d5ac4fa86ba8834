"""Where a data set in the released layout has what: the one place that knows its folders, files and columns.

    dataset/video_captions_v0.csv        a row a clip: which frames of which video, and the caption
    video/SCENE.mp4                      the frames of a scene
    metadata-detection/SCENE.json        its actions and positions, collisions labelled

GF-Minecraft's layout differs in names alone and is read as well: annotation.csv and metadata/.
"""

import os
import pathlib
from collections.abc import Iterable

from mwjax.data.tables import write_table
from mwjax.errors import InputError
from mwjax.ranges import shown

TABLES = ("dataset/video_captions_v0.csv", "video_captions_v0.csv", "annotation.csv")  # the first that is there is read
METADATA_FOLDERS = ("metadata-detection", "metadata")  # likewise
REQUIRED_COLUMNS = ("original video name", "start frame index", "end frame index", "prompt")
SUFFIX = ".mp4"  # of a video, in any case
COLUMNS = (*REQUIRED_COLUMNS, "dir")  # of a table that is written here


def video_file(root: pathlib.Path, scene: str) -> pathlib.Path:
    """Where the frames of a scene are written."""
    return root / "video" / f"{scene}{SUFFIX}"


def metadata_file(root: pathlib.Path, scene: str) -> pathlib.Path:
    """Where the JSON of a scene is written."""
    return root / METADATA_FOLDERS[0] / f"{scene}.json"


def find_scene(root: pathlib.Path, video: str, directory: str = "") -> tuple[pathlib.Path, pathlib.Path]:
    """The video and the JSON of a row of the table, of its columns `original video name` and `dir`.

    `dir` is relative to the data set; tables that were made elsewhere name folders that may not exist here. Raises
    InputError for names that lead out of the data set.
    """
    inside(video, "the video")
    if directory:
        inside(directory, "dir")
    folder = next((f for f in (root / (directory or "."), root) if (f / "video").is_dir()), root)
    labels = next((name for name in METADATA_FOLDERS if (folder / name).is_dir()), METADATA_FOLDERS[0])
    scene = video[: -len(SUFFIX)] if video.lower().endswith(SUFFIX) else video
    return _either_case(video_file(folder, scene)), _either_case(folder / labels / f"{scene}.json")


def inside(name: str, what: str) -> None:
    """Raises InputError for a name that leads out of the folder it is meant for, or can be none. what: is named so."""
    forms = (pathlib.PurePosixPath(name), pathlib.PureWindowsPath(name))
    if not name.strip() or "\0" in name:
        raise InputError(f"{what} {shown(name)} is no name of a file")
    if any(form.is_absolute() or form.drive or form.root or ".." in form.parts for form in forms):
        raise InputError(f"{what} {shown(name)} leads out of the data set; name files and folders within it")


def _either_case(path: pathlib.Path) -> pathlib.Path:
    """The path, or where only that is there, the same with its suffix in capitals."""
    other = path.with_name(path.stem + path.suffix.upper())
    return other if not os.path.exists(path) and os.path.exists(other) else path


def find_table(root: pathlib.Path) -> pathlib.Path:
    """The captions table of a data set. Raises InputError if there is none."""
    for name in TABLES:
        if (root / name).exists():
            return root / name
    raise InputError(f"{root} holds no dataset: none of {', '.join(TABLES)} is there")


def write_captions(root: pathlib.Path, clips: Iterable[tuple[str, int, int, str]]) -> pathlib.Path:
    """Write the captions table of a data set and return its path; of a clip: scene, first and last frame, caption."""
    rows = ((f"{scene}{SUFFIX}", start, end, caption, ".") for scene, start, end, caption in clips)
    write_table(root / TABLES[0], COLUMNS, rows)
    return root / TABLES[0]
