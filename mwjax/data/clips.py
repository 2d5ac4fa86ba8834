"""Clips of a gameplay dataset in the released layout (Micro-World, GF-Minecraft, or recorded here)."""

import csv
import dataclasses
import functools
import json
import pathlib

import numpy as np

from mwjax.data.actions import from_scene, mirror
from mwjax.data.video import read_video
from mwjax.errors import InputError

TABLES = ("dataset/video_captions_v0.csv", "video_captions_v0.csv", "annotation.csv")
COLUMNS = ("original video name", "start frame index", "end frame index", "prompt")
METADATA_FOLDERS = ("metadata-detection", "metadata")


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames start … end (inclusive) of a video, its scene's JSON and the caption. mirrored: left and right exchanged, in picture, keys and yaw."""

    video: pathlib.Path
    metadata: pathlib.Path
    start: int
    end: int
    prompt: str
    mirrored: bool = False

    @property
    def frames(self) -> int:
        return self.end - self.start + 1

    @property
    def name(self) -> str:
        return f"{self.video.stem} frames {self.start} to {self.end}" + ", mirrored" * self.mirrored


def read_table(root: str | pathlib.Path) -> list[Clip]:
    """All clips of the captions table below `root`. Raises InputError if there is no table or it lacks columns."""
    root = pathlib.Path(root)
    table = next((root / name for name in TABLES if (root / name).exists()), None)
    if table is None:
        raise InputError(f"{root} holds no dataset: none of {', '.join(TABLES)} is there")
    with table.open(newline="") as file:
        rows = [{k.strip().lower(): v for k, v in row.items() if k} for row in csv.DictReader(file)]
    if not rows:
        raise InputError(f"{table} lists no clips")
    lost = [name for name in COLUMNS if name not in rows[0]]
    if lost:
        raise InputError(f"{table} has no column {lost[0]!r}; it needs {', '.join(COLUMNS)}")
    clips = []
    for number, row in enumerate(rows, 2):
        # `dir` is relative to the data set; tables kept elsewhere name folders that may not exist here.
        folder = next((f for f in (root / (row.get("dir") or "."), root) if (f / "video").is_dir()), root)
        name = row[COLUMNS[0]]
        name = name if name.endswith(".mp4") else name + ".mp4"
        labels = next((folder / m for m in METADATA_FOLDERS if (folder / m).is_dir()), folder / METADATA_FOLDERS[0])
        try:
            start, end = int(row[COLUMNS[1]]), int(row[COLUMNS[2]])
        except ValueError:
            raise InputError(f"{table} line {number}: frame indices {row[COLUMNS[1]]!r} and {row[COLUMNS[2]]!r} are not numbers") from None
        clips.append(Clip(folder / "video" / name, (labels / name).with_suffix(".json"), start, end, row[COLUMNS[3]]))
    return clips


@functools.lru_cache(maxsize=8)
def read_scene(path: pathlib.Path) -> dict:
    """A scene's JSON, with collisions labelled. Raises InputError if it is missing or damaged."""
    try:
        scene = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error})") from None
    if not isinstance(scene.get("actions"), dict):
        raise InputError(f"{path} has no actions")
    if any("collision" not in entry for entry in scene["actions"].values()):
        _add_detection(scene["actions"])
    return scene


def _add_detection(actions: dict) -> None:
    """Label collisions and invalid jumps from positions, where the data set does not."""
    from mwjax.worlds.detection import detect

    frames = sorted((f for f in actions if "pos" in actions[f]), key=int)
    _, collision, invalid = detect(np.array([actions[f]["pos"] for f in frames], float), np.array([actions[f]["scs"] for f in frames]))
    for i, frame in enumerate(frames):
        actions[frame] |= {"collision": int(collision[i]), "jump_invalid": int(invalid[i])}


def fit(frames: np.ndarray, height: int, width: int, shrink: int) -> np.ndarray:
    """Average `shrink`×`shrink` pixels into one, then cut out the centre. Raises InputError if the frames are too small."""
    f, h, w, _ = frames.shape
    if h // shrink < height or w // shrink < width:
        raise InputError(f"frames of {h}x{w} shrunk by {shrink} are smaller than {height}x{width}")
    if shrink > 1:
        frames = frames[:, : h // shrink * shrink, : w // shrink * shrink]
        frames = np.round(frames.reshape(f, h // shrink, shrink, w // shrink, shrink, 3).mean((2, 4))).astype(np.uint8)
        h, w = frames.shape[1:3]
    top, left = (h - height) // 2, (w - width) // 2
    return frames[:, top : top + height, left : left + width]


def load_clip(clip: Clip, *, height: int, width: int, shrink: int = 1) -> dict[str, np.ndarray]:
    """video uint8 [f, h, w, 3], keyboard [f, 7] and mouse [f, 2]. Raises InputError if anything is missing or damaged."""
    actions = read_scene(clip.metadata)["actions"]
    last = max((int(k) for k in actions), default=-1)
    if last < clip.end:
        raise InputError(f"{clip.metadata} describes frames up to {last}, the clip ends at {clip.end}: it does not match its video")
    video = fit(read_video(clip.video, clip.start, clip.end + 1), height, width, shrink)
    keyboard, mouse = from_scene(actions, clip.start, clip.end + 1)
    if clip.mirrored:
        video, keyboard, mouse = video[:, :, ::-1], *mirror(keyboard, mouse)
    return {"video": video, "keyboard": keyboard, "mouse": mouse}


def to_pixels(video: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [-1, 1]."""
    return video.astype(np.float32) / 127.5 - 1
