"""Checkpoints by Orbax: state, step and the data iterator, written in the background, whole or not at all."""

import pathlib

import jax
import orbax.checkpoint as ocp

from mwjax.errors import InputError
from mwjax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one stage, in `folder`."""

    def __init__(self, folder: str | pathlib.Path, *, every: int, keep: int = 2, keep_every: int = 0):
        # In the background with one process only: Orbax's threads wait for other processes by a collective of all devices, which runs into
        # those of the next training step.
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=every, max_to_keep=keep, keep_period=keep_every or None, enable_async_checkpointing=jax.process_count() == 1
        )
        self.folder = pathlib.Path(folder).resolve()
        handlers = {"state": ocp.StandardCheckpointHandler(), "data": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: dict, *, force: bool = False) -> None:
        """Save if `step` is due (or `force`); returns before the files are written."""
        if force and self._manager.latest_step() == step:
            return
        self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)), force=force)

    def restore(self, like: TrainState) -> tuple[TrainState, dict]:
        """The newest checkpoint, in the shapes and placement of `like`. Raises InputError if it is of another model."""
        step = self._manager.latest_step()
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=getattr(a, "sharding", None)), like)
        saved = self._manager.item_metadata(step)["state"]
        _compare(*({path: tuple(leaf.shape) for path, leaf in tree.items()} for tree in (saved["trainable"], like.trainable)), self.folder)
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()))
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).partition("\n")[0][:160]
            raise InputError(f"{self.folder} holds a checkpoint of another optimizer or `average` ({reason}); set them as they were, delete it or change `out`") from None
        return restored["state"], restored["data"]

    def preempted(self, step: int) -> bool:
        """Whether any process of this run was told to stop (SIGTERM); all get the same answer at the same step."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def saved_steps(folder: str | pathlib.Path) -> list[int]:
    """Steps of the finished checkpoints in a stage's folder."""
    folder = pathlib.Path(folder)
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def newest(folder: str | pathlib.Path) -> pathlib.Path:
    """The state of the newest checkpoint in a stage's folder. Raises InputError if there is none."""
    folder, steps = pathlib.Path(folder).resolve(), saved_steps(folder)
    if not steps:
        raise InputError(f"{folder} holds no checkpoint; give the `checkpoints` folder of a stage")
    return folder / str(steps[-1]) / "state"


def restore_trainable(folder: str | pathlib.Path, like: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """What another run's stage gave: the trainable parameters of its newest checkpoint, or their running mean if it kept one, in the placement
    of `like`. Raises InputError if they are others."""
    place = newest(folder)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(place).item_metadata.tree
        part = "average" if isinstance(tree.get("average"), dict) and tree["average"] else "trainable"
        _compare({path: tuple(leaf.shape) for path, leaf in tree[part].items()}, {path: tuple(leaf.shape) for path, leaf in like.items()}, place)
        item = {part: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)}
        how = ocp.checkpoint_utils.construct_restore_args(item)
        return checkpointer.restore(place, args=ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True))[part]


def _compare(theirs: dict, ours: dict, folder: pathlib.Path) -> None:
    if theirs != ours:
        odd = next(k for k in sorted(theirs.keys() | ours.keys()) if theirs.get(k) != ours.get(k))
        raise InputError(f"{folder} holds a checkpoint of another model: {odd} is {theirs.get(odd)} there, {ours.get(odd)} here; delete it or change `out`")
