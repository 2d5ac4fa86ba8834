"""Models of a golden case, filled from the released key names by the converters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cases import Case, last
from converters import dit, image, text, vae
from converters.tables import load
from mwjax.models.shapes import image_shapes, text_shapes, vae_shapes, world_shapes


def world(case: Case, *, prefix: str = "", config: dict | None = None):
    """(config, parameters) of the case's transformer; control follows from its config."""
    config = dict(config or case.meta["config"])
    if config.get("model_type") == "i2v":
        config["image_dim"] = case["in/clip_fea" if "in/clip_fea" in case else "out/clip_features"].shape[-1]
    weights = {k: v for k, v in case.weights(prefix).items() if not k.startswith("lora:")}
    cfg = dit.config_from_json(config, controls=dit.controls_of(weights))
    return cfg, load(dit.WORLD_ROWS, weights, world_shapes(cfg))


def autoencoder(case: Case, *, prefix: str = "", config: dict | None = None):
    cfg = vae.config_from_json(config or case.meta["config"])
    return cfg, load(vae.ROWS, case.weights(prefix), vae_shapes(cfg))


def text_encoder(case: Case, *, prefix: str = "", config: dict | None = None):
    cfg = text.config_from_json(config or case.meta["config"])
    return cfg, load(text.ROWS, case.weights(prefix), text_shapes(cfg))


def image_encoder(case: Case, *, prefix: str = "", config: dict | None = None):
    cfg = image.config_from_json(config or case.meta["config"])
    return cfg, load(image.ROWS, case.weights(prefix), image_shapes(cfg))


def text_input(case: Case, name: str = "context", lengths: str = "context_lens") -> np.ndarray:
    """Text embeddings [b, s, c], zero after each prompt's length."""
    embeddings = case["in/" + name]
    return embeddings * (np.arange(embeddings.shape[1])[None] < case["in/" + lengths][:, None])[..., None]


def inputs_of(case: Case) -> dict[str, np.ndarray]:
    """What the model reads: text, actions and, of an image-conditioned case, image tokens and the channels beside the
    latents."""
    inputs = {"text": text_input(case)}
    if "in/keyboard_actions" in case:
        inputs |= {"keyboard": case["in/keyboard_actions"], "mouse": case["in/mouse_actions"]}
    if "in/clip_fea" in case:
        inputs |= {"image": case["in/clip_fea"], "first_frame": last(case["in/y"])}
    return inputs


def velocity(model, variables: dict, case: Case, x: np.ndarray, *, scale: float = 1.0):
    """(velocity, intermediates) at the case's timesteps."""
    return _velocity(model, variables, x, jnp.asarray(case["in/t"], jnp.float32), inputs_of(case), scale)


@functools.partial(jax.jit, static_argnums=0)
def _velocity(model, variables, x, t, inputs, scale):
    return model.apply(variables, x, t, model.apply(variables, inputs, method="condition"), scale)
