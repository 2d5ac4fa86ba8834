"""Clips of a gameplay dataset in the released layout (Micro-World, GF-Minecraft, or recorded here)."""

import dataclasses
import functools
import json
import pathlib

import numpy as np

from mwjax.data import layout
from mwjax.data.actions import from_scene, mirror
from mwjax.data.detection import detect
from mwjax.data.video import read_video
from mwjax.errors import InputError

FRAMES_PER_LATENT = 4  # a clip is one frame and then this many for each further latent: f = 4t − 3


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """How clips are cut: the first `frames` frames of each clip, shrunk and centre-cropped to height × width.

    mirror: learn from every clip's mirror image as well (not for captions that tell left from right).
    """

    frames: int
    height: int
    width: int
    shrink: int = 1
    mirror: bool = False

    def __post_init__(self):
        for name in ("frames", "height", "width", "shrink"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)} of clips must be at least 1")
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
    """All clips of the captions table below `root`. Raises InputError if there is no table or it lacks columns."""
    root = pathlib.Path(root)
    table = layout.find_table(root)
    rows = [{name.strip().lower(): value for name, value in row.items() if name} for row in layout.read_rows(table)]
    if not rows:
        raise InputError(f"{table} lists no clips")
    lost = [name for name in layout.REQUIRED_COLUMNS if name not in rows[0]]
    if lost:
        raise InputError(f"{table} has no column {lost[0]!r}; it needs {', '.join(layout.REQUIRED_COLUMNS)}")
    clips = []
    for number, row in enumerate(rows, 2):
        name, start, end, prompt = (row[column] for column in layout.REQUIRED_COLUMNS)
        video, metadata = layout.find_scene(root, name, row.get("dir") or "")
        try:
            first = int(start)
            last = int(end)
        except ValueError:
            raise InputError(f"{table} line {number}: frame indices {start!r} and {end!r} are not numbers") from None
        clips.append(Clip(video, metadata, first, last, prompt))
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
    frames = sorted((f for f in actions if "pos" in actions[f]), key=int)
    positions = np.array([actions[f]["pos"] for f in frames], float)
    _, collision, invalid = detect(positions, np.array([actions[f]["scs"] for f in frames]))
    for i, frame in enumerate(frames):
        actions[frame] |= {"collision": int(collision[i]), "jump_invalid": int(invalid[i])}


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


def load_clip(clip: Clip, *, height: int, width: int, shrink: int = 1) -> dict[str, np.ndarray]:
    """video uint8 [f, h, w, 3], keyboard [f, 7] and mouse [f, 2]. Raises InputError if anything is missing or
    damaged."""
    actions = read_scene(clip.metadata)["actions"]
    last = max((int(k) for k in actions), default=-1)
    if last < clip.end:
        raise InputError(
            f"{clip.metadata} describes frames up to {last}, the clip ends at {clip.end}: it does not match its video"
        )
    video = fit(read_video(clip.video, clip.start, clip.end + 1), height, width, shrink)
    keyboard, mouse = from_scene(actions, clip.start, clip.end + 1)
    if clip.mirrored:
        video = video[:, :, ::-1]
        keyboard, mouse = mirror(keyboard, mouse)
    return {"video": video, "keyboard": keyboard, "mouse": mouse}


def cut_clip(clip: Clip, config: ClipConfig) -> dict[str, np.ndarray]:
    """As load_clip, of as many frames and of the size that `config` says."""
    cut = dataclasses.replace(clip, end=clip.start + config.frames - 1)
    return load_clip(cut, height=config.height, width=config.width, shrink=config.shrink)


def to_pixels(video: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [-1, 1]."""
    return video.astype(np.float32) / 127.5 - 1
