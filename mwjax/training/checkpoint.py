"""Checkpoints by Orbax: state, step and the data iterator, written in the background, whole or not at all.

One that is damaged is left out for the one before. Beside the position in the data lies a sum over the bits of the
state, so that a bit that has flipped since is found as well.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import pathlib
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from tqdm import tqdm

from mwjax.data.files import reason_of, remove
from mwjax.errors import NOT_ALLOWED, InputError, full_disk
from mwjax.runtime.processes import barrier
from mwjax.training.state import TrainState

OLD_NAMES = {"ema": "average", "loss_ema": "usual"}  # of parts of the state, in checkpoints written before
SUM = "sum_of_bits"  # beside the position in the data
UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by bytes


class Manager(ocp.CheckpointManager):
    """Orbax's, which does not ask whether to stop: PreemptionGuard does, by a count that goes on from stage to
    stage."""

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpoints:
    """The checkpoints of one stage, in `folder`; as a context, they are closed whatever happens."""

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
        self._manager = Manager(self.folder, options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            self.close()
            return
        with quiet(), contextlib.suppress(Exception):  # what came first is what is told
            self.close()

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def due(self, step: int, *, force: bool = False) -> bool:
        """Whether `save` would save."""
        return self._manager.latest_step() != step if force else self._manager.should_save(step)

    def save(self, step: int, state: TrainState, data: dict, *, force: bool = False) -> None:
        """Save if `step` is due (or `force`); returns before the files are written."""
        if not self.due(step, force=force):
            return
        parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        if jax.process_count() == 1:
            data = {**data, SUM: int(sum_of_bits(parts))}
        items = ocp.args.Composite(state=ocp.args.StandardSave(parts), data=ocp.args.JsonSave(data))
        with self._telling():
            self._manager.save(step, args=items, force=True)

    def restore(self, like: TrainState) -> tuple[TrainState, dict]:
        """The newest checkpoint that is whole, in the shapes and placement of `like`; those after it are put aside.

        Raises InputError if there is none, or if it is of another model.
        """
        damaged: dict[int, str] = {}
        refused: InputError | None = None
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                with quiet():
                    found = self._restore(step, like)
            except Exception as error:  # whatever Orbax raises for a file that is not what it was
                _check_allowed(error, self.folder / str(step))
                refused = refused or (error if isinstance(error, InputError) else None)
                damaged[step] = _reason(error)
                continue
            for newer, reason in damaged.items():
                self._put_aside(newer, f"({reason}); going on from step {step}")
            return found
        if refused:
            raise refused
        steps = "; ".join(f"step {step} is damaged ({reason})" for step, reason in damaged.items())
        raise InputError(f"{self.folder} holds no checkpoint that can be read: {steps}; delete it to begin anew")

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, dict]:
        saved = self._manager.item_metadata(step)["state"]
        _compare(_shapes(saved["trainable"]), _shapes(like.trainable), self.folder)
        old = OLD_NAMES if "average" in saved else {}
        parts = {old.get(field.name, field.name): getattr(like, field.name) for field in dataclasses.fields(like)}
        abstract = jax.tree.map(_placed, parts)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=items)
        except (ValueError, KeyError, TypeError) as error:
            if _sizes(saved) == _sizes(parts):  # all is there, and cannot be read
                raise OSError(reason_of(error)) from error
            reason = str(error).partition("\n")[0][:160]
            what = f"{self.folder} holds a checkpoint of another optimizer or `ema` ({reason})"
            raise InputError(f"{what}; set them as they were, delete it or change `out`") from None
        data = restored["data"]
        if not isinstance(data, dict):
            raise OSError("the position in the data is not what was written")
        expected = data.pop(SUM, None)
        if expected is not None and jax.process_count() == 1 and int(sum_of_bits(restored["state"])) != expected:
            raise OSError("its bits are not those that were written")
        state = {field.name: restored["state"][old.get(field.name, field.name)] for field in dataclasses.fields(like)}
        return TrainState(**state), data

    def _put_aside(self, step: int, why: str) -> None:
        """Rename a checkpoint, so that its step can be saved again."""
        aside = self.folder.parent / f"damaged_checkpoint_{step}"
        if jax.process_index() == 0:
            tqdm.write(f"checkpoint {step} in {self.folder} is damaged {why}", file=sys.stderr)
            remove(aside)
            os.replace(self.folder / str(step), aside)
        barrier(f"checkpoint {step} put aside")
        self._manager.reload()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """A full disk is told as one, with the folder; what was half written goes."""
        try:
            yield
        except Exception as error:
            if not full_disk(error):
                raise
            for half in self.folder.glob("*orbax-checkpoint-tmp*"):
                with contextlib.suppress(OSError):
                    remove(half)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder)) from None

    def close(self) -> None:
        try:
            with self._telling():
                self._manager.wait_until_finished()
        finally:
            self._manager.close()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries say nothing of what goes wrong within: it is told in a line of our own."""
    before, hook = logging.root.manager.disable, sys.unraisablehook
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = _say_nothing
    try:
        yield
    except BaseException:
        time.sleep(0.2)  # for threads that have something to say as well
        raise
    finally:
        logging.disable(before)
        sys.unraisablehook = hook


