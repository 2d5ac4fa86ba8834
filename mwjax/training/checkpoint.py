"""Checkpoints by Orbax: state, step and the data iterator, written in the background, whole or not at all."""

import dataclasses
import pathlib

import jax
import orbax.checkpoint as ocp

from mwjax.errors import InputError
from mwjax.training.state import TrainState

OLD_NAMES = {"ema": "average", "loss_ema": "usual"}  # of parts of the state, in checkpoints written before


class Checkpoints:
    """The checkpoints of one stage, in `folder`."""

    def __init__(self, folder: str | pathlib.Path, *, every: int, keep: int = 2, keep_every: int = 0):
        # In the background with one process only: Orbax's threads wait for other processes by a collective of all
        # devices, which runs into those of the next training step.
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=every,
            max_to_keep=keep,
            keep_period=keep_every or None,
            enable_async_checkpointing=jax.process_count() == 1,
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
        parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        items = ocp.args.Composite(state=ocp.args.StandardSave(parts), data=ocp.args.JsonSave(data))
        self._manager.save(step, args=items, force=force)

    def restore(self, like: TrainState) -> tuple[TrainState, dict]:
        """The newest checkpoint, in the shapes and placement of `like`. Raises InputError if it is of another model."""
        step = self._manager.latest_step()
        saved = self._manager.item_metadata(step)["state"]
        _compare(_shapes(saved["trainable"]), _shapes(like.trainable), self.folder)
        old = OLD_NAMES if "average" in saved else {}
        parts = {old.get(field.name, field.name): getattr(like, field.name) for field in dataclasses.fields(like)}
        abstract = jax.tree.map(_placed, parts)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=items)
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).partition("\n")[0][:160]
            what = f"{self.folder} holds a checkpoint of another optimizer or `ema` ({reason})"
            raise InputError(f"{what}; set them as they were, delete it or change `out`") from None
        state = {field.name: restored["state"][old.get(field.name, field.name)] for field in dataclasses.fields(like)}
        return TrainState(**state), restored["data"]

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
    folder = pathlib.Path(folder).resolve()
    steps = saved_steps(folder)
    if not steps:
        raise InputError(f"{folder} holds no checkpoint; give the `checkpoints` folder of a stage")
    return folder / str(steps[-1]) / "state"


def restore_trainable(folder: str | pathlib.Path, like: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """What another run's stage gave: the trainable parameters of its newest checkpoint, or their running mean if it
    kept one, in the placement of `like`. Raises InputError if they are others."""
    place = newest(folder)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(place).item_metadata.tree
        means = [name for name in ("ema", "average") if isinstance(tree.get(name), dict) and tree[name]]
        part = means[0] if means else "trainable"
        _compare(_shapes(tree[part]), _shapes(like), place)
        item = {part: jax.tree.map(_placed, like)}
        how = ocp.checkpoint_utils.construct_restore_args(item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
        return checkpointer.restore(place, args=args)[part]


def _placed(leaf):
    """Its shape, dtype and placement."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _shapes(tree: dict) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in tree.items()}


def _compare(theirs: dict, ours: dict, folder: pathlib.Path) -> None:
    if theirs != ours:
        odd = next(path for path in sorted(theirs.keys() | ours.keys()) if theirs.get(path) != ours.get(path))
        what = f"{odd} is {theirs.get(odd)} there, {ours.get(odd)} here"
        raise InputError(f"{folder} holds a checkpoint of another model: {what}; delete it or change `out`")
