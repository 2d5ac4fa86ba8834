"""Train a world model: python -m mwjax.train --config tiny_t2w_controlnet.

Records gameplay if the config names no dataset, encodes it once, trains the config's stages one after the other,
writes a model folder and sample videos. Killed at any moment, the same command carries on where it was; told to stop
(SIGTERM), it saves first. With several processes (see training/README.md), the same command in each.
"""

if __name__ == "__main__":  # before jax is imported: it may start the process anew
    from mwjax.runtime.pages import large_pages

    large_pages("mwjax.train")

import argparse
import contextlib
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Iterator

import jax
import numpy as np
from tqdm import tqdm

from converters.folder import SETTINGS, load_model, preflight, save_model
from converters.metrics import save_idm
from mwjax.config import load_config
from mwjax.data.clips import Clip, load_clip, read_table
from mwjax.data.files import locked, output_folder, write_whole
from mwjax.data.hud import draw_hud, enlarge
from mwjax.data.latents import Share
from mwjax.data.outputs import try_encoder
from mwjax.data.schedules import SHOWCASE, showcase
from mwjax.data.video import write_video
from mwjax.diffusion.sampling import RELEASED
from mwjax.errors import command
from mwjax.generation import Request, generate
from mwjax.models import lora
from mwjax.models.attention import BACKENDS, choose
from mwjax.models.model import Model, Network, new_model
from mwjax.parallel.mesh import MeshShape, make_mesh
from mwjax.parallel.sharding import parameter_sharding
from mwjax.ranges import Range, check_number
from mwjax.rules import first_match
from mwjax.runtime.compile_cache import keep_compiled
from mwjax.runtime.devices import report_devices
from mwjax.runtime.preemption import PreemptionGuard
from mwjax.runtime.processes import barrier, find_processes, gather, join, place
from mwjax.training.gameplay import Gameplay
from mwjax.training.job import Job, check, check_mesh
from mwjax.training.loop import Run, train
from mwjax.training.metrics import check_wandb
from mwjax.training.plan import plan_job
from mwjax.training.state import MOST_STEPS
from mwjax.worlds.recorder import record

DEFAULT_FPS = 16.0  # of the released data set
VIDEOS_TOGETHER = 4
SHOWN_HEIGHT = 384  # about as many lines are shown


def parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="python -m mwjax.train", description=__doc__, formatter_class=form)
    p.add_argument(
        "--config",
        required=True,
        help="a config that ships with mwjax, such as tiny_t2w_controlnet or tiny_t2w_controlnet:long, or a file; "
        "any value in it is set with --config.NAME=VALUE",
    )
    p.add_argument(
        "--plan",
        default="",
        metavar="DEVICES",
        help="compile every stage for devices that are not here, print memory, communication and arithmetic, and stop: "
        'a number, or a TPU topology such as v5p:2x2x2 (needs the extra "tpu")',
    )
    p.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="STEP",
        help="trace three steps of every stage from this one on (open with TensorBoard or Perfetto)",
    )
    wandb = 'log to Weights & Biases as well (needs the extra "wandb")'
    p.add_argument("--wandb", default="", metavar="PROJECT", help=wandb)
    kernels = ["auto", *BACKENDS]
    p.add_argument("--attention", default="auto", choices=kernels, help="attention kernel (default: by device)")
    there = "what must be there; by default, what jax finds"
    p.add_argument("--device", default="", choices=["", "cpu", "gpu", "tpu"], help=there)
    several = p.add_argument_group("several processes (found by themselves under Slurm and Open MPI)")
    several.add_argument("--coordinator", default="", metavar="HOST:PORT", help="address of process 0")
    several.add_argument("--processes", type=int, default=0)
    several.add_argument("--process", type=int, default=-1)
    several.add_argument("--join-timeout", type=int, default=300, metavar="SECONDS")
    return p


