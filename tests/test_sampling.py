"""The sampler and its policies: what is compiled, what guidance and caches do, what leaves when."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small import BACKBONE, drawn, small_model

from converters.files import write_tensors
from converters.folder import load_model, save_model
from converters.lora import LORA_ROWS
from converters.tables import save
from mwjax import sample
from mwjax.data.actions import parse_short
from mwjax.data.video import WRITERS, read_video
from mwjax.diffusion.decoding import decode_stream, decode_tiles, tile_starts
from mwjax.diffusion.guidance import FULL, NONE, REUSED, guide_modes
from mwjax.diffusion.sampler import fresh_noise, sample_latents, specify
from mwjax.diffusion.sampling import Sampling
from mwjax.diffusion.solvers import SOLVERS, euler, solver_of
from mwjax.errors import command
from mwjax.generation import Request, Stream, generate
from mwjax.models import lora
from mwjax.models.shapes import world_shapes
from mwjax.models.vae import VAE
from mwjax.models.world_model import WorldConfig, WorldModel


@pytest.fixture(scope="module")
def model():
    return small_model(WorldConfig(BACKBONE, ("controlnet",), 16))


def request_of(actions: str = "w*4, yaw:3*4", prompt: str = "a cave", seed: int = 1) -> Request:
    return Request(prompts=[prompt], actions=[parse_short(actions)], seeds=[seed], height=32, width=48)


@functools.partial(jax.jit, static_argnums=0)
def velocity(cfg, params, x, sigma, inputs, scale):
    model = WorldModel(cfg)
    condition = model.apply({"params": params}, inputs, method="condition")
    return model.apply({"params": params}, x, jnp.full((2,), 1000.0 * sigma), condition, scale)[0]


class Case:
    """A random model with a fixed input, run in a solver's single step: x − noise is minus the velocity."""

    def __init__(self, control: str):
        self.cfg, rng = WorldConfig(BACKBONE, (control,), 16), np.random.default_rng(0)
        self.params = drawn(world_shapes(self.cfg))
        draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
        self.noise, self.text, self.negative = draw(2, 2, 2, 4, 16), draw(2, 8, 16), draw(2, 8, 16)
        self.actions = {"keyboard": draw(2, 5, 7), "mouse": draw(2, 5, 2)}

    def latents(self, steps: int = 1, **options) -> jax.Array:
        options = {"shift": 1.0, "solver": "euler"} | options
        spec, params = specify(self.cfg, Sampling(steps=steps, **options))
        inputs = {"text": self.text, "negative": self.negative, **self.actions}
        run = jax.jit(sample_latents, static_argnums=0)
        return run(spec, {"params": self.params}, params, self.noise, inputs)[0]

    def velocity(self, text, scale: float = 1.0, x: jax.Array | None = None, sigma: float = 1.0) -> jax.Array:
        inputs = {"text": text, **self.actions}
        return velocity(self.cfg, self.params, self.noise if x is None else x, sigma, inputs, scale)


@pytest.mark.parametrize("control", ["controlnet", "adaln"])
@pytest.mark.parametrize(("text", "actions"), [(1.0, 0.0), (3.0, 0.0), (1.0, 2.0), (3.0, 2.0)])
def test_guidance_is_its_formula(control, text, actions):
    case = Case(control)
    c, u, n = case.velocity(case.text), case.velocity(case.negative), case.velocity(case.text, 0.0)
    assert np.abs(c - n).max() > 1e-4
    expected = u + text * (c - u) + actions * (c - n)
    np.testing.assert_allclose(
        case.latents(guidance=text, action_guidance=actions) - case.noise, -expected, rtol=1e-4, atol=1e-5
    )


def test_guidance_modes():
    np.testing.assert_array_equal(guide_modes(6, every=2, skip=0.34), [FULL, REUSED, FULL, REUSED, NONE, NONE])
    np.testing.assert_array_equal(guide_modes(3, every=1, skip=0.0), [FULL] * 3)


@pytest.mark.parametrize("control", ["controlnet", "adaln"])
def test_guidance_held_and_skipped(control):
    case = Case(control)
    full, plain = case.latents(4), case.latents(4, guidance=1.0)
    np.testing.assert_allclose(case.latents(4, guidance_skip=1.0), plain, rtol=1e-5, atol=1e-6)
    sigmas = euler(2, 1.0).sigmas  # the second of two steps repeats the push of the first
    c, u = case.velocity(case.text), case.velocity(case.negative)
    x = case.noise + (sigmas[1] - sigmas[0]) * (u + 3 * (c - u))
    x = x + (sigmas[2] - sigmas[1]) * (case.velocity(case.text, x=x, sigma=float(sigmas[1])) + 2 * (c - u))
    np.testing.assert_allclose(case.latents(2, guidance_every=2), x, rtol=1e-4, atol=1e-6)
    held = case.latents(4, guidance_every=2)
    assert np.linalg.norm(held - full) < np.linalg.norm(plain - full)


