"""Self-attention by every backend."""

import functools
from collections.abc import Callable, Iterator

import jax

from accelerator_parts.measure import attempted, measured, spec
from accelerator_parts.report import Row
from mwjax.models.attention import BACKENDS, attention, trial


def attention_passes(backend: str) -> dict[str, Callable]:
    """Self-attention forward, and its gradients (forward included), by name."""

    def forward(_, q, k, v):
        return attention(q, k, v, backend=backend)

    def both(_, q, k, v, gradient):
        return jax.vjp(functools.partial(forward, None), q, k, v)[1](gradient)

    return {"forward": forward, "forward and backward": both}


def attention_shapes(*, tiny: bool) -> list[tuple[int, int, int, int]]:
    """[b, l, n, k] of a clip of 81×352×640 and of one of 81×480×832."""
    return [(1, 1100, 2, 32)] if tiny else [(1, 18480, 12, 128), (1, 32760, 12, 128)]


def attention_backends(*, tiny: bool, attention: str) -> Iterator[Row]:
    """Every backend that works here, forward and backward."""
    del attention
    useful = attention_passes("plain")
    for backend in BACKENDS:
        reason = None if backend == "xla" else trial(BACKENDS[backend], "bfloat16")
        if reason:
            yield Row(what="attention", by=f"mwjax, {backend}", note=f"does not work here: {reason}")
            continue
        for shape in attention_shapes(tiny=tiny):
            for name, function in attention_passes(backend).items():
                what, by = f"attention of {shape[1]} tokens, {name}", f"mwjax, {backend}"
                arrays = [spec(*shape)] * (3 if name == "forward" else 4)
                measure = functools.partial(measured, what, function, None, *arrays, useful=useful[name], by=by)
                yield attempted(what, by, measure)
