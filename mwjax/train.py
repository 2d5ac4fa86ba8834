"""Train a world model: python -m mwjax.train --config configs/tiny_t2w_controlnet.py.

Records gameplay if the config names no dataset, encodes it once, trains the config's stages one after the other, writes a
model folder and sample videos. Killed at any moment, the same command carries on where it was.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import time

import jax
import numpy as np
from tqdm import tqdm

from converters import folder as model_folder
from mwjax.config import build, load_config
from mwjax.data.clips import Clip, load_clip, read_table
from mwjax.data.hud import draw_hud, enlarge
from mwjax.data.latents import Framing, LatentSource, encode_dataset
from mwjax.data.loader import latent_batches, pixel_batches
from mwjax.data.schedules import SHOWCASE, showcase
from mwjax.data.video import write_video
from mwjax.diffusion.sampler import Sampling
from mwjax.errors import InputError, command
from mwjax.models import lora
from mwjax.models.controlnet import EVERY
from mwjax.models.variants import VARIANTS
from mwjax.models.world_model import CONTROLS
from mwjax.pipeline import Request, embed, encode_images, encode_pixels, encoders_identity, generate, output_folder, standardise_latents
from mwjax.training.loop import Stage, train
from mwjax.training.objectives import flow_objective, vae_objective
from mwjax.worlds.recorder import Recording, record


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked config."""

    out: pathlib.Path
    seed: int
    model: str
    control: str
    action_dim: int
    dataset: str
    recording: Recording | None
    framing: Framing
    stages: tuple[Stage, ...]
    sampling: Sampling
    lora_scale: float


KEYS = ("out", "seed", "model", "control", "dataset", "record", "framing", "stages", "sampling", "lora_scale")


def check(config) -> Job:
    """Turn a config into a Job; anything wrong in it is found here, before any work."""
    for key in config:
        if key not in KEYS:
            raise InputError(f"config key {key} is unknown; known: {', '.join(KEYS)}")
    for key in KEYS:
        if key not in config:
            raise InputError(f"config key {key} is missing")
    framing = build(Framing, config.framing, "framing")
    recording = None
    if not config.dataset:
        if not config.record:
            raise InputError("the config names no dataset and no recording; set --config.dataset=DIR")
        recording = build(Recording, config.record, "record")
        if recording.frames < framing.frames:
            raise InputError(f"record.frames {recording.frames} is less than framing.frames {framing.frames}")
    elif not pathlib.Path(config.dataset).is_dir():
        raise InputError(f"dataset {config.dataset!r} is not a folder; download amd/Micro-World-MC-Dataset there or record one with mwjax.collect")
    if config.model.startswith("new:"):
        if config.model[4:] not in VARIANTS:
            raise InputError(f"model {config.model!r} is unknown; new models are {', '.join('new:' + v for v in VARIANTS)}")
    else:
        world = model_folder.preflight(config.model).networks["transformer"].config
        if world.control not in ("none", config.control.kind):
            raise InputError(f"model {config.model} has control {world.control}, control.kind is {config.control.kind}")
        if config.control.kind == "controlnet" and world.backbone.num_layers % EVERY:
            raise InputError(f"model {config.model} has {world.backbone.num_layers} layers; a ControlNet needs an even number, use control.kind adaln")
    stages = tuple(build(Stage, stage, f"stages.{i}") for i, stage in enumerate(config.stages))
    if any(s.name == "action" for s in stages) and config.control.kind == "none":
        raise InputError('control.kind is "none", but there is an action stage; use "controlnet" or "adaln"')
    if config.control.kind not in CONTROLS:
        raise InputError(f"control.kind {config.control.kind!r} is unknown; use {', '.join(CONTROLS)}")
    return Job(pathlib.Path(config.out), config.seed, config.model, config.control.kind, config.control.action_dim, config.dataset, recording,
               framing, stages, build(Sampling, config.sampling, "sampling"), config.lora_scale)  # fmt: skip


def prepare(job: Job, stage: Stage, model: model_folder.Model) -> tuple[model_folder.Model, dict, object]:
    """What a stage starts from: the model, its variables and its objective."""
    if stage.name == "vae":
        return model, {"params": model.vae_params}, vae_objective(model.vae, kl_weight=stage.kl_weight)
    if stage.name == "lora":
        model.lora = lora.init(model.world_params["backbone"], stage.rank, stage.alpha, jax.random.key(job.seed))
    if stage.name == "action":
        model = model_folder.add_control(model, job.control, action_dim=job.action_dim, seed=job.seed)
    return model, model.variables, flow_objective(model.world, motion=stage.motion)


def finish(stage: Stage, model: model_folder.Model, variables: dict) -> model_folder.Model:
    """The model with what a stage has trained."""
    if stage.name == "vae":
        return dataclasses.replace(model, vae_params=variables["params"])
    adapters = variables["lora"]["backbone"] if "lora" in variables else None
    return dataclasses.replace(model, world_params=variables["params"], lora=adapters)


