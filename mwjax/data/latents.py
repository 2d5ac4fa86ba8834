"""The latent cache: the frozen VAE and text encoder run once per clip, training reads their results.

    clips/KEY.safetensors      mean, logvar, keyboard, mouse; of an image-conditioned model also image and first_frame
    captions/KEY.safetensors   text, of a distinct caption
    index.json                 written last: the keys of the data set's clips, in the order of its table
    cache.json                 what was encoded last, and how

A key is a hash of all that the content depends on (see `clip_key`): another data set, or the same one with clips added,
removed, relabelled or exchanged, finds what fits and makes what does not.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from mwjax.data.clips import Clip, ClipConfig, cut, cut_clip, read_clip_actions, to_pixels
from mwjax.data.files import write_whole
from mwjax.data.fingerprints import Remembered, hash_file
from mwjax.data.text import read_json
from mwjax.errors import InputError

FORM = 2  # of the cache; the first named its files by the row of the table, whatever the table was
FIRST_FORM = re.compile(r"[0-9]{6}\.safetensors")
SPARE = 64 * 1024**2  # bytes that must stay free on the disk
CAPTIONS = 32  # encoded at once
HASHED = 4  # files at once


class Encoders(NamedTuple):
    """What turns clips into what is cached; all take and give numpy arrays.

    video: pixels [b, f, h, w, 3] in [-1, 1] to mean and logvar, each [b, t, h8, w8, z].
    text: a list of captions to a list of embeddings [s, c].
    image: of an image-conditioned model, first frames [b, h, w, 3] in [-1, 1] to image tokens [b, i, e] and the latents
    of the first frame followed by grey, [b, t, h8, w8, z].
    text_identity: what embeddings depend on besides captions (weights, tokenizer, length).
    """

    video: Callable
    text: Callable
    image: Callable | None = None
    text_identity: str = ""


def _alone(name: str) -> None:
    """The barrier of a single process."""


class Share(NamedTuple):
    """Process `process` of `processes`, which share the work and meet at barrier(name)."""

    process: int = 0
    processes: int = 1
    barrier: Callable[[str], None] = _alone

    def of(self, items: list) -> list:
        """This process's part of the items."""
        return items[self.process :: self.processes]

    def exchange(self, folder: pathlib.Path, name: str, value: dict) -> dict:
        """The dicts of all processes as one, by way of files; all meet here."""
        if self.processes == 1:
            return value
        memory = memory_folder(folder)
        write_whole(memory / f"{name}-{self.process}.json", json.dumps(value))
        self.barrier(f"{name} exchanged")
        parts = [read_json(memory / f"{name}-{process}.json") for process in range(self.processes)]
        return functools.reduce(dict.__or__, parts)


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

    Damaged clips are reported and left out. identity: what latents depend on besides (weights). batch: clips
    encoded together. Raises InputError for a cache of the first form, for clips of which none
    is long enough or none can be read, and for a disk that cannot hold the cache.
    """
    folder = pathlib.Path(folder)
    if config.mirror:
        clips = clips + [dataclasses.replace(clip, mirrored=True) for clip in clips]
    chosen = {number: clip for number, clip in enumerate(clips) if clip.frames >= config.frames}
    if not chosen:
        longest = max(clip.frames for clip in clips)
        raise InputError(f"no clip has {config.frames} frames; the longest has {longest}")
    _claim(folder, {"form": FORM, "framing": dataclasses.asdict(config), "identity": identity}, share)
    made_by = f"{identity} {'with' if encoders.image else 'without'} image"
    keys, left_out = _keys(chosen, folder, config=config, identity=made_by, share=share)
    first = {key: number for number, key in reversed(keys.items())}  # of clips that are the same, one is encoded
    todo = _missing(sorted(first, key=first.get), functools.partial(clip_file, folder))
    _check_space(folder, len(todo) * config.frames * config.height * config.width // 4)
    share.barrier("cache checked")  # nobody writes before everybody knows what there is to write
    captions = sorted({clip.prompt for clip in chosen.values()} | {""})
    _encode_captions(share.of(captions), folder, encoders)
    mine = {key: clips[first[key]] for key in share.of(todo)}
    silent = share.process > 0
    with tqdm(total=len(first), initial=len(first) - len(todo), desc="encoding", unit="clip", disable=silent) as bar:
        damaged = _encode_clips(mine, folder, config=config, encoders=encoders, batch=batch, bar=bar)
    damaged = share.exchange(folder, "damaged", damaged)
    left_out |= {number: damaged[key] for number, key in keys.items() if key in damaged}
    if len(left_out) == len(chosen):
        raise InputError(f"none of the {len(chosen)} clips could be read; the first: {left_out[min(left_out)]}")
    if not silent:
        _report(chosen, left_out)
        entries = [
            {"file": clip_file(folder, keys[number]).name, "prompt": clip.prompt}
            for number, clip in chosen.items()
            if number not in left_out
        ]
        named = {chosen[number].name: error for number, error in sorted(left_out.items())}
        index = {"clips": entries, "text_identity": encoders.text_identity, "left_out": named}
        write_whole(folder / "index.json", json.dumps(index, indent=1))
    share.barrier("cache listed")
    return folder


def _claim(folder: pathlib.Path, stamp: dict, share: Share) -> None:
    """Make the cache's folder and note what is encoded. Raises InputError if it holds a cache of the first form."""
    if any(FIRST_FORM.fullmatch(path.name) for path in folder.glob("clips/*")):
        why = "was made by an older version, which cannot tell the clips of one data set from another's"
        raise InputError(f"the latent cache {folder} {why}; delete that folder, it is made again")
    folder.mkdir(parents=True, exist_ok=True)
    if share.process > 0:
        return
    note = folder / "cache.json"
    if note.exists():
        try:
            if read_json(note) != stamp:
                print(
                    f"{folder}: weights or frame sizes have changed; what is encoded otherwise stays beside", flush=True
                )
        except InputError as error:
            print(f"{error}; it is made again", flush=True)
    write_whole(note, json.dumps(stamp))


