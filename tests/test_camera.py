"""How the camera moved: by the picture alone, and by the inverse dynamics model that ships."""

import numpy as np
import pytest

from converters import metrics as weights_of
from mwjax.data.actions import Action
from mwjax.data.clips import fit
from mwjax.evaluation import control
from mwjax.evaluation.camera import PROBES, action_of, measure_model, motion, score, shift, table
from mwjax.evaluation.inverse_dynamics import read_off
from mwjax.worlds.episode import episode
from mwjax.worlds.world import world_in_scratch


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (-4, 2), (0, -5)])
def test_phase_correlation_finds_the_shift(dx, dy):
    texture = np.random.default_rng(0).random((70, 110))
    texture = texture + np.roll(texture, 1, 0) + np.roll(texture, 1, 1)
    before, after = texture[10:58, 15:95], texture[10 - dy : 58 - dy, 15 - dx : 95 - dx]
    x, y = shift(before, after)
    assert abs(x - dx) < 0.3
    assert abs(y - dy) < 0.3


def test_motion_and_score():
    texture = np.random.default_rng(0).integers(0, 255, (48, 200)).astype(np.uint8)
    right = np.stack([np.repeat(texture[:, 80 - 2 * i : 160 - 2 * i, None], 3, -1) for i in range(5)])
    assert abs(motion(right, "x") - 2) < 0.3
    told = score(np.array([-2.0, -1.0]), np.array([2.0, -0.5]), -1)
    assert told["sign"] == 0.75
    assert told["correlation"] > 0.5


def test_a_model_that_obeys():
    """Clips that move as they are told have every sign right; walking moves no picture here."""
    texture = np.random.default_rng(0).integers(0, 255, (60, 200)).astype(np.uint8)
    batches = []

    def generate(prompts, actions, seeds) -> np.ndarray:
        batches.append((prompts, seeds))
        keyboard, mouse = actions[0]
        right = -2 * np.sign(mouse[1, 1]) - 2 * (keyboard[1, 3] - keyboard[1, 2])
        down = -np.sign(mouse[1, 0])
        x, y = (np.array([int(step * i) for i in range(len(mouse))]) for step in (right, down))
        video = [texture[6 - dy : 54 - dy, 60 - dx : 140 - dx] for dx, dy in zip(x, y, strict=True)]
        return np.repeat(np.stack(video)[None, ..., None], 3, -1).repeat(len(prompts), 0)

    def captions(action: Action) -> list[str]:
        return [f"a level {i}" for i in range(3)]

    idm = weights_of.load_idm(weights_of.SHIPPED_IDM)
    results = measure_model(generate, captions, idm=idm, frames=5, seeds=[7, 8, 9], title="model", batch=2)
    assert results.keys() == PROBES.keys()
    assert all(results[name]["sign"] == 1 for name in ("yaw", "pitch", "strafe"))
    assert batches[:2] == [(["a level 0", "a level 1"], [7, 8]), (["a level 2", "a level 0"], [9, 0])]
    assert table({"model": results}).splitlines()[2].startswith("| yaw | 100% | +")
    assert action_of({"keys": "w", "yaw": 4.0}) == Action(ws=1, yaw=4.0)


def test_the_shipped_idm_reads_the_game():
    """Turning and walking in the real game of an unseen level, at the size that the tiny model makes.

    And what ships stays small.
    """
    idm = weights_of.load_idm(weights_of.SHIPPED_IDM)
    with world_in_scratch("arena:gallery:9700", size=(96, 160)) as world:

        def played(action: Action) -> np.ndarray:
            _, observations = episode(world, [action] * 17, first=world.reset(seed=1))
            return fit(np.stack([observation.rgb for observation in observations]), 48, 80, 2)

        turns = {yaw: played(Action(yaw=yaw)) for yaw in (4.0, -4.0)}
        walks = [played(Action(ws=ws)) for ws in (1, 2)]
    right = []
    for yaw, video in turns.items():
        _, camera = read_off(*idm, video)
        right.append(np.mean(np.sign(control.bin_degrees(np.asarray(camera))[1:, 1]) == np.sign(yaw)))
    forward, backward = (motion(video, "walk", idm=idm) for video in walks)
    assert forward > 0.3 > -0.3 > backward
    assert min(right) > 0.8, right
    files = [path for path in weights_of.SHIPPED_IDM.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 16e6
