"""Record scenes in parallel into the released dataset layout, see mwjax/data/layout.py."""

import concurrent.futures
import dataclasses
import json
import pathlib
import shutil
import sys
from collections.abc import Mapping

import ml_collections
import numpy as np
from tqdm import tqdm

from mwjax.config import build, section
from mwjax.data import layout
from mwjax.data.actions import DEGREES, Action
from mwjax.data.captions import caption
from mwjax.data.clips import ClipConfig
from mwjax.data.detection import detect
from mwjax.data.files import locked, output_folder, write_whole
from mwjax.data.text import is_damage, read_json
from mwjax.data.video import frame_count, write_video
from mwjax.errors import InputError
from mwjax.ranges import COUNT, FPS, FRAMES, SEED, SIDE, Checked, Range, check_number, ranged, shown
from mwjax.worlds.episode import play
from mwjax.worlds.policy import POLICIES
from mwjax.worlds.workers import workers as players
from mwjax.worlds.world import Observation, check_world, world_in_scratch

STAMP = "recording.json"  # what a folder is to hold
COUNTED = Range(least=0, whole=True)
ANY = Range()
ENTRY = frozenset(
    ("ws", "ad", "scs", "pitch", "yaw", "pitch_delta", "yaw_delta", "pos", "collision", "jump_invalid", "delta_pos")
)  # what a frame of a scene's JSON says
SPARE = 200 * 1024**2  # bytes that must stay free on the disk
TICS_A_FRAME = Range(least=1, most=1000, whole=True)
OLD_TICS = 35  # a second, of `tics_per_frame` in older configs and recordings


@dataclasses.dataclass(frozen=True)
class RecordConfig(Checked):
    """What to record: `scenes` scenes of `clips` clips of `frames` frames each, levels in turn, all drawn from `seed`.

    size: (height, width) of the frames. fps: frames a second.
    """

    levels: tuple[str, ...]
    scenes: int = ranged(least=1, most=1_000_000, whole=True)
    clips: int = ranged(18, least=1, most=COUNT.most, whole=True)
    frames: int = ranged(17, FRAMES)
    size: tuple[int, int] = ranged((96, 160), least=1, most=SIDE.most, whole=True)
    fps: float = ranged(35 / 3, FPS)
    seed: int = ranged(0, SEED)
    policy: str = "hold"
    policy_options: tuple[tuple[str, object], ...] = ()
    max_staring: float = ranged(0.25, least=0, most=1)  # part of a clip that may stare at a wall

    def __post_init__(self):
        super().__post_init__()
        if not self.levels:
            raise InputError("levels names no level")
        if self.policy not in POLICIES:
            raise InputError(f"record.policy {self.policy!r} is unknown; use {' or '.join(POLICIES)}")
        defaults = dataclasses.asdict(POLICIES[self.policy]())
        for option in self.policy_options:
            name, value = option if len(option) == 2 else (option, None)
            if name not in defaults or not _alike(value, defaults[name]):
                wrong = f"record.policy_options: {shown(name)}={shown(value)} does not fit policy {self.policy}"
                options = ", ".join(f"{k}={v}" for k, v in defaults.items())
                raise InputError(f"{wrong}, whose options are {options}")
        policy = POLICIES[self.policy](**dict(self.policy_options))
        if hasattr(policy, "check"):
            policy.check()


def _alike(value, default) -> bool:
    """Whether a value is a finite number, or as many of them, as the default of an option is."""
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and len(value) == len(default) and all(map(_alike, value, default))
    return Range(whole=isinstance(default, int)).holds(value)


