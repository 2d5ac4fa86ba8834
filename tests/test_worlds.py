"""Levels, policies and recordings of the real game."""

import json

import numpy as np
import pytest

from mwjax.errors import InputError
from mwjax.worlds import arena
from mwjax.worlds.detection import detect
from mwjax.worlds.policy import HoldPolicy, RandomPolicy
from mwjax.worlds.recorder import Recording, record
from mwjax.worlds.world import Action, Observation


def observation(pitch: float = 0.0, depth: int = 100, position=(0.0, 0.0, 0.0)) -> Observation:
    return Observation(np.zeros((2, 2, 3), np.uint8), np.full((2, 2), depth, np.uint8), position, pitch, 0.0)


def test_detection_follows_the_dataset_rules():
    positions = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 0], [4, 2, 0]], float)
    delta, collision, invalid = detect(positions, np.array([0, 0, 0, 1, 1, 1]))
    np.testing.assert_array_equal(delta[1], [1, 0, 0])
    np.testing.assert_array_equal(collision, [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(invalid, [0, 0, 0, 0, 1, 1])  # of a run of rising jumps the first counts; a flat one never


def play_blind(policy, frames: int) -> list[Action]:
    policy.start(np.random.default_rng(0))
    pitch, actions = 0.0, []
    for i in range(frames):
        action = policy.act(observation(pitch, position=(float(i), 0.0, 0.0)))
        pitch += action.pitch
        assert abs(pitch) <= policy.max_pitch + 2
        actions.append(action)
    return actions


def test_hold_policy_holds_bounds_and_balances():
    policy = HoldPolicy()
    actions = play_blind(policy, 20000)
    yaw = np.array([a.yaw for a in actions])
    runs = np.diff(np.flatnonzero(np.diff(yaw) != 0))
    assert runs.min() >= policy.hold[0]
    assert np.abs(yaw).max() <= policy.yaw[1]
    for group, still in zip(("ws", "ad"), policy.still, strict=True):
        share = np.bincount([getattr(a, group) for a in actions], minlength=3) / len(actions)
        assert np.abs(share - (still, (1 - still) / 2, (1 - still) / 2)).max() < 0.05
    assert abs(np.mean(yaw > 0) - np.mean(yaw < 0)) < 0.05


@pytest.mark.parametrize("wrong", [{"policy": "idle"}, {"policy_options": (("still", 0.5),)}, {"policy_options": (("speed", 2.0),)}])
def test_a_policy_that_does_not_exist_is_an_error(wrong):
    with pytest.raises(InputError, match=r"record\.policy"):
        Recording(("arena:gallery:1",), 1, **wrong)


def test_hold_policy_turns_away_from_walls():
    policy = HoldPolicy()
    policy.start(np.random.default_rng(0))
    actions = [policy.act(observation(depth=0)) for _ in range(5)]
    assert len({a.yaw for a in actions}) == 1
    assert actions[0].yaw != 0
    assert all(a.ws == 2 for a in actions)


def test_random_policy_changes_every_frame():
    yaw = [a.yaw for a in play_blind(RandomPolicy(), 100)]
    assert len(set(yaw)) > 90


def test_arenas_are_connected_and_differ():
    layouts = [arena.layout(np.random.default_rng(seed), 12) for seed in range(20)]
    assert all(arena._connected(layout) for layout in layouts)
    assert len({layout.tobytes() for layout in layouts}) == 20


def test_game_turns_right_looks_down_and_walks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from mwjax.worlds.doom import DoomWorld

    world = DoomWorld("arena:tech:9000")
    first = world.reset(seed=3)
    again = world.reset(seed=3)
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert first.rgb.shape == (96, 160, 3)
    turned, _ = world.step(Action(yaw=5.0))
    assert abs((turned.yaw - first.yaw + 180) % 360 - 180 - 5.0) < 0.1
    down, _ = world.step(Action(pitch=3.0))
    assert 2 < down.pitch < 4.5
    for _ in range(6):
        walked, _ = world.step(Action(ws=1))
    assert np.hypot(walked.position[0] - first.position[0], walked.position[2] - first.position[2]) > 0.3
    world.close()


def test_recording_has_the_released_layout_and_is_reproducible(tmp_path):
    plan = Recording(levels=("arena:tech:1", "freedoom2:MAP01"), scenes=2, clips=2, seed=5)
    counts = record(plan, tmp_path / "a", progress=False)
    assert counts["scenes"] == 2
    assert counts["clips"] + counts["staring clips"] == 4
    record(plan, tmp_path / "b", progress=False)
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert [str(n) for n in names] == [
        "dataset/video_captions_v0.csv", "metadata-detection/scene_0.json", "metadata-detection/scene_1.json", "recording.json", "video/scene_0.mp4", "video/scene_1.mp4",
    ]  # fmt: skip
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    scene = json.loads((tmp_path / "a/metadata-detection/scene_0.json").read_text())
    assert {"biome", "initial_weather", "start_time", "actions"} <= scene.keys()
    assert {"ws", "ad", "scs", "pitch", "yaw", "pitch_delta", "yaw_delta", "pos", "collision", "jump_invalid", "delta_pos"} == scene["actions"]["3"].keys()
    # A scene that is lost is recorded again, the same.
    (tmp_path / "b/metadata-detection/scene_1.json").unlink()
    record(plan, tmp_path / "b", progress=False)
    assert (tmp_path / "a/metadata-detection/scene_1.json").read_bytes() == (tmp_path / "b/metadata-detection/scene_1.json").read_bytes()


@pytest.mark.parametrize("level", ["arena:nowhere:1", "scenario:nothing", "freedoom2:MAP99", "quake"])
def test_unknown_levels_are_refused(level, tmp_path):
    with pytest.raises(InputError, match="level"):
        record(Recording(levels=(level,), scenes=1, clips=1), tmp_path, progress=False)


def test_another_recording_is_not_mixed_in(tmp_path):
    plan = Recording(levels=("arena:tech:1",), scenes=1, clips=1)
    record(plan, tmp_path, progress=False)
    with pytest.raises(InputError, match="other settings"):
        record(Recording(levels=("arena:tech:1",), scenes=1, clips=1, seed=9), tmp_path, progress=False)