def show(job: Job, model: model_folder.Model, clips: list[Clip], group: int = 4) -> list[pathlib.Path]:
    """Sample one video per showcase schedule, with prompts (and first frames) from the dataset, and write them with the keys drawn on."""
    framing = job.framing
    first = {clip.prompt: clip for clip in reversed(clips)}
    picked = [first[prompt] for prompt in sorted(first)]
    schedules = showcase(framing.frames)
    variables = {**model.variables}
    if model.lora:
        variables["lora"] = {"backbone": lora.scaled(model.lora, job.lora_scale)}
    factor = max(1, 384 // framing.height)
    examples = [picked[i * len(picked) // len(schedules)] for i in range(len(schedules))]
    paths = [job.out / "samples" / f"{name}.mp4" for name in SHOWCASE]
    for start in tqdm(range(0, len(schedules), group), desc="sampling", unit="batch"):
        part = range(start, min(start + group, len(schedules)))
        images = None
        if model.image:
            images = np.stack([load_clip(examples[i], height=framing.height, width=framing.width, shrink=framing.shrink)["video"][0] for i in part])
        request = Request([examples[i].prompt for i in part], [schedules[i] for i in part], [job.seed + i for i in part], framing.height, framing.width, images=images)
        videos = generate(model, job.sampling, request, variables=variables)
        for i, video in zip(part, videos, strict=True):
            write_video(paths[i], draw_hud(enlarge(video, factor), *schedules[i]), fps=job.recording.fps if job.recording else 16)
    return paths


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mwjax.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="config file, such as configs/tiny_t2w_controlnet.py or configs/tiny_t2w_controlnet.py:long")
    args, overrides = parser.parse_known_args(argv)
    job = check(load_config(args.config, overrides))
    began = time.time()
    output_folder(job.out)
    wrote = {}
    count = len(job.stages)
    print(f"{args.config} → {job.out}: " + ", ".join(f"stage {i + 1} of {count} {s.folder} ({s.steps} steps)" for i, s in enumerate(job.stages)), flush=True)

    dataset = pathlib.Path(job.dataset) if job.dataset else job.out / "dataset"
    if job.recording:
        counts = record(job.recording, dataset)
        print("recorded " + ", ".join(f"{value} {name}" for name, value in counts.items()), flush=True)
    wrote["dataset"] = dataset
    clips = read_table(dataset)

    model = model_folder.new_model(VARIANTS[job.model[4:]], seed=job.seed) if job.model.startswith("new:") else model_folder.load_model(job.model)
    for number, stage in enumerate(job.stages):
        if stage.name == "vae":
            pixels = functools.partial(pixel_batches, clips, batch=stage.batch, seed=job.seed, framing=job.framing, images=stage.images)
            batches = pixels()
        else:
            cache = encode_dataset(
                clips, job.out / "latents", framing=job.framing, identity=encoders_identity(model),
                encode_video=lambda pixels, model=model: encode_pixels(model, pixels), encode_text=lambda texts, model=model: embed(model, texts),
                encode_image=(lambda pixels, model=model: encode_images(model, pixels, job.framing.frames)) if model.image else None,
            )  # fmt: skip
            batches = latent_batches(
                LatentSource(cache), batch=stage.batch, seed=job.seed + number, text_len=model.world.backbone.text_len,
                caption_dropout=stage.caption_dropout, shorter=stage.shorter,
            )  # fmt: skip
        model, variables, objective = prepare(job, stage, model)
        model = finish(stage, model, train(stage, variables, objective, batches, folder=job.out / stage.folder, seed=job.seed))
        if stage.name == "vae" and stage is job.stages[-1]:
            model = standardise_latents(model, pixels())
        wrote[f"stage {stage.folder}"] = job.out / stage.folder / "checkpoints"
        wrote[f"curves of {stage.folder}"] = job.out / stage.folder / "loss.png"

    wrote["model"] = model_folder.save_model(model, job.out / "model")
    settings = {k: v for k, v in dataclasses.asdict(job.sampling).items() if k in model_folder.RELEASED}
    settings |= {"height": job.framing.height, "width": job.framing.width, "fps": job.recording.fps if job.recording else 16.0}
    settings |= {"negative": ""} if model.tokenizer == "byt5" else {}
    (job.out / "model" / model_folder.SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")
    if job.stages[-1].name != "vae":
        wrote["videos"] = ", ".join(map(str, show(job, model, clips)))
    print(f"done in {(time.time() - began) / 60:.1f} minutes; wrote")
    for name, path in wrote.items():
        print(f"  {name:18} {path}")


if __name__ == "__main__":
    main()