def check_framing(recording: RecordConfig, clip: ClipConfig, where: str = "record") -> None:
    """Raises InputError if clips cannot be cut out of what will be recorded."""
    if recording.frames < clip.frames:
        raise InputError(f"{where}.frames {recording.frames} is less than framing.frames {clip.frames}")
    height, width = (side // clip.shrink for side in recording.size)
    if height < clip.height or width < clip.width:
        size = "×".join(map(str, recording.size))
        small = f"{where}.size {size} shrunk by framing.shrink {clip.shrink} is {height}×{width}"
        raise InputError(f"{small}, smaller than framing.height × width, {clip.height}×{clip.width}")


def check_levels(config: RecordConfig) -> None:
    """Raises InputError for a level, a frame size or a rate that is not to be had."""
    for level in dict.fromkeys(config.levels):
        check_world(level, size=config.size, fps=config.fps)


def record_config(values: Mapping | ml_collections.ConfigDict, where: str = "record") -> RecordConfig:
    """A RecordConfig from section `where` of a config file, which may still say `tics_per_frame` in place of `fps`."""
    values = section(values, where)
    if "tics_per_frame" in values:
        if "fps" in values:
            raise InputError(f"config section {where} has both fps and tics_per_frame; keep fps")
        tics = values["tics_per_frame"]
        check_number(tics, f"config value {where}.tics_per_frame", TICS_A_FRAME)
        values = _with_fps(values)
        print(f"warning: {where}.tics_per_frame is old; write fps = {OLD_TICS} / {tics} instead", file=sys.stderr)
    return build(RecordConfig, values, where)


def _with_fps(values: Mapping) -> dict:
    """Values of a RecordConfig with fps where there may be the older tics_per_frame."""
    values = dict(values)
    if "tics_per_frame" in values:
        values["fps"] = OLD_TICS / values.pop("tics_per_frame")
    return values


def record(
    config: RecordConfig, folder: str | pathlib.Path, *, workers: int | None = None, progress: bool = True
) -> dict[str, int]:
    """Record what is not there yet and write the captions table. Returns counts: scenes, clips, frames, staring clips.

    Raises InputError for unknown levels, a folder that holds another recording, or a disk that cannot hold this one.
    """
    folder = pathlib.Path(folder).resolve()
    check_levels(config)
    _check_workers(workers)
    output_folder(folder)
    with locked(folder, "recording"):
        if not _claim(config, folder):
            todo = list(range(config.scenes))
        else:
            todo = [index for index in range(config.scenes) if not _is_whole(config, folder, index)]
        if todo:
            _record_scenes(config, folder, todo, workers=workers, progress=progress)
        return _write_table(config, folder)


def _check_workers(workers: int | None) -> None:
    if workers is not None:
        check_number(workers, "workers", Range(least=1, most=1024, whole=True))


def _record_scenes(
    config: RecordConfig, folder: pathlib.Path, todo: list[int], *, workers: int | None, progress: bool
) -> None:
    done = config.scenes - len(todo)
    bar = tqdm(total=config.scenes, initial=done, desc="recording", unit="scene", disable=not progress)
    with bar, players(folder, workers) as pool:
        futures = [pool.submit(_record_scene, config, index, folder) for index in todo]
        for future in concurrent.futures.as_completed(futures):
            future.result()
            bar.update()


def _claim(config: RecordConfig, folder: pathlib.Path) -> bool:
    """Note in a folder what it will hold; whether what it holds already is known to be of this recording.

    Raises InputError if it holds something else or has too little space.
    """
    identity = json.loads(json.dumps(dataclasses.asdict(config)))
    stamp = folder / STAMP
    known = True
    if stamp.exists():
        try:
            theirs = read_json(stamp)
        except InputError as error:
            if not is_damage(error):
                raise
            tqdm.write(f"{error}; it is made again, and so is what was recorded", file=sys.stderr)
            known = False
        else:
            if _with_fps(theirs) != identity:
                raise InputError(f"{folder} holds a recording with other settings; delete it or choose another folder")
    elif (folder / layout.TABLES[0]).exists():
        raise InputError(f"{folder} holds a data set that was not recorded here; choose another folder")
    height, width = config.size
    needed = SPARE + config.scenes * config.clips * config.frames * height * width // 4
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder} has {free >> 20} MiB free, the recording may need {needed >> 20} MiB; free some space"
        )
    write_whole(stamp, json.dumps(identity, indent=1))
    return known


def _scene(index: int) -> str:
    return f"scene_{index}"


def _is_whole(config: RecordConfig, folder: pathlib.Path, index: int) -> bool:
    """Whether a scene is there, its JSON last of all; one that is damaged is told in a line."""
    path = layout.metadata_file(folder, _scene(index))
    if not path.exists():
        return False
    try:
        scene = read_json(path)
        wrong = _damage(scene, config)
        frames = frame_count(layout.video_file(folder, _scene(index)))
        if not wrong and frames != len(scene["actions"]):
            wrong = f"its video has {frames} frames, not {len(scene['actions'])}"
    except InputError as error:
        if not is_damage(error):
            raise
        wrong = str(error)
    if wrong:
        tqdm.write(f"scene {index} of {folder} is damaged ({wrong}); it is recorded again", file=sys.stderr)
    return not wrong


