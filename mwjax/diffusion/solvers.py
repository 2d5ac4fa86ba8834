"""Samplers as tables: every linear multistep solver is, at each step, a fixed combination of what it has seen.

With x the sample, m the model's estimate of the clean latents (x − σ·v) at this step and m1, m2 at the two before:
corrected x' = C · (x, previous x', m, m1, m2), next x = P · (x', m, m1). The rows of C and P depend only on the noise levels,
so they are worked out beforehand in float64.
Sources: UniPC (Zhao et al. 2023, B2(h), order 2, data prediction); flow-matching Euler (diffusers).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.diffusion.flow import TRAIN_STEPS, shift_sigmas
from mwjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Solver:
    """Noise levels [steps + 1], timesteps given to the model [steps], correctors [steps, 5] and predictors [steps, 3]."""

    sigmas: np.ndarray
    timesteps: np.ndarray
    corrector: np.ndarray
    predictor: np.ndarray


def euler(steps: int, shift: float) -> Solver:
    """First-order steps along the velocity. The lowest noise level is shifted twice, as in diffusers' scheduler."""
    lowest = np.float32(shift_sigmas(np.float64(1 / TRAIN_STEPS), shift))
    sigmas = shift_sigmas(np.linspace(1.0, lowest, steps), shift).astype(np.float32)
    timesteps = (sigmas * np.float32(TRAIN_STEPS)).astype(np.float32)
    sigmas = np.append(sigmas, np.float32(0))
    ratio = sigmas[1:].astype(np.float64) / sigmas[:-1]
    corrector = np.tile(np.eye(5)[0], (steps, 1))
    return Solver(sigmas, timesteps, corrector, np.stack([ratio, 1 - ratio, 0 * ratio], 1))


def unipc(steps: int, shift: float) -> Solver:
    """UniPC, order 2, B2(h), predicting the clean latents; its timesteps are truncated to integers."""
    highest = np.float32(1 - 1 / TRAIN_STEPS)
    sigmas = np.append(shift_sigmas(np.linspace(float(highest), 0.0, steps + 1)[:-1], shift), 0.0)
    timesteps = np.trunc(sigmas[:-1] * TRAIN_STEPS).astype(np.float32)
    sigmas = sigmas.astype(np.float32).astype(np.float64)
    alphas = 1 - sigmas
    with np.errstate(divide="ignore"):
        lam = np.log(alphas) - np.log(sigmas)
    corrector, predictor = np.zeros((steps, 5)), np.zeros((steps, 3))
    order = 0
    for i in range(steps):
        corrector[i] = _unipc_corrector(i, order, sigmas, alphas, lam)
        order = min(2, steps - i, i + 1)
        predictor[i] = _unipc_predictor(i, order, sigmas, alphas, lam)
    return Solver(sigmas.astype(np.float32), timesteps, corrector, predictor)


def _unipc_predictor(i, order, sigmas, alphas, lam):
    """Weights of (x', m, m1) for the step from level i to i + 1."""
    phi = np.expm1(-(lam[i + 1] - lam[i]))  # B(h) = expm1(−h)
    row = np.array([sigmas[i + 1] / sigmas[i], -alphas[i + 1] * phi, 0.0])
    if order == 2:
        r = (lam[i - 1] - lam[i]) / (lam[i + 1] - lam[i])
        difference = -alphas[i + 1] * phi * 0.5 / r  # of (m1 − m)
        row += [0, -difference, difference]
    return row


def _unipc_corrector(i, order, sigmas, alphas, lam):
    """Weights of (x, previous x', m, m1, m2) that redo the step from level i − 1 to i, knowing the model's answer at i."""
    if i == 0:
        return np.eye(5)[0]
    h = lam[i] - lam[i - 1]
    phi = np.expm1(-h)
    row = np.array([0.0, sigmas[i] / sigmas[i - 1], 0.0, -alphas[i] * phi, 0.0])
    if order == 1:
        rhos, r = np.array([0.5]), None
    else:
        r = (lam[i - 2] - lam[i - 1]) / h
        phi2 = phi / -h - 1
        phi3 = phi2 / -h - 0.5
        rhos = np.linalg.solve([[1.0, 1.0], [r, 1.0]], np.array([phi2, 2 * phi3]) / phi)
    scale = -alphas[i] * phi
    row[[2, 3]] += scale * rhos[-1] * np.array([1, -1])  # (m − m1)
    if order == 2:
        row[[4, 3]] += scale * rhos[0] / r * np.array([1, -1])  # (m2 − m1)
    return row


SOLVERS: dict[str, Callable[[int, float], Solver]] = {"euler": euler, "unipc": unipc}


def solve(solver: Solver, velocity: Callable[[Array, Array], Array], noise: Float[Array, "*b"], *, collect: bool = False) -> tuple[Array, Array | None]:
    """Integrate from noise to clean latents in one scan. velocity(x, timestep) is the model with guidance.

    Returns the latents and, if `collect`, the sample after every step.
    """
    tables = tuple(jnp.asarray(a, jnp.float32) for a in (solver.sigmas[:-1], solver.timesteps, solver.corrector, solver.predictor))

    def step(carry, row):
        x, previous, m1, m2 = carry
        sigma, timestep, c, p = row
        m = x - sigma * velocity(x, timestep).astype(jnp.float32)
        x = c[0] * x + c[1] * previous + c[2] * m + c[3] * m1 + c[4] * m2
        following = p[0] * x + p[1] * m + p[2] * m1
        return (following, x, m, m1), following if collect else None

    noise = noise.astype(jnp.float32)
    blank = jnp.zeros_like(noise)
    (x, *_), path = jax.lax.scan(step, (noise, blank, blank, blank), tables)
    return x, path
