"""Every network against the original's numbers: relative error at most 1e-5 in float32."""

import jax
import numpy as np
import pytest

from cases import case, last, needs, relative_error, stems
from converters.lora import LORA_ROWS
from converters.tables import load
from models import autoencoder, image_encoder, text_encoder, velocity, world
from mwjax.models import lora
from mwjax.models.image import ImageEncoder, preprocess
from mwjax.models.text import TextEncoder
from mwjax.models.vae import VAE
from mwjax.models.world_model import WorldModel

NETWORK = 1e-5


@pytest.mark.parametrize(
    "stem", stems("dit_t2v", "dit_i2v", "dit_t2w_controlnet", "wide_dit_t2w_controlnet", "dit_i2w_adaln")
)
def test_transformer(stem):
    golden = case(stem)
    cfg, params = world(golden)
    model = WorldModel(cfg)
    x = last(golden["in/x"])
    v, out = velocity(model, {"params": params}, golden, x)
    assert relative_error(v, last(golden["out/velocity"])) < NETWORK
    if "out/hints" in golden:
        assert (
            relative_error(np.asarray(out["residuals"]).reshape(golden["out/hints"].shape), golden["out/hints"])
            < NETWORK
        )
    if "out/action_features" in golden:
        run = jax.jit(
            lambda keyboard, mouse: model.apply({"params": params}, keyboard, mouse, method="action_features")
        )
        features = run(golden["in/keyboard_actions"], golden["in/mouse_actions"])
        assert relative_error(features, golden["out/action_features"]) < NETWORK
    if "out/velocity_scale_0.5" in golden:
        v, _ = velocity(model, {"params": params}, golden, x, scale=0.5)
        assert relative_error(v, last(golden["out/velocity_scale_0.5"])) < NETWORK


@pytest.mark.parametrize("stem", stems("vae", "wide_vae"))
def test_vae(stem):
    golden = case(stem)
    cfg, params = autoencoder(golden)
    model = VAE(cfg)
    encode = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode", mutable=["cache"])[0])
    decode = jax.jit(lambda p, z: model.apply({"params": p}, z, method="decode", mutable=["cache"])[0])
    video = last(golden["in/video"])
    assert relative_error(np.concatenate(encode(params, video), -1), last(golden["out/mean_logvar"])) < NETWORK
    assert relative_error(decode(params, last(golden["in/latents"])), last(golden["out/decoded"])) < NETWORK
    if "out/mean_logvar_first_frame" in golden:
        assert (
            relative_error(
                np.concatenate(encode(params, video[:, :1]), -1), last(golden["out/mean_logvar_first_frame"])
            )
            < NETWORK
        )


@needs("vae")
def test_vae_streaming_equals_whole_clip():
    golden = case("vae")
    cfg, params = autoencoder(golden)
    run = jax.jit(
        lambda cache, x, method: VAE(cfg).apply({"params": params, **cache}, x, method=method, mutable=["cache"]),
        static_argnums=2,
    )
    video, whole = last(golden["in/video"]), last(golden["out/mean_logvar"])
    cache, means = {}, []
    for start, stop in ((0, 1), (1, 5), (5, 13)):
        (mean, _), cache = run(cache, video[:, start:stop], "encode")
        means.append(mean)
    assert relative_error(np.concatenate(means, 1), whole[..., : cfg.z_dim]) < NETWORK
    cache, frames = {}, []
    latents = last(golden["in/latents"])
    for i in range(latents.shape[1]):
        part, cache = run(cache, latents[:, i : i + 1], "decode")
        frames.append(part)
    assert relative_error(np.concatenate(frames, 1), last(golden["out/decoded"])) < NETWORK


@needs("umt5")
def test_text_encoder():
    golden = case("umt5")
    cfg, params = text_encoder(golden)
    mask = golden["in/mask"]
    out = jax.jit(TextEncoder(cfg).apply)({"params": params}, golden["in/ids"], mask)
    assert relative_error(out * mask[..., None], golden["out/embeddings"] * mask[..., None]) < NETWORK


@needs("clip_vision")
def test_image_encoder():
    golden = case("clip_vision")
    cfg, params = image_encoder(golden)
    encode = jax.jit(lambda p, x: ImageEncoder(cfg).apply({"params": p}, x))
    assert relative_error(encode(params, np.moveaxis(golden["in/pixels"], 1, -1)), golden["out/penultimate"]) < NETWORK
    pixels = preprocess(np.moveaxis(golden["in/raw_image"], 0, -1)[None], cfg.image_size)
    assert relative_error(pixels, np.moveaxis(golden["out/preprocessed"], 1, -1)) < NETWORK
    assert relative_error(encode(params, pixels), golden["out/penultimate_of_raw"]) < NETWORK


@pytest.mark.parametrize("stem", stems("lora_t2w_controlnet", "lora_i2w_adaln"))
def test_lora_as_adapter_and_merged(stem):
    golden = case(stem)
    cfg, params = world(golden)
    tensors = {k.removeprefix("lora:"): v for k, v in golden.weights().items() if k.startswith("lora:")}
    tensors |= {
        k.replace("lora_down.weight", "alpha"): np.float32(golden.meta["alpha"])
        for k in list(tensors)
        if k.endswith("lora_down.weight")
    }
    shapes = jax.eval_shape(
        lambda: {"backbone": lora.init(params["backbone"], golden.meta["rank"], 1.0, jax.random.key(0))}
    )
    adapters = load(LORA_ROWS, tensors, shapes)
    merged = {"params": params | {"backbone": lora.merge(params["backbone"], adapters["backbone"], 1.0)}}
    removed = {"params": params | {"backbone": lora.merge(params["backbone"], adapters["backbone"], 0.0)}}
    x = last(golden["in/x"])
    for variables, name in (
        ({"params": params}, "without"),
        (removed, "without"),
        ({"params": params, "lora": adapters}, "with"),
        (merged, "with"),
    ):
        v, _ = velocity(WorldModel(cfg), variables, golden, x)
        assert relative_error(v, last(golden[f"out/velocity_{name}_lora"])) < NETWORK
