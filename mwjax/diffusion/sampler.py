"""From noise to frames: one compiled function, or its pieces for those who want to watch.

What is compiled in (Program) is apart from the numbers that steer it (Tables), so that another seed, prompt, action sequence,
guidance scale, shift or solver compiles nothing anew.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.diffusion.caching import computed_steps, polynomial
from mwjax.diffusion.guidance import FULL, HELD, NONE, guide_modes, push
from mwjax.diffusion.solvers import SOLVERS, History, Rows, advance, begin, rows
from mwjax.errors import InputError
from mwjax.models.vae import VAE, VAEConfig
from mwjax.models.world_model import Condition, WorldConfig, WorldModel, first
from mwjax.types import Array, Float, UInt8

MASK = 4  # mask channels: one for each frame of a latent


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to sample."""

    steps: int = 30
    shift: float = 3.0
    guidance: float = 3.0  # classifier-free; 1 turns it off
    solver: str = "unipc"
    action_guidance: float = 0.0  # how far to push away from what the model would do without its action module; the original has none
    guidance_every: int = 1  # compute guidance on every n-th step and repeat its push between
    guidance_skip: float = 0.0  # part of the steps, at the end, that go without guidance
    teacache: float = 0.0  # threshold below which a step reuses the blocks' last change; 0 turns it off
    teacache_start: int = 5  # full steps at the start
    teacache_polynomial: tuple[float, ...] = ()  # empty: the published one of the model


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled in: which parts a batch has, what steps may do about guidance, whether blocks may be left out."""

    text: bool
    actions: bool
    modes: tuple[int, ...]
    caching: bool
    start: int

    @property
    def parts(self) -> int:
        return 1 + self.text + self.actions


class Tables(NamedTuple):
    """The numbers of a Sampling."""

    rows: Rows
    modes: Array
    text: Array
    actions: Array
    threshold: Array
    polynomial: Array


class State(NamedTuple):
    """Where sampling stands: the solver's history, the last push of guidance, the blocks' last change (None where not needed)."""

    history: History
    held: Array | None
    change: Array | None


def plan(cfg: WorldConfig, sampling: Sampling) -> tuple[Program, Tables]:
    """A Sampling for a model. Raises InputError if TeaCache is wanted and nobody has published its polynomial for this backbone."""
    text, actions = sampling.guidance != 1.0, sampling.action_guidance != 0.0 and cfg.control != "none"
    modes = guide_modes(sampling.steps, every=sampling.guidance_every, skip=sampling.guidance_skip)
    if not (text or actions):
        modes = np.full_like(modes, NONE)
    coefficients = sampling.teacache_polynomial or polynomial(cfg.backbone) or ()
    if sampling.teacache and not coefficients:
        raise InputError(f"TeaCache has no published polynomial for a backbone of width {cfg.backbone.dim}; give one, such as --teacache-polynomial 1 0")
    program = Program(text, actions, tuple(np.unique(modes).tolist()), sampling.teacache > 0, sampling.teacache_start)
    number = lambda x: jnp.asarray(x, jnp.float32)
    solver = rows(SOLVERS[sampling.solver](sampling.steps, sampling.shift))
    return program, Tables(solver, jnp.asarray(modes), *map(number, (sampling.guidance, sampling.action_guidance, sampling.teacache, coefficients)))


def prepare(
    cfg: WorldConfig, program: Program, variables: dict, tables: Tables, noise: Float[Array, "b t h w z"], text: Float[Array, "b s c"],
    negative: Float[Array, "b s c"], keyboard: Float[Array, "b f 7"], mouse: Float[Array, "b f 2"],
    image: Float[Array, "b i e"] | None = None, channels: Float[Array, "b t h w m"] | None = None,
) -> tuple[State, Condition, Array]:  # fmt: skip
    """All that is worked out once: (where sampling starts, the condition, which steps run the blocks).

    All parts of the batch get the same actions and image. The network computes in the dtype of its weights.
    """
    model, dtype = WorldModel(cfg), jax.tree.leaves(variables["params"]["backbone"])[0].dtype
    texts = [text] + [negative] * program.text + [text] * program.actions
    given = (jnp.concatenate(texts), *(a if a is None else jnp.concatenate([a] * program.parts) for a in (keyboard, mouse, image, channels)))
    condition = model.apply(variables, *(a if a is None else a.astype(dtype) for a in given), method="condition")
    held = jnp.zeros_like(noise, jnp.float32) if HELD in program.modes else None
    if not program.caching:
        return State(begin(noise), held, None), condition, jnp.ones(len(tables.modes), bool)
    projections = model.apply(variables, tables.rows.timestep, method="time_projection")
    computed = computed_steps(projections, tables.polynomial, tables.threshold, program.start)
    b, t, h, w, _ = noise.shape
    tokens = (program.parts * b, t, (h // cfg.backbone.patch) * (w // cfg.backbone.patch), cfg.backbone.dim)
    return State(begin(noise), held, jnp.zeros(tokens, dtype)), condition, computed


def denoise(
    cfg: WorldConfig, program: Program, variables: dict, tables: Tables, state: State, condition: Condition, computed: Array, start: Any, stop: Any
) -> State:
    """Steps `start` … `stop` − 1; the bounds may be traced."""
    model, dtype = WorldModel(cfg), jax.tree.leaves(variables["params"]["backbone"])[0].dtype
    b = state.history.x.shape[0]
    scale = jnp.ones((program.parts, b, 1, 1, 1)).at[-1].set(not program.actions).reshape(-1, 1, 1, 1)  # of the control, per part of the batch

    def network(x, timestep, compute, change, parts):
        """Velocities of the first `parts` parts of the batch, and the blocks' change for all."""
        if change is not None:
            change, kept = change[: parts * b], change
        some = condition if parts == program.parts else first(condition, parts * b)
        x = jnp.concatenate([x] * parts).astype(dtype)
        timesteps = jnp.full(x.shape[:1], timestep)
        v, out = model.apply(variables, x, timesteps, some, scale[: parts * b], None if change is None else (compute, change))
        return jnp.split(v.astype(jnp.float32), parts), None if change is None else kept.at[: parts * b].set(out["change"])

    def step(i, state: State) -> State:
        row, compute = jax.tree.map(lambda a: a[i], tables.rows), computed[i]

        def guided(state):
            parts, change = network(state.history.x, row.timestep, compute, state.change, program.parts)
            added = push(parts, tables.text if program.text else None, tables.actions if program.actions else None)
            return parts[0] + added, State(state.history, None if state.held is None else added, change)

        def alone(state, with_held):
            (v,), change = network(state.history.x, row.timestep, compute, state.change, 1)
            return v + state.held if with_held else v, State(state.history, state.held, change)

        branches = {FULL: guided, HELD: lambda state: alone(state, True), NONE: lambda state: alone(state, False)}
        used = [branches[mode] for mode in program.modes]
        index = jnp.searchsorted(jnp.array(program.modes), tables.modes[i])
        v, state = used[0](state) if len(used) == 1 else jax.lax.switch(index, used, state)
        return State(advance(state.history, row, v), state.held, state.change)

    return jax.lax.fori_loop(start, stop, step, state)


