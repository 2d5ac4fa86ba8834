"""Rule tables between published key names and this project's parameter trees, and the one loop that applies them both ways.

A row is (their name, our path, kind). Braces capture: `{i}`, `{j}`, `{k}` a number, other names a word; `{layer}` is the index along
the leading axis of our stacked parameters. `kind` names the leaves below that point and how each is laid out.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mwjax.errors import InputError

Row = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One tensor of a layer: their suffix, our name, and the layout change both ways.

    Several suffixes are several tensors of theirs, which lie one after the other along the last axis of ours.
    """

    theirs: str | tuple[str, ...]
    ours: str
    load: Callable[[np.ndarray], np.ndarray] = lambda a: a
    save: Callable[[np.ndarray], np.ndarray] = lambda a: a

    @property
    def suffixes(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


def _permute(*axes: int) -> tuple[Callable, Callable]:
    back = tuple(np.argsort(axes))
    return (lambda a: a.transpose(axes)), (lambda a: a.transpose(back))


def _unit(axes: tuple[int, ...]) -> tuple[Callable, Callable]:
    return (lambda a: a.squeeze(axes)), (lambda a: np.expand_dims(a, axes))


BIAS = Leaf(".bias", "/bias")
KINDS: dict[str, tuple[Leaf, ...]] = {
    "linear": (Leaf(".weight", "/kernel", *_permute(1, 0)), BIAS),
    "patch": (  # [d, c, 1, p, q] to [(p q c), d]
        Leaf(".weight", "/kernel", lambda a: a.transpose(3, 4, 1, 2, 0).reshape(-1, a.shape[0]),
             lambda a: a.reshape(2, 2, -1, 1, a.shape[-1]).transpose(4, 2, 3, 0, 1)), BIAS),
    "image_patch": (  # [d, 3, p, q] to [(p q 3), d]
        Leaf(".weight", "/kernel", lambda a: a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0]),
             lambda a: a.reshape(math.isqrt(a.shape[0] // 3), -1, 3, a.shape[-1]).transpose(3, 2, 0, 1)),),
    "conv2": (Leaf(".weight", "/kernel", *_permute(2, 3, 1, 0)), BIAS),
    "conv3": (Leaf(".weight", "/kernel", *_permute(2, 3, 4, 1, 0)), BIAS),
    "conv3_flat": (Leaf(".weight", "_kernel", *_permute(2, 3, 4, 1, 0)), Leaf(".bias", "_bias")),
    "time": (  # [o, i, 3, 1, 1] to [3, i, o]
        Leaf(".weight", "/time_kernel", lambda a: a.squeeze((3, 4)).transpose(2, 1, 0), lambda a: np.expand_dims(a.transpose(2, 1, 0), (3, 4))),
        Leaf(".bias", "/time_bias")),
    "norm": (Leaf(".weight", "/scale"), BIAS),
    "gamma2": (Leaf(".gamma", "/gamma", *_unit((1, 2))),),
    "gamma3": (Leaf(".gamma", "/gamma", *_unit((1, 2, 3))),),
    "qkv": tuple(
        Leaf(tuple(f".{part}_proj.{name}" for part in "qkv"), ours, *change)
        for name, ours, change in (("weight", "/kernel", _permute(1, 0)), ("bias", "/bias", ()))),
    "vector": (Leaf("", "", lambda a: a[None, None], lambda a: a[0, 0]),),  # [d] to [1, 1, d]
    "transposed": (Leaf("", "", *_permute(1, 0)),),
    "rows": (Leaf("", "", lambda a: a[None], lambda a: a[0]),),  # [n, d] to [1, n, d]
    "modulation": (Leaf("", "", *_unit((0,))),),
    "table": (Leaf("", ""),),
    "lora": (Leaf(".lora_down.weight", "/down", *_permute(1, 0)), Leaf(".lora_up.weight", "/up", *_permute(1, 0)), Leaf(".alpha", "/alpha")),
    "peft": (Leaf(".lora_A.weight", "/down", *_permute(1, 0)), Leaf(".lora_B.weight", "/up", *_permute(1, 0)), Leaf(".alpha", "/alpha")),
}  # fmt: skip


@functools.cache
def _pattern(template: str) -> re.Pattern:
    parts = re.split(r"\{(\w+)\}", template)
    text = "".join(re.escape(p) if i % 2 == 0 else rf"(?P<{p}>{r'[0-9]+' if p in ('i', 'j', 'k', 'layer') else r'[a-z_]+?'})" for i, p in enumerate(parts))
    return re.compile(text)


@dataclasses.dataclass(frozen=True)
class Match:
    """Where one of our leaves comes from: for each layer (or the one layer, if it is not stacked) the names of its tensors."""

    layers: tuple[tuple[str, ...], ...]
    stacked: bool
    leaf: Leaf

    @property
    def names(self) -> list[str]:
        return [name for names in self.layers for name in names]

    def join(self, tensors: list[np.ndarray]) -> np.ndarray:
        """One layer of ours from its tensors."""
        parts = [self.leaf.load(tensor) for tensor in tensors]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)

    def shape(self, shapes: list[tuple[int, ...]]) -> tuple[int, ...] | None:
        """Shape of one layer of ours from the shapes of its tensors; None if they cannot be laid out."""
        try:
            return self.join([np.broadcast_to(np.zeros((), np.int8), shape) for shape in shapes]).shape
        except ValueError:
            return None

    def part(self, value: np.ndarray) -> list[np.ndarray]:
        """The tensors of one layer of ours."""
        parts = [value] if len(self.leaf.suffixes) == 1 else np.split(value, len(self.leaf.suffixes), -1)
        return [np.asarray(self.leaf.save(part), order="C") for part in parts]


def match(rows: tuple[Row, ...], path: str, shape: tuple[int, ...]) -> Match | None:
    """The first row that covers our leaf `path`, filled in; None if none does."""
    for theirs, ours, kind in rows:
        for leaf in KINDS[kind]:
            found = _pattern(ours + leaf.ours).fullmatch(path)
            if found:
                stacked = "{layer}" in theirs
                numbers = range(shape[0]) if stacked else (0,)
                layers = tuple(tuple((theirs + s).format(layer=n, **found.groupdict()) for s in leaf.suffixes) for n in numbers)
                return Match(layers, stacked, leaf)
    return None


def _must_match(rows: tuple[Row, ...], path: str, shape: tuple[int, ...]) -> Match:
    found = match(rows, path, shape)
    if found is None:
        raise AssertionError(f"no conversion rule for {path}")
    return found


def check(rows: tuple[Row, ...], specs: Mapping[str, tuple[tuple[int, ...], np.dtype]], target: dict) -> None:
    """Whether tensors of these shapes fill the tree `target` (arrays or shapes), every key used exactly once.

    specs: {name: (shape, dtype)}. Raises InputError listing keys that are missing, unexpected or of the wrong shape.
    """
    missing, wrong, used = [], [], set()
    for path, leaf in flatten_dict(target, sep="/").items():
        found = _must_match(rows, path, leaf.shape)
        used.update(found.names)
        expected = tuple(leaf.shape[1:] if found.stacked else leaf.shape)
        for names in found.layers:
            lost = [name for name in names if name not in specs]
            missing += lost
            if not lost:
                shape = found.shape([specs[name][0] for name in names])
                if shape != expected:
                    wrong.append(f"{names[0]} is {'x'.join(map(str, specs[names[0]][0]))}, which gives {shape or 'no fit'}, not {expected}")
    refuse(missing, [name for name in specs if name not in used], wrong)


def leaves(rows: tuple[Row, ...], tensors: Mapping[str, np.ndarray], target: dict) -> Iterator[tuple[str, np.ndarray]]:
    """(path, array) of each leaf of the tree `target` (arrays or shapes) from `tensors`, which must fit it exactly; see `check`. One at a time."""
    specs = getattr(tensors, "specs", None) or {name: (np.shape(a), np.asarray(a).dtype) for name, a in tensors.items()}
    check(rows, specs, target)
    for path, leaf in flatten_dict(target, sep="/").items():
        found = _must_match(rows, path, leaf.shape)
        layers = [found.join([np.asarray(tensors[name]) for name in names]) for names in found.layers]
        yield path, np.stack(layers) if found.stacked else layers[0]


def load(rows: tuple[Row, ...], tensors: Mapping[str, np.ndarray], target: dict) -> dict:
    """The tree of `leaves`."""
    return unflatten_dict(dict(leaves(rows, tensors, target)), sep="/")


def refuse(missing: list[str], unexpected: list[str], wrong: list[str]) -> None:
    """An InputError that lists what does not fit, if anything."""
    problems = [f"{len(what)} {title}: {', '.join(what[:8])}{' …' if len(what) > 8 else ''}"
                for title, what in (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", wrong)) if what]  # fmt: skip
    if problems:
        raise InputError("these weights do not fit the model; " + "; ".join(problems))


def save(rows: tuple[Row, ...], tree: dict) -> Iterator[tuple[str, np.ndarray]]:
    """Their (name, array) pairs for our tree; the inverse of `load`, bit for bit."""
    for path, value in flatten_dict(tree, sep="/").items():
        found = _must_match(rows, path, value.shape)
        for n, names in enumerate(found.layers):
            yield from zip(names, found.part(np.asarray(value[n] if found.stacked else value)), strict=True)


@dataclasses.dataclass(frozen=True)
class Move:
    """One step of a conversion between two layouts: tensors to read, how to change them, tensors to write."""

    read: tuple[str, ...]
    write: tuple[str, ...]
    change: Callable[[list[np.ndarray]], list[np.ndarray]]


def moves(source: tuple[Row, ...], target: tuple[Row, ...], shapes: dict) -> list[Move]:
    """The conversion of a network from one layout to another, layer by layer, so that only one layer's tensors are in memory."""
    out = []
    for path, leaf in flatten_dict(shapes, sep="/").items():
        theirs, new = _must_match(source, path, leaf.shape), _must_match(target, path, leaf.shape)
        for read, write in zip(theirs.layers, new.layers, strict=True):
            out.append(Move(read, write, lambda tensors, theirs=theirs, new=new: new.part(theirs.join(tensors))))
    return out
