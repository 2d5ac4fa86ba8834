"""The benchmark: a test set of held-out levels and fixed action schedules, sampled by a model and scored.

    python -m mwjax.benchmark --model runs/tiny_t2w_controlnet/model --out runs/benchmark

The real game driven by the same schedules (mwjax/evaluation/schedules.py) is the reference. The same seeds give the
same files on every machine; a stopped run carries on. Several models are rows of one table.
"""

import argparse
import dataclasses
import pathlib
import re

import numpy as np
from tqdm import tqdm

from converters.folder import defaults, fingerprint, load_model, preflight
from converters.metrics import FOLDER, find_idm, load_networks
from mwjax.data.actions import from_scene
from mwjax.data.clips import Clip, read_scene, read_table
from mwjax.data.video import frame_count, read_video, write_video
from mwjax.diffusion.sampling import Sampling
from mwjax.errors import InputError, command
from mwjax.evaluation import schedules
from mwjax.evaluation.metrics import choose
from mwjax.evaluation.report import Report, summary, write
from mwjax.evaluation.schedules import CRF, LABELS, SCREEN, claim, make_test_set
from mwjax.evaluation.study import REFERENCE, Study, evaluate, networks_of
from mwjax.generation import Request, generate, latent_shape
from mwjax.models.model import Model
from mwjax.runtime.compile_cache import keep_compiled
from mwjax.worlds.levels import UNSEEN

TEST_SET = "test_set"
REPORT = "report"
TASKS = "keys"  # of keyboard precision: what the schedules press


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A model that takes part, and how it is sampled.

    name: of its row. folder: of its networks. weights: SHA-256 of their files.
    """

    name: str
    folder: str
    sampling: Sampling
    height: int
    width: int
    fps: float
    negative: str
    weights: dict[str, str]


def entry(text: str, args: argparse.Namespace) -> Entry:
    """The model that `text`, DIR or DIR=NAME, says, sampled by its own recipe but for what the flags change.

    Raises InputError for a model that cannot be sampled.
    """
    folder, _, name = text.partition("=")
    source = preflight(folder)
    own = defaults(source)
    sizes = {"height": own["height"], "width": own["width"]}
    latent_shape(source.networks["transformer"].config, source.networks["vae"].config, frames=args.frames, **sizes)
    path = pathlib.Path(folder).resolve()
    return Entry(
        name=name or (path.parent.name if path.name == "model" else path.name),
        folder=folder,
        sampling=Sampling(
            steps=own["steps"] if args.steps is None else args.steps,
            shift=own["shift"],
            guidance=own["guidance"],
            action_guidance=own["action_guidance"] if args.action_guidance is None else args.action_guidance,
        ),
        fps=own["fps"],
        negative=own["negative"],
        weights=fingerprint(source),
        **sizes,
    )


def entries(args: argparse.Namespace) -> list[Entry]:
    """Every model that takes part. Raises InputError if two rows would have one name, or one no name of a folder."""
    taken = {TEST_SET, REPORT, REFERENCE}
    out = []
    for text in args.model:
        found = entry(text, args)
        if found.name in taken or not re.fullmatch(r"[\w. +-]+", found.name):
            how = f"give each model a name of its own, as in {found.folder}=NAME"
            raise InputError(f"--model {text}: a row cannot be called {found.name!r}; {how}")
        taken.add(found.name)
        out.append(found)
    return out


def one_size(taking_part: list[Entry]) -> tuple[int, int]:
    """(height, width) of every model's pictures. Raises InputError if they differ or the game draws none as large."""
    sizes = {(model.height, model.width) for model in taking_part}
    fits = all(height <= SCREEN[0] and width <= SCREEN[1] for height, width in sizes)
    if len(sizes) > 1 or not fits:
        shown = ", ".join(f"{height}×{width}" for height, width in sorted(sizes))
        what = f"the benchmark needs one size, at most {SCREEN[0]}×{SCREEN[1]}"
        raise InputError(f"--model: these models make pictures of {shown}; {what}")
    return sizes.pop()


def request(model: Model, clips: list[tuple[int, Clip]], settings: Entry) -> Request:
    """What to ask of a model for numbered clips: their captions, actions and, where it takes one, first frames."""
    images = None
    if model.image_encoder:
        images = np.concatenate([read_video(clip.video, 0, 1) for _, clip in clips])
    scenes = [read_scene(clip.metadata)["actions"] for _, clip in clips]
    return Request(
        prompts=[clip.prompt for _, clip in clips],
        actions=[
            from_scene(scene, 0, clip.frames, collisions=False) for scene, (_, clip) in zip(scenes, clips, strict=True)
        ],
        seeds=[number for number, _ in clips],
        height=settings.height,
        width=settings.width,
        negative=settings.negative,
        images=images,
    )


