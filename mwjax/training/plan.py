"""What a training step will take, from compiling it for shapes alone: memory, communication and arithmetic per device."""

import collections
import dataclasses
import math
import re

import jax

from mwjax.parallel.sharding import batch_sharding, shardings
from mwjax.training.loop import TRAINABLE, Stage, optimizer_of, training_flops
from mwjax.training.objectives import Objective
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


def plan_stage(stage: Stage, variables: dict, objective: Objective, counted: Objective | None, batch: dict, mesh, frozen_dtype: str) -> Plan:
    """variables, batch: shapes. Nothing is allocated."""
    with jax.set_mesh(mesh):
        trainable, frozen = jax.eval_shape(lambda tree: partition(tree, TRAINABLE[stage.name]), variables)
        _, optimizer = optimizer_of(stage)
        frozen = {path: jax.ShapeDtypeStruct(a.shape, frozen_dtype if path.startswith("params/") else a.dtype) for path, a in frozen.items()}
        state = jax.eval_shape(lambda t: new_state(t, optimizer, averaged=stage.average > 0), trainable)
        layout = state_shardings(state, mesh)
        state, frozen = _laid(state, layout), _laid(frozen, shardings(frozen, mesh))
        batch = {k: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=batch_sharding(a.shape, mesh)) for k, a in batch.items()}
        step = make_step(objective, optimizer, 0, accumulate=stage.accumulate, decay=stage.average, spike=stage.spike, layout=layout)
        compiled = step.lower(state, frozen, batch).compile()
        flops = training_flops(counted or objective, state.trainable, frozen, batch)
    held = {name: _bytes(part) for name, part in (("frozen", frozen), ("trained", (state.trainable, state.average)), ("moments", state.optimizer))}
    return Plan(**held, temporary=compiled.memory_analysis().temp_size_in_bytes, collectives=collectives(compiled.as_text()), flops=flops)


def _laid(tree, layout):
    return jax.tree.map(lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree, layout)


def _bytes(tree) -> int:
    """On one device."""
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))


COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


def collectives(text: str) -> dict[str, int]:
    """Bytes of the results of every kind of collective in a compiled program (its HLO text), bodies of loops as often as they run."""
    own, calls, name = collections.defaultdict(collections.Counter), collections.defaultdict(list), ""
    entry = ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{", line):
            name = head[2]
            entry = name if head[1] else entry
            continue
        if found := re.search(rf" = (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", line):
            shapes = re.findall(r"(\w+)\[([\d,]*)\]", found[1])
            own[name][found[2]] += sum(_SIZES.get(kind, 4) * math.prod(int(n) for n in shape.split(",") if n) for kind, shape in shapes)
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        for called in re.findall(r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)", line):
            calls[name].append((called, int(trips[1]) if trips and " while(" in line else 1))
        for group in re.findall(r"branch_computations=\{([^}]*)\}", line):
            calls[name] += [(called.strip().lstrip("%"), 1) for called in group.split(",")]

    def total(name: str) -> collections.Counter:
        out = collections.Counter(own[name])
        for called, times in calls[name]:
            for kind, size in total(called).items():
                out[kind] += times * size
        return out

    return dict(total(entry))
