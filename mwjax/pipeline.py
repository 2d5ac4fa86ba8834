"""Shared by the commands: embedding prompts, filling the latent cache, sampling videos."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from converters.folder import Model
from mwjax.data.actions import Actions
from mwjax.data.clips import to_pixels
from mwjax.data.tokenizer import tokenize
from mwjax.diffusion.sampler import Program, Sampling, Tables, decode_stream, decode_tiles, image_condition, plan, sample, watch
from mwjax.errors import InputError
from mwjax.models.image import ImageConfig, ImageEncoder, preprocess
from mwjax.models.text import TextConfig, TextEncoder
from mwjax.models.vae import VAE, VAEConfig, standardised
from mwjax.models.world_model import WorldConfig
from mwjax.parallel.sharding import constrain


@functools.partial(jax.jit, static_argnums=0)
def _encode_text(cfg: TextConfig, params, ids, mask):
    return TextEncoder(cfg).apply({"params": params}, constrain(ids, "batch", None), mask)


@functools.partial(jax.jit, static_argnums=0)
def _encode_video(cfg: VAEConfig, params, pixels):
    return VAE(cfg).apply({"params": params}, constrain(pixels, "batch", *[None] * 4), method="encode", mutable=["cache"])[0]


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
    pixels = constrain(pixels, "batch", *[None] * 3)
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


def without_encoders(model: Model) -> Model:
    """The model with the weights of its encoders in host memory: the transformer's training has the devices for itself."""
    host = jax.device_get
    return dataclasses.replace(model, vae_params=host(model.vae_params), text_params=host(model.text_params), image_params=host(model.image_params))


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


@dataclasses.dataclass(frozen=True)
class Request:
    """One batch of videos to sample, all of one size and length.

    actions: (keyboard [f, 7], mouse [f, 2]) for each video. images: uint8 first frames [b, h, w, 3] of an image-conditioned model.
    Each video's noise comes from its own seed alone.
    """

    prompts: list[str]
    actions: list[Actions]
    seeds: list[int]
    height: int
    width: int
    negative: str = ""
    images: np.ndarray | None = None


def _inputs(model: Model, sampling: Sampling, request: Request) -> tuple[Program, Tables, tuple]:
    """What the compiled functions take. Raises InputError for sizes that do not divide, or an image that is missing or not wanted."""
    if (model.image is None) != (request.images is None):
        raise InputError("this model starts from an image; give one with --image" if model.image else "this model takes no image; leave --image out")
    keyboard, mouse = (np.stack(a) for a in zip(*request.actions, strict=True))
    shape = latent_shape(model.world, keyboard.shape[1], request.height, request.width)
    program, tables = plan(model.world, sampling)
    length = model.world.backbone.text_len
    text = pad_text(embed(model, request.prompts), length)
    negative = np.repeat(pad_text(embed(model, [request.negative]), length), len(request.prompts), 0) if program.text else np.zeros_like(text)
    start = () if request.images is None else encode_images(model, to_pixels(request.images), keyboard.shape[1])
    return program, tables, (_noise(np.asarray(request.seeds), shape), text, negative, keyboard, mouse, *start)


@functools.partial(jax.jit, static_argnums=1)
def _noise(seeds, shape):
    return jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), shape))(seeds)


def generate(model: Model, sampling: Sampling, request: Request, *, variables: dict | None = None) -> np.ndarray:
    """uint8 videos [b, f, h, w, 3] by one compiled function, compiled anew only for other sizes. variables: in place of the model's own."""
    program, tables, inputs = _inputs(model, sampling, request)
    return np.asarray(sample(model.world, model.vae, program, model.variables if variables is None else variables, model.vae_params, tables, *inputs))


@dataclasses.dataclass
class Stream:
    """A batch being sampled: iterate `steps` (their numbers, as they are done), then `frames` (uint8 [b, f, h, w, 3] chunks, as they are decoded)."""

    model: Model
    sampling: Sampling
    request: Request
    latents: jax.Array | None = None  # [b, t, h, w, z], normalised, once the steps are done
    computed: np.ndarray | None = None  # which steps ran the blocks

    def steps(self) -> Iterator[int]:
        program, tables, inputs = _inputs(self.model, self.sampling, self.request)
        for step, latents, computed in watch(self.model.world, program, self.model.variables, tables, *inputs):
            latents.block_until_ready()
            if step == self.sampling.steps:
                self.latents, self.computed = latents, np.asarray(computed)
            yield step

    def frames(self, tile: int = 0) -> Iterator[np.ndarray]:
        """tile: height and width of a tile in pixels, for pictures that do not fit; 0 decodes whole frames."""
        if tile:
            yield from decode_tiles(self.model.vae, self.model.vae_params, self.latents, tile // 8)
        else:
            yield from decode_stream(self.model.vae, self.model.vae_params, self.latents)


def output_folder(path: str | pathlib.Path) -> pathlib.Path:
    """Create a folder for results, or say why it cannot be."""
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from None
    return path
