"""The latent cache: the frozen VAE and text encoder run once per clip, training reads their results.

One safetensors file per clip (mean, logvar, keyboard, mouse; of an image-conditioned model also image and
first_frame), one per distinct caption, and `index.json` written last.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from mwjax.data.clips import Clip, ClipConfig, cut_clip, to_pixels
from mwjax.data.files import whole, write_whole
from mwjax.errors import InputError

SPARE = 64 * 1024**2  # bytes that must stay free on the disk
CAPTIONS = 32  # encoded at once
RENAMED = {"condition": "first_frame"}  # arrays of caches that were written before


class Encoders(NamedTuple):
    """What turns clips into what is cached; all take and give numpy arrays.

    video: pixels [b, f, h, w, 3] in [-1, 1] to mean and logvar, each [b, t, h8, w8, z].
    text: a list of captions to a list of embeddings [s, c].
    image: of an image-conditioned model, first frames [b, h, w, 3] in [-1, 1] to image tokens [b, i, e] and the latents
    of the first frame followed by grey, [b, t, h8, w8, z].
    """

    video: Callable
    text: Callable
    image: Callable | None = None


def _alone(name: str) -> None:
    """The barrier of a single process."""


class Share(NamedTuple):
    """Process `process` of `processes`, which share the work and meet at barrier(name)."""

    process: int = 0
    processes: int = 1
    barrier: Callable[[str], None] = _alone


ALONE = Share()


def encode_dataset(
    clips: list[Clip],
    folder: str | pathlib.Path,
    *,
    config: ClipConfig,
    identity: str,
    encoders: Encoders,
    share: Share = ALONE,
    batch: int = 8,
) -> pathlib.Path:
    """Fill the cache for `clips` and return its folder; what is there already is kept.

    Damaged clips are reported and left out. identity: what the results depend on (weights). batch: clips encoded
    together. Raises InputError for a cache that was made otherwise, for clips of which none is long enough or none can
    be read, and for a disk that cannot hold the cache.
    """
    folder = pathlib.Path(folder)
    if config.mirror:
        clips = clips + [dataclasses.replace(clip, mirrored=True) for clip in clips]
    chosen = [number for number, clip in enumerate(clips) if clip.frames >= config.frames]
    if not chosen:
        longest = max(clip.frames for clip in clips)
        raise InputError(f"no clip has {config.frames} frames; the longest has {longest}")
    stamp = {"framing": dataclasses.asdict(config), "identity": identity}
    _check_folder(folder, stamp, space=len(clips) * config.frames * config.height * config.width // 4)
    share.barrier("cache checked")
    if share.process == 0:
        write_whole(folder / "cache.json", json.dumps(stamp))
    mine = slice(share.process, None, share.processes)
    captions = sorted({clips[number].prompt for number in chosen} | {""})
    _encode_captions(captions[mine], folder, encoders)
    damaged = _encode_clips(
        {number: clips[number] for number in chosen[mine]},
        folder,
        config=config,
        encoders=encoders,
        batch=batch,
        progress=share.process == 0,
    )
    share.barrier("clips encoded")
    entries = [
        {"file": clip_file(folder, number).name, "prompt": clips[number].prompt}
        for number in chosen
        if clip_file(folder, number).exists()
    ]
    if not entries:
        first = next(iter(damaged.values()), "see the other processes")
        raise InputError(f"none of the {len(chosen)} clips could be read; the first: {first}")
    if share.process == 0:
        left_out = {clips[number].name: error for number, error in damaged.items()}
        write_whole(folder / "index.json", json.dumps({"clips": entries, "left_out": left_out}, indent=1))
    share.barrier("cache listed")
    return folder


def clip_file(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / "clips" / f"{number:06d}.safetensors"


def caption_file(folder: pathlib.Path, caption: str) -> pathlib.Path:
    return folder / "captions" / f"{hashlib.sha1(caption.encode()).hexdigest()}.safetensors"


def save_tensors(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a safetensors file that appears whole or not at all."""
    with whole(path) as part:
        save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, part)