@command
def main(argv: list[str] | None = None) -> None:
    args, overrides = parser().parse_known_args(argv)
    check_number(args.profile, "--profile", Range(least=0, most=MOST_STEPS, whole=True))
    check_number(args.join_timeout, "--join-timeout", Range(least=1, most=1_000_000, whole=True))
    job = check(load_config(args.config, overrides), known_networks, planning=bool(args.plan))
    if args.plan:
        plan_job(job, args.plan)
        return
    check_wandb(args.wandb)
    join(find_processes(args.coordinator, args.processes, args.process), timeout=args.join_timeout)
    with PreemptionGuard() as guard:
        report_devices(args.device)
        attention = choose(args.attention, job.memory.compute)
        run = Run(
            folder=job.out,
            seed=job.seed,
            mesh=make_mesh(job.mesh),
            fold_lora=job.memory.compute == "float32",
            profile=args.profile,
            wandb=args.wandb,
            guard=guard,
        )
        check_mesh(job, run.mesh)
        keep_compiled()
        with reserved(job):
            say(f"{args.config} → {job.out}: {summary(job)}; attention: {attention}")
            train_all(job, run, attention)


@contextlib.contextmanager
def reserved(job: Job) -> Iterator[None]:
    """While this run writes in its folder. Raises InputError if another one does, if nothing can be written there, or
    if no video of the clips' size can."""
    output_folder(job.out)
    with locked(job.out) if jax.process_index() == 0 else contextlib.nullcontext():
        if jax.process_index() == 0 and job.stages[-1].KIND == "transformer":
            try_encoder(
                job.out / "x.mp4", size=tuple(shown_factor(job) * side for side in size_of(job)), fps=fps_of(job)
            )
        yield


def size_of(job: Job) -> tuple[int, int]:
    """(height, width) of a clip."""
    return job.clip.height, job.clip.width


