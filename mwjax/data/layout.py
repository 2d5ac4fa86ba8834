"""Where a data set in the released layout has what: the one place that knows its folders, files and columns.

    dataset/video_captions_v0.csv        a row a clip: which frames of which video, and the caption
    video/SCENE.mp4                      the frames of a scene
    metadata-detection/SCENE.json        its actions and positions, collisions labelled

GF-Minecraft's layout differs in names alone and is read as well: annotation.csv and metadata/.
"""

import csv
import io
import pathlib
from collections.abc import Iterable, Mapping

from mwjax.data.files import write_whole
from mwjax.errors import InputError

TABLES = ("dataset/video_captions_v0.csv", "video_captions_v0.csv", "annotation.csv")  # the first that is there is read
METADATA_FOLDERS = ("metadata-detection", "metadata")  # likewise
REQUIRED_COLUMNS = ("original video name", "start frame index", "end frame index", "prompt")
COLUMNS = (*REQUIRED_COLUMNS, "dir")  # of a table that is written here


def video_file(root: pathlib.Path, scene: str) -> pathlib.Path:
    """Where the frames of a scene are written."""
    return root / "video" / f"{scene}.mp4"


def metadata_file(root: pathlib.Path, scene: str) -> pathlib.Path:
    """Where the JSON of a scene is written."""
    return root / METADATA_FOLDERS[0] / f"{scene}.json"


def find_scene(root: pathlib.Path, video: str, directory: str = "") -> tuple[pathlib.Path, pathlib.Path]:
    """The video and the JSON of a row of the table, of its columns `original video name` and `dir`.

    `dir` is relative to the data set; tables that were made elsewhere name folders that may not exist here.
    """
    folder = next((f for f in (root / (directory or "."), root) if (f / "video").is_dir()), root)
    labels = next((name for name in METADATA_FOLDERS if (folder / name).is_dir()), METADATA_FOLDERS[0])
    scene = video.removesuffix(".mp4")
    return video_file(folder, scene), folder / labels / f"{scene}.json"


def find_table(root: pathlib.Path) -> pathlib.Path:
    """The captions table of a data set. Raises InputError if there is none."""
    for name in TABLES:
        if (root / name).exists():
            return root / name
    raise InputError(f"{root} holds no dataset: none of {', '.join(TABLES)} is there")


def read_rows(table: pathlib.Path) -> list[dict[str, str]]:
    """The rows of a captions table, by column."""
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(table: pathlib.Path, columns: Iterable[str], rows: Iterable[Mapping]) -> None:
    """Write a captions table of these columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, tuple(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(table, text.getvalue())


def write_captions(root: pathlib.Path, clips: Iterable[tuple[str, int, int, str]]) -> pathlib.Path:
    """Write the captions table of a data set and return its path; of a clip: scene, first and last frame, caption."""
    rows = [
        dict(zip(COLUMNS, (f"{scene}.mp4", start, end, caption, "."), strict=True))
        for scene, start, end, caption in clips
    ]
    write_rows(root / TABLES[0], COLUMNS, rows)
    return root / TABLES[0]
