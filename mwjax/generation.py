"""A request in, videos out: by one compiled function, or step by step for those who watch."""

import dataclasses
import functools
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.data.actions import Actions
from mwjax.data.clips import to_pixels
from mwjax.diffusion.decoding import decode_next, decode_stream, decode_tiles
from mwjax.diffusion.sampler import SamplerSpec, denoise_some, sample, specify, start_sampling, watch
from mwjax.diffusion.sampling import Sampling
from mwjax.encoding import embed, encode_image, encode_images, encode_text, pad_text
from mwjax.errors import InputError
from mwjax.models.first_frame import with_mask
from mwjax.models.model import Model, Network
from mwjax.models.vae import VAEConfig
from mwjax.models.world_model import WorldConfig, input_shapes
from mwjax.ranges import FRAMES, SEED, SIDE, check_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One batch of videos to sample, all of one size and length. Raises InputError for numbers that are none.

    actions: (keyboard [f, 7], mouse [f, 2]) for each video. images: uint8 first frames [b, h, w, 3] of an
    image-conditioned model. Each video's noise comes from its own seed alone.
    """

    prompts: list[str]
    actions: list[Actions]
    seeds: list[int]
    height: int
    width: int
    negative: str = ""
    images: np.ndarray | None = None

    def __post_init__(self):
        for seed in self.seeds:
            check_number(seed, "seed", SEED)
        for keyboard, mouse in self.actions:
            if not (np.isfinite(keyboard).all() and np.isfinite(mouse).all()):
                raise InputError("the actions hold values that are no numbers")


def latent_shape(
    world: WorldConfig, vae: VAEConfig, *, frames: int, height: int, width: int
) -> tuple[int, int, int, int]:
    """Latents [t, h, w, z] of a clip. Raises InputError for sizes that do not divide, or that are out of range."""
    check_number(frames, "frames", FRAMES)
    every, stride, patch = vae.temporal_stride, vae.spatial_stride, world.backbone.patch
    if frames % every != 1:
        raise InputError(f"{frames} frames are not of the form {every}n + 1 (17, 65, 81 …)")
    for name, value in (("height", height), ("width", width)):
        check_number(value, name, SIDE)
        if value % (stride * patch):
            raise InputError(f"{name} {value} is not a multiple of {stride * patch} (VAE {stride} × patch {patch})")
    return (frames // every + 1, height // stride, width // stride, world.backbone.out_dim)


@functools.partial(jax.jit, static_argnums=1)
def starting_noise(seeds, shape):
    return jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), shape))(seeds)


def inputs_of(model: Model, spec: SamplerSpec, request: Request) -> tuple[jax.Array, dict]:
    """(noise, inputs) as the compiled functions take them. Raises InputError for sizes that do not divide, or an image
    that is missing or not wanted."""
    world = model.transformer.config
    if model.image_encoder and request.images is None:
        raise InputError("this model starts from an image; give one with --image")
    if request.images is not None and not model.image_encoder:
        raise InputError("this model takes no image; leave --image out")
    keyboard, mouse = (np.stack(rows) for rows in zip(*request.actions, strict=True))
    frames = keyboard.shape[1]
    shape = latent_shape(world, model.vae.config, frames=frames, height=request.height, width=request.width)
    length, seeds = world.backbone.text_len, np.asarray(request.seeds)
    inputs = {"text": pad_text(embed(model, request.prompts), length), "keyboard": keyboard, "mouse": mouse}
    if spec.text:
        negative = pad_text(embed(model, [request.negative]), length)
        inputs["negative"] = np.repeat(negative, len(request.prompts), 0)
    if spec.renoises:
        inputs["seed"] = seeds
    if request.images is not None:
        inputs["image"], latents = encode_images(model, to_pixels(request.images), frames)
        inputs["first_frame"] = with_mask(latents)
    return starting_noise(seeds, shape), inputs


def generate(model: Model, sampling: Sampling, request: Request, *, variables: dict | None = None) -> np.ndarray:
    """uint8 videos [b, f, h, w, 3] by one compiled function, compiled anew only for other sizes. variables: in place of
    the model's own. Raises InputError if the latents are not finite."""
    spec, params = specify(model.transformer.config, sampling)
    noise, inputs = inputs_of(model, spec, request)
    weights = {"transformer": model.variables if variables is None else variables, "vae": model.vae.params}
    frames, finite = sample(spec, model.vae.config, weights, params, noise, inputs)
    check_finite(finite, sampling, request)
    return np.asarray(frames)


def check_finite(finite, sampling: Sampling, request: Request) -> None:
    """Raises InputError where not all latents of a batch are finite (`finite`: of each video): they would be a black
    video."""
    finite = np.asarray(finite)
    if finite.all():
        return
    seed = request.seeds[int(np.argmin(finite))]
    given = ", ".join(f"{name} {getattr(sampling, name):g}" for name in ("guidance", "action_guidance", "shift"))
    raise InputError(
        f"sampling gave latents that are no numbers (seed {seed}; {given}): most likely a weight of the model or of a "
        "LoRA is damaged or its scale too large, or a guidance is; try each without, or --dtype float32"
    )


