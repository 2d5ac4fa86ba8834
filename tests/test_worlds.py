"""Levels, policies, episodes and recordings, of the real game and of a world of a few lines."""

import dataclasses
import json
import sys

import ml_collections
import numpy as np
import pytest
from small import refused
from toy_world import ToyWorld

from mwjax import collect
from mwjax.data.actions import KEYS, Action
from mwjax.data.clips import load_clip, read_table
from mwjax.data.detection import detect
from mwjax.data.schedules import hold
from mwjax.data.video import read_header
from mwjax.errors import InputError
from mwjax.worlds import arena
from mwjax.worlds.doom import DoomWorld
from mwjax.worlds.episode import episode, find_start, play
from mwjax.worlds.policy import HoldPolicy, RandomPolicy
from mwjax.worlds.recorder import RecordConfig, record, record_config
from mwjax.worlds.world import WORLDS, Kind, Observation, World, check_world, open_world, world_in_scratch

SIZE = (96, 160)


def observation(pitch: float = 0.0, position=(0.0, 0.0, 0.0)) -> Observation:
    return Observation(np.zeros((2, 2, 3), np.uint8), None, position, pitch, 0.0)


def test_detection_follows_the_dataset_rules():
    positions = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 0], [4, 2, 0]], float)
    delta, collision, invalid = detect(positions, np.array([0, 0, 0, 1, 1, 1]))
    np.testing.assert_array_equal(delta[1], [1, 0, 0])
    np.testing.assert_array_equal(collision, [0, 0, 1, 0, 0, 0])
    # Of a run of rising jumps the first counts; a flat one never.
    np.testing.assert_array_equal(invalid, [0, 0, 0, 0, 1, 1])


def play_freely(policy, frames: int) -> list[Action]:
    """What a policy does where nothing stands in its way."""
    policy.start(np.random.default_rng(0))
    pitch = 0.0
    actions = []
    for i in range(frames):
        action = policy.act(observation(pitch, position=(float(i), 0.0, 0.0)), blind=False)
        pitch += action.pitch
        assert abs(pitch) <= policy.max_pitch + 2
        actions.append(action)
    return actions


def test_hold_policy_holds_bounds_and_balances():
    policy = HoldPolicy()
    actions = play_freely(policy, 20000)
    yaw = np.array([a.yaw for a in actions])
    runs = np.diff(np.flatnonzero(np.diff(yaw) != 0))
    assert runs.min() >= policy.hold[0]
    assert np.abs(yaw).max() <= policy.yaw[1]
    for group, still in zip(("ws", "ad"), policy.still, strict=True):
        share = np.bincount([getattr(a, group) for a in actions], minlength=3) / len(actions)
        assert np.abs(share - (still, (1 - still) / 2, (1 - still) / 2)).max() < 0.05
    assert abs(np.mean(yaw > 0) - np.mean(yaw < 0)) < 0.05


@pytest.mark.parametrize(
    "wrong", [{"policy": "idle"}, {"policy_options": (("still", 0.5),)}, {"policy_options": (("speed", 2.0),)}]
)
def test_a_policy_that_does_not_exist_is_an_error(wrong):
    with pytest.raises(InputError, match=r"record\.policy"):
        RecordConfig(("arena:gallery:1",), 1, **wrong)


def test_hold_policy_turns_away_from_walls():
    policy = HoldPolicy()
    policy.start(np.random.default_rng(0))
    actions = [policy.act(observation(), blind=True) for _ in range(5)]
    assert len({a.yaw for a in actions}) == 1
    assert actions[0].yaw != 0
    assert all(a.ws == 2 for a in actions)


def test_random_policy_changes_every_frame():
    yaw = [a.yaw for a in play_freely(RandomPolicy(), 100)]
    assert len(set(yaw)) > 90


def test_arenas_are_connected_and_differ():
    layouts = [arena.layout(np.random.default_rng(seed), 12) for seed in range(20)]
    assert all(arena._connected(layout) for layout in layouts)
    assert len({layout.tobytes() for layout in layouts}) == 20


def test_game_turns_right_looks_down_and_walks():
    with world_in_scratch("arena:tech:9000", size=SIZE) as world:
        assert isinstance(world, World)
        first = world.reset(seed=3)
        again = world.reset(seed=3)
        np.testing.assert_array_equal(first.rgb, again.rgb)
        assert first.rgb.shape == (96, 160, 3)
        (turned,), _ = world.step(Action(yaw=5.0))
        assert abs((turned.yaw - first.yaw + 180) % 360 - 180 - 5.0) < 0.1
        (down,), _ = world.step(Action(pitch=3.0))
        assert 2 < down.pitch < 4.5
        for _ in range(6):
            (walked,), _ = world.step(Action(ws=1))
        way = np.array(walked.position) - first.position
        assert np.hypot(way[0], way[2]) > 0.3


