"""PSNR and SSIM of generated frames against reference frames, by the conventions of the published table.

Those are: pictures in [0, 1] at 256×256; one PSNR of the mean squared error over everything; the full SSIM map. The
usual PSNR, the mean over frames, is an option.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.evaluation.metric import Curve, Measurement, Metric, Needs, Values, each_frame, raw
from mwjax.evaluation.resize import SIZE, apply, pictures
from mwjax.types import Array, Float, UInt8

WINDOW = 11
SIGMA = 1.5
STABLE = (0.01**2, 0.03**2)  # k1², k2² for a range of 1


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
    edge = WINDOW // 2
    blurs = (blur_weights(a.shape[1]), blur_weights(a.shape[2]))
    blurred = apply(jnp.concatenate([a, b, a * a, b * b, a * b], -1), *blurs)
    mean_a, mean_b, aa, bb, ab = jnp.split(blurred, 5, -1)
    variance_a = jnp.maximum(aa - mean_a**2, 0)
    variance_b = jnp.maximum(bb - mean_b**2, 0)
    light = (2 * mean_a * mean_b + STABLE[0]) / (mean_a**2 + mean_b**2 + STABLE[0])
    contrast = (2 * (ab - mean_a * mean_b) + STABLE[1]) / (variance_a + variance_b + STABLE[1])
    full = light * contrast
    return (full[:, edge:-edge, edge:-edge] if cropped else full).mean((1, 2, 3))


@functools.partial(jax.jit, static_argnames=("size",))
def frame_errors(
    a: UInt8[Array, "f h w 3"], b: UInt8[Array, "f h2 w2 3"], *, size: tuple[int, int] = SIZE
) -> dict[str, Float[Array, " f"]]:
    """Of each frame: mean squared error and SSIM."""
    a, b = pictures(a, size), pictures(b, size)
    return {"mse": jnp.mean((a - b) ** 2, (1, 2, 3)), "ssim": ssim(a, b)}


def _measure(network: None, frames: np.ndarray, reference: np.ndarray) -> dict[str, Array]:
    return frame_errors(frames, reference)


def _decibels(values: Values) -> Float[np.ndarray, " f"]:
    """PSNR of each frame; of frames that are equal, 120 dB."""
    return -10 * np.log10(np.maximum(values["mse"], 1e-12))


def _decibels_or_nan(values: Values) -> Float[np.ndarray, " f"]:
    return np.where(values["mse"] > 0, _decibels(values), np.nan)


ERRORS = Measurement(name="frames", group="visual", needs=Needs(reference="clip"), run=_measure)

PSNR = Metric(
    key="psnr",
    title="PSNR, dB",
    better=1,
    measurement=ERRORS,
    values=("mse",),
    part=each_frame(raw("mse")),
    finish=psnr,
    curve=Curve(title="PSNR, dB", of_video=_decibels_or_nan),
    digits=2,
    about="of the mean squared error over all frames of all videos",
    published={"Micro-World I2W": 15.88, "Oasis": 14.90},
    when={"conventional": False},
)
PSNR_PER_FRAME = dataclasses.replace(
    PSNR, part=each_frame(_decibels), finish=float, about="mean over frames", when={"conventional": True}
)

METRICS = (
    PSNR,
    PSNR_PER_FRAME,
    Metric(
        key="ssim",
        title="SSIM",
        better=1,
        measurement=ERRORS,
        values=("ssim",),
        part=each_frame(raw("ssim")),
        curve=Curve(title="SSIM", of_video=raw("ssim")),
    ),
)
