"""From noise to frames: one compiled function, or its pieces for those who want to watch.

A step asks one velocity, which is the network wrapped: by TeaCache (blocks left out), by guidance (several opinions
in one batch). What is compiled in (SamplerSpec) is apart from the numbers that steer it (SamplerParams), so that
another seed, prompt, action sequence, guidance scale, shift or solver compiles nothing anew.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.diffusion.caching import computed_steps, polynomial
from mwjax.diffusion.decoding import decode, to_bytes
from mwjax.diffusion.guidance import FULL, NONE, REUSED, guidance_delta, guide_modes
from mwjax.diffusion.sampling import Sampling
from mwjax.diffusion.solvers import SOLVERS, SolverState, SolverTable, advance, begin, table_of
from mwjax.errors import InputError
from mwjax.models.vae import VAEConfig
from mwjax.models.world_model import Condition, WorldConfig, WorldModel, take_batch
from mwjax.types import Array, Bool, Float, Int, UInt8

Inputs = Mapping[str, Array]
NOT_CONDITIONS = ("negative", "seed")  # inputs that the model does not read


@dataclasses.dataclass(frozen=True)
class SamplerSpec:
    """What is compiled in: the model; which parts a batch has; what steps may do about guidance; whether blocks may be
    left out, and after how many full steps; whether steps take fresh noise."""

    world: WorldConfig
    text: bool
    actions: bool
    modes: tuple[int, ...]
    caching: bool
    start: int
    renoises: bool

    @property
    def parts(self) -> int:
        """With the conditional one first, then the negative prompt, then the model without its action module."""
        return 1 + self.text + self.actions


class SamplerParams(NamedTuple):
    """The numbers of a Sampling; solver and modes have an entry or row a step."""

    solver: SolverTable
    modes: Array
    text: Array
    actions: Array
    threshold: Array
    polynomial: Array


class Memory(NamedTuple):
    """What the velocity remembers from step to step: what guidance last added, the blocks' last change; None where not
    needed."""

    guidance_delta: Array | None = None
    change: Array | None = None


class SamplerState(NamedTuple):
    """Where sampling stands."""

    solver: SolverState
    memory: Memory


class Row(NamedTuple):
    """What a velocity is told of its step: its number, the timestep, what to do about guidance, whether the blocks
    run."""

    step: Int[Array, ""]
    timestep: Float[Array, ""]
    mode: Int[Array, ""]
    compute: Array


class Fixed(NamedTuple):
    """What stays over the steps: the condition, which steps run the blocks, the seeds if steps take fresh noise."""

    condition: Condition
    computed: Array
    seeds: Int[Array, " b"] | None


Velocity = Callable[[Array, Row, Memory], tuple[Array, Memory]]
Velocities = Callable[[Array, Row, Memory, int], tuple[list[Array], Memory]]  # of the first so many parts of the batch


def coefficients_of(cfg: WorldConfig, sampling: Sampling) -> tuple[float, ...]:
    """TeaCache's polynomial. Raises InputError, without touching a device, as `specify` does."""
    coefficients = sampling.teacache_polynomial or polynomial(cfg.backbone) or ()
    if sampling.teacache and not coefficients:
        width, advice = cfg.backbone.dim, "give one, such as --teacache-polynomial 1 0"
        raise InputError(f"TeaCache has no published polynomial for a backbone of width {width}; {advice}")
    return coefficients


def specify(cfg: WorldConfig, sampling: Sampling) -> tuple[SamplerSpec, SamplerParams]:
    """A Sampling for a model. Raises InputError if TeaCache is wanted and nobody has published its polynomial for this
    backbone."""
    text = sampling.guidance != 1.0
    actions = sampling.action_guidance != 0.0 and bool(cfg.controls)
    modes = guide_modes(sampling.steps, every=sampling.guidance_every, skip=sampling.guidance_skip)
    if not (text or actions):
        modes = np.full_like(modes, NONE)
    coefficients = coefficients_of(cfg, sampling)
    solver = SOLVERS[sampling.solver](sampling.steps, sampling.shift)
    used = tuple(np.unique(modes).tolist())
    spec = SamplerSpec(cfg, text, actions, used, sampling.teacache > 0, sampling.teacache_start, solver.renoises)
    numbers = (sampling.guidance, sampling.action_guidance, sampling.teacache, coefficients)
    numbers = (jnp.asarray(number, jnp.float32) for number in numbers)
    return spec, SamplerParams(table_of(solver), jnp.asarray(modes), *numbers)