def files_of(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_recording_has_the_released_layout_and_is_reproducible(tmp_path):
    config = RecordConfig(levels=("arena:tech:1", "freedoom2:MAP01"), scenes=2, clips=2, seed=5)
    counts = record(config, tmp_path / "a", progress=False)
    assert counts["scenes"] == 2
    assert counts["clips"] + counts["staring clips"] == 4
    record(config, tmp_path / "b", progress=False)
    once = files_of(tmp_path / "a")
    assert list(once) == [
        "dataset/video_captions_v0.csv",
        "metadata-detection/scene_0.json",
        "metadata-detection/scene_1.json",
        "recording.json",
        "video/scene_0.mp4",
        "video/scene_1.mp4",
    ]
    assert files_of(tmp_path / "b") == once
    scene = json.loads(once["metadata-detection/scene_0.json"])
    assert {"biome", "initial_weather", "start_time", "actions"} <= scene.keys()
    assert scene["actions"]["3"].keys() == {
        "ws",
        "ad",
        "scs",
        "pitch",
        "yaw",
        "pitch_delta",
        "yaw_delta",
        "pos",
        "collision",
        "jump_invalid",
        "delta_pos",
    }
    # A scene that is lost is recorded again, the same.
    (tmp_path / "b/metadata-detection/scene_1.json").unlink()
    record(config, tmp_path / "b", progress=False)
    assert files_of(tmp_path / "b") == once


@pytest.mark.parametrize("level", ["arena:nowhere:1", "scenario:nothing", "freedoom2:MAP99", "quake"])
def test_unknown_levels_are_refused(level, tmp_path):
    with pytest.raises(InputError, match="level"):
        record(RecordConfig(levels=("arena:tech:1", level), scenes=1, clips=1), tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()


def test_a_level_of_no_known_kind_is_told_all_kinds():
    for door in (check_world, open_world):
        with pytest.raises(InputError, match="'quake:e1m1' is of no kind") as error:
            door("quake:e1m1", size=SIZE)
        assert all(kind.form in str(error.value) for kind in WORLDS.values())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"size": (100, 160)}, "100x160 must be 192x320 divided"),
        ({"size": (0, 0)}, "0x0 must be 192x320 divided"),
        ({"fps": 12.0}, "fps 12 must be 35 divided by a whole number"),
        ({"fps": 0.0}, "fps 0 must be 35"),
        ({"fps": 70.0}, "fps 70 must be 35"),
    ],
)
def test_sizes_and_rates_that_the_game_has_not(wrong, says):
    with pytest.raises(InputError, match=says):
        check_world("arena:tech:1", **({"size": SIZE} | wrong))


def test_collect_refuses_before_anything_is_recorded(tmp_path, capsys):
    out = ["--out", tmp_path / "data"]
    refused(collect.main, [*out, "--size", 100, 160], "100x160 must be 192x320", capsys)
    refused(collect.main, [*out, "--levels", "quake"], "use one of arena:THEME:SEED, scenario:NAME", capsys)
    refused(collect.main, [*out, "--frames", 16], "4n + 1", capsys)
    refused(collect.main, [*out, "--frames", -3], "--frames is -3; it must be a whole number from 1", capsys)
    refused(collect.main, [*out, "--clips", 0], "--clips is 0; it must be a whole number from 1", capsys)
    assert not (tmp_path / "data").exists()


def test_without_the_game_one_is_told_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    assert "arena:THEME:SEED" in collect.parser().format_help()  # what there is can be listed
    refused(collect.main, ["--out", tmp_path], "the game ViZDoom, which is not installed", capsys)


def test_a_rate_is_a_number_of_tics():
    with world_in_scratch("arena:tech:1", size=SIZE, fps=17.5) as world:
        assert isinstance(world, DoomWorld)
        assert (world.tics, world.fps) == (2, 17.5)


def test_another_recording_is_not_mixed_in(tmp_path):
    config = RecordConfig(levels=("arena:tech:1",), scenes=1, clips=1)
    record(config, tmp_path, progress=False)
    with pytest.raises(InputError, match="other settings"):
        record(dataclasses.replace(config, seed=9), tmp_path, progress=False)


def test_older_configs_and_recordings_say_tics(tmp_path, capsys):
    values = {"levels": ("arena:tech:1",), "scenes": 1, "clips": 1, "tics_per_frame": 2}
    config = record_config(values)
    assert config == RecordConfig(levels=("arena:tech:1",), scenes=1, clips=1, fps=17.5)
    told = capsys.readouterr().err
    assert "record.tics_per_frame is old; write fps = 35 / 2" in told
    assert len(told.strip().splitlines()) == 1
    assert record_config(ml_collections.ConfigDict(values), "test") == config  # as in a config file
    for wrong, says in (({"tics_per_frame": 0}, "whole number"), ({"fps": 17.5}, "both")):
        with pytest.raises(InputError, match=says):
            record_config(values | wrong)

    counts = record(config, tmp_path, progress=False)
    stamp = json.loads((tmp_path / "recording.json").read_text())
    assert stamp.pop("fps") == 17.5
    (tmp_path / "recording.json").write_text(json.dumps(stamp | {"tics_per_frame": 2}))
    before = (tmp_path / "video/scene_0.mp4").stat().st_mtime_ns
    assert record(config, tmp_path, progress=False) == counts
    assert (tmp_path / "video/scene_0.mp4").stat().st_mtime_ns == before
    (tmp_path / "recording.json").write_text(json.dumps(stamp | {"tics_per_frame": 3}))
    with pytest.raises(InputError, match="other settings"):
        record(config, tmp_path, progress=False)


