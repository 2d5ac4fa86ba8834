"""Prompts, pictures and clips through the frozen encoders."""

import functools
import hashlib
from collections.abc import Iterator

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from mwjax.data.clips import to_pixels
from mwjax.data.tokenizer import report_cut, tokenize, tokenizer_identity
from mwjax.models import first_frame
from mwjax.models.image import ImageConfig, ImageEncoder, preprocess
from mwjax.models.model import Model
from mwjax.models.text import TextConfig, TextEncoder
from mwjax.models.vae import VAE, VAEConfig, standardised
from mwjax.parallel.sharding import constrain

FROZEN = ("vae", "text_encoder", "image_encoder")  # kinds of networks that encode, in the order of their hash


@functools.partial(jax.jit, static_argnums=0)
def encode_text(cfg: TextConfig, params, ids, mask):
    return TextEncoder(cfg).apply({"params": params}, constrain(ids, "batch", None), mask)


@functools.partial(jax.jit, static_argnums=0)
def encode_video(cfg: VAEConfig, params, pixels):
    pixels = constrain(pixels, "batch", *[None] * 4)
    return VAE(cfg).apply({"params": params}, pixels, method="encode", mutable=["cache"])[0]


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def encode_image(cfg: ImageConfig, vae: VAEConfig, params, vae_params, frames: int, pixels):
    pixels = constrain(pixels, "batch", *[None] * 3)
    tokens = ImageEncoder(cfg).apply({"params": params}, preprocess(pixels, cfg.image_size))
    return tokens, first_frame.encode(vae, vae_params, pixels, frames=frames)


def embed(model: Model, prompts: list[str], *, report: bool = True) -> list[np.ndarray]:
    """Embeddings [s, c] of prompts, each cut at its own length. report: say on stderr what the model does not read of
    them."""
    length = model.transformer.config.backbone.text_len
    if report:
        report_cut(model.tokenizer, prompts, length)
    ids, mask = tokenize(model.tokenizer, prompts, length)
    out = np.asarray(encode_text(*model.text_encoder, ids, mask))
    return [row[: m.sum()] for row, m in zip(out, mask, strict=True)]


def pad_text(embeddings: list[np.ndarray], length: int) -> np.ndarray:
    """Zero-pad to [b, length, c]."""
    return np.stack([np.pad(e, ((0, length - len(e)), (0, 0))) for e in embeddings])


def encode_pixels(model: Model, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log-variance of clips [b, f, h, w, 3] in [-1, 1]."""
    return jax.device_get(encode_video(*model.vae, pixels))


def encode_images(model: Model, pixels: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """What an image-conditioned model takes from first frames [b, h, w, 3] in [-1, 1]: image tokens, and latents of the
    image followed by grey (without the mask)."""
    image, vae = model.image_encoder, model.vae
    return jax.device_get(encode_image(image.config, vae.config, image.params, vae.params, frames, pixels))


def standardise_latents(model: Model, batches: Iterator[dict], count: int = 32) -> Model:
    """The model with a VAE whose latents have mean 0 and deviation 1 per channel, over `count` batches of uint8 video
    [..., f, h, w, 3]."""
    rows = []
    for _ in range(count):
        video = next(batches)["video"]
        mean, _ = encode_pixels(model, to_pixels(video.reshape(-1, *video.shape[-4:])))
        rows.append(mean.reshape(-1, mean.shape[-1]))
    rows = np.concatenate(rows)
    return model.updated("vae", params=standardised(model.vae.params, rows.mean(0), rows.std(0)))


def without_encoders(model: Model) -> Model:
    """The model with the weights of its encoders in host memory: the transformer's training has the devices for
    itself."""
    for kind in FROZEN:
        if kind in model.networks:
            model = model.updated(kind, params=jax.device_get(model.networks[kind].params))
    return model


def encoders_identity(model: Model, kinds: tuple[str, ...] = FROZEN) -> str:
    """A hash of the weights and sizes of encoders; of those that a latent cache depends on."""
    digest = hashlib.sha1()
    for kind in kinds:
        network = model.networks.get(kind)
        digest.update(f"{kind} {network.config if network else None}".encode())
        for path, leaf in sorted(flatten_dict(network.params if network else {}, sep="/").items()):
            digest.update(path.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def text_identity(model: Model) -> str:
    """A hash of all that the embeddings of captions depend on."""
    length = model.transformer.config.backbone.text_len
    return f"{encoders_identity(model, ('text_encoder',))} {tokenizer_identity(model.tokenizer)} {length}"
