"""PSNR, SSIM and LPIPS of generated frames against reference frames, by the conventions of the published table.

Those are: pictures in [0, 1] at 256×256; one PSNR of the mean squared error over everything; the full SSIM map; LPIPS of pictures as
they are. The usual conventions are options: PSNR per frame, LPIPS of pictures in [-1, 1].
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.evaluation.networks.layers import Weights
from mwjax.evaluation.networks.lpips import lpips_layers
from mwjax.evaluation.resize import apply, bilinear
from mwjax.types import Array, Float, UInt8

SIZE = (256, 256)
WINDOW, SIGMA = 11, 1.5
STABLE = (0.01**2, 0.03**2)  # k1², k2² for a range of 1


def prepare(frames: UInt8[Array, "f h w 3"], size: tuple[int, int] = SIZE) -> Float[Array, "f y x 3"]:
    """Frames in [0, 1], resized."""
    return bilinear(jnp.asarray(frames, jnp.float32) / 255, *size)


def psnr(squared_error: float, peak: float = 1.0) -> float:
    """Decibels of a mean squared error for pixels of a range `peak`; infinite for no error."""
    return float(10 * np.log10(peak**2 / squared_error)) if squared_error > 0 else float("inf")


def blur_weights(size: int) -> Float[np.ndarray, "size size"]:
    """Matrix of the Gaussian window along one axis, the border reflected."""
    distance = np.arange(WINDOW) - WINDOW // 2
    line = np.exp(-((distance / SIGMA) ** 2) / 2)
    taps = np.abs(np.arange(size)[:, None] + distance)  # where each tap falls, folded back at both ends
    taps = np.where(taps >= size, 2 * (size - 1) - taps, taps)
    weights = np.zeros((size, size))
    np.add.at(weights, (np.arange(size)[:, None], taps), line / line.sum())
    return weights.astype(np.float32)


def ssim(a: Float[Array, "f h w 3"], b: Float[Array, "f h w 3"], *, cropped: bool = False) -> Float[Array, " f"]:
    """Structural similarity of each frame: Gaussian window of 11 (σ 1.5), borders reflected.

    cropped: leave out the 5 pixels nearest to the border, as torchmetrics did up to 1.4.1.
    """
    edge, blurs = WINDOW // 2, (blur_weights(a.shape[1]), blur_weights(a.shape[2]))
    mean_a, mean_b, aa, bb, ab = jnp.split(apply(jnp.concatenate([a, b, a * a, b * b, a * b], -1), *blurs), 5, -1)
    variance_a, variance_b = jnp.maximum(aa - mean_a**2, 0), jnp.maximum(bb - mean_b**2, 0)
    light = (2 * mean_a * mean_b + STABLE[0]) / (mean_a**2 + mean_b**2 + STABLE[0])
    contrast = (2 * (ab - mean_a * mean_b) + STABLE[1]) / (variance_a + variance_b + STABLE[1])
    full = light * contrast
    return (full[:, edge:-edge, edge:-edge] if cropped else full).mean((1, 2, 3))


@functools.partial(jax.jit, static_argnames=("size",))
def frame_errors(a: UInt8[Array, "f h w 3"], b: UInt8[Array, "f h w 3"], *, size: tuple[int, int] = SIZE) -> dict[str, Float[Array, " f"]]:
    """Of each frame: mean squared error and SSIM."""
    a, b = prepare(a, size), prepare(b, size)
    return {"mse": jnp.mean((a - b) ** 2, (1, 2, 3)), "ssim": ssim(a, b)}


@functools.partial(jax.jit, static_argnames=("size", "rescaled"))
def lpips(weights: Weights, a: UInt8[Array, "f h w 3"], b: UInt8[Array, "f h w 3"], *, size: tuple[int, int] = SIZE, rescaled: bool = False) -> Float[Array, " f"]:
    """LPIPS of each frame. rescaled: to [-1, 1], as the network was made for; the published numbers were not."""
    a, b = prepare(a, size), prepare(b, size)
    if rescaled:
        a, b = 2 * a - 1, 2 * b - 1
    return lpips_layers(weights, a, b).sum(-1)