def test_caches_work_together():
    case = Case("controlnet")
    options = {
        "guidance_every": 2,
        "guidance_skip": 0.25,
        "teacache": 5.0,
        "teacache_start": 2,
        "teacache_polynomial": (1.0, 0.0),
    }
    latents = case.latents(8, **options)
    assert np.isfinite(latents).all()
    never = case.latents(8, **options | {"teacache": 1e-9})
    np.testing.assert_allclose(never, case.latents(8, **options | {"teacache": 0.0}), rtol=1e-4, atol=1e-5)
    assert np.abs(latents - never).max() > 1e-6


def renoise(steps: int, shift: float):
    """A solver that goes from each estimate of the clean latents to the next noise level with fresh noise."""
    sigmas = np.linspace(1.0, 0.0, steps + 1)
    ahead = sigmas[1:]
    predictor = np.stack([0 * ahead, 1 - ahead, 0 * ahead, ahead], 1)
    return solver_of(sigmas, (1000 * sigmas[:-1]).astype(np.float32), predictor)


def test_a_solver_may_take_fresh_noise_of_each_clips_own(monkeypatch):
    monkeypatch.setitem(SOLVERS, "renoise", renoise)
    case = Case("adaln")
    spec, params = specify(case.cfg, Sampling(steps=2, solver="renoise", guidance=1.0))
    assert spec.renoises
    run = jax.jit(sample_latents, static_argnums=0)
    inputs = {"text": case.text, "seed": np.array([5, 6]), **case.actions}
    latents, _ = run(spec, {"params": case.params}, params, case.noise, inputs)
    noise = fresh_noise(inputs["seed"], jnp.int32(0), case.noise.shape)
    x = 0.5 * (case.noise - case.velocity(case.text)) + 0.5 * noise
    expected = x - 0.5 * case.velocity(case.text, x=x, sigma=0.5)
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5)
    # The same whatever else is in the batch, and frame by frame.
    one = fresh_noise(inputs["seed"][1:], jnp.int32(0), (1, *case.noise.shape[1:]))
    np.testing.assert_array_equal(one[0], noise[1])
    assert np.abs(noise[:, 0] - noise[:, 1]).max() > 0.1
    assert np.abs(fresh_noise(inputs["seed"], jnp.int32(1), case.noise.shape) - noise).max() > 0.1


def test_pieces_and_whole_give_the_same_frames(model):
    sampling = Sampling(steps=3, guidance=2.0, action_guidance=1.0)
    whole = generate(model, sampling, request_of())
    stream = Stream(model, sampling, request_of())
    assert list(stream.steps()) == [1, 2, 3]
    chunks = list(stream.frames())
    assert [c.shape[1] for c in chunks] == [1, 4, 4]
    assert np.abs(np.concatenate(chunks, 1).astype(int) - whole.astype(int)).max() <= 1


def test_nothing_is_compiled_for_another_prompt_seed_or_action(model):
    generate(model, Sampling(steps=2), request_of())
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        generate(model, Sampling(steps=2), request_of("s*4, pitch:1*4", "a hall of mirrors", 7))
        generate(model, Sampling(steps=2, shift=5.0, guidance=4.0, solver="dpmpp"), request_of())
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled


def test_a_tile_as_large_as_the_picture_is_the_picture(model):
    fresh = jax.jit(VAE(model.vae.config).init)(
        jax.random.split(jax.random.key(0), 3)[1], jnp.zeros((1, 5, 16, 16, 3))
    )["params"]
    latents = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 4, 6, 16)), jnp.float32)
    whole = np.concatenate(list(decode_stream(model.vae.config, fresh, latents)), 1)
    np.testing.assert_array_equal(np.concatenate(list(decode_tiles(model.vae.config, fresh, latents, 8)), 1), whole)
    tiled = np.concatenate(list(decode_tiles(model.vae.config, fresh, latents, 4)), 1)
    assert tiled.shape == whole.shape
    assert np.corrcoef(tiled.ravel().astype(float), whole.ravel().astype(float))[0, 1] > 0.9