def _keys(
    chosen: dict[int, Clip], folder: pathlib.Path, *, config: ClipConfig, identity: str, share: Share
) -> tuple[dict[int, str], dict[int, str]]:
    """(key of every clip that can be read, what is wrong with the others), by number, in order. Every process hashes
    its share."""
    memory = memory_folder(folder)
    files = Remembered(memory / f"fingerprints-{share.process}.json", sorted(memory.glob("fingerprints-*.json")))

    def hash_video(path: pathlib.Path) -> str | InputError:
        try:
            return files.get("content of", path, functools.partial(hash_file, path))
        except InputError as error:
            return error

    mine = dict(share.of(list(chosen.items())))
    paths = list(dict.fromkeys(clip.video for clip in mine.values()))
    with concurrent.futures.ThreadPoolExecutor(HASHED) as pool:
        hashes = pool.map(hash_video, paths)
        bar = tqdm(hashes, desc="fingerprints", unit="video", total=len(paths), leave=False, disable=share.process > 0)
        videos = dict(zip(paths, bar, strict=True))
    found = {}
    for number, clip in mine.items():
        try:
            if isinstance(videos[clip.video], InputError):
                raise videos[clip.video]
            part = dataclasses.replace(cut(clip, config), mirrored=False)
            name = f"actions {part.start} to {part.end} of"
            actions = files.get(name, clip.metadata, functools.partial(_hash_actions, part))
            found[str(number)] = [clip_key(clip, config, videos[clip.video], actions, identity), ""]
        except InputError as error:
            found[str(number)] = ["", str(error)]
    files.save()
    found = {int(number): pair for number, pair in share.exchange(folder, "keys", found).items()}
    keys = {number: found[number][0] for number in sorted(found) if found[number][0]}
    return keys, {number: error for number, (key, error) in found.items() if not key}


def memory_folder(folder: pathlib.Path) -> pathlib.Path:
    """Where processes remember and tell each other what belongs to this machine and run, beside the cache."""
    return folder.with_name(f".{folder.name}")


def clip_key(clip: Clip, config: ClipConfig, video: str, actions: str, identity: str) -> str:
    """The name of what is cached for a clip, a hash of all that it depends on. video, actions: hashes of the content of
    its video and of what is held in its frames."""
    sizes = [config.frames, config.height, config.width, config.shrink]
    content = [FORM, video, actions, clip.start, clip.mirrored, sizes, identity]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:40]


def _hash_actions(clip: Clip) -> str:
    keyboard, mouse = read_clip_actions(clip)
    return hashlib.sha256(keyboard.tobytes() + mouse.tobytes()).hexdigest()


def clip_file(folder: pathlib.Path, key: str) -> pathlib.Path:
    return folder / "clips" / f"{key}.safetensors"


