"""Proof of control: does the picture move the way the keys say?

    python -m mwjax.evaluation.camera --model runs/tiny_t2w_controlnet/model

One thing is held for a whole clip. The image shift between neighbouring frames, by phase correlation, says how the camera
turned or stepped aside; whether it walked forward or backward, which moves a picture little, the shipped inverse dynamics
model reads off. The same figure for the real game, driven by the same keys on unseen levels, is the ceiling; the same model
without its action module is the floor.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import pathlib
import tempfile

import numpy as np
from tqdm import tqdm

from converters import evaluation as weights_of
from mwjax.data.actions import Actions
from mwjax.data.clips import fit
from mwjax.data.schedules import hold
from mwjax.errors import InputError, command
from mwjax.evaluation.measure import probabilities
from mwjax.evaluation.networks.idm import BUTTONS
from mwjax.worlds.world import Action


@dataclasses.dataclass(frozen=True)
class Probe:
    """A pair of opposite schedules and the motion that tells them apart.

    schedules: (name, hold() arguments) of the positive and the negative side; sign: of the image motion of the positive one.
    measure: "x" or "y" for the shift of the whole picture (to the right, down), "walk" for what `walked` says.
    """

    positive: tuple[str, dict]
    negative: tuple[str, dict]
    measure: str
    sign: int


PROBES = {
    "yaw": Probe(("turn right", {"yaw": 4.0}), ("turn left", {"yaw": -4.0}), "x", -1),
    "pitch": Probe(("look down", {"pitch": 1.5}), ("look up", {"pitch": -1.5}), "y", -1),
    "walk": Probe(("forward", {"keys": "w"}), ("backward", {"keys": "s"}), "walk", 1),
    "strafe": Probe(("right", {"keys": "d"}), ("left", {"keys": "a"}), "x", -1),
}


def shift(before: np.ndarray, after: np.ndarray, *, limit: int = 12) -> tuple[float, float]:
    """(x, y) in pixels by which `after` is `before` moved right and down; phase correlation with a sub-pixel peak.

    before, after: grey float [h, w]. limit: largest shift looked for, along each axis.
    """
    height, width = before.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    spectra = [np.fft.rfft2((image - image.mean()) * window) for image in (before, after)]
    cross = spectra[1] * np.conj(spectra[0])
    surface = np.fft.irfft2(cross / (np.abs(cross) + 1e-6 * np.abs(cross).max() + 1e-12), s=before.shape)
    limit_y, limit_x = min(limit, height // 2 - 2), min(limit, width // 2 - 2)
    rows, columns = np.arange(-limit_y, limit_y + 1), np.arange(-limit_x, limit_x + 1)
    near = surface[np.ix_(rows, columns)]
    y, x = np.unravel_index(near.argmax(), near.shape)

    def refine(values: np.ndarray) -> float:
        left, middle, right = values
        bend = left - 2 * middle + right
        return 0.0 if bend >= 0 else float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5))

    dx = refine(surface[rows[y], (columns[x] + np.array([-1, 0, 1])) % width])
    dy = refine(surface[(rows[y] + np.array([-1, 0, 1])) % height, columns[x]])
    return float(columns[x] + dx), float(rows[y] + dy)


@functools.cache
def _inverse_dynamics() -> tuple:
    return weights_of.load_idm(weights_of.SHIPPED_IDM)


def walked(video: np.ndarray) -> float:
    """Probability that forward is pressed less that of backward, mean over the frames of a uint8 video [f, h, w, 3]; by the shipped inverse dynamics model."""
    pressed = np.asarray(probabilities(*_inverse_dynamics(), video))
    return float(np.mean(pressed[:, BUTTONS.index("forward")] - pressed[:, BUTTONS.index("back")]))


def motion(video: np.ndarray, measure: str) -> float:
    """Mean motion of a uint8 video [f, h, w, 3]: in pixels per frame or, of "walk", −1 … 1; see Probe.measure."""
    if measure == "walk":
        return walked(video)
    grey, axis = video.astype(np.float64).mean(-1), "xy".index(measure)
    return float(np.mean([shift(a, b)[axis] for a, b in itertools.pairwise(grey)]))


def score(positive: np.ndarray, negative: np.ndarray, sign: int) -> dict[str, float]:
    """Agreement of signs (parts of all clips), correlation of command and motion, and mean motion of both sides."""
    moved, told = np.concatenate([positive, negative]) * sign, np.repeat([1.0, -1.0], [len(positive), len(negative)])
    correlation = float(np.corrcoef(moved, told)[0, 1]) if moved.std() > 0 else 0.0
    return {"sign": float(np.mean(np.sign(moved) == told)), "correlation": correlation, "positive": float(positive.mean()), "negative": float(negative.mean())}


def action_of(held: dict) -> Action:
    """What the game is told for hold() arguments."""
    return Action.of(*(rows[1] for rows in hold(2, **held)))


def _game_clip(level: str, seed: int, action: Action, frames: int, framing: tuple[int, int, int]) -> np.ndarray:
    """The real game with one action held, from a place drawn from `seed` (in a worker process)."""
    from mwjax.worlds.doom import DoomWorld
    from mwjax.worlds.policy import is_staring

    height, width, shrink = framing
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        world = DoomWorld(level)
        for attempt in range(20):
            first = world.reset(seed=seed + 1000 * attempt)
            if not is_staring(first):
                break
        video = [first.rgb] + [world.step(action)[0].rgb for _ in range(frames - 1)]
        world.close()
        os.chdir("/")
    return fit(np.stack(video), height, width, shrink)


def measure_game(levels: list[str], *, frames: int, framing: tuple[int, int, int], seed: int) -> dict[str, dict[str, float]]:
    """The ceiling: every probe in the real game, once per level, both sides from the same place."""
    out = {}
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for name, probe in tqdm(PROBES.items(), desc="real game", unit="probe"):
            sides = []
            for _, held in (probe.positive, probe.negative):
                jobs = [pool.submit(_game_clip, level, seed + i, action_of(held), frames, framing) for i, level in enumerate(levels)]
                sides.append(np.array([motion(job.result(), probe.measure) for job in jobs]))
            out[name] = score(*sides, probe.sign)
    return out


def measure_model(generate, captions, *, frames: int, seeds: list[int], title: str, batch: int = 10) -> dict[str, dict[str, float]]:
    """Every probe on generated clips, both sides from the same noise.

    generate(prompts, actions, seeds) gives uint8 videos; captions(action) a prompt for each seed, as a recording would have it.
    """
    out = {}
    bar = tqdm(total=len(PROBES) * 2 * len(seeds), desc=title, unit="clip")
    for name, probe in PROBES.items():
        sides = []
        for _, held in (probe.positive, probe.negative):
            actions: Actions = hold(frames, **held)
            prompts, values = captions(action_of(held)), []
            for start in range(0, len(seeds), batch):
                part = slice(start, start + batch)
                filler = batch - len(seeds[part])  # always the same shape: compiled once
                videos = generate(prompts[part] + [prompts[0]] * filler, [actions] * batch, seeds[part] + [0] * filler)
                values += [motion(video, probe.measure) for video in videos[: batch - filler]]
                bar.update(batch - filler)
            sides.append(np.array(values))
        out[name] = score(*sides, probe.sign)
    bar.close()
    return out


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row per probe, sign agreement and correlation per subject."""
    lines = ["| held | " + " | ".join(f"{subject}: sign agreement | correlation" for subject in results) + " |", "|---|" + "---|---|" * len(results)]
    for name in PROBES:
        cells = [f"{r[name]['sign']:.0%} | {r[name]['correlation']:+.2f}" for r in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@command
def main(argv: list[str] | None = None) -> None:
    from converters.folder import load_model
    from mwjax.data.captions import caption
    from mwjax.diffusion.sampler import Sampling
    from mwjax.pipeline import Request, generate, output_folder
    from mwjax.worlds.doom import Level
    from mwjax.worlds.levels import UNSEEN, arenas

    parser = argparse.ArgumentParser(prog="python -m mwjax.evaluation.camera", description="Measure how well the picture follows the keys.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)  # fmt: skip
    parser.add_argument("--model", default="runs/tiny_t2w_controlnet/model", help="model folder")
    parser.add_argument("--floor", default="tiny", help='model without actions, "" for none')
    parser.add_argument("--clips", type=int, default=30, help="clips per side of each probe: as many seeds and unseen levels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--action-guidance", type=float, default=5.0)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--seed", type=int, default=UNSEEN, help="of the first level, place and noise; this is the smallest")
    parser.add_argument("--out", default="camera.json")
    args = parser.parse_args(argv)
    if args.clips < 2:
        raise InputError(f"--clips {args.clips} is too few to score; use 20 or more")
    if args.seed < UNSEEN:
        raise InputError(f"--seed {args.seed} is of a level that models may have been trained on; use {UNSEEN} or more")
    output_folder(pathlib.Path(args.out).parent)
    models = {"model": load_model(args.model)} | ({"no actions": load_model(args.floor)} if args.floor else {})
    levels = arenas(args.clips, args.seed)
    captions = lambda action: [caption(Level(level).words, [action]) for level in levels]  # which way is not in them
    seeds = list(range(args.seed, args.seed + args.clips))
    sampling = Sampling(args.steps, guidance=args.guidance, action_guidance=args.action_guidance)
    results = {"real game": measure_game(list(levels), frames=args.frames, framing=(48, 80, 2), seed=args.seed)}
    for title, model in models.items():
        def run(prompts, actions, seeds, model=model):
            return generate(model, sampling, Request(prompts, actions, seeds, 48, 80))

        results[title] = measure_model(run, captions, frames=args.frames, seeds=seeds, title=title)
    pathlib.Path(args.out).write_text(json.dumps({"options": vars(args), "results": results}, indent=1) + "\n")
    print(table(results))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