@pytest.mark.parametrize(("length", "tile"), [(8, 8), (9, 8), (44, 16), (80, 32)])
def test_tiles_cover_everything_and_overlap(length, tile):
    starts = tile_starts(length, tile)
    assert starts[0] == 0
    assert starts[-1] + tile == max(length, tile)
    assert all(0 < b - a <= tile - tile // 4 for a, b in itertools.pairwise(starts))


def test_loras_are_folded_in_when_loading(tmp_path, model):
    folder = save_model(model, tmp_path / "model")
    trees = []
    for i, scale in enumerate((0.5, -2.0)):
        adapters = drawn(lora.init(model.transformer.params["backbone"], 4, 2.0, jax.random.key(i)))
        write_tensors(tmp_path / f"{i}.safetensors", save(LORA_ROWS, {"backbone": adapters}), np.float32)
        trees.append((adapters, scale))
    expected = model.transformer.params["backbone"]
    for adapters, scale in trees:
        expected = lora.merge(expected, adapters, scale)
    loaded = load_model(folder, loras=[(tmp_path / f"{i}.safetensors", scale) for i, (_, scale) in enumerate(trees)])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        loaded.transformer.params["backbone"],
        expected,
    )
    assert loaded.lora is None


def test_bfloat16_computes_in_bfloat16(tmp_path, model):
    half = load_model(save_model(model, tmp_path / "model"), dtype=jnp.bfloat16, loras=[])
    assert {a.dtype for a in jax.tree.leaves(half.transformer.params)} == {jnp.dtype(jnp.bfloat16)}
    assert {a.dtype for a in jax.tree.leaves(half.vae.params)} == {jnp.dtype(jnp.float32)}
    full, low = (generate(m, Sampling(steps=2), request_of()).astype(int) for m in (model, half))
    assert np.abs(full - low).mean() < 4


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_interrupted_file_is_not_there(tmp_path, suffix):
    path = tmp_path / f"video{suffix}"

    def interrupted():
        with WRITERS[suffix](path, fps=8) as add:
            add(np.zeros((2, 16, 16, 3), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_jobs_formats_and_reproduction(tmp_path, model, capsys):
    folder = save_model(model, tmp_path / "model")
    (folder / "sampling.json").write_text(
        json.dumps({"steps": 2, "height": 32, "width": 48, "fps": 8.0, "guidance": 1.0, "negative": ""})
    )
    jobs = [
        {"prompt": "a cave", "actions": "w*4", "seed": 1},
        {"prompt": "a hall", "actions": "yaw:2*8", "seed": 2, "out": str(tmp_path / "hall.gif")},
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)) + "\n")
    common = ["--model", str(folder), "--enlarge", "1"]
    outs = [str(tmp_path / name) for name in ("a.mp4", "a.gif", "a.safetensors", "a")]
    sample.main([*common, "--jobs", str(tmp_path / "jobs.jsonl"), "--out", *outs])
    assert read_video(tmp_path / "a_0001.mp4").shape == (5, 32, 48, 3)
    assert len(list((tmp_path / "a_0001").glob("frame_*.png"))) == 5
    with Image.open(tmp_path / "hall.gif") as gif:
        assert gif.size == (48, 32)
        assert gif.n_frames > 1  # equal frames are stored once
    assert (tmp_path / "a_0001.safetensors").exists()
    before = (tmp_path / "a_0001.mp4").read_bytes()
    (tmp_path / "a_0001.mp4").unlink()
    record = json.loads((tmp_path / "a_0001.json").read_text())
    assert record["sampling"]["steps"] == 2
    assert len(record["weights"]) == 3
    sample.main([*common, "--jobs", str(tmp_path / "a_0001.json")])
    assert (tmp_path / "a_0001.mp4").read_bytes() == before
    sample.main([*common, "--jobs", str(tmp_path / "a_0001.json"), "--out", str(tmp_path / "again.mp4")])
    assert (tmp_path / "again.mp4").read_bytes() == before
    (tmp_path / "jobs.jsonl").write_text('{"promt": "x"}\n')
    with pytest.raises(SystemExit) as stopped:
        sample.main([*common, "--jobs", str(tmp_path / "jobs.jsonl")])
    assert stopped.value.code == 2
    assert "line 1: 'promt'" in capsys.readouterr().err


def test_compiling_ahead_needs_no_weights(tmp_path, model, capsys):
    folder = save_model(model, tmp_path / "model")
    sample.main(["--model", str(folder), "--height", "32", "--width", "48", "--actions", "w*4", "--compile-only"])
    assert "denoising step, 5 frames" in capsys.readouterr().out


def test_full_memory_is_one_line(capsys):
    @command
    def main():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nlong story")

    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert "--tile 256" in line
    assert len(line.splitlines()) == 1
