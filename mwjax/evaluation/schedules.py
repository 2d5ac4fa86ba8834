"""The benchmark's test set: fixed action schedules, played by the real game on held-out levels.

Every schedule starts from the same place of each level: each key alone, combinations, the mouse, and palindromes
(there and back). The same seeds give the same files on every machine; a stopped run carries on.
"""

import concurrent.futures
import json
import pathlib
import sys

import numpy as np
from tqdm import tqdm

from mwjax.data import layout
from mwjax.data.actions import Action, Actions, parse_short
from mwjax.data.captions import caption
from mwjax.data.clips import fit
from mwjax.data.files import output_folder, write_whole
from mwjax.data.text import is_damage, read_json
from mwjax.data.video import frame_count, write_video
from mwjax.errors import InputError
from mwjax.worlds.episode import episode, find_start
from mwjax.worlds.levels import UNSEEN, arenas
from mwjax.worlds.recorder import metadata
from mwjax.worlds.workers import workers
from mwjax.worlds.world import world_in_scratch

SCREEN = (192, 320)  # (height, width) of what the game draws
CRF = 4  # of the videos: hardly any loss
LABELS = layout.METADATA_FOLDERS[0]  # of what was asked for
STARTS, STRIDE = 20, 1000  # places that are tried on a level, and the step between their seeds

# name: (what is held for the first half, for the second half)
SCHEDULES = {
    **{f"key {key}": (key, key) for key in ("w", "s", "a", "d", "space", "shift")},
    "sprint": ("w+ctrl", "w+ctrl"),
    "forward right": ("w+d", "w+d"),
    "backward left": ("s+a", "s+a"),
    "forward turning": ("w+yaw:3", "w+yaw:3"),
    "right turning": ("d+yaw:-3", "d+yaw:-3"),
    "mouse right": ("yaw:4", "yaw:4"),
    "mouse left": ("yaw:-4", "yaw:-4"),
    "mouse down": ("pitch:1.5", "pitch:1.5"),
    "mouse up": ("pitch:-1.5", "pitch:-1.5"),
    "mouse right up": ("yaw:3+pitch:-1", "yaw:3+pitch:-1"),
    "there and back": ("w", "s"),
    "aside and back": ("d", "a"),
    "around and back": ("yaw:4", "yaw:-4"),
    "down and back": ("pitch:1.5", "pitch:-1.5"),
}


def schedule(name: str, frames: int) -> Actions:
    """Actions of a schedule: frame 0 is empty, then both halves."""
    first, second = SCHEDULES[name]
    half = (frames - 1) // 2
    return parse_short(f"{first}*{half}, {second}*{frames - 1 - half}")


def clip_name(number: int, title: str) -> str:
    """The name of the clip that a schedule makes on the level of that number."""
    return f"{number:03d}_{title.replace(' ', '_')}"


def claim(folder: pathlib.Path, stamp: str, identity: dict, what: str) -> bool:
    """Note in a folder what it holds; whether what is there already is known to be that.

    Raises InputError if it holds something else, `what`.
    """
    path = output_folder(folder) / stamp
    text = json.dumps(identity, indent=1)
    known = True
    if path.exists():
        try:
            theirs = read_json(path)
        except InputError as error:
            if not is_damage(error):
                raise
            tqdm.write(f"{error}; it is made again, and so is what lies beside it", file=sys.stderr)
            known = False
        else:
            if theirs != json.loads(text):
                raise InputError(f"{folder} holds {what}; delete it or choose another --out")
    write_whole(path, text)
    return known


def _play(level: str, seed: int, schedules: dict[str, Actions], size: tuple[int, int], folder: pathlib.Path) -> None:
    """Record schedules, by name of the clip, on one level, from one place, in pictures of `size` (in a worker process).

    The JSON is written last.
    """
    finer = min(SCREEN[0] // size[0], SCREEN[1] // size[1])
    drawn = (SCREEN[0] // finer, SCREEN[1] // finer)
    with world_in_scratch(level, size=drawn) as world:
        start = find_start(world, range(seed, seed + STARTS * STRIDE, STRIDE))
        for name, rows in schedules.items():
            acts = [Action.of(*row) for row in zip(*rows, strict=True)]
            actions, observations = episode(world, acts, first=world.reset(seed=start))
            video = fit(np.stack([observation.rgb for observation in observations]), *size, 1)
            write_video(layout.video_file(folder, name), video, fps=world.fps, crf=CRF)
            scene = metadata(actions, observations, biome=world.biome)
            scene |= {"level": level, "caption": caption(world.words, actions[1:])}
            write_whole(layout.metadata_file(folder, name), json.dumps(scene))


def _caption(folder: pathlib.Path, name: str) -> str:
    return read_json(layout.metadata_file(folder, name))["caption"]


def _is_whole(folder: pathlib.Path, name: str, frames: int) -> bool:
    """Whether a clip is there, its JSON last of all; one that is damaged is told in a line."""
    path = layout.metadata_file(folder, name)
    if not path.exists():
        return False
    try:
        scene = read_json(path)
        whole = isinstance(scene.get("caption"), str) and isinstance(scene.get("actions"), dict)
        whole = whole and len(scene["actions"]) == frames
    except InputError as error:
        if not is_damage(error):
            raise
        whole = False
    whole = whole and frame_count(layout.video_file(folder, name)) == frames
    if not whole:
        tqdm.write(f"clip {name} of {folder} is damaged; it is recorded again", file=sys.stderr)
    return whole


def make_test_set(
    folder: pathlib.Path, *, levels: int, frames: int, size: tuple[int, int], seed: int = UNSEEN
) -> pathlib.Path:
    """The real game on held-out levels, in the released dataset layout, in pictures of `size` (height, width).

    Raises InputError for a folder with another one.
    """
    folder = folder.resolve()
    places = arenas(levels, seed)
    identity = {"levels": places, "frames": frames, "size": size, "schedules": SCHEDULES}
    known = claim(folder, "benchmark.json", identity, "another test set")
    clips = [{clip_name(i, title): schedule(title, frames) for title in SCHEDULES} for i in range(levels)]

    todo = [i for i in range(levels) if not known or not all(_is_whole(folder, name, frames) for name in clips[i])]
    with workers(folder) as pool:
        jobs = [pool.submit(_play, places[i], seed + i, clips[i], size, folder) for i in todo]
        done = concurrent.futures.as_completed(jobs)
        for job in tqdm(done, desc="real game", unit="level", initial=levels - len(todo), total=levels):
            job.result()
    names = [name for group in clips for name in group]
    layout.write_captions(folder, [(name, 0, frames - 1, _caption(folder, name)) for name in names])
    return folder
