"""Compiled programs: kept on disk between processes, and made ahead of time."""

import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from converters.folder import Folder
from mwjax.diffusion import sampler
from mwjax.diffusion.sampler import Sampling
from mwjax.models.world_model import WorldConfig
from mwjax.pipeline import _encode_image, _encode_text, _noise, latent_shape


def keep_compiled() -> None:
    """Keep compiled programs in $JAX_COMPILATION_CACHE_DIR (default: ~/.cache/mwjax), so that a second process starts in seconds."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(pathlib.Path.home() / ".cache/mwjax")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def compile_ahead(folder: Folder, world: WorldConfig, sampling: Sampling, *, frames: list[int], height: int, width: int, dtype: str) -> None:
    """Compile all that mwjax.sample runs for these sizes, with shapes in place of weights; print what each program takes."""
    shapes = {kind: cast(network.shapes, jnp.float32 if kind == "vae" else dtype) for kind, network in folder.networks.items()}
    configs = {kind: network.config for kind, network in folder.networks.items()} | {"transformer": world}
    spec = lambda shape, kind=jnp.float32: jax.ShapeDtypeStruct(shape, kind)
    length = world.backbone.text_len
    ids = spec((1, length), jnp.int32)
    program, tables = sampler.plan(world, sampling)
    tables = jax.tree.map(lambda a: spec(a.shape, a.dtype), tables)
    variables, vae, vae_params = {"params": shapes["transformer"]}, configs["vae"], shapes["vae"]
    run("text encoder", _encode_text, configs["text_encoder"], shapes["text_encoder"], ids, ids)
    for count in frames:
        shape = latent_shape(world, count, height, width)
        run("noise", _noise, spec((1,), np.int32), shape)
        text = spec((1, length, world.backbone.text_dim))
        inputs = (spec((1, *shape)), text, text, spec((1, count, 7)), spec((1, count, 2)))
        if world.backbone.image_dim:
            encode = (configs["image_encoder"], vae, shapes["image_encoder"], vae_params, count, spec((1, height, width, 3)))
            inputs += run(f"image encoder, {count} frames", _encode_image, *encode)
        state, condition, computed = run(f"conditions, {count} frames", sampler._prepare, world, program, variables, tables, *inputs)
        run(f"denoising step, {count} frames", sampler._denoise, world, program, variables, tables, state, condition, computed, 0, 1)
        latent = spec((1, *shape[1:]))
        cache, _ = run("first frame", sampler._decode_chunk, vae, vae_params, {}, latent)
        if count > 1:
            run("next four frames", sampler._decode_chunk, vae, vae_params, cache, latent)


def cast(shapes: dict, dtype) -> dict:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), shapes)


def run(title: str, function, *args):
    """Compile a jitted function for shapes, print its memory, and return the shapes of its results."""
    began = time.perf_counter()
    lowered = function.lower(*args)
    memory = lowered.compile().memory_analysis()
    numbers = f"arguments {memory.argument_size_in_bytes / 1e9:.2f} GB, temporaries {memory.temp_size_in_bytes / 1e9:.2f} GB" if memory else ""
    print(f"{title:32} compiled in {time.perf_counter() - began:5.1f} s; {numbers}", flush=True)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), lowered.out_info)
