"""A checked config: everything that can be wrong in it is found here, before any work."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mwjax.config import OPTIONAL, build, hint, section
from mwjax.data.clips import ClipConfig
from mwjax.data.layout import find_table
from mwjax.diffusion.sampler import coefficients_of
from mwjax.diffusion.sampling import Sampling
from mwjax.errors import InputError
from mwjax.generation import latent_shape
from mwjax.models.model import Network
from mwjax.models.variants import VARIANTS, Variant
from mwjax.parallel.mesh import MeshShape, batch_parts
from mwjax.ranges import SEED, Range, check_number, shown
from mwjax.training.checkpoint import newest
from mwjax.training.memory import Memory
from mwjax.training.stages import STAGES
from mwjax.training.stages.action import ControlConfig
from mwjax.training.stages.stage import Stage
from mwjax.worlds.recorder import RecordConfig, check_framing, check_levels, record_config

KEYS = ("out", "seed", "model", "dataset", "framing", "stages")
LORA_SCALE = Range(least=-1000, most=1000)
NEW = "new:"  # before the name of a variant: a model with fresh parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """model: a folder, a shipped model or "new:VARIANT"; networks: what is known of it without reading weights."""

    out: pathlib.Path
    seed: int
    model: str
    networks: Mapping[str, Network]
    dataset: str
    record: RecordConfig | None
    clip: ClipConfig
    stages: tuple[Stage, ...]
    sampling: Sampling
    lora_scale: float
    mesh: MeshShape
    memory: Memory

    @property
    def variant(self) -> Variant | None:
        """Of a new model."""
        return VARIANTS[self.model.removeprefix(NEW)] if self.model.startswith(NEW) else None

    @property
    def latents(self) -> tuple[int, int, int]:
        """(t, h, w) of a clip."""
        world, vae = self.networks["transformer"].config, self.networks["vae"].config
        clip = self.clip
        return latent_shape(world, vae, frames=clip.frames, height=clip.height, width=clip.width)[:3]


def check(config, known: Callable[[str], Mapping[str, Network]], *, planning: bool = False) -> Job:
    """known(name): sizes (and shapes) of a model folder's networks, without reading weights. planning: no data set is
    needed. Raises InputError."""
    check_keys(config)
    check_values(config)
    clip = build(ClipConfig, config.framing, "framing")
    recording = record_config(config.record, "record") if config.record else None
    if not planning:
        check_dataset(config.dataset, recording, clip)
    control = build(ControlConfig, config.control, "control")
    networks = variant_networks(config.model) if config.model.startswith(NEW) else known(config.model)
    theirs = networks["transformer"].config.controls
    if theirs and control.controls and theirs != control.controls:
        have = " + ".join(theirs)
        raise InputError(f"model {config.model} has control {have}, control.kind is {control.kind}")
    job = Job(
        out=pathlib.Path(config.out),
        seed=config.seed,
        model=config.model,
        networks=networks,
        dataset=config.dataset,
        record=None if config.dataset or planning else recording,
        clip=clip,
        stages=tuple(stage_of(stage, f"stages.{i}", {"control": control}) for i, stage in enumerate(config.stages)),
        sampling=build(Sampling, config.sampling, "sampling"),
        lora_scale=config.lora_scale,
        mesh=build(MeshShape, config.mesh, "mesh"),
        memory=build(Memory, config.memory, "memory"),
    )
    check_stages(job)
    _ = job.latents  # sizes that do not divide
    coefficients_of(networks["transformer"].config, job.sampling)
    if job.record:
        check_levels(job.record)
    elif not planning:
        find_table(pathlib.Path(job.dataset))
    return job


def check_keys(config) -> None:
    known = (*KEYS, *OPTIONAL)
    for key in config:
        if key not in known:
            raise InputError(f"config key {key} is unknown{hint(key, known)}")
    for key in KEYS:
        if key not in config:
            raise InputError(f"config key {key} is missing")


def check_values(config) -> None:
    """Whether what is no section of its own is of its type and within its range."""
    for key in ("out", "model", "dataset"):
        if not isinstance(config[key], str):
            raise InputError(f"config value {key} is {shown(config[key])}; it must be text")
        if "\0" in config[key]:
            raise InputError(f"config value {key} is {shown(config[key])}, which no file can be called")
    if not config.out:
        raise InputError("config value out is empty; it must name the folder of the run, such as runs/mine")
    if not config.model:
        raise InputError('config value model is empty; it must name a model folder, "tiny" or "new:tiny"')
    check_number(config.seed, "config value seed", SEED)
    check_number(config.lora_scale, "config value lora_scale", LORA_SCALE)
    if not isinstance(config.stages, list | tuple) or not config.stages:
        raise InputError(
            f"config value stages is {shown(config.stages)}; it must list the stages to train, at least one"
        )


def check_dataset(dataset: str, recording: RecordConfig | None, clip: ClipConfig) -> None:
    """Whether there is something to learn from."""
    if dataset and not pathlib.Path(dataset).is_dir():
        advice = "download amd/Micro-World-MC-Dataset there or record one with mwjax.collect"
        raise InputError(f"dataset {dataset!r} is not a folder; {advice}")
    if not dataset and not recording:
        raise InputError("the config names no dataset and no recording; set --config.dataset=DIR")
    if not dataset:
        check_framing(recording, clip)


def check_stages(job: Job) -> None:
    """Whether every stage can begin, and writes where no other does."""
    folders = [stage.folder for stage in job.stages]
    for stage in job.stages:
        if folders.count(stage.folder) > 1:
            raise InputError(f"config value stages has two stages {stage.folder}; each may be there once")
        try:
            stage.check(job.clip)
        except InputError as error:
            raise InputError(f"stage {stage.NAME}: {error}") from None
        if stage.start_from:
            newest(stage.start_from)


def variant_networks(model: str) -> dict[str, Network]:
    """Sizes of a new model. Raises InputError if there is no such variant."""
    name = model.removeprefix(NEW)
    if name not in VARIANTS:
        known = ", ".join(NEW + variant for variant in VARIANTS)
        raise InputError(f"model {model!r} is unknown; new models are {known}")
    variant = VARIANTS[name]
    configs = {"transformer": variant.world(), "vae": variant.vae, "text_encoder": variant.text}
    return {kind: Network(config, {}) for kind, config in configs.items()}


def stage_of(values: Mapping[str, Any], where: str, sections: dict[str, Any]) -> Stage:
    """A stage from its entry of the config; sections of the config that its class has a field for are given to it."""
    values = section(values, where)
    name = values.pop("name", None)
    if not isinstance(name, str) or name not in STAGES:
        raise InputError(f"{where}: stage name {shown(name)} is unknown; use {', '.join(STAGES)}")
    cls = STAGES[name]
    fields = {field.name for field in dataclasses.fields(cls)}
    given = {key: value for key, value in sections.items() if key in fields}
    return build(cls, cls.parsed(values, where) | given, where)


def check_mesh(job: Job, mesh: jax.sharding.Mesh) -> None:
    """Whether everything that must divide over the mesh does. Raises InputError."""
    if job.memory.remat == "offload" and mesh.devices.flat[0].platform == "cpu":
        raise InputError("memory.remat offload moves blocks to host memory, which only an accelerator can; use blocks")
    parts, processes = batch_parts(mesh), jax.process_count()
    for stage in job.stages:
        least = parts * stage.grad_accumulation
        if stage.batch % least:
            every = f" × grad_accumulation {stage.grad_accumulation}" if stage.grad_accumulation > 1 else ""
            better = f"use a multiple, such as {-(-stage.batch // least) * least}"
            better += ", or put devices on other axes (mesh.sequence)"
            what = f"batch {stage.batch} does not divide over data × fsdp = {parts} devices{every}"
            raise InputError(f"stage {stage.NAME}: {what}; {better}")
        if stage.KIND != "transformer" and processes > 1:
            raise InputError(f"the {stage.NAME} stage runs in one process; train it first, on one machine")
    if parts % processes:
        what = f"data × fsdp = {parts} does not divide over {processes} processes"
        raise InputError(f"{what}, each of which reads its own clips")
    _, height, width = job.latents
    patch = job.networks["transformer"].config.backbone.patch
    tokens = height * width // patch**2
    if tokens % mesh.shape["sequence"]:
        size = f"{job.clip.height}×{job.clip.width}"
        raise InputError(
            f"{tokens} tokens a latent frame ({size}) do not divide over sequence {mesh.shape['sequence']}"
        )
