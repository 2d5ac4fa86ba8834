"""Schedules, solvers, guided sampling and the whole path from token ids to frames: trajectories to 1e-4."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import FOLDER, case, last, needs, relative_error, stems
from models import autoencoder, image_encoder, inputs_of, text_encoder, text_input, world
from mwjax.diffusion.decoding import decode
from mwjax.diffusion.flow import train_sigmas
from mwjax.diffusion.sampler import sample_latents, specify
from mwjax.diffusion.sampling import Sampling
from mwjax.diffusion.solvers import SOLVERS, solve
from mwjax.models import first_frame
from mwjax.models.image import ImageEncoder, preprocess
from mwjax.models.text import TextEncoder
from mwjax.training.optim import SCHEDULES

TRAJECTORY = 1e-4
RUN = jax.jit(sample_latents, static_argnums=0)


def trajectories() -> list[str]:
    """Names of the solvers' runs in their file; none where it is not."""
    if not (FOLDER / "schedulers.safetensors").exists():
        return []
    names = [name.split("/")[1] for name in case("schedulers").tensors if name.endswith("/trajectory")]
    return sorted(name for name in names if name.split("_")[0] in SOLVERS)


@needs("train_schedule")
def test_training_schedule():
    golden = case("train_schedule")
    sigmas = train_sigmas(5.0)
    assert relative_error(sigmas, golden["out/train_sigmas"]) < 1e-6
    assert relative_error(sigmas * np.float32(1000), golden["out/train_timesteps"]) < 1e-6
    for name, key, base in (("constant", "lr_constant_with_warmup", 1e-4), ("cosine", "lr_cosine_with_restarts", 1e-5)):
        schedule = SCHEDULES[name](base, 100, 1000)
        assert relative_error([schedule(step) for step in golden["in/lr_steps"]], golden["out/" + key]) < 1e-6


@needs("schedulers")
@pytest.mark.parametrize("name", trajectories())
def test_solver(name):
    golden = case("schedulers")
    solver_name, steps, shift = re.fullmatch(r"(\w+?)_(\d+)steps_shift([\d.]+)", name).groups()
    solver = SOLVERS[solver_name](int(steps), float(shift))
    assert relative_error(solver.sigmas, golden[f"out/{name}/sigmas"]) < 1e-6
    assert relative_error(solver.timesteps, golden[f"out/{name}/timesteps"]) < 1e-6

    def model(x, t):
        return jnp.tanh(x @ golden["in/A"].T + golden["in/b"][None] * t / 1000) + 0.3 * x

    _, path = solve(solver, model, golden["in/x_init"])
    assert relative_error(path, golden[f"out/{name}/trajectory"]) < 1e-5


@pytest.mark.parametrize("stem", stems("sample_t2w_controlnet", "sample_i2w_adaln"))
def test_guided_sampling(stem):
    golden = case(stem)
    cfg, params = world(golden)
    (name,) = [k for k in golden.tensors if k.startswith("out/latents_")]
    steps, shift, guidance = map(
        float, re.fullmatch(r"out/latents_(\d+)steps_shift([\d.]+)_cfg([\d.]+)", name).groups()
    )
    sampling = Sampling(steps=int(steps), shift=shift, guidance=guidance)
    latents, computed = denoised(cfg, sampling, params, golden)
    assert relative_error(latents, last(golden[name])) < TRAJECTORY
    assert computed.all()


def denoised(cfg, sampling: Sampling, params: dict, golden) -> tuple:
    spec, settings = specify(cfg, sampling)
    inputs = inputs_of(golden) | {"negative": text_input(golden, "neg_context", "neg_lens")}
    return RUN(spec, {"params": params}, settings, last(golden["in/x"]), inputs)


