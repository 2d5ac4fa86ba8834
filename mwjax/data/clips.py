"""Clips of a gameplay dataset in the released layout (Micro-World, GF-Minecraft, or recorded here)."""

import dataclasses
import pathlib
from typing import ClassVar

import numpy as np

from mwjax.data import layout, tables
from mwjax.data.actions import MOST_FRAMES, Actions, from_scene, mirror
from mwjax.data.scenes import FRAME, read_scene
from mwjax.data.video import read_video
from mwjax.errors import InputError
from mwjax.ranges import Checked, ranged, shown

FRAMES_PER_LATENT = 4  # a clip is one frame and then this many for each further latent: f = 4t − 3
MOST_SIDE = 8192  # pixels along a side of a frame


@dataclasses.dataclass(frozen=True)
class ClipConfig(Checked):
    """How clips are cut: the first `frames` frames of each clip, shrunk and centre-cropped to height × width.

    mirror: learn from every clip's mirror image as well (not for captions that tell left from right).
    """

    frames: int = ranged(least=1, most=MOST_FRAMES, whole=True)
    height: int = ranged(least=1, most=MOST_SIDE, whole=True)
    width: int = ranged(least=1, most=MOST_SIDE, whole=True)
    shrink: int = ranged(1, least=1, most=MOST_SIDE, whole=True)
    mirror: bool = False

    WHERE: ClassVar[str] = "framing."

    def __post_init__(self):
        super().__post_init__()
        if self.frames % FRAMES_PER_LATENT != 1:
            raise InputError(f"clips of {self.frames} frames are not of the form 4n + 1 (17, 65, 81 …)")


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames start … end (inclusive) of a video, its scene's JSON and the caption.

    mirrored: left and right exchanged, in picture, keys and yaw.
    """

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
    """All clips of the captions table below `root`. Raises InputError if there is no table, it lacks columns, or for a
    row that is no clip."""
    root = pathlib.Path(root)
    path = layout.find_table(root)
    table = tables.read_table(path)
    places = {column: table.find(column) for column in layout.COLUMNS}
    lost = [column for column in layout.REQUIRED_COLUMNS if places[column] is None]
    if lost:
        raise InputError(f"{path} has no column {lost[0]!r}; it needs {', '.join(layout.REQUIRED_COLUMNS)}")
    if not table.rows:
        raise InputError(f"{path} lists no clips")
    clips = []
    for row in table.rows:
        values = {column: "" if place is None else row.fields[place] for column, place in places.items()}
        try:
            clips.append(_clip(root, values))
        except InputError as error:
            raise InputError(f"{path} line {row.line}: {error}") from None
    return clips


def _clip(root: pathlib.Path, row: dict[str, str]) -> Clip:
    """The clip of a row, by column. Raises InputError for what is none."""
    name, start, end, prompt, directory = (row[column] for column in layout.COLUMNS)
    if not all(FRAME.fullmatch(text.strip()) for text in (start, end)):
        raise InputError(f"frame indices {shown(start)} and {shown(end)} are not numbers")
    first = int(start)
    last = int(end)
    if last < first:
        raise InputError(f"the clip ends at frame {last}, before frame {first} where it starts")
    video, metadata = layout.find_scene(root, name, directory)
    return Clip(video, metadata, first, last, prompt)


def fit(frames: np.ndarray, height: int, width: int, shrink: int) -> np.ndarray:
    """Average `shrink` × `shrink` pixels into one, then cut out the centre; uint8 [f, h, w, 3].

    Raises InputError if the frames are too small.
    """
    f, h, w, _ = frames.shape
    if h // shrink < height or w // shrink < width:
        raise InputError(f"frames of {h}x{w} shrunk by {shrink} are smaller than {height}x{width}")
    if shrink > 1:
        h //= shrink
        w //= shrink
        squares = frames[:, : h * shrink, : w * shrink].reshape(f, h, shrink, w, shrink, 3)
        frames = np.round(squares.mean((2, 4))).astype(np.uint8)
    top = (h - height) // 2
    left = (w - width) // 2
    return frames[:, top : top + height, left : left + width]


def read_clip_actions(clip: Clip) -> Actions:
    """keyboard [f, 7] and mouse [f, 2] of a clip. Raises InputError if its scene is missing, damaged or too short."""
    actions = read_scene(clip.metadata)["actions"]
    last = max(map(int, actions), default=-1)
    if last < clip.end:
        raise InputError(
            f"{clip.metadata} describes frames up to {last}, the clip ends at {clip.end}: it does not match its video"
        )
    keyboard, mouse = from_scene(actions, clip.start, clip.end + 1)
    return mirror(keyboard, mouse) if clip.mirrored else (keyboard, mouse)


def load_clip(clip: Clip, *, height: int, width: int, shrink: int = 1) -> dict[str, np.ndarray]:
    """video uint8 [f, h, w, 3], keyboard [f, 7] and mouse [f, 2]. Raises InputError if anything is missing or
    damaged."""
    keyboard, mouse = read_clip_actions(clip)
    video = fit(read_video(clip.video, clip.start, clip.end + 1), height, width, shrink)
    return {"video": video[:, :, ::-1] if clip.mirrored else video, "keyboard": keyboard, "mouse": mouse}


def cut(clip: Clip, config: ClipConfig) -> Clip:
    """As many frames of a clip as `config` says."""
    return dataclasses.replace(clip, end=clip.start + config.frames - 1)


def cut_clip(clip: Clip, config: ClipConfig) -> dict[str, np.ndarray]:
    """As load_clip, of as many frames and of the size that `config` says."""
    return load_clip(cut(clip, config), height=config.height, width=config.width, shrink=config.shrink)


def to_pixels(video: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [-1, 1]."""
    return video.astype(np.float32) / 127.5 - 1