def compute_dtype(variables: dict) -> jnp.dtype:
    """The network computes in the dtype of its weights."""
    return jax.tree.leaves(variables["params"]["backbone"])[0].dtype


def guided_batch(spec: SamplerSpec, inputs: Inputs) -> Inputs:
    """The inputs of all parts of the batch; they differ in their text."""
    texts = [inputs["text"]]
    if spec.text:
        texts.append(inputs["negative"])
    if spec.actions:
        texts.append(inputs["text"])
    rest = {name: a for name, a in inputs.items() if name not in NOT_CONDITIONS}
    return {name: jnp.concatenate([a] * spec.parts) for name, a in rest.items()} | {"text": jnp.concatenate(texts)}


def prepare(
    spec: SamplerSpec, variables: dict, params: SamplerParams, noise: Float[Array, "b t h w z"], inputs: Inputs
) -> tuple[SamplerState, Fixed]:
    """All that is worked out once. inputs: what the model reads, "negative" [b, s, c] where spec.text, "seed" [b] where
    steps take fresh noise."""
    cfg = spec.world
    model, dtype = WorldModel(cfg), compute_dtype(variables)
    given = {name: a.astype(dtype) for name, a in guided_batch(spec, inputs).items()}
    condition = model.apply(variables, given, method="condition")
    delta = jnp.zeros_like(noise, jnp.float32) if REUSED in spec.modes else None
    if not spec.caching:
        fixed = Fixed(condition, jnp.ones(len(params.modes), bool), inputs.get("seed"))
        return SamplerState(begin(noise), Memory(delta)), fixed
    projections = model.apply(variables, params.solver.timestep, method="time_projection")
    computed = computed_steps(projections, params.polynomial, params.threshold, spec.start)
    b, t, h, w, _ = noise.shape
    patch = cfg.backbone.patch
    change = jnp.zeros((spec.parts * b, t, (h // patch) * (w // patch), cfg.backbone.dim), dtype)
    return SamplerState(begin(noise), Memory(delta, change)), Fixed(condition, computed, inputs.get("seed"))


def network(spec: SamplerSpec, variables: dict, condition: Condition) -> Velocities:
    """Velocities of the first `parts` parts of a batch; blocks are left out where the row says so."""
    model, dtype = WorldModel(spec.world), compute_dtype(variables)

    def run(x, row, memory, parts):
        b = x.shape[0]
        scale = jnp.ones((spec.parts, b, 1, 1, 1)).at[-1].set(not spec.actions)  # of the controls, per part
        scale = scale.reshape(-1, 1, 1, 1)[: parts * b]
        some = condition if parts == spec.parts else take_batch(condition, parts * b)
        x = jnp.concatenate([x] * parts).astype(dtype)
        timesteps = jnp.full(x.shape[:1], row.timestep)
        reuse = None if memory.change is None else (row.compute, memory.change[: parts * b])
        v, out = model.apply(variables, x, timesteps, some, scale, reuse=reuse)
        if reuse is not None:
            memory = memory._replace(change=memory.change.at[: parts * b].set(out["change"]))
        return jnp.split(v.astype(jnp.float32), parts), memory

    return run


def guided(spec: SamplerSpec, params: SamplerParams, velocities: Velocities) -> Velocity:
    """One velocity of several: computed with all parts of the batch, with what was added last, or without."""

    def full(x, row, memory):
        parts, memory = velocities(x, row, memory, spec.parts)
        text, actions = params.text if spec.text else None, params.actions if spec.actions else None
        delta = guidance_delta(parts, text, actions)
        return parts[0] + delta, memory if memory.guidance_delta is None else memory._replace(guidance_delta=delta)

    def reused(x, row, memory):
        (v,), memory = velocities(x, row, memory, 1)
        return v + memory.guidance_delta, memory

    def without(x, row, memory):
        (v,), memory = velocities(x, row, memory, 1)
        return v, memory

    branches = {FULL: full, REUSED: reused, NONE: without}
    used = [branches[mode] for mode in spec.modes]
    if len(used) == 1:
        return used[0]
    return lambda x, row, memory: jax.lax.switch(
        jnp.searchsorted(jnp.array(spec.modes), row.mode), used, x, row, memory
    )


def fresh_noise(seeds: Int[Array, " b"], step: Array, shape: tuple[int, ...]) -> Float[Array, "b t h w z"]:
    """Of each clip's seed, latent frame and step alone: the same for a clip made at once or frame by frame."""
    _, t, *rest = shape

    def of_frame(seed, frame):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), frame), step + 1)
        return jax.random.normal(key, rest)

    return jax.vmap(lambda seed: jax.vmap(lambda frame: of_frame(seed, frame))(jnp.arange(t)))(seeds)


