"""Measure how well the picture follows the keys: python -m mwjax.camera --model runs/tiny_t2w_controlnet/model

One thing is held for a whole clip, by the real game on unseen levels (the ceiling), by a model, and by one without
actions (the floor); what is measured is in mwjax/evaluation/camera.py. Writes a JSON file and prints a table.
"""

import argparse
import json
import pathlib

import numpy as np

from converters.folder import load_model
from converters.metrics import SHIPPED_IDM, load_idm
from mwjax.data.actions import Action, Actions
from mwjax.data.captions import caption
from mwjax.data.files import output_folder, write_whole
from mwjax.diffusion.sampling import Sampling
from mwjax.errors import InputError, command
from mwjax.evaluation.camera import measure_game, measure_model, table
from mwjax.generation import Request, generate
from mwjax.models.model import Model
from mwjax.worlds.levels import UNSEEN, arenas
from mwjax.worlds.world import describe_world

HEIGHT, WIDTH, SHRINK = 48, 80, 2  # of the tiny models' clips; the game's frames are shrunk to them


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m mwjax.camera",
        description="Measure how well the picture follows the keys.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--model", default="runs/tiny_t2w_controlnet/model", help="model folder")
    p.add_argument("--floor", default="tiny", help='model without actions, "" for none')
    p.add_argument(
        "--clips", type=int, default=30, help="clips per side of each probe: as many seeds and unseen levels"
    )
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance", type=float, default=1.0)
    p.add_argument("--action-guidance", type=float, default=5.0)
    p.add_argument("--frames", type=int, default=17)
    p.add_argument("--seed", type=int, default=UNSEEN, help="of the first level, place and noise; this is the smallest")
    p.add_argument("--out", default="camera.json")
    return p


def check(args: argparse.Namespace) -> None:
    """Raises InputError for options that make no sense."""
    if args.clips < 2:
        raise InputError(f"--clips {args.clips} is too few to score; use 20 or more")
    if args.seed < UNSEEN:
        raise InputError(f"--seed {args.seed} is of a level that models may have been trained on; use {UNSEEN} or more")


def generator(model: Model, sampling: Sampling):
    """What measure_model calls to have clips generated."""

    def run(prompts: list[str], actions: list[Actions], seeds: list[int]) -> np.ndarray:
        return generate(
            model, sampling, Request(prompts=prompts, actions=actions, seeds=seeds, height=HEIGHT, width=WIDTH)
        )

    return run


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    check(args)
    sampling = Sampling(steps=args.steps, guidance=args.guidance, action_guidance=args.action_guidance)
    out = pathlib.Path(args.out)
    output_folder(out.parent)
    names = {"model": args.model} | ({"no actions": args.floor} if args.floor else {})
    models = {title: load_model(name) for title, name in names.items()}
    idm = load_idm(SHIPPED_IDM)
    levels = arenas(args.clips, args.seed)

    def captions(action: Action) -> list[str]:  # which way is not in them
        return [caption(describe_world(level), [action]) for level in levels]

    framing = (HEIGHT, WIDTH, SHRINK)
    results = {"real game": measure_game(levels, idm=idm, frames=args.frames, framing=framing, seed=args.seed)}
    for title, model in models.items():
        results[title] = measure_model(
            generator(model, sampling),
            captions,
            idm=idm,
            frames=args.frames,
            seeds=list(range(args.seed, args.seed + args.clips)),
            title=title,
        )
    write_whole(out, json.dumps({"options": vars(args), "results": results}, indent=1) + "\n")
    print(table(results))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
