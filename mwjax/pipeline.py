"""Shared by the commands: embedding prompts, filling the latent cache, sampling videos."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from converters.folder import Model
from mwjax.data.actions import Actions
from mwjax.data.clips import to_pixels
from mwjax.data.tokenizer import tokenize
from mwjax.diffusion.sampler import Sampling, image_condition, sample
from mwjax.errors import InputError
from mwjax.models.image import ImageConfig, ImageEncoder, preprocess
from mwjax.models.text import TextConfig, TextEncoder
from mwjax.models.vae import VAE, VAEConfig, standardised
from mwjax.models.world_model import WorldConfig


@functools.partial(jax.jit, static_argnums=0)
def _encode_text(cfg: TextConfig, params, ids, mask):
    return TextEncoder(cfg).apply({"params": params}, ids, mask)


@functools.partial(jax.jit, static_argnums=0)
def _encode_video(cfg: VAEConfig, params, pixels):
    return VAE(cfg).apply({"params": params}, pixels, method="encode", mutable=["cache"])[0]


def embed(model: Model, prompts: list[str]) -> list[np.ndarray]:
    """Embeddings [s, c] of prompts, each cut at its own length."""
    ids, mask = tokenize(model.tokenizer, prompts, model.world.backbone.text_len)
    out = np.asarray(_encode_text(model.text, model.text_params, ids, mask))
    return [row[: m.sum()] for row, m in zip(out, mask, strict=True)]


def pad_text(embeddings: list[np.ndarray], length: int) -> np.ndarray:
    """Zero-pad to [b, length, c]."""
    return np.stack([np.pad(e, ((0, length - len(e)), (0, 0))) for e in embeddings])


def encode_pixels(model: Model, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log-variance of clips [b, f, h, w, 3] in [-1, 1]."""
    return jax.device_get(_encode_video(model.vae, model.vae_params, pixels))


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def _encode_image(cfg: ImageConfig, vae: VAEConfig, params, vae_params, frames: int, pixels):
    tokens = ImageEncoder(cfg).apply({"params": params}, preprocess(pixels, cfg.image_size))
    return tokens, image_condition(vae, vae_params, pixels, frames=frames)


def encode_images(model: Model, pixels: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """What an image-conditioned model takes from first frames [b, h, w, 3] in [-1, 1]: image tokens, and latents of the image followed by grey."""
    return jax.device_get(_encode_image(model.image, model.vae, model.image_params, model.vae_params, frames, pixels))


def standardise_latents(model: Model, batches: Iterator[dict], count: int = 32) -> Model:
    """The model with a VAE whose latents have mean 0 and deviation 1 per channel over `count` batches of uint8 video [..., f, h, w, 3]."""
    rows = []
    for _ in range(count):
        video = next(batches)["video"]
        mean, _ = encode_pixels(model, to_pixels(video.reshape(-1, *video.shape[-4:])))
        rows.append(mean.reshape(-1, mean.shape[-1]))
    rows = np.concatenate(rows)
    return dataclasses.replace(model, vae_params=standardised(model.vae_params, rows.mean(0), rows.std(0)))


def encoders_identity(model: Model) -> str:
    """A hash of the weights that a latent cache depends on."""
    digest = hashlib.sha1()
    for tree in (model.vae_params, model.text_params, model.image_params or {}):
        for path, leaf in sorted(flatten_dict(tree, sep="/").items()):
            digest.update(path.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def latent_shape(world: WorldConfig, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Latents of a clip. Raises InputError for sizes that do not divide."""
    if frames % 4 != 1:
        raise InputError(f"{frames} frames are not of the form 4n + 1 (17, 65, 81 …)")
    side = 8 * world.backbone.patch
    for name, value in (("height", height), ("width", width)):
        if value < side or value % side:
            raise InputError(f"{name} {value} is not a multiple of {side} (VAE 8 × patch {world.backbone.patch})")
    return (frames // 4 + 1, height // 8, width // 8, world.backbone.out_dim)


def generate(
    model: Model, sampling: Sampling, prompts: list[str], actions: list[Actions], *, height: int, width: int, seeds: list[int],
    negative: str = "", variables: dict | None = None, images: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """uint8 videos [b, f, h, w, 3]. All action sequences have the same length, which is the number of frames.

    Each video's noise comes from its own seed alone. variables: in place of the model's own (for a merged or scaled LoRA).
    images: uint8 first frames [b, h, w, 3], for an image-conditioned model. Raises InputError if they are missing or not wanted.
    """
    if (model.image is None) != (images is None):
        raise InputError("this model starts from an image; give one with --image" if model.image else "this model takes no image; leave --image out")
    keyboard, mouse = (np.stack(a) for a in zip(*actions, strict=True))
    shape = latent_shape(model.world, keyboard.shape[1], height, width)
    noise = jnp.stack([jax.random.normal(jax.random.key(seed), shape) for seed in seeds])
    length = model.world.backbone.text_len
    text = pad_text(embed(model, prompts), length)
    negatives = np.repeat(pad_text(embed(model, [negative]), length), len(prompts), 0)
    variables = model.variables if variables is None else variables
    start = () if images is None else encode_images(model, to_pixels(images), keyboard.shape[1])
    return np.asarray(sample(model.world, model.vae, sampling, variables, model.vae_params, noise, text, negatives, keyboard, mouse, *start))


def output_folder(path: str | pathlib.Path) -> pathlib.Path:
    """Create a folder for results, or say why it cannot be."""
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from None
    return path