def sample_latents(cfg: WorldConfig, program: Program, variables: dict, tables: Tables, noise: Float[Array, "b t h w z"], *inputs) -> tuple[Array, Array]:
    """(clean latents, which steps ran the blocks); `inputs` as in `prepare`. Text, image and actions enter once, not per step."""
    state, condition, computed = prepare(cfg, program, variables, tables, noise, *inputs)
    return denoise(cfg, program, variables, tables, state, condition, computed, 0, len(tables.modes)).history.x, computed


def with_mask(condition: Float[Array, "b t h w z"]) -> Float[Array, "b t h w c"]:
    """What an image-conditioned model sees beside its latents: a mask (1 for the first frame), then the latents of its condition."""
    mask = jnp.zeros((*condition.shape[:-1], MASK), condition.dtype).at[:, 0].set(1)
    return jnp.concatenate([mask, condition], -1)


def image_condition(cfg: VAEConfig, params: dict, image: Float[Array, "b h w 3"], *, frames: int) -> Float[Array, "b t h8 w8 z"]:
    """Latents of a clip that is `image` (in [-1, 1]) followed by grey."""
    video = jnp.pad(image[:, None], ((0, 0), (0, frames - 1), (0, 0), (0, 0), (0, 0)))
    return VAE(cfg).apply({"params": params}, video, method="encode", mutable=["cache"])[0][0]


def decode_chunk(cfg: VAEConfig, params: dict, cache: dict, latent: Float[Array, "b h w z"]) -> tuple[dict, Float[Array, "b f h8 w8 3"]]:
    """(cache, frames in [0, 1]) of the next latent frame: one frame for the first, four for each other."""
    frames, cache = VAE(cfg).apply({"params": params, **cache}, latent[:, None], method="decode", mutable=["cache"])
    return cache, jnp.clip(frames / 2 + 0.5, 0, 1)


def decode(cfg: VAEConfig, params: dict, latents: Float[Array, "b t h w z"]) -> Float[Array, "b f h8 w8 3"]:
    """Latents to frames in [0, 1], one latent frame at a time under a scan: memory does not grow with length."""
    cache, start = decode_chunk(cfg, params, {}, latents[:, 0])
    if latents.shape[1] == 1:
        return start
    _, rest = jax.lax.scan(functools.partial(decode_chunk, cfg, params), cache, jnp.moveaxis(latents[:, 1:], 1, 0))
    rest = jnp.moveaxis(rest, 0, 1).reshape(start.shape[0], -1, *start.shape[2:])
    return jnp.concatenate([start, rest], 1)


