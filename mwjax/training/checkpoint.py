"""Checkpoints by Orbax: state, step and the data iterator, written in the background, whole or not at all."""

import pathlib

import jax
import orbax.checkpoint as ocp

from mwjax.errors import InputError
from mwjax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one stage, in `folder`."""

    def __init__(self, folder: str | pathlib.Path, *, every: int, keep: int = 2):
        options = ocp.CheckpointManagerOptions(save_interval_steps=every, max_to_keep=keep, enable_async_checkpointing=True)
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
        theirs = {jax.tree_util.keystr(k): tuple(v.shape) for k, v in jax.tree_util.tree_leaves_with_path(saved["trainable"])}
        ours = {jax.tree_util.keystr(k): tuple(v.shape) for k, v in jax.tree_util.tree_leaves_with_path(like.trainable)}
        if theirs != ours:
            odd = next(k for k in sorted(theirs.keys() | ours.keys()) if theirs.get(k) != ours.get(k))
            raise InputError(f"{self.folder} holds a checkpoint of another model: {odd} is {theirs.get(odd)} there, {ours.get(odd)} here; delete it or change `out`")
        restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()))
        return restored["state"], restored["data"]

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