@pytest.fixture
def toy(monkeypatch):
    """One line adds a world."""
    monkeypatch.setitem(WORLDS, "toy", Kind("toy:FRAMES", "toy_world:ToyWorld"))


def test_another_world_is_recorded_through_the_same_door(toy, tmp_path, capsys):
    """In other processes as well, and without the game."""
    flags = ["--levels", "toy:1", "toy:3", "--size", 32, 48, "--fps", 20, "--scenes", 2, "--clips", 3, "--frames", 9]
    collect.main([str(flag) for flag in ["--out", tmp_path, *flags, "--workers", 2]])
    assert "2 scenes" in capsys.readouterr().out
    clips = read_table(tmp_path)
    assert {clip.prompt.partition(",")[0] for clip in clips} == {"A striped floor"}
    assert load_clip(clips[0], height=32, width=48)["video"].shape == (9, 32, 48, 3)
    header = read_header(tmp_path / "video/scene_1.mp4")
    assert (header.frames, header.fps) == (27, 20)
    scene = json.loads((tmp_path / "metadata-detection/scene_1.json").read_text())
    assert scene["biome"] == "stripes"
    # Of three frames a step, each belongs to its action.
    walks = [scene["actions"][str(i)]["ws"] for i in range(1, 27)]
    assert all(len(set(walks[i : i + 3])) == 1 for i in range(0, 24, 3))
    refused(collect.main, ["--out", tmp_path, "--levels", "toy:x"], "'toy:x' is no toy", capsys)


def test_an_episode_takes_a_policy_or_a_list_of_actions(toy):
    world = open_world("toy:2", size=(32, 48))
    acts = [Action.of(*row) for row in zip(*hold(6, keys="w"), strict=True)]
    actions, observations = episode(world, acts, first=world.reset(seed=1))
    assert actions == acts
    walked = [o.position[0] - observations[0].position[0] for o in observations]
    np.testing.assert_allclose(walked, 0.25 * np.arange(6))
    actions, observations = episode(world, acts, first=world.reset(seed=1), frames=4)
    assert len(actions) == len(observations) == 4


class Ending(ToyWorld):
    """Ends on the third step of its first two episodes, and shows nothing of the end."""

    resets: tuple[int, ...] = ()

    def reset(self, *, seed: int) -> Observation:
        self.resets = (*self.resets, seed)
        self.steps = 0
        super().reset(seed=seed)
        self.x = 2.0
        return self._observe()

    def step(self, action: Action) -> tuple[list[Observation], bool]:
        self.steps += 1
        if len(self.resets) < 3 and self.steps == 3:
            return [], True
        return super().step(Action())


def test_an_episode_that_ends_early_is_drawn_again():
    world = Ending("toy:1", size=(32, 48))
    short = episode(world, RandomPolicyStarted(), first=world.reset(seed=0), frames=9)
    assert len(short.actions) == len(short.observations) == 3
    assert len(play(world, HoldPolicy(), seed=0, frames=9).observations) == 9
    assert len(set(world.resets)) == 3


class RandomPolicyStarted(RandomPolicy):
    def __init__(self):
        super().__init__()
        self.start(np.random.default_rng(0))


def test_starts_that_see_nothing_are_passed_over(toy):
    world = open_world("toy:1", size=(32, 48))
    blind = [seed for seed in range(40) if world.is_blind(world.reset(seed=seed))]
    free = [seed for seed in range(40) if seed not in blind]
    assert find_start(world, [*blind, *free]) == free[0]
    assert find_start(world, blind) == blind[0]
    assert all(not world.is_blind(play(world, HoldPolicy(), seed=s, frames=2).observations[0]) for s in range(20))


def test_an_action_is_read_from_what_the_model_takes():
    for number, key in enumerate(KEYS):
        keyboard = np.eye(7, dtype=np.float32)[number]
        action = Action.of(keyboard, np.array([1.5, -3], np.float32))
        assert (action.pitch, action.yaw) == (1.5, -3.0)
        groups = {"ws": ("w", "s"), "ad": ("a", "d"), "scs": ("space", "shift", "ctrl")}
        held = {group: keys.index(key) + 1 if key in keys else 0 for group, keys in groups.items()}
        assert {group: getattr(action, group) for group in groups} == held