def to_bytes(frames: Float[Array, "b f h w 3"]) -> UInt8[Array, "b f h w 3"]:
    return jnp.round(frames * 255).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def sample(
    cfg: WorldConfig, vae: VAEConfig, program: Program, variables: dict, vae_params: dict, tables: Tables, noise: Array, text: Array,
    negative: Array, keyboard: Array, mouse: Array, image: Array | None = None, condition: Array | None = None,
) -> UInt8[Array, "b f h w 3"]:  # fmt: skip
    """Noise, text embeddings, actions and, of an image-conditioned model, image tokens and condition to uint8 frames."""
    channels = None if condition is None else with_mask(condition)
    latents, _ = sample_latents(cfg, program, variables, tables, noise, text, negative, keyboard, mouse, image, channels)
    return to_bytes(decode(vae, vae_params, latents))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prepare(cfg, program, variables, tables, noise, text, negative, keyboard, mouse, image=None, condition=None):
    channels = None if condition is None else with_mask(condition)
    return prepare(cfg, program, variables, tables, noise, text, negative, keyboard, mouse, image, channels)


_denoise = jax.jit(denoise, static_argnums=(0, 1), donate_argnums=4)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _decode_chunk(cfg, params, cache, latent):
    cache, frames = decode_chunk(cfg, params, cache, latent)
    return cache, to_bytes(frames)


def watch(cfg: WorldConfig, program: Program, variables: dict, tables: Tables, *inputs) -> Iterator[tuple[int, Array, Array]]:
    """`sample` up to the latents in compiled pieces: yields (steps done, noisy latents, which steps run the blocks) after every step."""
    state, condition, computed = _prepare(cfg, program, variables, tables, *inputs)
    for step in range(len(tables.modes)):
        state = _denoise(cfg, program, variables, tables, state, condition, computed, step, step + 1)
        yield step + 1, state.history.x, computed


def decode_stream(vae: VAEConfig, params: dict, latents: Float[Array, "b t h w z"]) -> Iterator[UInt8[np.ndarray, "b f h8 w8 3"]]:
    """Frames as they are decoded: each chunk leaves the device while the next one is computed."""
    cache, waiting = _decode_chunk(vae, params, {}, latents[:, 0])
    for i in range(1, latents.shape[1]):
        cache, following = _decode_chunk(vae, params, cache, latents[:, i])
        yield np.asarray(waiting)
        waiting = following
    yield np.asarray(waiting)


OVERLAP = 4  # of a tile's side: a quarter lies over its neighbour


def tile_starts(length: int, tile: int) -> list[int]:
    """Where tiles begin along an axis: all of size `tile`, overlapping by at least a quarter, the last flush with the end."""
    if tile >= length:
        return [0]
    count = -(-(length - tile) // (tile - tile // OVERLAP)) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _ramp(start: int, size: int, length: int, overlap: int) -> np.ndarray:
    """Weight of a tile along one axis: rising and falling over `overlap` where it has a neighbour."""
    position = np.arange(size) + 0.5
    rise = position / overlap if start else np.full(size, 1.0)
    fall = (size - position) / overlap if start + size < length else np.full(size, 1.0)
    return np.minimum(np.minimum(rise, fall), 1.0).astype(np.float32)


def decode_tiles(vae: VAEConfig, params: dict, latents: Float[Array, "b t h w z"], tile: int) -> Iterator[UInt8[np.ndarray, "b f h8 w8 3"]]:
    """As `decode_stream`, tile by tile of tile × tile latents, seams blended linearly: memory grows with the tile, not with the picture.

    Not what whole frames give: attention and convolutions see a tile only.
    """
    _, t, h, w, _ = latents.shape
    size = (min(tile, h), min(tile, w))
    places = [(y, x) for y in tile_starts(h, tile) for x in tile_starts(w, tile)]
    caches: list[dict] = [{} for _ in places]
    for i in range(t):
        total = weight = 0.0
        for k, (y, x) in enumerate(places):
            caches[k], frames = _decode_chunk(vae, params, caches[k], latents[:, i, y : y + size[0], x : x + size[1]])
            rows, columns = (_ramp(8 * s, 8 * n, 8 * full, max(8 * n // OVERLAP, 1)) for s, n, full in zip((y, x), size, (h, w), strict=True))
            mask = (rows[:, None] * columns)[None, None, :, :, None]
            at = ((0, 0), (0, 0), (8 * y, 8 * (h - size[0] - y)), (8 * x, 8 * (w - size[1] - x)), (0, 0))
            total = total + np.pad(np.asarray(frames) * mask, at)
            weight = weight + np.pad(mask, at)
        yield np.round(total / weight).astype(np.uint8)