@pytest.mark.parametrize("stem", stems("sample_t2w_controlnet", "sample_i2w_adaln"))
def test_teacache(stem):
    golden = case(stem)
    cfg, params = world(golden)
    settings = golden.meta["teacache"]
    shift, guidance = map(float, re.search(r"shift([\d.]+)_cfg([\d.]+)", " ".join(golden.tensors)).groups())
    thresholds = [k.split("/")[1].removeprefix("teacache_") for k in golden.tensors if k.endswith("/computed")]
    assert thresholds
    for threshold in thresholds:
        sampling = Sampling(
            steps=settings["num_steps"],
            shift=shift,
            guidance=guidance,
            teacache=float(threshold),
            teacache_start=settings["num_skip_start_steps"],
            teacache_polynomial=tuple(golden.meta["teacache_coefficients"]),
        )
        latents, computed = denoised(cfg, sampling, params, golden)
        np.testing.assert_array_equal(computed, golden[f"out/teacache_{threshold}/computed"])
        assert relative_error(latents, last(golden[f"out/teacache_{threshold}/latents"])) < TRAJECTORY


@pytest.mark.parametrize("stem", stems("e2e_t2w_controlnet", "e2e_i2w_adaln"))
def test_end_to_end(stem):
    golden = case(stem)
    config, sampler = golden.meta["config"], golden.meta["sampler"]
    cfg, params = world(golden, prefix="dit/", config=config["dit"])
    text_cfg, text_params = text_encoder(golden, prefix="t5/", config=config["t5"])
    vae_cfg, vae_params = autoencoder(golden, prefix="vae/", config=config["vae"])

    encode = jax.jit(TextEncoder(text_cfg).apply)

    def embed(name):
        ids = golden["in/" + name]
        return encode({"params": text_params}, ids, np.ones_like(ids))

    prompt, negative = embed("ids"), embed("negative_ids")
    assert relative_error(prompt, golden["out/prompt_embeds"]) < 1e-5
    assert relative_error(negative, golden["out/negative_prompt_embeds"]) < 1e-5
    length = max(prompt.shape[1], negative.shape[1])
    prompt, negative = (jnp.pad(e, ((0, 0), (0, length - e.shape[1]), (0, 0))) for e in (prompt, negative))
    inputs = {"text": prompt, "negative": negative}
    inputs |= {"keyboard": golden["in/keyboard_actions"], "mouse": golden["in/mouse_actions"]}
    if "in/image" in golden:
        image_cfg, image_params = image_encoder(golden, prefix="clip/", config=config["clip"])
        picture = np.moveaxis(golden["in/image"], 0, -1)[None] * 2 - 1

        @jax.jit
        def look(params, picture):
            return ImageEncoder(image_cfg).apply({"params": params}, preprocess(picture, image_cfg.image_size))

        @functools.partial(jax.jit, static_argnums=2)
        def beside(params, picture, frames):
            return first_frame.with_mask(first_frame.encode(vae_cfg, params, picture, frames=frames))

        inputs["image"] = look(image_params, picture)
        assert relative_error(inputs["image"], golden["out/clip_features"]) < 1e-5
        inputs["first_frame"] = beside(vae_params, picture, golden["in/keyboard_actions"].shape[1])
        assert relative_error(inputs["first_frame"], last(golden["out/image_condition_y"])) < 1e-5
    sampling = Sampling(
        steps=sampler["steps"], shift=sampler["shift"], guidance=sampler["guidance_scale"], solver=sampler["solver"]
    )
    spec, settings = specify(cfg, sampling)
    latents, _ = RUN(spec, {"params": params}, settings, last(golden["in/noise"]), inputs)
    assert relative_error(latents, last(golden["out/latents"])) < TRAJECTORY
    frames = jax.jit(decode, static_argnums=0)(vae_cfg, vae_params, latents)
    assert relative_error(frames, last(golden["out/frames"])) < TRAJECTORY


@needs("action_lists.json")
def test_action_lists():
    import json

    from mwjax.data.actions import parse_action_list

    for golden in json.loads((FOLDER / "action_lists.json").read_text())["cases"]:
        keyboard, mouse = parse_action_list(golden["action_list"])
        np.testing.assert_array_equal(keyboard, golden["keyboard"])
        np.testing.assert_array_equal(mouse, golden["mouse"])