def sample_test_set(settings: Entry, test_set: pathlib.Path, out: pathlib.Path, *, batch: int, seed: int) -> None:
    """One video for every clip of the test set that has none yet. seed: of the test set."""
    made_of = ("height", "width", "fps", "negative", "weights")
    identity = {name: getattr(settings, name) for name in made_of}
    identity |= {"seed": seed} if seed != UNSEEN else {}  # other levels, whose clips have the same names
    identity |= {"sampling": dataclasses.asdict(settings.sampling)}
    claim(out, "sampled.json", identity, "videos of another model or other options")
    clips = read_table(test_set)
    todo = [(i, clip) for i, clip in enumerate(clips) if not frame_count(out / clip.video.name)]
    if not todo:
        return
    model = load_model(settings.folder)
    bar = tqdm(total=len(clips), initial=len(clips) - len(todo), desc=f"sampling {out.name}", unit="clip")
    for start in range(0, len(todo), batch):
        part = todo[start : start + batch]
        filled = part + [part[-1]] * (batch - len(part))  # always the same shape: compiled once
        videos = generate(model, settings.sampling, request(model, filled, settings))
        for (_, clip), video in zip(part, videos, strict=False):
            write_video(out / clip.video.name, video, fps=settings.fps, crf=CRF)
        bar.update(len(part))
    bar.close()


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m mwjax.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--model",
        nargs="+",
        default=["runs/tiny_t2w_controlnet/model"],
        metavar="DIR[=NAME]",
        help="model folders, each a row (default: %(default)s)",
    )
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmark"), help="(default: %(default)s)")
    clips = f"held-out levels, {len(schedules.SCHEDULES)} clips each"
    p.add_argument("--levels", type=int, default=16, help=f"{clips} (default: %(default)s)")
    p.add_argument(
        "--seed", type=int, default=UNSEEN, help="of the first level and place (default: %(default)s, the smallest)"
    )
    p.add_argument("--frames", type=int, default=17, help="of a clip, 4n + 1 (default: %(default)s)")
    p.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    p.add_argument("--action-guidance", type=float, help="(default: the model's own)")
    p.add_argument("--batch", type=int, default=10, help="clips sampled together (default: %(default)s)")
    p.add_argument("--idm", default="vizdoom", help="inverse dynamics model, see mwjax.evaluate (default: %(default)s)")
    p.add_argument(
        "--weights", type=pathlib.Path, default=FOLDER, help="networks of the metrics (default: %(default)s)"
    )
    return p


def check(args: argparse.Namespace) -> None:
    """Raises InputError for options that make no sense."""
    if args.levels < 2 or args.batch < 1:
        raise InputError(f"--levels {args.levels} must be at least 2, --batch {args.batch} at least 1")
    if args.seed < UNSEEN:
        raise InputError(f"--seed {args.seed} is of a level that models may have been trained on; use {UNSEEN} or more")
    if args.steps is not None and args.steps < 1:
        raise InputError(f"--steps {args.steps} must be at least 1")


def score(args: argparse.Namespace, idm: pathlib.Path | None, names: list[str], test_set: pathlib.Path) -> Report:
    """Every model's videos against the real game, and against what the schedules asked for."""
    metrics = choose(tasks=TASKS)
    networks, absent = load_networks(networks_of(metrics, reference=True, actions=True), idm=idm, folder=args.weights)
    study = Study(
        videos={name: args.out / name for name in names},
        reference=test_set / "video",
        actions=test_set / LABELS,
        out=args.out / REPORT,
        metrics=metrics,
        networks=networks,
        absent=absent,
        limit=args.levels * len(schedules.SCHEDULES),
        collisions=False,
        title=f"Benchmark of {', '.join(names)}",
        about=f"Inverse dynamics model: {args.idm}; tasks: {TASKS}.",
        settings={"idm": args.idm, "tasks": TASKS, "weights": str(args.weights)},
    )
    return evaluate(study)


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    check(args)
    idm = find_idm(args.idm)
    models = entries(args)
    size = one_size(models)
    keep_compiled()
    test_set = make_test_set(args.out / TEST_SET, levels=args.levels, frames=args.frames, size=size, seed=args.seed)
    for model in models:
        sample_test_set(model, test_set, args.out / model.name, batch=args.batch, seed=args.seed)
    report = score(args, idm, [model.name for model in models], test_set)
    print(summary(report))
    print(f"wrote {', '.join(map(str, write(report, args.out / REPORT)))}")


if __name__ == "__main__":
    main()
