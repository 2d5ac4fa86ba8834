"""Proof of control: does the picture move the way the keys say?

One thing is held for a whole clip. The image shift between neighbouring frames, by phase correlation, says how the
camera turned or stepped aside; whether it walked forward or backward, which moves a picture little, an inverse
dynamics model reads off. The same figure for the real game, driven by the same keys on unseen levels, is the ceiling;
the same model without its action module is the floor.
"""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from mwjax.data.actions import Action, Actions
from mwjax.data.clips import fit
from mwjax.data.schedules import hold
from mwjax.evaluation.inverse_dynamics import probabilities
from mwjax.evaluation.networks.idm import BUTTONS, IDMConfig
from mwjax.types import Float, UInt8
from mwjax.worlds.episode import episode, find_start
from mwjax.worlds.world import world_in_scratch

RECORDED = (96, 160)  # (height, width) of the game's frames, before `framing`
STARTS, STRIDE = 20, 1000  # places that are tried on a level, and the step between their seeds
IDM = tuple[IDMConfig, dict]  # sizes and parameters of an inverse dynamics model
Scores = dict[str, dict[str, float]]  # by probe: what `score` says
# Uint8 videos [b, f, h, w, 3] of prompts, actions and seeds.
Generate = Callable[[list[str], list[Actions], list[int]], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """A pair of opposite schedules and the motion that tells them apart.

    positive, negative: hold() arguments of the two sides. measure: "x" or "y" for the shift of the whole picture (to
    the right, down), "walk" for what `walked` says. sign: of that motion on the positive side.
    """

    positive: dict
    negative: dict
    measure: str
    sign: int


PROBES = {
    "yaw": Probe(positive={"yaw": 4.0}, negative={"yaw": -4.0}, measure="x", sign=-1),
    "pitch": Probe(positive={"pitch": 1.5}, negative={"pitch": -1.5}, measure="y", sign=-1),
    "walk": Probe(positive={"keys": "w"}, negative={"keys": "s"}, measure="walk", sign=1),
    "strafe": Probe(positive={"keys": "d"}, negative={"keys": "a"}, measure="x", sign=-1),
}


def _refine(values: Float[np.ndarray, "3"]) -> float:
    """Where between its neighbours a peak lies, −0.5 to 0.5: the top of the parabola through them."""
    left, middle, right = values
    bend = left - 2 * middle + right
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5))


