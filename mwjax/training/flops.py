"""Arithmetic of a program, counted in its jaxpr: what utilisation is measured by."""

import math
from collections.abc import Callable

import jax
from jax.extend import core

# Dense bfloat16 TFLOP/s of one device (vendors' data sheets), by a part of its name. An MI250 shows as two devices.
PEAK = {
    "MI250": 181,
    "MI300X": 1307,
    "MI325X": 1307,
    "MI350X": 2300,
    "MI355X": 2500,
    "A100": 312,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5p": 459,
    "TPU v5": 459,
    "TPU v6 lite": 918,
}


def count(function: Callable, *args) -> int:
    """Floating-point operations of the matrix products and convolutions of function(*args); a multiply-add is two.
    Arrays may be shapes."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[numbers.rhs_spec[0]]
        name, bodies = equation.primitive.name, list(core.jaxprs_in_params(equation.params))
        inner = [_count(body) for body in bodies]
        times = 1
        if name == "scan":
            times = equation.params["length"]
        elif name == "shard_map":  # its body works on one device's part
            pairs = zip(equation.outvars, bodies[0].outvars, strict=True)
            times = max((whole.aval.size // part.aval.size for whole, part in pairs), default=1)
        total += max(inner) if name == "cond" else times * sum(inner)
    return total


def peak(device: jax.Device) -> float | None:
    """FLOP/s that a device can reach in bfloat16, None if it is not in the table."""
    return next((1e12 * value for name, value in PEAK.items() if name.lower() in device.device_kind.lower()), None)
