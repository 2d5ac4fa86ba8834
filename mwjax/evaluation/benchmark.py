"""The benchmark: a test set of held-out levels and fixed action schedules, sampled by a model and scored.

    python -m mwjax.evaluation.benchmark --model runs/tiny_t2w_controlnet/model --out runs/benchmark

Every schedule starts from the same place of each level: each key alone, combinations, the mouse, and palindromes (there and back). The
real game driven by the same schedules is the reference. The same seeds give the same files on every machine; a stopped run carries on.
Several models are rows of one table.
"""

import argparse
import concurrent.futures
import csv
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import re
import tempfile

import jax
import numpy as np
from tqdm import tqdm

from converters.folder import defaults, fingerprint, load_model, preflight
from mwjax import evaluate
from mwjax.compilation import keep_compiled
from mwjax.data.actions import Actions, from_scene, parse_short
from mwjax.data.captions import caption
from mwjax.data.clips import TABLES, fit, read_scene, read_table
from mwjax.data.files import write_whole
from mwjax.data.video import frame_count, read_video, write_video
from mwjax.diffusion.sampler import Sampling
from mwjax.errors import InputError, command
from mwjax.pipeline import Request, generate, latent_shape, output_folder
from mwjax.worlds.levels import UNSEEN, arenas
from mwjax.worlds.recorder import COLUMNS, Recording, metadata
from mwjax.worlds.world import Action

SCREEN = (192, 320)  # what the game draws

# name: (what is held for the first half, for the second half)
SCHEDULES = {
    **{f"key {key}": (key, key) for key in ("w", "s", "a", "d", "space", "shift")},
    "sprint": ("w+ctrl", "w+ctrl"),
    "forward right": ("w+d", "w+d"), "backward left": ("s+a", "s+a"),
    "forward turning": ("w+yaw:3", "w+yaw:3"), "right turning": ("d+yaw:-3", "d+yaw:-3"),
    "mouse right": ("yaw:4", "yaw:4"), "mouse left": ("yaw:-4", "yaw:-4"), "mouse down": ("pitch:1.5", "pitch:1.5"), "mouse up": ("pitch:-1.5", "pitch:-1.5"),
    "mouse right up": ("yaw:3+pitch:-1", "yaw:3+pitch:-1"),
    "there and back": ("w", "s"), "aside and back": ("d", "a"), "around and back": ("yaw:4", "yaw:-4"), "down and back": ("pitch:1.5", "pitch:-1.5"),
}  # fmt: skip


def schedule(name: str, frames: int) -> Actions:
    """Actions of a schedule: frame 0 is empty, then both halves."""
    first, second = SCHEDULES[name]
    half = (frames - 1) // 2
    return parse_short(f"{first}*{half}, {second}*{frames - 1 - half}")