def denoise(
    spec: SamplerSpec,
    variables: dict,
    params: SamplerParams,
    state: SamplerState,
    fixed: Fixed,
    first: Any,
    stop: Any,
) -> SamplerState:
    """Steps `first` … `stop` − 1, which may be traced."""
    velocity = guided(spec, params, network(spec, variables, fixed.condition))

    def step(i, state: SamplerState) -> SamplerState:
        solver = jax.tree.map(lambda a: a[i], params.solver)
        row = Row(i, solver.timestep, params.modes[i], fixed.computed[i])
        v, memory = velocity(state.solver.x, row, state.memory)
        noise = fresh_noise(fixed.seeds, i, v.shape) if spec.renoises else None
        return SamplerState(advance(state.solver, solver, v, noise), memory)

    return jax.lax.fori_loop(first, stop, step, state)


def sample_latents(
    spec: SamplerSpec, variables: dict, params: SamplerParams, noise: Float[Array, "b t h w z"], inputs: Inputs
) -> tuple[Array, Array]:
    """(clean latents, which steps ran the blocks); `inputs` as in `prepare`. Text, image and actions enter once, not
    per step."""
    state, fixed = prepare(spec, variables, params, noise, inputs)
    state = denoise(spec, variables, params, state, fixed, 0, len(params.modes))
    return state.solver.x, fixed.computed


@functools.partial(jax.jit, static_argnums=(0, 1))
def sample(
    spec: SamplerSpec, vae: VAEConfig, weights: dict, params: SamplerParams, noise: Array, inputs: Inputs
) -> tuple[UInt8[Array, "b f h w 3"], Bool[Array, " b"]]:
    """Noise and inputs to uint8 frames, and whether the latents of each video are finite. weights: {"transformer":
    variables, "vae": parameters}."""
    latents, _ = sample_latents(spec, weights["transformer"], params, noise, inputs)
    return to_bytes(decode(vae, weights["vae"], latents)), jnp.isfinite(latents).all((1, 2, 3, 4))


start_sampling = jax.jit(prepare, static_argnums=0)
denoise_some = jax.jit(denoise, static_argnums=0, donate_argnums=3)


def watch(
    spec: SamplerSpec, variables: dict, params: SamplerParams, noise: Float[Array, "b t h w z"], inputs: Inputs
) -> Iterator[tuple[int, Array, Array]]:
    """`sample` up to the latents in compiled pieces: yields (steps done, noisy latents, which steps run the blocks)
    after every step."""
    state, fixed = start_sampling(spec, variables, params, noise, inputs)
    for step in range(len(params.modes)):
        state = denoise_some(spec, variables, params, state, fixed, step, step + 1)
        yield step + 1, state.solver.x, fixed.computed