def shift(before: Float[np.ndarray, "h w"], after: Float[np.ndarray, "h w"], *, limit: int = 12) -> tuple[float, float]:
    """(x, y) in pixels by which `after` is `before` moved right and down; phase correlation with a sub-pixel peak.

    before, after: grey. limit: largest shift looked for, along each axis.
    """
    height, width = before.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    spectra = [np.fft.rfft2((image - image.mean()) * window) for image in (before, after)]
    cross = spectra[1] * np.conj(spectra[0])
    surface = np.fft.irfft2(cross / (np.abs(cross) + 1e-6 * np.abs(cross).max() + 1e-12), s=before.shape)
    limit_y = min(limit, height // 2 - 2)
    limit_x = min(limit, width // 2 - 2)
    rows = np.arange(-limit_y, limit_y + 1)
    columns = np.arange(-limit_x, limit_x + 1)
    near = surface[np.ix_(rows, columns)]
    y, x = np.unravel_index(near.argmax(), near.shape)
    around = np.array([-1, 0, 1])
    dx = _refine(surface[rows[y], (columns[x] + around) % width])
    dy = _refine(surface[(rows[y] + around) % height, columns[x]])
    return float(columns[x] + dx), float(rows[y] + dy)


def walked(idm: IDM, video: UInt8[np.ndarray, "f h w 3"]) -> float:
    """Probability that forward is pressed less that of backward, mean over the frames; by an inverse dynamics model."""
    pressed = np.asarray(probabilities(*idm, video))
    return float(np.mean(pressed[:, BUTTONS.index("forward")] - pressed[:, BUTTONS.index("back")]))


def motion(video: UInt8[np.ndarray, "f h w 3"], measure: str, *, idm: IDM | None = None) -> float:
    """Mean motion of a video: in pixels per frame or, of "walk", −1 … 1; see Probe.measure. idm: "walk" needs it."""
    if measure == "walk":
        return walked(idm, video)
    grey = video.astype(np.float64).mean(-1)
    axis = "xy".index(measure)
    return float(np.mean([shift(a, b)[axis] for a, b in itertools.pairwise(grey)]))


def score(positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " m"], sign: int) -> dict[str, float]:
    """Agreement of signs (parts of all clips), correlation of command and motion, and mean motion of both sides."""
    moved = np.concatenate([positive, negative]) * sign
    asked = np.repeat([1.0, -1.0], [len(positive), len(negative)])
    return {
        "sign": float(np.mean(np.sign(moved) == asked)),
        "correlation": float(np.corrcoef(moved, asked)[0, 1]) if moved.std() > 0 else 0.0,
        "positive": float(positive.mean()),
        "negative": float(negative.mean()),
    }


def action_of(held: dict) -> Action:
    """What the game is told for hold() arguments."""
    keyboard, mouse = hold(2, **held)
    return Action.of(keyboard[1], mouse[1])


def _game_clip(
    level: str, seed: int, action: Action, frames: int, framing: tuple[int, int, int]
) -> UInt8[np.ndarray, "f h w 3"]:
    """The real game with one action held, from a place drawn from `seed` (in a worker process)."""
    seeds = range(seed, seed + STARTS * STRIDE, STRIDE)
    with world_in_scratch(level, size=RECORDED) as world:
        first = world.reset(seed=find_start(world, seeds))
        _, observations = episode(world, [action] * frames, first=first)
    return fit(np.stack([observation.rgb for observation in observations]), *framing)


def measure_game(levels: Sequence[str], *, idm: IDM, frames: int, framing: tuple[int, int, int], seed: int) -> Scores:
    """The ceiling: every probe in the real game, once per level, both sides from the same place.

    framing: (height, width, shrink) of the clips, see clips.fit.
    """
    out = {}
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        for name, probe in tqdm(PROBES.items(), desc="real game", unit="probe"):
            sides = []
            for held in (probe.positive, probe.negative):
                action = action_of(held)
                jobs = [
                    pool.submit(_game_clip, level, seed + i, action, frames, framing) for i, level in enumerate(levels)
                ]
                sides.append(np.array([motion(job.result(), probe.measure, idm=idm) for job in jobs]))
            out[name] = score(*sides, probe.sign)
    return out


def measure_model(
    generate: Generate,
    captions: Callable[[Action], list[str]],
    *,
    idm: IDM,
    frames: int,
    seeds: list[int],
    title: str,
    batch: int = 10,
) -> Scores:
    """Every probe on generated clips, both sides from the same noise.

    captions(action): a prompt for each seed, as a recording would have it. title: of the progress bar.
    """
    out = {}
    bar = tqdm(total=len(PROBES) * 2 * len(seeds), desc=title, unit="clip")
    for name, probe in PROBES.items():
        sides = []
        for held in (probe.positive, probe.negative):
            actions = hold(frames, **held)
            prompts = captions(action_of(held))
            values = []
            for start in range(0, len(seeds), batch):
                part = slice(start, start + batch)
                filler = batch - len(seeds[part])  # always the same shape: compiled once
                filled = (prompts[part] + [prompts[0]] * filler, [actions] * batch, seeds[part] + [0] * filler)
                videos = generate(*filled)[: batch - filler]
                values += [motion(video, probe.measure, idm=idm) for video in videos]
                bar.update(len(videos))
            sides.append(np.array(values))
        out[name] = score(*sides, probe.sign)
    bar.close()
    return out


def table(results: dict[str, Scores]) -> str:
    """Markdown: a row per probe, sign agreement and correlation per subject."""
    heads = " | ".join(f"{subject}: sign agreement | correlation" for subject in results)
    lines = [f"| held | {heads} |", "|---|" + "---|---|" * len(results)]
    for name in PROBES:
        cells = [f"{r[name]['sign']:.0%} | {r[name]['correlation']:+.2f}" for r in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