def shown_factor(job: Job) -> int:
    """How often pixels of the videos at the end are repeated."""
    return max(1, SHOWN_HEIGHT // job.clip.height)


def known_networks(name: str) -> dict[str, Network]:
    """Sizes of a model folder's networks, whose files are checked."""
    return {kind: Network(network.config, {}) for kind, network in preflight(name).networks.items()}


def say(text: str) -> None:
    """Print, once for all processes."""
    if jax.process_index() == 0:
        print(text, flush=True)


def summary(job: Job) -> str:
    count = len(job.stages)
    named = (f"stage {i} of {count} {stage.folder} ({stage.steps} steps)" for i, stage in enumerate(job.stages, 1))
    return ", ".join(named)


def train_all(job: Job, run: Run, attention: str) -> None:
    """Everything that the config asks for, from what is there already on."""
    began, wrote = time.time(), {}
    local = make_mesh(MeshShape(), jax.local_devices())
    wrote["dataset"] = recorded(job)
    data = Gameplay(
        clips=read_table(wrote["dataset"]),
        config=job.clip,
        cache=job.out / "latents",
        share=Share(jax.process_index(), jax.process_count(), barrier),
        devices=local,
    )
    model = start(job, run, local)
    for number, stage in enumerate(job.stages):
        batches = stage.batches(data, model, seed=job.seed, number=number)
        model, variables = stage.start(model, seed=job.seed, mesh=run.mesh)
        objective, counted = stage.objective(model, job.memory, attention), stage.counted(model, job.memory)
        model = stage.released(model)
        held = [variables]  # what is trained must not be held twice: the loop takes it
        del variables
        model = stage.finish(model, train(stage, held.pop(), objective, batches, run, counted=counted))
        wrote[f"stage {stage.folder}"] = run.folder_of(stage) / "checkpoints"
        wrote[f"curves of {stage.folder}"] = run.folder_of(stage) / "loss.png"
    model = job.stages[-1].conclude(model, data, seed=job.seed)
    if jax.process_count() > 1:
        params, adapters = gather(model.transformer.params), gather(model.lora)
        model = dataclasses.replace(model.updated("transformer", params=params), lora=adapters)
    if jax.process_index() == 0:
        mesh = run.mesh if jax.process_count() == 1 else local
        wrote |= PUBLISH[job.stages[-1].KIND](job, model, data.clips, mesh)
    barrier("all written")
    say(f"done in {(time.time() - began) / 60:.1f} minutes; wrote")
    for name, path in wrote.items():
        say(f"  {name:18} {path}")


def recorded(job: Job) -> pathlib.Path:
    """The folder of the data set, recorded by the first process if it has to be."""
    folder = pathlib.Path(job.dataset) if job.dataset else job.out / "dataset"
    if job.record and jax.process_index() == 0:
        counts = record(job.record, folder)
        say("recorded " + ", ".join(f"{value} {name}" for name, value in counts.items()))
    barrier("dataset recorded")
    return folder


def start(job: Job, run: Run, local: jax.sharding.Mesh) -> Model:
    """The model that the first stage starts from: the transformer over all devices, what encodes over this process's
    own."""
    if job.variant:
        return new_model(job.variant, seed=job.seed)
    rules = [stage.TRAINS for stage in job.stages if stage.KIND == "transformer"]

    def put(kind: str, path: str, array: np.ndarray) -> jax.Array:
        trained = kind == "transformer" and any(first_match(table, f"params/{path}") for table in rules)
        if kind != "vae" and not trained:
            array = array.astype(jax.numpy.dtype(job.memory.frozen))
        return place(array, parameter_sharding(path, array.shape, run.mesh if kind == "transformer" else local))

    return load_model(job.model, place=put)


def publish_model(job: Job, model: Model, clips: list[Clip], mesh: jax.sharding.Mesh) -> dict[str, object]:
    """Write the model folder, how to sample it, and (of a transformer that was trained) sample videos."""
    wrote = {"model": save_model(model, job.out / "model")}
    settings = {name: value for name, value in dataclasses.asdict(job.sampling).items() if name in RELEASED}
    settings |= {"height": job.clip.height, "width": job.clip.width, "fps": fps_of(job)}
    if model.tokenizer == "byt5":
        settings["negative"] = ""
    write_whole(job.out / "model" / SETTINGS, json.dumps(settings, indent=1) + "\n")
    if job.stages[-1].KIND == "transformer":
        with jax.set_mesh(mesh):
            wrote["videos"] = ", ".join(map(str, show(job, model, clips)))
    return wrote


def publish_idm(job: Job, model: Model, clips: list[Clip], mesh: jax.sharding.Mesh) -> dict[str, object]:
    """Write an inverse dynamics model, and its accuracy on levels that it has not seen."""
    del clips, mesh
    network, folder = model.networks["idm"], job.out / "model"
    wrote = {"model": save_idm(folder, network.config, network.params), "accuracy": folder / "accuracy.json"}
    report = json.dumps(job.stages[-1].report(model, job.clip, job.out / "test"), indent=1)
    write_whole(wrote["accuracy"], report + "\n")
    say(report)
    return wrote


PUBLISH = {"transformer": publish_model, "vae": publish_model, "idm": publish_idm}  # by kind of what was trained last


def fps_of(job: Job) -> float:
    return job.record.fps if job.record else DEFAULT_FPS


def show(job: Job, model: Model, clips: list[Clip]) -> list[pathlib.Path]:
    """Sample one video per showcase schedule, with prompts (and first frames) from the dataset, and write them with the
    keys drawn on."""
    clip, schedules = job.clip, showcase(job.clip.frames)
    of_prompt = {c.prompt: c for c in reversed(clips)}
    different = [of_prompt[prompt] for prompt in sorted(of_prompt)]
    examples = [different[i * len(different) // len(schedules)] for i in range(len(schedules))]
    variables = {**model.variables}
    if model.lora:
        variables["lora"] = {"backbone": lora.scaled(model.lora, job.lora_scale)}
    first_frame = functools.partial(load_clip, height=clip.height, width=clip.width, shrink=clip.shrink)
    paths = [job.out / "samples" / f"{name}.mp4" for name in SHOWCASE]
    for begin in tqdm(range(0, len(schedules), VIDEOS_TOGETHER), desc="sampling", unit="batch"):
        part = range(begin, min(begin + VIDEOS_TOGETHER, len(schedules)))
        request = Request(
            prompts=[examples[i].prompt for i in part],
            actions=[schedules[i] for i in part],
            seeds=[job.seed + i for i in part],
            height=clip.height,
            width=clip.width,
            images=np.stack([first_frame(examples[i])["video"][0] for i in part]) if model.image_encoder else None,
        )
        videos = generate(model, job.sampling, request, variables=variables)
        for i, video in zip(part, videos, strict=True):
            shown = enlarge(video, shown_factor(job))
            write_video(paths[i], draw_hud(shown, *schedules[i]), fps=fps_of(job))
    return paths


if __name__ == "__main__":
    main()