def _play(level: str, seed: int, number: int, frames: int, size: tuple[int, int], titles: list[str], folder: str) -> None:
    """Record the schedules on one level, from one place, in pictures of `size` (in a worker process); the JSON is written last."""
    from mwjax.worlds.doom import DoomWorld, Level
    from mwjax.worlds.policy import is_staring

    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        finer = min(SCREEN[0] // size[0], SCREEN[1] // size[1])
        world = DoomWorld(level, size=(SCREEN[0] // finer, SCREEN[1] // finer))
        start = next((s for s in range(seed, seed + 20000, 1000) if not is_staring(world.reset(seed=s))), seed)
        for title in titles:
            name = clip_name(number, title)
            actions, observations = [Action()], [world.reset(seed=start)]
            for row in list(zip(*schedule(title, frames), strict=True))[1:]:
                actions.append(Action.of(*row))
                observations.append(world.step(actions[-1])[0])
            write_video(pathlib.Path(folder, "video", f"{name}.mp4"), fit(np.stack([o.rgb for o in observations]), *size, 1), fps=Recording((), 1).fps, crf=4)
            scene = metadata(actions, observations, biome=Level(level).biome) | {"level": level, "caption": caption(Level(level).words, actions[1:])}
            write_whole(pathlib.Path(folder, "metadata-detection", f"{name}.json"), json.dumps(scene))
        world.close()
        os.chdir("/")


def clip_name(number: int, title: str) -> str:
    return f"{number:03d}_{title.replace(' ', '_')}"


def claim(folder: pathlib.Path, stamp: str, identity: dict, what: str) -> None:
    """Note in a folder what it holds. Raises InputError if it holds something else, `what`."""
    path, text = output_folder(folder) / stamp, json.dumps(identity, indent=1)
    if path.exists() and path.read_text() != text:
        raise InputError(f"{folder} holds {what}; delete it or choose another --out")
    write_whole(path, text)


def make_test_set(folder: pathlib.Path, *, levels: int, frames: int, size: tuple[int, int], seed: int = UNSEEN) -> pathlib.Path:
    """The real game on held-out levels, in the released dataset layout, as large as the models' videos. Raises InputError for a folder with another one."""
    folder, names = folder.resolve(), arenas(levels, seed)
    claim(folder, "benchmark.json", {"levels": names, "frames": frames, "size": size, "schedules": SCHEDULES}, "another test set")
    clips = [[clip_name(i, title) for title in SCHEDULES] for i in range(levels)]
    whole = lambda name: (folder / "metadata-detection" / f"{name}.json").exists() and frame_count(folder / "video" / f"{name}.mp4") == frames
    todo = [i for i in range(levels) if not all(map(whole, clips[i]))]
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_play, level, seed + i, i, frames, size, list(SCHEDULES), str(folder)) for i, level in enumerate(names) if i in todo]
        for job in tqdm(concurrent.futures.as_completed(jobs), desc="real game", unit="level", initial=levels - len(todo), total=levels):
            job.result()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for name in (n for group in clips for n in group):
        scene = json.loads((folder / "metadata-detection" / f"{name}.json").read_text())
        table.writerow((f"{name}.mp4", 0, frames - 1, scene["caption"], "."))
    write_whole(folder / TABLES[0], text.getvalue())
    return folder


def sample_test_set(name: str, test_set: pathlib.Path, out: pathlib.Path, *, sampling: Sampling, batch: int, settings: dict) -> None:
    """One video for every clip of the test set that has none yet, from its caption, actions and (of an image-to-world model) first frame."""
    claim(out, "sampled.json", settings | {"sampling": dataclasses.asdict(sampling)}, "videos of another model or other options")
    clips = read_table(test_set)
    todo = [(i, clip) for i, clip in enumerate(clips) if not frame_count(out / clip.video.name)]
    if not todo:
        return
    model, (height, width) = load_model(name), (settings["height"], settings["width"])
    bar = tqdm(total=len(clips), initial=len(clips) - len(todo), desc=f"sampling {out.name}", unit="clip")
    for start in range(0, len(todo), batch):
        part = todo[start : start + batch]
        filled = part + [part[-1]] * (batch - len(part))  # always the same shape: compiled once
        actions = [from_scene(read_scene(clip.metadata)["actions"], 0, clip.frames, collisions=False) for _, clip in filled]
        images = None
        if model.image:
            first = [read_video(clip.video, 0, 1) for _, clip in filled]
            images = np.concatenate(first)
        request = Request([clip.prompt for _, clip in filled], actions, [i for i, _ in filled], height, width, settings["negative"], images)
        for (_, clip), video in zip(part, generate(model, sampling, request), strict=False):
            write_video(out / clip.video.name, video, fps=settings["fps"], crf=4)
        bar.update(len(part))
    bar.close()


@command
def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m mwjax.evaluation.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", nargs="+", default=["runs/tiny_t2w_controlnet/model"], metavar="DIR[=NAME]", help="model folders, each a row (default: %(default)s)")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmark"), help="(default: %(default)s)")
    p.add_argument("--levels", type=int, default=16, help=f"held-out levels, {len(SCHEDULES)} clips each (default: %(default)s)")
    p.add_argument("--seed", type=int, default=UNSEEN, help="of the first level and place (default: %(default)s, the smallest)")
    p.add_argument("--frames", type=int, default=17, help="of a clip, 4n + 1 (default: %(default)s)")
    p.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    p.add_argument("--action-guidance", type=float, help="(default: the model's own)")
    p.add_argument("--batch", type=int, default=10, help="clips sampled together (default: %(default)s)")
    p.add_argument("--idm", default="vizdoom", help="inverse dynamics model, see mwjax.evaluate (default: %(default)s)")
    p.add_argument("--weights", type=pathlib.Path, default=evaluate.FOLDER, help="networks of the metrics (default: %(default)s)")
    args = p.parse_args(argv)
    if args.levels < 2 or args.batch < 1:
        raise InputError(f"--levels {args.levels} must be at least 2, --batch {args.batch} at least 1")
    if args.seed < UNSEEN:
        raise InputError(f"--seed {args.seed} is of a level that models may have been trained on; use {UNSEEN} or more")
    if args.steps is not None and args.steps < 1:
        raise InputError(f"--steps {args.steps} must be at least 1")
    score = ["--idm", args.idm, "--weights", str(args.weights), "--tasks", "keys", "--limit", str(args.levels * len(SCHEDULES)), "--collisions", "off"]
    evaluate.check(evaluate.parser().parse_args(["--videos", "", *score]))
    plans: list[tuple] = []
    for text in args.model:
        folder, _, name = text.partition("=")
        source = preflight(folder)
        own = defaults(source)
        sampling = Sampling(own["steps"] if args.steps is None else args.steps, own["shift"], own["guidance"],
                            action_guidance=own["action_guidance"] if args.action_guidance is None else args.action_guidance)  # fmt: skip
        latent_shape(source.networks["transformer"].config, args.frames, own["height"], own["width"])
        path = pathlib.Path(folder).resolve()
        name = name or (path.parent.name if path.name == "model" else path.name)
        if name in ("test_set", "report", evaluate.REFERENCE, *(plan[0] for plan in plans)) or not re.fullmatch(r"[\w. +-]+", name):
            raise InputError(f"--model {text}: a row cannot be called {name!r}; give each model a name of its own, as in {folder}=NAME")
        plans.append((name, folder, sampling, {k: own[k] for k in ("height", "width", "fps", "negative")} | {"weights": fingerprint(source)}))
    keep_compiled()
    sizes = {(plan[-1]["height"], plan[-1]["width"]) for plan in plans}
    if len(sizes) > 1 or any(side > most for side, most in zip(max(sizes), SCREEN, strict=True)):
        shown = ", ".join(f"{height}×{width}" for height, width in sorted(sizes))
        raise InputError(f"--model: these models make pictures of {shown}; the benchmark needs one size, at most {SCREEN[0]}×{SCREEN[1]}")
    test_set = make_test_set(args.out / "test_set", levels=args.levels, frames=args.frames, size=sizes.pop(), seed=args.seed)
    for name, folder, sampling, settings in plans:
        settings |= {"seed": args.seed} if args.seed != UNSEEN else {}  # other levels, whose clips have the same names
        sample_test_set(folder, test_set, args.out / name, sampling=sampling, batch=args.batch, settings=settings)
    options = [*score, "--videos", *(str(args.out / name) for name, *_ in plans), "--reference", str(test_set / "video"), "--actions",
               str(test_set / "metadata-detection"), "--out", str(args.out / "report"), "--title", f"Benchmark of {', '.join(name for name, *_ in plans)}"]  # fmt: skip
    with jax.default_matmul_precision("highest"):
        evaluate.evaluate(evaluate.parser().parse_args(options))


if __name__ == "__main__":
    main()
