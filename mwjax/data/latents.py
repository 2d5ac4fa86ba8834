"""The latent cache: the frozen VAE and text encoder run once per clip, training reads their results.

One safetensors file per clip (mean, logvar, keyboard, mouse), one per distinct caption, and `index.json` written last.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from mwjax.data.clips import Clip, load_clip, to_pixels
from mwjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Framing:
    """How clips are cut: the first `frames` frames of each clip, shrunk and centre-cropped to height × width.

    mirror: learn from every clip's mirror image as well (not for captions that tell left from right).
    """

    frames: int
    height: int
    width: int
    shrink: int = 1
    mirror: bool = False

    def __post_init__(self):
        if self.frames % 4 != 1:
            raise InputError(f"clips of {self.frames} frames are not of the form 4n + 1 (17, 65, 81 …)")
        for name, value in (("height", self.height), ("width", self.width)):
            if value % 16:
                raise InputError(f"{name} {value} is not a multiple of 16 (VAE 8 × patch 2)")


def caption_file(folder: pathlib.Path, caption: str) -> pathlib.Path:
    return folder / "captions" / f"{hashlib.sha1(caption.encode()).hexdigest()}.safetensors"


def write_whole(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a safetensors file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file({k: np.asarray(v, order="C") for k, v in tensors.items()}, part)
    os.replace(part, path)


def encode_dataset(
    clips: list[Clip], folder: str | pathlib.Path, *, framing: Framing, identity: str, encode_video: Callable, encode_text: Callable,
    encode_image: Callable | None = None, batch: int = 8, part: tuple[int, int] = (0, 1), barrier: Callable[[str], None] = lambda name: None,
) -> pathlib.Path:  # fmt: skip
    """Fill the cache for `clips`; what is there already is kept. Damaged clips are reported and left out.

    encode_video(pixels [b, f, h, w, 3]) gives (mean, logvar) [b, t, h8, w8, z]; encode_text(captions) a list of [s, c];
    encode_image(first frames [b, h, w, 3]) gives (image tokens [b, i, e], condition [b, t, h8, w8, z]), of an image-conditioned model.
    identity: what the results depend on (weights). A cache made otherwise is an InputError. part: (i, n), for process i of n, which
    share the work and meet at barrier(name).
    """
    folder = pathlib.Path(folder)
    if framing.mirror:
        clips = clips + [dataclasses.replace(clip, mirrored=True) for clip in clips]
    stamp = {"framing": dataclasses.asdict(framing), "identity": identity}
    stamp_path, index_path = folder / "cache.json", folder / "index.json"
    if stamp_path.exists() and json.loads(stamp_path.read_text()) != stamp:
        raise InputError(f"{folder} was made with other weights or frame sizes; delete it")
    long_enough = [i for i, c in enumerate(clips) if c.frames >= framing.frames]
    if not long_enough:
        raise InputError(f"no clip has {framing.frames} frames; the longest has {max(c.frames for c in clips)}")
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < (needed := 2**26 + len(clips) * framing.frames * framing.height * framing.width // 4):
        raise InputError(f"{folder} has {shutil.disk_usage(folder).free >> 20} MiB free, the latent cache may need {needed >> 20} MiB; free some space")
    barrier("cache checked")
    if part[0] == 0:
        unfinished = stamp_path.with_suffix(".part")
        unfinished.write_text(json.dumps(stamp))
        os.replace(unfinished, stamp_path)
    process, processes = part
    captions = sorted({clips[i].prompt for i in long_enough} | {""})[process::processes]
    new = [c for c in captions if not caption_file(folder, c).exists()]
    for group in _batched(tqdm(new, desc="captions", unit="caption", leave=False), 32):
        for caption, embedding in zip(group, encode_text(list(group)), strict=True):
            write_whole(caption_file(folder, caption), {"text": embedding})
    paths = {i: folder / "clips" / f"{i:06d}.safetensors" for i in long_enough}
    damaged = {}
    mine = long_enough[process::processes]
    bar = tqdm(total=len(mine), desc="encoding", unit="clip", disable=process > 0)
    bar.update(sum(paths[i].exists() for i in mine))
    todo = (i for i in mine if not paths[i].exists())
    for group in _batched(_prefetch(todo, lambda i: _load(clips[i], framing)), batch):
        good = [(i, clip) for i, clip in group if isinstance(clip, dict)]
        damaged |= {i: str(error) for i, error in group if not isinstance(error, dict)}
        if good:
            pixels = np.stack([clip["video"] for _, clip in good])
            filler = np.repeat(pixels[-1:], batch - len(good), 0)  # always the same shape: compiled once
            pixels = to_pixels(np.concatenate([pixels, filler]))
            encoded = dict(zip(("mean", "logvar"), encode_video(pixels), strict=True))
            if encode_image:
                encoded |= dict(zip(("image", "condition"), encode_image(pixels[:, 0]), strict=True))
            for k, (i, clip) in enumerate(good):
                write_whole(paths[i], {name: a[k] for name, a in encoded.items()} | {"keyboard": clip["keyboard"], "mouse": clip["mouse"]})
        bar.update(len(group))
    bar.close()
    for i, error in damaged.items():
        tqdm.write(f"left out clip {i} ({clips[i].name}): {error}")
    barrier("clips encoded")
    entries = [{"file": paths[i].name, "prompt": clips[i].prompt} for i in long_enough if paths[i].exists()]
    if not entries:
        raise InputError(f"none of the {len(long_enough)} clips could be read; the first: {next(iter(damaged.values()), 'see the other processes')}")
    if process == 0:
        unfinished = index_path.with_suffix(".part")
        unfinished.write_text(json.dumps({"clips": entries, "left_out": {clips[i].name: e for i, e in damaged.items()}}, indent=1))
        os.replace(unfinished, index_path)
    barrier("cache listed")
    return folder


def _load(clip: Clip, framing: Framing) -> dict | InputError:
    try:
        cut = dataclasses.replace(clip, end=clip.start + framing.frames - 1)
        return load_clip(cut, height=framing.height, width=framing.width, shrink=framing.shrink)
    except InputError as error:
        return error


def _prefetch(items: Iterator, load: Callable, ahead: int = 16) -> Iterator[tuple]:
    """(item, load(item)) in order, loaded by threads a little ahead of their use."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = []
        for item in items:
            waiting.append((item, pool.submit(load, item)))
            if len(waiting) >= ahead:
                first, future = waiting.pop(0)
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _batched(items, size: int) -> Iterator[list]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


class LatentSource:
    """Random access to a cache: element i is a dict of arrays."""

    def __init__(self, folder: str | pathlib.Path):
        self.folder = pathlib.Path(folder)
        if not (self.folder / "index.json").exists():
            raise InputError(f"{self.folder} holds no finished latent cache (index.json is missing)")
        self.entries = json.loads((self.folder / "index.json").read_text())["clips"]
        self._text: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        entry = self.entries[i]
        try:
            clip = load_file(self.folder / "clips" / entry["file"])
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self.folder / 'clips' / entry['file']} is damaged ({error}); delete it and {self.folder / 'index.json'}") from None
        return clip | {"text": self.text(entry["prompt"])}

    def text(self, caption: str) -> np.ndarray:
        """Embedding [s, c] of a caption."""
        if caption not in self._text:
            self._text[caption] = load_file(caption_file(self.folder, caption))["text"]
        return self._text[caption]