def caption_file(folder: pathlib.Path, caption: str, text_identity: str = "") -> pathlib.Path:
    key = hashlib.sha256(json.dumps([text_identity, caption]).encode()).hexdigest()[:40]
    return folder / "captions" / f"{key}.safetensors"


def save_tensors(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a safetensors file, with a checksum, that appears whole or not at all."""
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    write_whole(path, save(tensors, {"crc32": _checksum(tensors)}))


def load_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """What save_tensors wrote. Raises InputError, and removes the file, if it holds anything else."""
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            checksum = (file.metadata() or {}).get("crc32")
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run the same command again, it makes it again") from None
    except (SafetensorError, OSError, ValueError) as error:
        tensors, checksum = {}, str(error)
    if checksum != _checksum(tensors):
        with contextlib.suppress(OSError):
            path.unlink()
        raise InputError(f"{path} is damaged and was removed; run the same command again, it makes it again")
    return tensors


def _checksum(tensors: dict[str, np.ndarray]) -> str:
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(np.ascontiguousarray(tensors[name]).data.cast("B"), zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def _missing(names: Iterable[str], place: Callable[[str], pathlib.Path]) -> list[str]:
    """Those whose file is not there; damaged ones (by their header and length) are reported and removed."""
    missing = []
    for name in names:
        path = place(name)
        if not path.exists():
            missing.append(name)
            continue
        try:
            with safe_open(path, "np") as file:
                whole = "crc32" in (file.metadata() or {})
        except (SafetensorError, OSError, ValueError):
            whole = False
        if not whole:
            tqdm.write(f"{path} is damaged; it is made again")
            path.unlink(missing_ok=True)
            missing.append(name)
    return missing


def _check_space(folder: pathlib.Path, space: int) -> None:
    """Raises InputError if the disk lacks `space` bytes."""
    free = shutil.disk_usage(folder).free
    needed = SPARE + space
    if free < needed:
        raise InputError(
            f"{folder} has {free >> 20} MiB free, the latent cache may need {needed >> 20} MiB; free some space"
        )


def _encode_captions(captions: list[str], folder: pathlib.Path, encoders: Encoders) -> None:
    """Write the embeddings of captions that have none yet."""
    place = functools.partial(caption_file, folder, text_identity=encoders.text_identity)
    new = _missing(captions, place)
    for group in _batched(tqdm(new, desc="captions", unit="caption", leave=False), CAPTIONS):
        for caption, embedding in zip(group, encoders.text(group), strict=True):
            save_tensors(place(caption), {"text": embedding})


def _encode_clips(
    clips: dict[str, Clip], folder: pathlib.Path, *, config: ClipConfig, encoders: Encoders, batch: int, bar: tqdm
) -> dict[str, str]:
    """Write the latents and actions of clips, by key; returns what is wrong with the damaged."""
    damaged = {}
    load = functools.partial(_load, config=config)
    for group in _batched(_prefetch(clips.items(), load), batch):
        good = {key: loaded for key, loaded in group if isinstance(loaded, dict)}
        damaged |= {key: str(error) for key, error in group if key not in good}
        if good:
            encoded = _encode_videos([clip["video"] for clip in good.values()], encoders, batch)
            for row, (key, clip) in enumerate(good.items()):
                latents = {name: array[row] for name, array in encoded.items()}
                actions = {"keyboard": clip["keyboard"], "mouse": clip["mouse"]}
                save_tensors(clip_file(folder, key), latents | actions)
        bar.update(len(group))
    return damaged


def _report(chosen: dict[int, Clip], left_out: dict[int, str]) -> None:
    """Say which clips are left out, and how many."""
    for number, error in sorted(left_out.items()):
        tqdm.write(f"left out clip {number} ({chosen[number].name}): {error}")
    if left_out:
        tqdm.write(f"left out {len(left_out)} of {len(chosen)} clips")


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
        content = read_json(index)
        try:
            self.entries = [(str(entry["file"]), str(entry["prompt"])) for entry in content["clips"]]
            self.text_identity = str(content["text_identity"])
        except (KeyError, TypeError):
            raise InputError(f"{index} lists no clips; delete it, training makes it again") from None
        self._text: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        file, prompt = self.entries[i]
        return load_tensors(self.folder / "clips" / file) | {"text": self.text(prompt)}

    def text(self, caption: str) -> np.ndarray:
        """Embedding [s, c] of a caption."""
        if caption not in self._text:
            self._text[caption] = load_tensors(caption_file(self.folder, caption, self.text_identity))["text"]
        return self._text[caption]
