"""Train a world model: python -m mwjax.train --config configs/tiny_t2w_controlnet.py.

Records gameplay if the config names no dataset, encodes it once, trains the config's stages one after the other, writes a
model folder and sample videos. Killed at any moment, the same command carries on where it was; told to stop (SIGTERM), it saves
first. With several processes (see README), the same command in each.
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
from mwjax.compilation import keep_compiled
from mwjax.config import OPTIONAL, build, load_config
from mwjax.data.clips import Clip, load_clip, read_table
from mwjax.data.hud import draw_hud, enlarge
from mwjax.data.latents import Framing, LatentSource, encode_dataset
from mwjax.data.loader import latent_batches, pixel_batches
from mwjax.data.schedules import SHOWCASE, showcase
from mwjax.data.video import write_video
from mwjax.diffusion.sampler import Sampling
from mwjax.errors import InputError, command
from mwjax.models import lora, world_model
from mwjax.models.attention import BACKENDS, choose, preferred
from mwjax.models.controlnet import EVERY
from mwjax.models.dit import REMAT
from mwjax.models.variants import VARIANTS
from mwjax.models.world_model import CONTROLS, WorldConfig
from mwjax.parallel.devices import planning_devices, report_devices
from mwjax.parallel.mesh import MeshShape, barrier, batch_parts, fetch, make_mesh, place, start_processes
from mwjax.parallel.sharding import parameter_sharding
from mwjax.pipeline import Request, embed, encode_images, encode_pixels, encoders_identity, generate, output_folder, standardise_latents, without_encoders
from mwjax.rules import first_match
from mwjax.training.checkpoint import newest
from mwjax.training.loop import TRAINABLE, Stage, Told, train
from mwjax.training.metrics import check_wandb
from mwjax.training.objectives import Objective, flow_objective, vae_objective
from mwjax.training.plan import Plan, plan_stage
from mwjax.worlds.recorder import Recording, record


@dataclasses.dataclass(frozen=True)
class Control:
    """kind: one of CONTROLS. action_dim: width of the action features."""

    kind: str
    action_dim: int = 1536

    def __post_init__(self):
        if self.kind not in CONTROLS:
            raise InputError(f"control.kind {self.kind!r} is unknown; use {', '.join(CONTROLS)}")


@dataclasses.dataclass(frozen=True)
class Memory:
    """frozen: dtype of weights that are not trained. compute: dtype of activations. remat: what the backward pass recomputes, a name of REMAT.
    unroll: compile block after block, not a loop over them: a small model steps faster, and compiles longer."""

    frozen: str = "float32"
    compute: str = "float32"
    remat: str = "none"
    unroll: bool = False

    def __post_init__(self):
        for key in ("frozen", "compute"):
            if getattr(self, key) not in ("float32", "bfloat16"):
                raise InputError(f"memory.{key} {getattr(self, key)!r} is unknown; use float32 or bfloat16")
        if self.remat not in REMAT:
            raise InputError(f"memory.remat {self.remat!r} is unknown; use {', '.join(REMAT)}")


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
    mesh: MeshShape
    memory: Memory


KEYS = ("out", "seed", "model", "control", "dataset", "record", "framing", "stages", "sampling", "lora_scale")
IMAGE_TOKENS = 257  # of CLIP ViT-H/14


def check(config, *, planning: bool = False) -> Job:
    """Turn a config into a Job; anything wrong in it is found here, before any work. planning: no dataset is needed."""
    for key in config:
        if key not in KEYS + OPTIONAL:
            raise InputError(f"config key {key} is unknown; known: {', '.join(KEYS + OPTIONAL)}")
    for key in KEYS:
        if key not in config:
            raise InputError(f"config key {key} is missing")
    framing = build(Framing, config.framing, "framing")
    control = build(Control, config.control, "control")
    recording = build(Recording, config.record, "record") if config.record else None
    if config.dataset or planning:
        recording = None
    if planning:
        pass
    elif not config.dataset:
        if not recording:
            raise InputError("the config names no dataset and no recording; set --config.dataset=DIR")
        if recording.frames < framing.frames:
            raise InputError(f"record.frames {recording.frames} is less than framing.frames {framing.frames}")
    elif not pathlib.Path(config.dataset).is_dir():
        raise InputError(f"dataset {config.dataset!r} is not a folder; download amd/Micro-World-MC-Dataset there or record one with mwjax.collect")
    if config.model.startswith("new:"):
        if config.model[4:] not in VARIANTS:
            raise InputError(f"model {config.model!r} is unknown; new models are {', '.join('new:' + v for v in VARIANTS)}")
    else:
        world = model_folder.preflight(config.model).networks["transformer"].config
        if world.control not in ("none", control.kind):
            raise InputError(f"model {config.model} has control {world.control}, control.kind is {control.kind}")
        if control.kind == "controlnet" and world.backbone.num_layers % EVERY:
            raise InputError(f"model {config.model} has {world.backbone.num_layers} layers; a ControlNet needs an even number, use control.kind adaln")
    stages = tuple(build(Stage, stage, f"stages.{i}") for i, stage in enumerate(config.stages))
    if any(s.name == "action" for s in stages) and control.kind == "none":
        raise InputError('control.kind is "none", but there is an action stage; use "controlnet" or "adaln"')
    for stage in stages:
        if stage.name == "idm":
            raise InputError("stage idm trains no world model; use python -m mwjax.evaluation.train_idm")
        if stage.start:
            newest(stage.start)
    mesh, memory = build(MeshShape, config.get("mesh", {}), "mesh"), build(Memory, config.get("memory", {}), "memory")
    return Job(pathlib.Path(config.out), config.seed, config.model, control.kind, control.action_dim, config.dataset, recording,
               framing, stages, build(Sampling, config.sampling, "sampling"), config.lora_scale, mesh, memory)  # fmt: skip


def check_mesh(job: Job, mesh: jax.sharding.Mesh, world: WorldConfig) -> None:
    """Whether everything that must divide over the mesh does. Raises InputError."""
    if job.memory.remat == "offload" and mesh.devices.flat[0].platform == "cpu":
        raise InputError("memory.remat offload moves blocks to host memory, which only an accelerator can; use blocks")
    parts, tokens = batch_parts(mesh), job.framing.height * job.framing.width // (8 * world.backbone.patch) ** 2
    for stage in job.stages:
        if stage.batch % (parts * stage.accumulate):
            every = f" × accumulate {stage.accumulate}" if stage.accumulate > 1 else ""
            least = parts * stage.accumulate
            better = f"use a multiple, such as {-(-stage.batch // least) * least}, or put devices on other axes (mesh.sequence)"
            raise InputError(f"stage {stage.name}: batch {stage.batch} does not divide over data × fsdp = {parts} devices{every}; {better}")
        if stage.name == "vae" and jax.process_count() > 1:
            raise InputError("the vae stage runs in one process; train it first, on one machine")
    if parts % jax.process_count():
        raise InputError(f"data × fsdp = {parts} does not divide over {jax.process_count()} processes, each of which reads its own clips")
    if tokens % mesh.shape["sequence"]:
        raise InputError(f"{tokens} tokens a latent frame ({job.framing.height}×{job.framing.width}) do not divide over sequence {mesh.shape['sequence']}")


def prepare(job: Job, stage: Stage, model: model_folder.Model, mesh: jax.sharding.Mesh) -> tuple[model_folder.Model, dict]:
    """What a stage starts from: the model and its variables."""
    if stage.name == "vae":
        return model, {"params": model.vae_params}
    if stage.name == "lora":
        model.lora = jax.jit(lambda key: lora.init(model.world_params["backbone"], stage.rank, stage.alpha, key))(jax.random.key(job.seed))
    if stage.name == "action":
        model = model_folder.add_control(model, job.control, action_dim=job.action_dim, seed=job.seed, mesh=mesh)
    return model, model.variables


def objectives(job: Job, stage: Stage, model: model_folder.Model, attention: str) -> tuple[Objective, Objective | None]:
    """What a stage minimises, and the same without recomputation, whose arithmetic counts as useful."""
    if stage.name == "vae":
        return vae_objective(model.vae, kl_weight=stage.kl_weight), None
    return flow_objectives(job, stage, model.world, attention)


def flow_objectives(job: Job, stage: Stage, world: WorldConfig, attention: str) -> tuple[Objective, Objective]:
    ways = {"attention": attention, "remat": job.memory.remat, "unroll": job.memory.unroll}, {"attention": "plain", "remat": "none"}
    return tuple(flow_objective(tuned(world, **way), motion=stage.motion, dtype=job.memory.compute) for way in ways)


def tuned(world: WorldConfig, **how) -> WorldConfig:
    """The config with other attention, recomputation or unrolling; the same numbers."""
    return dataclasses.replace(world, backbone=dataclasses.replace(world.backbone, **how))


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


def placement(job: Job, mesh: jax.sharding.Mesh, local: jax.sharding.Mesh):
    """Puts every leaf that is loaded where it belongs: the transformer over all devices, the encoders over this process's own."""
    rules = [TRAINABLE[stage.name] for stage in job.stages]

    def put(kind: str, path: str, array: np.ndarray) -> jax.Array:
        trained = kind == "transformer" and any(first_match(table, f"params/{path}") for table in rules)
        if kind != "vae" and not trained:
            array = array.astype(jax.numpy.dtype(job.memory.frozen))
        return place(array, parameter_sharding(path, array.shape, mesh if kind == "transformer" else local))

    return put