def _damage(scene: dict, config: RecordConfig) -> str:
    """What is wrong with a scene's JSON, "" if nothing is."""
    actions, clips = scene.get("actions"), scene.get("clips")
    if not isinstance(actions, dict) or not isinstance(clips, list) or not COUNTED.holds(scene.get("staring_clips")):
        return "its JSON lacks actions, clips or staring_clips"
    if not 0 < len(actions) <= config.clips * config.frames:
        return f"its JSON has {len(actions)} actions"
    for number, (frame, entry) in enumerate(actions.items()):
        right = frame == str(number) and isinstance(entry, dict) and entry.keys() == ENTRY
        if not right or not all(_is_numbers(value) for value in entry.values()):
            return f"action {shown(frame)} of its JSON is not what was written"
    for clip in clips:
        right = isinstance(clip, dict) and isinstance(clip.get("prompt"), str)
        if not right or not all(COUNTED.holds(clip.get(name)) for name in ("start", "end")):
            return "a clip of its JSON is not what was written"
    return ""


def _is_numbers(value) -> bool:
    return all(ANY.holds(number) for number in (value if isinstance(value, list) else [value]))


def _record_scene(config: RecordConfig, index: int, folder: pathlib.Path) -> None:
    """Record scene `index` (in a worker process); its JSON is written last and marks the scene as whole."""
    level = config.levels[index % len(config.levels)]
    policy = POLICIES[config.policy](**dict(config.policy_options))
    seed = int(np.random.SeedSequence([config.seed, index]).generate_state(1)[0])
    with world_in_scratch(level, size=config.size, fps=config.fps) as world:
        actions, observations = play(world, policy, seed=seed, frames=config.clips * config.frames)
        blind = [world.is_blind(observation) for observation in observations]
        scene = metadata(actions, observations, biome=world.biome) | {"level": level}
        scene |= _clips(config, actions, blind, words=world.words)
        fps = world.fps
    video = np.stack([observation.rgb for observation in observations])
    write_video(layout.video_file(folder, _scene(index)), video, fps=fps)
    write_whole(layout.metadata_file(folder, _scene(index)), json.dumps(scene, indent=1))


def metadata(actions: list[Action], observations: list[Observation], *, biome: str) -> dict:
    """The scene's JSON, in the released format."""
    positions = np.array([o.position for o in observations])
    delta, collision, invalid = detect(positions, np.array([a.scs for a in actions]))
    rows = {}
    for i, (action, observation) in enumerate(zip(actions, observations, strict=True)):
        rows[str(i)] = {
            "ws": action.ws,
            "ad": action.ad,
            "scs": action.scs,
            "pitch": observation.pitch,
            "yaw": observation.yaw,
            "pitch_delta": action.pitch / DEGREES,
            "yaw_delta": action.yaw / DEGREES,
            "pos": list(observation.position),
            "collision": int(collision[i]),
            "jump_invalid": int(invalid[i]),
            "delta_pos": delta[i].tolist(),
        }
    return {"biome": biome, "initial_weather": "clear", "start_time": "Noon, sun is at its peak", "actions": rows}


def _clips(config: RecordConfig, actions: list[Action], blind: list[bool], *, words: str) -> dict:
    """The clips of a scene that see enough, one after the other, with captions; and how many do not."""
    clips = []
    staring = 0
    for start in range(0, len(actions) - config.frames + 1, config.frames):
        window = slice(start, start + config.frames)
        if np.mean(blind[window]) > config.max_staring:
            staring += 1
            continue
        clips.append({"start": start, "end": start + config.frames - 1, "prompt": caption(words, actions[window])})
    return {"clips": clips, "staring_clips": staring}


def _write_table(config: RecordConfig, folder: pathlib.Path) -> dict[str, int]:
    counts = {"scenes": config.scenes, "clips": 0, "frames": 0, "staring clips": 0}
    rows = []
    for index in range(config.scenes):
        scene = read_json(layout.metadata_file(folder, _scene(index)))
        counts["frames"] += len(scene["actions"])
        counts["clips"] += len(scene["clips"])
        counts["staring clips"] += scene["staring_clips"]
        rows += [(_scene(index), clip["start"], clip["end"], clip["prompt"]) for clip in scene["clips"]]
    layout.write_captions(folder, rows)
    return counts
