"""Rule tables between published key names and this project's parameter trees, and the one loop that applies them both
ways.

A row is (their name, our path, layer). Braces capture: `{i}`, `{j}`, `{k}` a number, other names a word; `{layer}` is
the index along the leading axis of our stacked parameters. The third entry, a key of LAYERS, names the leaves below
that point and how each is laid out.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mwjax.errors import InputError

Row = tuple[str, str, str]
Change = Callable[[np.ndarray], np.ndarray]


def _same(array: np.ndarray) -> np.ndarray:
    return array


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One tensor of a layer: their suffix, our name, and the layout change both ways.

    Several suffixes are several tensors of theirs, which lie one after the other along the last axis of ours.
    """

    theirs: str | tuple[str, ...]
    ours: str
    load: Change = _same
    save: Change = _same

    @property
    def suffixes(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


def _permute(*axes: int) -> tuple[Change, Change]:
    back = tuple(np.argsort(axes))
    return (lambda a: a.transpose(axes)), (lambda a: a.transpose(back))


def _unit(*axes: int) -> tuple[Change, Change]:
    return (lambda a: a.squeeze(axes)), (lambda a: np.expand_dims(a, axes))


def _patch(kernel: np.ndarray) -> np.ndarray:  # [d, c, 1, p, q] to [(p q c), d]
    return kernel.transpose(3, 4, 1, 2, 0).reshape(-1, kernel.shape[0])


def _unpatch(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(2, 2, -1, 1, kernel.shape[-1]).transpose(4, 2, 3, 0, 1)


def _image_patch(kernel: np.ndarray) -> np.ndarray:  # [d, 3, p, q] to [(p q 3), d]
    return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])