@dataclasses.dataclass
class Stream:
    """A batch being sampled: iterate `steps` (their numbers, as they are done), then `frames` (uint8 [b, f, h, w, 3]
    chunks, as they are decoded).

    latents: [b, t, h, w, z], normalised, once the steps are done. computed: which steps ran the blocks.
    """

    model: Model
    sampling: Sampling
    request: Request
    latents: jax.Array | None = None
    computed: np.ndarray | None = None

    def steps(self) -> Iterator[int]:
        spec, params = specify(self.model.transformer.config, self.sampling)
        noise, inputs = inputs_of(self.model, spec, self.request)
        for step, latents, computed in watch(spec, self.model.variables, params, noise, inputs):
            latents.block_until_ready()
            if step == self.sampling.steps:
                check_finite(jnp.isfinite(latents).all((1, 2, 3, 4)), self.sampling, self.request)
                self.latents, self.computed = latents, np.asarray(computed)
            yield step

    def frames(self, tile: int = 0) -> Iterator[np.ndarray]:
        """tile: height and width of a tile in pixels, for pictures that do not fit; 0 decodes whole frames."""
        vae = self.model.vae
        if tile:
            yield from decode_tiles(*vae, self.latents, tile // vae.config.spatial_stride)
        else:
            yield from decode_stream(*vae, self.latents)


def compile_ahead(
    networks: dict[str, Network], sampling: Sampling, *, frames: list[int], size: tuple[int, int]
) -> None:
    """Compile all that sampling runs for these lengths and this size (height, width); print what each program takes.

    networks: with shapes in place of parameters, in the dtypes they will have.
    """
    world, vae = networks["transformer"].config, networks["vae"]
    spec, params = specify(world, sampling)
    params = shapes_of(params)
    variables = {"params": networks["transformer"].params}
    ids = shape_of((1, world.backbone.text_len), jnp.int32)
    compile_part("text encoder", encode_text, *networks["text_encoder"], ids, ids)
    for count in frames:
        shape = latent_shape(world, vae.config, frames=count, height=size[0], width=size[1])
        compile_part("noise", starting_noise, shape_of((1,), np.int32), shape)
        inputs = sampling_inputs(networks, spec, count, shape, size)
        noise = shape_of((1, *shape))
        state, fixed = compile_part(
            f"conditions, {count} frames", start_sampling, spec, variables, params, noise, inputs
        )
        title = f"denoising step, {count} frames"
        compile_part(title, denoise_some, spec, variables, params, state, fixed, 0, 1)
        latent = shape_of((1, *shape[1:]))
        cache, _ = compile_part("first frame", decode_next, *vae, {}, latent)
        if count > 1:
            compile_part("next four frames", decode_next, *vae, cache, latent)


def sampling_inputs(
    networks: dict[str, Network], spec: SamplerSpec, frames: int, shape: tuple[int, ...], size: tuple[int, int]
) -> dict:
    """Shapes of one clip's inputs; compiles the image encoder on the way, if there is one."""
    tokens = 0
    if "image_encoder" in networks:
        image, vae = networks["image_encoder"], networks["vae"]
        tokens, picture = image.config.tokens, shape_of((1, *size, 3))
        compile_part(
            f"image encoder, {frames} frames",
            encode_image,
            image.config,
            vae.config,
            image.params,
            vae.params,
            frames,
            picture,
        )
    inputs = {name: shape_of((1, *size)) for name, size in input_shapes(spec.world, shape[:3], tokens).items()}
    inputs |= {"negative": inputs["text"]} if spec.text else {}
    return inputs | ({"seed": shape_of((1,), np.int32)} if spec.renoises else {})


def shape_of(shape: tuple[int, ...], dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def shapes_of(tree, dtype=None):
    """Shapes of the leaves of a tree, in their own dtype or another."""
    return jax.tree.map(lambda a: shape_of(a.shape, dtype or a.dtype), tree)


def compile_part(title: str, function, *args):
    """Compile a jitted function for shapes, print its memory, and return the shapes of its results."""
    began = time.perf_counter()
    lowered = function.lower(*args)
    memory = lowered.compile().memory_analysis()
    numbers = ""
    if memory:
        taken, work = memory.argument_size_in_bytes / 1e9, memory.temp_size_in_bytes / 1e9
        numbers = f"arguments {taken:.2f} GB, temporaries {work:.2f} GB"
    print(f"{title:32} compiled in {time.perf_counter() - began:5.1f} s; {numbers}", flush=True)
    return shapes_of(lowered.out_info)
