"""Sampling and measuring, from the commands a user types."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mwjax.data.hud import draw_hud, enlarge
from mwjax.data.schedules import SHOWCASE, hold, showcase
from mwjax.data.video import read_video
from mwjax.diffusion.guidance import guided
from mwjax.diffusion.sampler import Sampling, sample_latents
from mwjax.evaluation.camera import motion, score, shift
from mwjax.models import world_model
from mwjax.models.dit import DiTConfig
from mwjax.models.world_model import WorldConfig, WorldModel

ROOT = pathlib.Path(__file__).resolve().parent.parent


def command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "mwjax.sample", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)


def test_the_shipped_model_samples_the_same_video_twice(tmp_path):
    for name in ("a", "b"):
        out = command("--model", "tiny", "--actions", '[[4, "1 0 0 0 0 0 0 0 3"], ""]', "--steps", 3, "--out", tmp_path / f"{name}.mp4")
        assert out.returncode == 0, out.stderr
        assert f"{name}.mp4" in out.stdout
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert read_video(tmp_path / "a.mp4").shape == (5, 384, 640, 3)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("text", "actions"), [(1.0, 0.0), (3.0, 0.0), (1.0, 2.0), (3.0, 2.0)])
def test_guidance_is_one_batch_and_its_formula(text, actions):
    values = {"c": 1.0, "u": 2.0, "n": 5.0}
    parts = ["c"] + ["u"] * (text != 1.0) + ["n"] * (actions != 0.0)

    def velocity(x, timestep):
        assert x.shape[0] == 2 * len(parts)
        return jnp.concatenate([jnp.full((2, 3), values[part]) for part in parts])

    expected = values["u"] + text * (values["c"] - values["u"]) + actions * (values["c"] - values["n"])
    np.testing.assert_allclose(guided(velocity, text, actions)(jnp.zeros((2, 3)), jnp.zeros(())), np.full((2, 3), expected))


@pytest.mark.parametrize("control", ["controlnet", "adaln"])
def test_action_guidance_compares_with_the_module_switched_off(control):
    cfg = WorldConfig(DiTConfig(24, 32, 2, 2, text_dim=16, text_len=8, freq_dim=32), control, 16)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) * 0.1, jnp.float32), world_model.init(cfg, jax.random.key(0)))
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    noise, text, negative, actions = draw(2, 2, 2, 4, 16), draw(2, 8, 16), draw(2, 8, 16), (draw(2, 5, 7), draw(2, 5, 2))

    def step(**options):
        return sample_latents(cfg, Sampling(1, 1.0, solver="euler", **options), {"params": params}, noise, text, negative, *actions) - noise

    def off():
        model = WorldModel(cfg)
        condition = model.apply({"params": params}, text, *actions, method="condition")
        return -model.apply({"params": params}, noise, jnp.full((2,), 1000.0), condition, 0.0)[0]

    plain = step(guidance=1.0)
    assert np.abs(plain - off()).max() > 1e-4
    np.testing.assert_allclose(step(guidance=1.0, action_guidance=2.0), plain + 2 * (plain - off()), rtol=1e-4, atol=1e-5)
    both = step(guidance=3.0) + 2 * (plain - off())
    np.testing.assert_allclose(step(guidance=3.0, action_guidance=2.0), both, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--actions", '[[8, "1 0 0 0 0 0 0 0 0"], [4, "1 0 0 0 0 0 0 0 0"], ""]'], "in order"),
        (["--actions", '[[6, "1 0 0 0 0 0 0 0 0"], ""]'], "7 frames are not of the form 4n + 1"),
        (["--width", 90], "width 90 is not a multiple of 16"),
        (["--model", "nowhere"], "nowhere"),
        (["--out", "video.avi"], "must end in .mp4"),
        (["--steps", 0], "--steps 0"),
    ],
)
def test_wrong_inputs_end_in_one_line_and_exit_code_2(arguments, says):
    out = command("--model", "tiny", *arguments)
    assert out.returncode == 2, out.stderr
    assert says in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1


def test_hud_lights_pressed_keys():
    frames = np.zeros((3, 96, 160, 3), np.uint8)
    keyboard, mouse = hold(3, keys="w", yaw=4)
    out = draw_hud(frames, keyboard, mouse)
    np.testing.assert_array_equal(frames, 0)
    assert out[0].max() < 255 or (out[0] != out[1]).any()
    assert (out[1].astype(int) - out[0].astype(int)).max() > 100
    assert enlarge(frames, 2).shape == (3, 192, 320, 3)


def test_showcase_has_a_schedule_per_name():
    assert len(showcase(17)) == len(SHOWCASE)
    assert all(not k[0].any() and not m[0].any() for k, m in showcase(17))


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
    assert abs(motion(right, "spread")) < 0.3
    told = score(np.array([-2.0, -1.0]), np.array([2.0, -0.5]), -1)
    assert told["sign"] == 0.75
    assert told["correlation"] > 0.5
