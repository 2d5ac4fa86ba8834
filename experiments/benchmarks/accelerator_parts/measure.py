"""How the accelerator benchmark measures: arguments drawn on the device, programs compiled before they are timed."""

import math
import statistics
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from accelerator_parts.report import NotRun, Row
from mwjax.training.flops import count

HALF, SINGLE = jnp.bfloat16, jnp.float32
CALLS, PATIENCE = 10, 8.0  # timed calls, or fewer (at least 3) once they took so many seconds
PERIOD = 1_000_003  # drawn numbers; prime, so that rows of a weight differ


def spec(*shape: int, dtype=HALF) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def in_dtype(shapes: Any, dtype) -> Any:
    return jax.tree.map(lambda a: spec(*a.shape, dtype=dtype), shapes)


def drawn(shapes: Any, *, scale: Callable[[tuple[int, ...]], float] = lambda shape: 1.0) -> Any:
    """Arrays of these shapes, made on the device: normal numbers times scale(shape), alike along the first axis of
    those with more than two."""
    leaves, tree = jax.tree.flatten(shapes)

    def fill(index: int, a: jax.ShapeDtypeStruct, noise: jax.Array) -> jax.Array:
        inner = a.shape[1:] if len(a.shape) > 2 else a.shape
        size = math.prod(inner)
        rows = jnp.broadcast_to(jnp.roll(noise, 7919 * index), (-(-size // PERIOD), PERIOD))
        values = jax.lax.slice_in_dim(rows.reshape(-1), 0, size).reshape(inner)
        return jnp.broadcast_to((values * scale(a.shape)).astype(a.dtype), a.shape)

    @jax.jit
    def draw(key):
        noise = jax.random.normal(key, (PERIOD,))
        return tree.unflatten([fill(index, a, noise) for index, a in enumerate(leaves)])

    return draw(jax.random.key(0))


def drawn_weights(shapes: Any) -> Any:
    """As small as a trained network's: stacked matrices by their inputs, convolutions by all that they sum over."""

    def scale(shape: tuple[int, ...]) -> float:
        if len(shape) < 2:
            return 0.1
        summed = shape[-2] if len(shape) < 4 else math.prod(shape[:-1])
        return 0.8 * summed**-0.5

    return drawn(shapes, scale=scale)


def timed(call: Callable[[], Any]) -> float:
    """Median seconds of a few calls, after one that warms up."""
    jax.block_until_ready(call())
    seconds = []
    while len(seconds) < 3 or (len(seconds) < CALLS and sum(seconds) < PATIENCE):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def memory_stat(name: str) -> int | None:
    """Bytes, by a name of the device's statistics; None where it keeps none, as a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get(name)


class Program(NamedTuple):
    """A compiled function. predicted: bytes that it needs on the device by the compiler's count, arguments included."""

    call: Callable
    predicted: int | None
    seconds: float


def compiled(function: Callable, *shapes) -> Program:
    """A jitted function for shapes. Raises NotRun if the device's memory is too small for it."""
    began = time.perf_counter()
    call = function.lower(*shapes).compile()
    seconds = time.perf_counter() - began
    needed, there = needed_memory(call), memory_stat("bytes_limit")
    if there and needed and needed > there:
        raise NotRun(f"needs {needed / 1e9:.1f} GB by the compiler's count, the device has {there / 1e9:.1f} GB")
    return Program(call, needed, seconds)


def needed_memory(call: jax.stages.Compiled) -> int | None:
    sizes = call.memory_analysis()
    if sizes is None:
        return None
    kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return kept + sizes.temp_size_in_bytes


def useful_flops(function: Callable, *shapes) -> int | None:
    """Operations of a function; None, with the reason in the log, where this jax does not let them be counted: the
    time alone is worth having."""
    try:
        return count(function, *shapes)
    except Exception:  # the jaxpr is no stable interface
        traceback.print_exc()
        return None


def row_of(what: str, by: str, program: Program, call: Callable[[], Any], *, flops: int | None) -> Row:
    """The Row of a call of a program; notes if what it gives is not finite."""
    seconds = timed(call)
    memory = memory_stat("peak_bytes_in_use")
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(call()))
    return Row(
        what=what,
        by=by,
        seconds=seconds,
        flops=flops,
        memory=memory,
        predicted=program.predicted,
        compile_seconds=program.seconds,
        note="" if finite else "results are not finite",
    )


def measured(what: str, function: Callable, params: Any, *shapes, useful: Callable | None = None, by="mwjax") -> Row:
    """function(params, *arrays), of shapes: compiled, then fed with drawn numbers. useful: the function whose
    arithmetic counts (default: itself)."""
    program = compiled(jax.jit(function), params, *shapes)
    flops = useful_flops(useful or function, params, *shapes)
    arguments = (drawn_weights(params), *drawn(shapes))
    return row_of(what, by, program, lambda: program.call(*arguments), flops=flops)


def attempted(what: str, by: str, measure: Callable[[], Row]) -> Row:
    """A measurement, or a Row that says why there is none: those after it are not lost."""
    try:
        return measure()
    except Exception as error:  # whatever a kernel or a compiler raises
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"
        return Row(what=what, by=by, note=f"not run: {error}" if isinstance(error, NotRun) else f"failed: {reason}")