def _say_nothing(unraisable) -> None:
    del unraisable


@jax.jit
def sum_of_bits(tree) -> jax.Array:
    """A sum over the bits of all leaves, modulo 2³²: another one if a single bit is another."""
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        bits = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
        bits = jax.lax.bitcast_convert_type(bits, UNSIGNED[bits.dtype.itemsize])
        total = total * jnp.uint32(31) + bits.astype(jnp.uint32).sum(dtype=jnp.uint32)
    return total


def _reason(error: Exception) -> str:
    """Why a checkpoint cannot be read, without what its library says beside."""
    text = reason_of(error)
    for beside in (" [tensorstore_spec", ". See full TensorStore", " [source locations"):
        text = text.partition(beside)[0]
    return text


def _check_allowed(error: Exception, place: pathlib.Path) -> None:
    """Raises InputError for a checkpoint that may not be read, which is no damage."""
    text = str(error)
    if getattr(error, "errno", None) in NOT_ALLOWED or "PERMISSION_DENIED" in text or "Permission denied" in text:
        raise InputError(f"{place} may not be read: no permission") from None


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
    """What another run's stage gave: the trainable parameters of its newest checkpoint that is whole, or their running
    mean if it kept one, in the placement of `like`. Raises InputError if they are others, or all are damaged."""
    last = newest(folder).parent
    for step in reversed(saved_steps(last.parent)):
        place = last.parent / str(step)
        try:
            with quiet():
                return _restore_trainable(place / "state", like)
        except InputError:
            raise
        except Exception as error:  # whatever Orbax raises for a file that is not what it was
            _check_allowed(error, place)
            reason = _reason(error)
            if jax.process_index() == 0:
                tqdm.write(f"{place} is damaged ({reason}); taking the one before", file=sys.stderr)
    raise InputError(f"{last.parent} holds no checkpoint that can be read; the last is damaged ({reason})")


def _restore_trainable(place: pathlib.Path, like: dict[str, jax.Array]) -> dict[str, jax.Array]:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(place).item_metadata.tree
        means = [name for name in ("ema", "average") if isinstance(tree.get(name), dict) and tree[name]]
        part = means[0] if means else "trainable"
        _compare(_shapes(tree[part]), _shapes(like), place)
        item = {part: jax.tree.map(_placed, like)}
        how = ocp.checkpoint_utils.construct_restore_args(item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
        return checkpointer.restore(place, args=args)[part]


def _sizes(tree) -> list[tuple[int, ...]]:
    """The shapes of all leaves, sorted."""
    leaves = jax.tree.leaves(dict(tree.items()))
    return sorted(tuple(leaf.shape) for leaf in leaves if hasattr(leaf, "shape"))


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