def start(job: Job, mesh: jax.sharding.Mesh, local: jax.sharding.Mesh) -> model_folder.Model:
    if job.model.startswith("new:"):
        return model_folder.new_model(VARIANTS[job.model[4:]], seed=job.seed)
    return model_folder.load_model(job.model, place=placement(job, mesh, local))


def world_of(job: Job) -> WorldConfig:
    """The config of the base."""
    if job.model.startswith("new:"):
        return VARIANTS[job.model[4:]].world("none")
    return model_folder.preflight(job.model).networks["transformer"].config


def plan_job(job: Job, where: str) -> list[Plan]:
    """Compile every stage for devices that are not here (see `planning_devices`) and print what each will take."""
    devices, kind = planning_devices(where)
    mesh, world, framing = make_mesh(job.mesh, devices), world_of(job), job.framing
    check_mesh(job, mesh, world)
    attention = preferred(kind, "", job.memory.compute)
    latents = (framing.frames // 4 + 1, framing.height // 8, framing.width // 8, world.backbone.out_dim)
    shape, plans = jax.ShapeDtypeStruct, []
    note = "; a CPU works on half precision in float32 copies, which an accelerator does not need" if kind == "cpu" else ""
    shown = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    print(f"{job.model} at {framing.frames}×{framing.height}×{framing.width} on {where} ({shown}), attention {attention}{note}")
    columns = ("stage", "frozen", "trained", "moments", "temporaries", "memory a device", "communication a device and step", "arithmetic a step")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for stage in job.stages:
        if stage.name == "vae":
            print("| vae | not planned |" + " |" * (len(columns) - 2))
            continue
        inputs = {"mean": latents, "logvar": latents, "keyboard": (framing.frames, 7), "mouse": (framing.frames, 2)}
        inputs["text"] = (world.backbone.text_len, world.backbone.text_dim)
        if world.backbone.image_dim:
            inputs |= {"image": (IMAGE_TOKENS, world.backbone.image_dim), "condition": latents}
        batch = {name: shape((stage.batch, *size), jax.numpy.float32) for name, size in inputs.items()}
        control = dataclasses.replace(world, control=job.control if stage.name == "action" else world.control, action_dim=job.action_dim)

        def variables(stage=stage, control=control):
            params = world_model.init(control, jax.random.key(0))
            adapters = any(s.name == "lora" for s in job.stages) and stage.name != "base"
            rank = next((s.rank for s in job.stages if s.name == "lora"), 1)
            return {"params": params} | ({"lora": {"backbone": lora.init(params["backbone"], rank, 1.0, jax.random.key(0))}} if adapters else {})

        plan = plan_stage(stage, jax.eval_shape(variables), *flow_objectives(job, stage, control, attention), batch, mesh, job.memory.frozen)
        plans.append(plan)
        sizes = [f"{size / 1e9:.2f} GB" for size in (plan.frozen, plan.trained, plan.moments, plan.temporary, plan.memory)]
        moved = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in sorted(plan.collectives.items()) if size > 5e6) or "none"
        moved = "not counted" if kind == "tpu" else moved
        print(f"| {stage.name} | {' | '.join(sizes)} | {moved} | {plan.flops / 1e15:.3g} PFLOP |", flush=True)
    return plans


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mwjax.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="config file, such as configs/tiny_t2w_controlnet.py or configs/tiny_t2w_controlnet.py:long; "
                                                        "any value in it is set with --config.NAME=VALUE")  # fmt: skip
    parser.add_argument("--plan", default="", metavar="DEVICES", help="compile every stage for devices that are not here, print memory, communication and arithmetic, "
                        'and stop: a number, or a TPU topology such as v5p:2x2x2 (needs the extra "tpu")')  # fmt: skip
    parser.add_argument("--profile", type=int, default=0, metavar="STEP", help="trace three steps of every stage from this one on (open with TensorBoard or Perfetto)")
    parser.add_argument("--wandb", default="", metavar="PROJECT", help='log to Weights & Biases as well (needs the extra "wandb")')
    parser.add_argument("--attention", default="auto", choices=["auto", *BACKENDS], help="attention kernel (default: by device)")
    parser.add_argument("--device", default="", choices=["", "cpu", "gpu", "tpu"], help="what must be there; by default, what jax finds")
    several = parser.add_argument_group("several processes (found by themselves under Slurm and Open MPI)")
    several.add_argument("--coordinator", default="", metavar="HOST:PORT", help="address of process 0")
    several.add_argument("--processes", type=int, default=0)
    several.add_argument("--process", type=int, default=-1)
    several.add_argument("--join-timeout", type=int, default=300, metavar="SECONDS")
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args, overrides = parser().parse_known_args(argv)
    job = check(load_config(args.config, overrides), planning=bool(args.plan))
    if args.plan:
        plan_job(job, args.plan)
        return
    check_wandb(args.wandb)
    start_processes(args.coordinator, args.processes, args.process, timeout=args.join_timeout)
    with Told() as told:
        run(job, args, told)


