"""Samplers as tables: every linear multistep solver is, at each step, a fixed combination of what it has seen.

With x the sample, m the model's estimate of the clean latents (x − σ·v) at this step, m1, m2 at the two before and ε
fresh noise: corrected x' = C · (x, previous x', m, m1, m2), next x = P · (x', m, m1, ε). The rows of C and P depend
only on the noise levels, so they are worked out beforehand in float64. A solver whose last column of P is zero needs
no noise. Sources: UniPC (Zhao et al. 2023, B2(h), order 2, data prediction); DPM-Solver++ (Lu et al. 2022, multistep,
order 2, midpoint); flow-matching Euler (diffusers).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.diffusion.flow import TRAIN_STEPS, shift_sigmas
from mwjax.types import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solver:
    """Noise levels [steps + 1], timesteps given to the model [steps], correctors [steps, 5] and predictors [steps,
    4]."""

    sigmas: np.ndarray
    timesteps: np.ndarray
    corrector: np.ndarray
    predictor: np.ndarray

    @property
    def renoises(self) -> bool:
        return bool(self.predictor[:, 3].any())


def solver_of(
    sigmas: np.ndarray, timesteps: np.ndarray, predictor: np.ndarray, corrector: np.ndarray | None = None
) -> Solver:
    """predictor: [steps, 3], of a solver without fresh noise, or [steps, 4]. corrector: none by default."""
    missing = 4 - predictor.shape[1]
    if corrector is None:
        corrector = np.tile(np.eye(5)[0], (len(predictor), 1))
    return Solver(
        sigmas=sigmas.astype(np.float32),
        timesteps=timesteps,
        corrector=corrector,
        predictor=np.pad(predictor, ((0, 0), (0, missing))),
    )


def euler(steps: int, shift: float) -> Solver:
    """First-order steps along the velocity. The lowest noise level is shifted twice, as in diffusers' scheduler."""
    lowest = np.float32(shift_sigmas(np.float64(1 / TRAIN_STEPS), shift))
    sigmas = shift_sigmas(np.linspace(1.0, lowest, steps), shift).astype(np.float32)
    timesteps = (sigmas * np.float32(TRAIN_STEPS)).astype(np.float32)
    sigmas = np.append(sigmas, np.float32(0))
    ratio = sigmas[1:].astype(np.float64) / sigmas[:-1]
    return solver_of(sigmas, timesteps, np.stack([ratio, 1 - ratio, 0 * ratio], 1))


def unipc(steps: int, shift: float) -> Solver:
    """UniPC, order 2, B2(h), predicting the clean latents; its timesteps are truncated to integers."""
    sigmas, timesteps, alphas, lam = _levels(float(np.float32(1 - 1 / TRAIN_STEPS)), steps, shift)
    corrector, predictor = np.zeros((steps, 5)), np.zeros((steps, 3))
    order = 0
    for i in range(steps):
        corrector[i] = _unipc_corrector(i, order, sigmas, alphas, lam)
        order = min(2, steps - i, i + 1)
        predictor[i] = _unipc_predictor(i, order, sigmas, alphas, lam)
    return solver_of(sigmas, timesteps, predictor, corrector)


def dpmpp(steps: int, shift: float) -> Solver:
    """DPM-Solver++, multistep, order 2, predicting the clean latents; first order at the ends; timesteps truncated to
    integers."""
    sigmas, timesteps, alphas, lam = _levels(1.0, steps, shift)
    predictor = np.zeros((steps, 3))
    for i in range(steps):
        gain = -alphas[i + 1] * np.expm1(-(lam[i + 1] - lam[i]))
        second = 0.0  # of (m − m1)
        if 0 < i < steps - 1:
            second = gain * 0.5 * (lam[i + 1] - lam[i]) / (lam[i] - lam[i - 1])
        predictor[i] = sigmas[i + 1] / sigmas[i], gain + second, -second
    return solver_of(sigmas, timesteps, predictor)


def _levels(highest: float, steps: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Noise levels σ from `highest` to 0, integer timesteps, α = 1 − σ and log(α/σ)."""
    sigmas = np.append(shift_sigmas(np.linspace(highest, 0.0, steps + 1)[:-1], shift), 0.0)
    timesteps = np.trunc(sigmas[:-1] * TRAIN_STEPS).astype(np.float32)
    sigmas = sigmas.astype(np.float32).astype(np.float64)
    with np.errstate(divide="ignore"):
        lam = np.log(1 - sigmas) - np.log(sigmas)
    return sigmas, timesteps, 1 - sigmas, lam


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
    """Weights of (x, previous x', m, m1, m2) that redo the step from level i − 1 to i, knowing the model's answer at
    i."""
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


SOLVERS: dict[str, Callable[[int, float], Solver]] = {"unipc": unipc, "dpmpp": dpmpp, "euler": euler}


class SolverTable(NamedTuple):
    """A solver as arrays, float32, an entry or row a step."""

    sigma: Array
    timestep: Array
    corrector: Array
    predictor: Array


class SolverState(NamedTuple):
    """What a solver remembers between steps: the sample, the corrected sample before, and the last two estimates of the
    clean latents."""

    x: Array
    previous: Array
    m1: Array
    m2: Array


def table_of(solver: Solver) -> SolverTable:
    columns = (solver.sigmas[:-1], solver.timesteps, solver.corrector, solver.predictor)
    return SolverTable(*(jnp.asarray(column, jnp.float32) for column in columns))


def begin(noise: Float[Array, "*b"]) -> SolverState:
    noise = noise.astype(jnp.float32)
    return SolverState(noise, *(jnp.zeros_like(noise) for _ in range(3)))


def advance(
    state: SolverState, row: SolverTable, velocity: Float[Array, "*b"], noise: Float[Array, "*b"] | None = None
) -> SolverState:
    """One step, given the velocity at its sample and timestep, and fresh noise if the solver takes any."""
    x, previous, m1, m2 = state
    c, p = row.corrector, row.predictor
    m = x - row.sigma * velocity.astype(jnp.float32)
    x = c[0] * x + c[1] * previous + c[2] * m + c[3] * m1 + c[4] * m2
    after = p[0] * x + p[1] * m + p[2] * m1
    if noise is not None:
        after = after + p[3] * noise
    return SolverState(after, x, m, m1)


def solve(solver: Solver, velocity: Callable[[Array, Array], Array], noise: Float[Array, "*b"]) -> tuple[Array, Array]:
    """Integrate from noise to clean latents in one scan. Returns the latents and the sample after every step."""

    def step(state, row):
        state = advance(state, row, velocity(state.x, row.timestep))
        return state, state.x

    state, path = jax.lax.scan(step, begin(noise), table_of(solver))
    return state.x, path