def _image_unpatch(kernel: np.ndarray) -> np.ndarray:
    side = math.isqrt(kernel.shape[0] // 3)
    return kernel.reshape(side, -1, 3, kernel.shape[-1]).transpose(3, 2, 0, 1)


def _time(kernel: np.ndarray) -> np.ndarray:  # [o, i, 3, 1, 1] to [3, i, o]
    return kernel.squeeze((3, 4)).transpose(2, 1, 0)


def _untime(kernel: np.ndarray) -> np.ndarray:
    return np.expand_dims(kernel.transpose(2, 1, 0), (3, 4))


KERNEL = Leaf(".weight", "/kernel", *_permute(1, 0))
BIAS = Leaf(".bias", "/bias")
ALPHA = Leaf(".alpha", "/alpha")
LAYERS: dict[str, tuple[Leaf, ...]] = {
    "linear": (KERNEL, BIAS),
    "patch": (Leaf(".weight", "/kernel", _patch, _unpatch), BIAS),
    "image_patch": (Leaf(".weight", "/kernel", _image_patch, _image_unpatch),),
    "conv2": (Leaf(".weight", "/kernel", *_permute(2, 3, 1, 0)), BIAS),
    "conv3": (Leaf(".weight", "/kernel", *_permute(2, 3, 4, 1, 0)), BIAS),
    "conv3_flat": (Leaf(".weight", "_kernel", *_permute(2, 3, 4, 1, 0)), Leaf(".bias", "_bias")),
    "time": (Leaf(".weight", "/time_kernel", _time, _untime), Leaf(".bias", "/time_bias")),
    "norm": (Leaf(".weight", "/scale"), BIAS),
    "gamma2": (Leaf(".gamma", "/gamma", *_unit(1, 2)),),
    "gamma3": (Leaf(".gamma", "/gamma", *_unit(1, 2, 3)),),
    "qkv": (
        Leaf((".q_proj.weight", ".k_proj.weight", ".v_proj.weight"), "/kernel", *_permute(1, 0)),
        Leaf((".q_proj.bias", ".k_proj.bias", ".v_proj.bias"), "/bias"),
    ),
    "vector": (Leaf("", "", *_unit(0, 1)[::-1]),),  # [d] to [1, 1, d]
    "rows": (Leaf("", "", *_unit(0)[::-1]),),  # [n, d] to [1, n, d]
    "transposed": (Leaf("", "", *_permute(1, 0)),),
    "modulation": (Leaf("", "", *_unit(0)),),
    "table": (Leaf("", ""),),
    "lora": (
        Leaf(".lora_down.weight", "/down", *_permute(1, 0)),
        Leaf(".lora_up.weight", "/up", *_permute(1, 0)),
        ALPHA,
    ),
    "peft": (
        Leaf(".lora_A.weight", "/down", *_permute(1, 0)),
        Leaf(".lora_B.weight", "/up", *_permute(1, 0)),
        ALPHA,
    ),
}
NUMBERS = ("i", "j", "k", "layer")  # what these capture is a number


@functools.cache
def _pattern(template: str) -> re.Pattern:
    """A regex for the names of a row: `{name}` becomes a group of that name."""
    parts = re.split(r"\{(\w+)\}", template)  # text and names by turns
    texts = [re.escape(text) for text in parts[::2]]
    groups = [f"(?P<{name}>{'[0-9]+' if name in NUMBERS else '[a-z_]+?'})" for name in parts[1::2]]
    return re.compile("".join(text + group for text, group in zip(texts, [*groups, ""], strict=True)))


def layer_count(names: Iterable[str], template: str) -> int:
    """How many layers there are, counted by a name of theirs in which `{layer}` stands for the layer's number."""
    found = [_pattern(template).fullmatch(name) for name in names]
    return 1 + max((int(match["layer"]) for match in found if match), default=-1)


@dataclasses.dataclass(frozen=True)
class Match:
    """Where one of our leaves comes from: for each layer (or the one layer, if it is not stacked) the names of its
    tensors."""

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
        blank = np.zeros((), np.int8)
        try:
            return self.join([np.broadcast_to(blank, shape) for shape in shapes]).shape
        except ValueError:
            return None

    def part(self, value: np.ndarray) -> list[np.ndarray]:
        """The tensors of one layer of ours."""
        count = len(self.leaf.suffixes)
        parts = [value] if count == 1 else np.split(value, count, -1)
        return [np.asarray(self.leaf.save(part), order="C") for part in parts]


def match(rows: tuple[Row, ...], path: str, shape: tuple[int, ...]) -> Match | None:
    """The first row that covers our leaf `path`, filled in; None if none does."""
    for theirs, ours, layer in rows:
        for leaf in LAYERS[layer]:
            found = _pattern(ours + leaf.ours).fullmatch(path)
            if not found:
                continue
            stacked = "{layer}" in theirs
            layers = tuple(
                tuple((theirs + suffix).format(layer=number, **found.groupdict()) for suffix in leaf.suffixes)
                for number in range(shape[0] if stacked else 1)
            )
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
    missing = []
    wrong = []
    used = set()
    for path, leaf in flatten_dict(target, sep="/").items():
        found = _must_match(rows, path, leaf.shape)
        used.update(found.names)
        expected = tuple(leaf.shape[1:] if found.stacked else leaf.shape)
        for names in found.layers:
            lost = [name for name in names if name not in specs]
            missing += lost
            if lost:
                continue
            shape = found.shape([specs[name][0] for name in names])
            if shape != expected:
                theirs = "x".join(map(str, specs[names[0]][0]))
                wrong.append(f"{names[0]} is {theirs}, which gives {shape or 'no fit'}, not {expected}")
    refuse(missing, [name for name in specs if name not in used], wrong)


def refuse(missing: list[str], unexpected: list[str], wrong: list[str]) -> None:
    """An InputError that lists what does not fit, if anything."""
    problems = []
    for title, names in (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", wrong)):
        if names:
            more = " …" if len(names) > 8 else ""
            problems.append(f"{len(names)} {title}: {', '.join(names[:8])}{more}")
    if problems:
        raise InputError("these weights do not fit the model; " + "; ".join(problems))


def leaves(rows: tuple[Row, ...], tensors: Mapping[str, np.ndarray], target: dict) -> Iterator[tuple[str, np.ndarray]]:
    """(path, array) of each leaf of the tree `target` (arrays or shapes), one at a time.

    Raises InputError unless `tensors` fit it exactly; see `check`.
    """
    specs = getattr(tensors, "specs", None)
    if specs is None:
        specs = {name: (np.shape(array), np.asarray(array).dtype) for name, array in tensors.items()}
    check(rows, specs, target)
    for path, leaf in flatten_dict(target, sep="/").items():
        found = _must_match(rows, path, leaf.shape)
        layers = [found.join([np.asarray(tensors[name]) for name in names]) for names in found.layers]
        yield path, np.stack(layers) if found.stacked else layers[0]


def load(rows: tuple[Row, ...], tensors: Mapping[str, np.ndarray], target: dict) -> dict:
    """The tree of `leaves`."""
    return unflatten_dict(dict(leaves(rows, tensors, target)), sep="/")


def save(rows: tuple[Row, ...], tree: dict) -> Iterator[tuple[str, np.ndarray]]:
    """Their (name, array) pairs for our tree; the inverse of `load`, bit for bit."""
    for path, value in flatten_dict(tree, sep="/").items():
        found = _must_match(rows, path, value.shape)
        for number, names in enumerate(found.layers):
            layer = np.asarray(value[number] if found.stacked else value)
            yield from zip(names, found.part(layer), strict=True)


@dataclasses.dataclass(frozen=True)
class Move:
    """One step of a conversion between two layouts: one layer of one of our leaves, which is never seen in our tree.

    read, write: names of its tensors in the layout it comes from and in the one it goes to.
    """

    read: tuple[str, ...]
    write: tuple[str, ...]
    source: Match
    target: Match

    def change(self, tensors: list[np.ndarray]) -> list[np.ndarray]:
        """What to write, from what was read."""
        return self.target.part(self.source.join(tensors))


def moves(source: tuple[Row, ...], target: tuple[Row, ...], shapes: dict) -> list[Move]:
    """The conversion of a network from one layout to another, layer by layer, so that only one layer's tensors are in
    memory."""
    steps = []
    for path, leaf in flatten_dict(shapes, sep="/").items():
        old = _must_match(source, path, leaf.shape)
        new = _must_match(target, path, leaf.shape)
        steps += [Move(read, write, old, new) for read, write in zip(old.layers, new.layers, strict=True)]
    return steps