def run(job: Job, args: argparse.Namespace, told: Told) -> None:
    """Everything that the config asks for, from what is there already on."""
    report_devices(args.device)
    mesh, local = make_mesh(job.mesh), make_mesh(MeshShape(), jax.local_devices())
    check_mesh(job, mesh, world_of(job))
    keep_compiled()
    attention = choose(args.attention, job.memory.compute)
    first = jax.process_index() == 0
    say = functools.partial(print, flush=True) if first else lambda *_, **__: None
    began = time.time()
    output_folder(job.out)
    wrote = {}
    count = len(job.stages)
    stages = ", ".join(f"stage {i + 1} of {count} {s.folder} ({s.steps} steps)" for i, s in enumerate(job.stages))
    say(f"{args.config} → {job.out}: {stages}; attention: {attention}")

    dataset = pathlib.Path(job.dataset) if job.dataset else job.out / "dataset"
    if job.recording and first:
        counts = record(job.recording, dataset)
        say("recorded " + ", ".join(f"{value} {name}" for name, value in counts.items()))
    barrier("dataset recorded")
    wrote["dataset"] = dataset
    clips = read_table(dataset)

    model = start(job, mesh, local)
    part = (jax.process_index(), jax.process_count())
    for number, stage in enumerate(job.stages):
        if stage.name == "vae":
            pixels = functools.partial(pixel_batches, clips, batch=stage.batch, seed=job.seed, framing=job.framing, images=stage.images)
            batches = pixels()
        else:
            with jax.set_mesh(local):
                cache = encode_dataset(
                    clips, job.out / "latents", framing=job.framing, identity=encoders_identity(model), part=part, barrier=barrier, batch=max(8, local.size),
                    encode_video=lambda pixels, model=model: encode_pixels(model, pixels), encode_text=lambda texts, model=model: embed(model, texts),
                    encode_image=(lambda pixels, model=model: encode_images(model, pixels, job.framing.frames)) if model.image else None,
                )  # fmt: skip
            model = without_encoders(model)
            batches = latent_batches(
                LatentSource(cache), batch=stage.batch, seed=job.seed + number, text_len=model.world.backbone.text_len,
                caption_dropout=stage.caption_dropout, shorter=stage.shorter, part=part,
            )  # fmt: skip
        model, variables = prepare(job, stage, model, mesh)
        objective, counted = objectives(job, stage, model, attention)
        options = {"folder": job.out / stage.folder, "seed": job.seed, "mesh": mesh, "counted": counted, "fold": job.memory.compute == "float32"}
        options |= {"profile": args.profile, "wandb": args.wandb, "told": told}
        if stage.name != "vae":  # what is trained must not be held twice
            model = dataclasses.replace(model, world_params={}, lora=None)
        only = [variables]
        del variables
        model = finish(stage, model, train(stage, only.pop(), objective, batches, **options))
        if stage.name == "vae" and stage is job.stages[-1]:
            model = standardise_latents(model, pixels())
        wrote[f"stage {stage.folder}"] = job.out / stage.folder / "checkpoints"
        wrote[f"curves of {stage.folder}"] = job.out / stage.folder / "loss.png"

    if jax.process_count() > 1:
        model = dataclasses.replace(model, world_params=fetch(model.world_params), lora=fetch(model.lora))
    if first:
        wrote["model"] = model_folder.save_model(model, job.out / "model")
        settings = {k: v for k, v in dataclasses.asdict(job.sampling).items() if k in model_folder.RELEASED}
        settings |= {"height": job.framing.height, "width": job.framing.width, "fps": job.recording.fps if job.recording else 16.0}
        settings |= {"negative": ""} if model.tokenizer == "byt5" else {}
        (job.out / "model" / model_folder.SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")
        if job.stages[-1].name != "vae":
            with jax.set_mesh(mesh if jax.process_count() == 1 else local):
                wrote["videos"] = ", ".join(map(str, show(job, model, clips)))
    barrier("all written")
    say(f"done in {(time.time() - began) / 60:.1f} minutes; wrote")
    for name, path in wrote.items():
        say(f"  {name:18} {path}")


if __name__ == "__main__":
    main()