def _check_folder(folder: pathlib.Path, stamp: dict, *, space: int) -> None:
    """Make the cache's folder. Raises InputError if it holds another cache or lacks `space` bytes."""
    old = folder / "cache.json"
    if old.exists() and json.loads(old.read_text()) != stamp:
        raise InputError(f"{folder} was made with other weights or frame sizes; delete it")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    needed = SPARE + space
    if free < needed:
        raise InputError(
            f"{folder} has {free >> 20} MiB free, the latent cache may need {needed >> 20} MiB; free some space"
        )


def _encode_captions(captions: list[str], folder: pathlib.Path, encoders: Encoders) -> None:
    """Write the embeddings of captions that have none yet."""
    new = [caption for caption in captions if not caption_file(folder, caption).exists()]
    for group in _batched(tqdm(new, desc="captions", unit="caption", leave=False), CAPTIONS):
        for caption, embedding in zip(group, encoders.text(group), strict=True):
            save_tensors(caption_file(folder, caption), {"text": embedding})


def _encode_clips(
    clips: dict[int, Clip], folder: pathlib.Path, *, config: ClipConfig, encoders: Encoders, batch: int, progress: bool
) -> dict[int, str]:
    """Write the latents and actions of clips, by number, that have none yet; returns what is wrong with the damaged."""
    todo = [number for number in clips if not clip_file(folder, number).exists()]
    bar = tqdm(total=len(clips), desc="encoding", unit="clip", disable=not progress)
    bar.update(len(clips) - len(todo))
    damaged = {}
    load = functools.partial(_load, config=config)
    for group in _batched(_prefetch(((number, clips[number]) for number in todo), load), batch):
        good = {number: loaded for number, loaded in group if isinstance(loaded, dict)}
        damaged |= {number: str(error) for number, error in group if number not in good}
        if good:
            encoded = _encode_videos([clip["video"] for clip in good.values()], encoders, batch)
            for row, (number, clip) in enumerate(good.items()):
                latents = {name: array[row] for name, array in encoded.items()}
                actions = {"keyboard": clip["keyboard"], "mouse": clip["mouse"]}
                save_tensors(clip_file(folder, number), latents | actions)
        bar.update(len(group))
    bar.close()
    for number, error in damaged.items():
        tqdm.write(f"left out clip {number} ({clips[number].name}): {error}")
    return damaged


def _encode_videos(videos: list[np.ndarray], encoders: Encoders, batch: int) -> dict[str, np.ndarray]:
    """Latents of at most `batch` clips; always computed for as many, so that they are compiled for once."""
    filler = [videos[-1]] * (batch - len(videos))
    pixels = to_pixels(np.stack(videos + filler))
    mean, logvar = encoders.video(pixels)
    encoded = {"mean": mean, "logvar": logvar}
    if encoders.image:
        encoded["image"], encoded["first_frame"] = encoders.image(pixels[:, 0])
    return encoded


def _load(clip: Clip, config: ClipConfig) -> dict | InputError:
    try:
        return cut_clip(clip, config)
    except InputError as error:
        return error


def _prefetch(items: Iterable[tuple], load: Callable, ahead: int = 16) -> Iterator[tuple]:
    """(key, load(item)) of (key, item), in order, loaded by threads a little ahead of their use."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = []
        for key, item in items:
            waiting.append((key, pool.submit(load, item)))
            if len(waiting) >= ahead:
                first, future = waiting.pop(0)
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _batched(items: Iterable, size: int) -> Iterator[list]:
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
        index = self.folder / "index.json"
        if not index.exists():
            raise InputError(f"{self.folder} holds no finished latent cache (index.json is missing)")
        self.entries = json.loads(index.read_text())["clips"]
        self._text: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        entry = self.entries[i]
        path = self.folder / "clips" / entry["file"]
        try:
            clip = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}); delete it and {self.folder / 'index.json'}") from None
        clip = {RENAMED.get(name, name): array for name, array in clip.items()}
        return clip | {"text": self.text(entry["prompt"])}

    def text(self, caption: str) -> np.ndarray:
        """Embedding [s, c] of a caption."""
        if caption not in self._text:
            self._text[caption] = load_file(caption_file(self.folder, caption))["text"]
        return self._text[caption]
