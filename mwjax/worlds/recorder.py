"""Record scenes in parallel into the released dataset layout: video/, metadata-detection/, dataset/video_captions_v0.csv."""

import concurrent.futures
import csv
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import tempfile

import numpy as np
from tqdm import tqdm

from mwjax.data.actions import DEGREES
from mwjax.data.captions import caption
from mwjax.data.files import write_whole
from mwjax.data.video import frame_count, write_video
from mwjax.errors import InputError
from mwjax.worlds.detection import detect
from mwjax.worlds.policy import POLICIES, is_staring
from mwjax.worlds.world import Action, Observation, World

COLUMNS = ("original video name", "start frame index", "end frame index", "prompt", "dir")
SPARE = 200 * 1024**2  # bytes that must stay free on the disk


@dataclasses.dataclass(frozen=True)
class Recording:
    """What to record: `scenes` scenes of `clips` clips of `frames` frames each, levels in turn, all drawn from `seed`."""

    levels: tuple[str, ...]
    scenes: int
    clips: int = 18
    frames: int = 17
    size: tuple[int, int] = (96, 160)
    tics_per_frame: int = 3
    seed: int = 0
    policy: str = "hold"
    policy_options: tuple[tuple[str, object], ...] = ()
    max_staring: float = 0.25  # part of a clip that may stare at a wall

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise InputError(f"record.policy {self.policy!r} is unknown; use {' or '.join(POLICIES)}")
        defaults = dataclasses.asdict(POLICIES[self.policy]())
        for name, value in self.policy_options:
            if name not in defaults or np.shape(value) != np.shape(defaults[name]):
                shown = ", ".join(f"{k}={v}" for k, v in defaults.items())
                raise InputError(f"record.policy_options: {name}={value} does not fit policy {self.policy}, whose options are {shown}")

    @property
    def fps(self) -> float:
        return 35 / self.tics_per_frame


def play(world: World, *, seed: int, frames: int, policy) -> tuple[list[Action], list[Observation]]:
    """One episode: action i leads to observation i; action 0 is empty.

    Starts that stare at a wall, and episodes that end early, are drawn again up to ten times.
    """
    rng = np.random.default_rng(seed)
    for _ in range(10):
        actions, observations = [Action()], [world.reset(seed=int(rng.integers(2**31)))]
        if is_staring(observations[0]):
            continue
        policy.start(rng)
        ended = False
        while len(observations) < frames and not ended:
            action = policy.act(observations[-1])
            observation, ended = world.step(action)
            if not ended:
                actions.append(action)
                observations.append(observation)
        if not ended:
            break
    return actions, observations


def metadata(actions: list[Action], observations: list[Observation], *, biome: str) -> dict:
    """The scene's JSON, in the released format."""
    positions = np.array([o.position for o in observations])
    delta, collision, invalid = detect(positions, np.array([a.scs for a in actions]))
    rows = {
        str(i): {
            "ws": a.ws, "ad": a.ad, "scs": a.scs, "pitch": o.pitch, "yaw": o.yaw,
            "pitch_delta": a.pitch / DEGREES, "yaw_delta": a.yaw / DEGREES, "pos": list(o.position),
            "collision": int(collision[i]), "jump_invalid": int(invalid[i]), "delta_pos": delta[i].tolist(),
        }
        for i, (a, o) in enumerate(zip(actions, observations, strict=True))
    }  # fmt: skip
    return {"biome": biome, "initial_weather": "clear", "start_time": "Noon, sun is at its peak", "actions": rows}


def _record_scene(plan: Recording, index: int, folder: str) -> str:
    """Record scene `index` (in a worker process); its JSON is written last and marks the scene as whole."""
    from mwjax.worlds.doom import DoomWorld, Level

    folder = pathlib.Path(folder)
    level = plan.levels[index % len(plan.levels)]
    workplace = tempfile.mkdtemp(prefix="mwjax_scene_")
    os.chdir(workplace)  # the game writes files where it stands
    world = DoomWorld(level, size=plan.size, tics_per_frame=plan.tics_per_frame)
    try:
        policy = POLICIES[plan.policy](**dict(plan.policy_options))
        scene_seed = int(np.random.SeedSequence([plan.seed, index]).generate_state(1)[0])
        actions, observations = play(world, seed=scene_seed, frames=plan.clips * plan.frames, policy=policy)
    finally:
        world.close()
        os.chdir(folder)
        shutil.rmtree(workplace, ignore_errors=True)
    scene = metadata(actions, observations, biome=Level(level).biome)
    clips, staring = [], 0
    for start in range(0, len(actions) - plan.frames + 1, plan.frames):
        window = slice(start, start + plan.frames)
        if np.mean([is_staring(o) for o in observations[window]]) > plan.max_staring:
            staring += 1
            continue
        clips.append({"start": start, "end": start + plan.frames - 1, "prompt": caption(Level(level).words, actions[window])})
    scene |= {"level": level, "clips": clips, "staring_clips": staring}
    write_video(folder / "video" / f"scene_{index}.mp4", np.stack([o.rgb for o in observations]), fps=plan.fps)
    write_whole(folder / "metadata-detection" / f"scene_{index}.json", json.dumps(scene, indent=1))
    return level


def record(plan: Recording, folder: str | pathlib.Path, *, workers: int | None = None, progress: bool = True) -> dict:
    """Record what is not there yet and write the captions table. Returns counts: scenes, clips, frames, staring clips.

    Raises InputError for unknown levels, a folder that holds another recording, or a disk that cannot hold this one.
    """
    folder = pathlib.Path(folder).resolve()
    identity = json.loads(json.dumps(dataclasses.asdict(plan)))
    stamp = folder / "recording.json"
    if stamp.exists() and json.loads(stamp.read_text()) != identity:
        raise InputError(f"{folder} holds a recording with other settings; delete it or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    needed = SPARE + plan.scenes * plan.clips * plan.frames * plan.size[0] * plan.size[1] // 4
    if shutil.disk_usage(folder).free < needed:
        raise InputError(f"{folder} has {shutil.disk_usage(folder).free >> 20} MiB free, the recording may need {needed >> 20} MiB; free some space")
    from mwjax.worlds.doom import Level

    for level in set(plan.levels):
        Level(level).source()
    write_whole(stamp, json.dumps(identity, indent=1))
    todo = [i for i in range(plan.scenes) if not _is_whole(folder, i)]
    bar = tqdm(total=plan.scenes, initial=plan.scenes - len(todo), desc="recording", unit="scene", disable=not progress)
    workers = workers or os.cpu_count() or 1
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_record_scene, plan, i, str(folder)) for i in todo]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    bar.close()
    return _write_table(plan, folder)


def _is_whole(folder: pathlib.Path, index: int) -> bool:
    return (folder / "metadata-detection" / f"scene_{index}.json").exists() and frame_count(folder / "video" / f"scene_{index}.mp4") > 0


def _write_table(plan: Recording, folder: pathlib.Path) -> dict:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    counts = {"scenes": plan.scenes, "clips": 0, "frames": 0, "staring clips": 0}
    for index in range(plan.scenes):
        scene = json.loads((folder / "metadata-detection" / f"scene_{index}.json").read_text())
        counts["frames"] += len(scene["actions"])
        counts["clips"] += len(scene["clips"])
        counts["staring clips"] += scene["staring_clips"]
        for clip in scene["clips"]:
            table.writerow(dict(zip(COLUMNS, (f"scene_{index}.mp4", clip["start"], clip["end"], clip["prompt"], "."), strict=True)))
    write_whole(folder / "dataset" / "video_captions_v0.csv", text.getvalue())
    return counts
