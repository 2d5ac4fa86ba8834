"""What a training step will take, from compiling it for shapes alone: memory, communication and arithmetic per
device."""

import collections
import dataclasses
import math
import re

import jax

from mwjax.models.attention import preferred
from mwjax.models.image import ImageConfig
from mwjax.models.model import Model, Network
from mwjax.models.shapes import world_shapes
from mwjax.parallel.mesh import make_mesh
from mwjax.parallel.sharding import batch_sharding, shardings
from mwjax.runtime.devices import planning_devices
from mwjax.training.job import Job, check_mesh
from mwjax.training.loop import training_flops
from mwjax.training.objectives import Objective
from mwjax.training.stages.stage import Stage
from mwjax.training.state import make_step, new_state, partition, state_shardings


@dataclasses.dataclass(frozen=True)
class Plan:
    """Bytes on each device, bytes each device sends or receives in a step, and operations of the whole step."""

    frozen: int
    trained: int  # float32 masters
    moments: int
    temporary: int  # gradients, activations and work space
    collectives: dict[str, int]
    flops: int

    @property
    def memory(self) -> int:
        return self.frozen + self.trained + self.moments + self.temporary


def plan_stage(
    stage: Stage, variables: dict, objective: Objective, counted: Objective | None, batch: dict, mesh, frozen_dtype: str
) -> Plan:
    """variables, batch: shapes. Nothing is allocated."""
    with jax.set_mesh(mesh):
        trainable, frozen = jax.eval_shape(lambda tree: partition(tree, stage.TRAINS), variables)
        _, optimizer = stage.schedule_and_optimizer()
        frozen = {path: _kept(path, leaf, frozen_dtype) for path, leaf in frozen.items()}
        state = jax.eval_shape(lambda t: new_state(t, optimizer, ema=stage.ema > 0), trainable)
        layout = state_shardings(state, mesh)
        state, frozen = _laid(state, layout), _laid(frozen, shardings(frozen, mesh))
        batch = _laid(batch, {name: batch_sharding(a.shape, mesh) for name, a in batch.items()})
        step = make_step(objective, optimizer, 0, stage, layout=layout)
        compiled = step.lower(state, frozen, batch).compile()
        flops = training_flops(counted or objective, state.trainable, frozen, batch)
    return Plan(
        frozen=_bytes(frozen),
        trained=_bytes((state.trainable, state.ema)),
        moments=_bytes(state.optimizer),
        temporary=compiled.memory_analysis().temp_size_in_bytes,
        collectives=collectives(compiled.as_text()),
        flops=flops,
    )


def _kept(path: str, leaf, dtype: str):
    """A frozen leaf as it is kept: adapters stay in float32."""
    return jax.ShapeDtypeStruct(leaf.shape, dtype if path.startswith("params/") else leaf.dtype)


def _laid(tree, layout):
    return jax.tree.map(lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree, layout)


def _bytes(tree) -> int:
    """On one device."""
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))


CALLS = "body|condition|calls|to_apply|true_computation|false_computation"
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


def collectives(text: str) -> dict[str, int]:
    """Bytes of the results of every kind of collective in a compiled program (its HLO text), bodies of loops as often
    as they run."""
    own, calls, entry = _read_program(text)

    def total(name: str) -> collections.Counter:
        out = collections.Counter(own[name])
        for called, times in calls[name]:
            for kind, size in total(called).items():
                out[kind] += times * size
        return out

    return dict(total(entry))


def _read_program(text: str):
    """(bytes by kind of each computation's own collectives, what each calls and how often, name of the first)."""
    own, calls = collections.defaultdict(collections.Counter), collections.defaultdict(list)
    name = entry = ""
    kinds = "|".join(COLLECTIVES)
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{", line):
            name = head[2]
            entry = name if head[1] else entry
            continue
        if found := re.search(rf" = (.*?) ({kinds})(-start)?\(", line):
            own[name][found[2]] += sum(_size(*shape) for shape in re.findall(r"(\w+)\[([\d,]*)\]", found[1]))
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        times = int(trips[1]) if trips and " while(" in line else 1
        for called in re.findall(rf"(?:{CALLS})=%?([\w.\-]+)", line):
            calls[name].append((called, times))
        for group in re.findall(r"branch_computations=\{([^}]*)\}", line):
            calls[name] += [(called.strip().lstrip("%"), 1) for called in group.split(",")]
    return own, calls, entry


def _size(kind: str, shape: str) -> int:
    return _SIZES.get(kind, 4) * math.prod(int(n) for n in shape.split(",") if n)


def plan_job(job: Job, where: str) -> list[Plan]:
    """Compile every stage for devices that are not here (see `planning_devices`) and print what each will take."""
    devices, kind = planning_devices(where)
    mesh = make_mesh(job.mesh, devices)
    check_mesh(job, mesh)
    attention = preferred(kind, "", job.memory.compute)
    print_heading(job, where, mesh, f"attention {attention}", on_cpu=kind == "cpu")
    model, plans = planned_model(job), []
    for stage in job.stages:
        model, variables = shapes_of_start(stage, model)
        shapes = stage.batch_shapes(model, job.latents, ImageConfig().tokens)
        if shapes is None:
            print(f"| {stage.NAME} | not planned |" + " |" * (len(COLUMNS) - 2))
            continue
        batch = {name: jax.ShapeDtypeStruct((stage.batch, *shape), "float32") for name, shape in shapes.items()}
        objective, counted = stage.objective(model, job.memory, attention), stage.counted(model, job.memory)
        plan = plan_stage(stage, variables, objective, counted, batch, mesh, job.memory.frozen)
        plans.append(plan)
        print_plan(stage, plan, communication=kind != "tpu")
        model = stage.finish(model, variables)
    return plans


def planned_model(job: Job) -> Model:
    """The model that the first stage starts from, with shapes in place of parameters."""
    networks = {kind: Network(network.config, {}) for kind, network in job.networks.items()}
    model = Model(networks, "byt5")
    return model.updated("transformer", params=world_shapes(model.transformer.config))


def shapes_of_start(stage: Stage, model: Model) -> tuple[Model, dict]:
    """`stage.start`, of shapes."""
    started = []

    def start(params, lora):
        now = dataclasses.replace(model.updated("transformer", params=params), lora=lora)
        begun, variables = stage.start(now, seed=0)
        started.append(begun.transformer.config)
        return variables

    variables = jax.eval_shape(start, model.transformer.params, model.lora)
    return model.updated("transformer", config=started[-1]), variables


COLUMNS = (
    "stage",
    "frozen",
    "trained",
    "moments",
    "temporaries",
    "memory a device",
    "communication a device and step",
    "arithmetic a step",
)


def print_heading(job: Job, where: str, mesh, attention: str, *, on_cpu: bool) -> None:
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    note = "; a CPU works on half precision in float32 copies, which an accelerator does not need" if on_cpu else ""
    size = f"{job.clip.frames}×{job.clip.height}×{job.clip.width}"
    print(f"{job.model} at {size} on {where} ({axes}), {attention}{note}")
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")


def print_plan(stage: Stage, plan: Plan, *, communication: bool) -> None:
    parts = (plan.frozen, plan.trained, plan.moments, plan.temporary, plan.memory)
    sizes = [f"{size / 1e9:.2f} GB" for size in parts]
    large = {name: size for name, size in sorted(plan.collectives.items()) if size > 5e6}
    moved = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in large.items()) or "none"
    moved = moved if communication else "not counted"
    print(f"| {stage.NAME} | {' | '.join(sizes)} | {moved} | {plan.flops / 1e15:.3g} PFLOP |", flush=True)
