"""Rule tables between published key names and this project's parameter trees, and the one loop that applies them both ways.

A row is (their name, our path, kind). Braces capture: `{i}` a number, other names a word; `{layer}` is the index along
the leading axis of our stacked parameters. `kind` names the leaves below that point and how each is laid out.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mwjax.errors import InputError

Row = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One tensor of a layer: their suffix, our name, and the layout change both ways."""

    theirs: str
    ours: str
    load: Callable[[np.ndarray], np.ndarray] = lambda a: a
    save: Callable[[np.ndarray], np.ndarray] = lambda a: a


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
    "time": (  # [o, i, 3, 1, 1] to [3, i, o]
        Leaf(".weight", "/time_kernel", lambda a: a.squeeze((3, 4)).transpose(2, 1, 0), lambda a: np.expand_dims(a.transpose(2, 1, 0), (3, 4))),
        Leaf(".bias", "/time_bias")),
    "norm": (Leaf(".weight", "/scale"), BIAS),
    "gamma2": (Leaf(".gamma", "/gamma", *_unit((1, 2))),),
    "gamma3": (Leaf(".gamma", "/gamma", *_unit((1, 2, 3))),),
    "modulation": (Leaf("", "", *_unit((0,))),),
    "table": (Leaf("", ""),),
    "lora": (Leaf(".lora_down.weight", "/down", *_permute(1, 0)), Leaf(".lora_up.weight", "/up", *_permute(1, 0)), Leaf(".alpha", "/alpha")),
}  # fmt: skip


def _pattern(template: str) -> re.Pattern:
    parts = re.split(r"\{(\w+)\}", template)
    text = "".join(re.escape(p) if i % 2 == 0 else rf"(?P<{p}>{r'[0-9]+' if p in ('i', 'layer') else r'[a-z_]+?'})" for i, p in enumerate(parts))
    return re.compile(text)


@dataclasses.dataclass(frozen=True)
class Match:
    """Where one of our leaves comes from."""

    names: tuple[str, ...]  # their names, one per layer if stacked
    stacked: bool
    leaf: Leaf


def match(rows: tuple[Row, ...], path: str, shape: tuple[int, ...]) -> Match | None:
    """The first row that covers our leaf `path`, filled in; None if none does."""
    for theirs, ours, kind in rows:
        for leaf in KINDS[kind]:
            found = _pattern(ours + leaf.ours).fullmatch(path)
            if found:
                stacked = "{layer}" in theirs
                layers = range(shape[0]) if stacked else (0,)
                return Match(tuple((theirs + leaf.theirs).format(layer=n, **found.groupdict()) for n in layers), stacked, leaf)
    return None


def load(rows: tuple[Row, ...], tensors: Mapping[str, np.ndarray], target: dict, *, optional: str = "") -> tuple[dict, list[str]]:
    """Fill the tree `target` (arrays or shapes) from `tensors`. Every key is used exactly once.

    optional: regex of our paths that may be absent as a whole (they are left as None and returned as a list).
    Raises InputError listing keys that are missing, unexpected or of the wrong shape.
    """
    missing, wrong, absent, used, out = [], [], [], set(), {}
    for path, leaf in flatten_dict(target, sep="/").items():
        found = match(rows, path, leaf.shape)
        if found is None:
            raise AssertionError(f"no conversion rule for {path}")
        lost = [name for name in found.names if name not in tensors]
        if lost and optional and re.match(optional, path):
            absent.append(path)
            out[path] = None
            continue
        missing += lost
        if lost:
            continue
        used.update(found.names)
        parts = [found.leaf.load(np.asarray(tensors[name])) for name in found.names]
        odd = {p.shape for p in parts}
        if len(odd) > 1:
            wrong.append(f"{found.names[0].replace('.0.', '.*.')} differ in shape: {sorted(odd)}")
            continue
        value = np.stack(parts) if found.stacked else parts[0]
        if value.shape != tuple(leaf.shape):
            wrong.append(f"{found.names[0]} gives {value.shape}, the model has {tuple(leaf.shape)}")
        out[path] = value
    unexpected = [name for name in tensors if name not in used]
    problems = [f"{len(what)} {title}: {', '.join(what[:8])}{' …' if len(what) > 8 else ''}"
                for title, what in (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", wrong)) if what]  # fmt: skip
    if problems:
        raise InputError("these weights do not fit the model; " + "; ".join(problems))
    return unflatten_dict(out, sep="/"), absent


def save(rows: tuple[Row, ...], tree: dict) -> Iterator[tuple[str, np.ndarray]]:
    """Their (name, array) pairs for our tree; the inverse of `load`, bit for bit."""
    for path, value in flatten_dict(tree, sep="/").items():
        found = match(rows, path, value.shape)
        if found is None:
            raise AssertionError(f"no conversion rule for {path}")
        for n, name in enumerate(found.names):
            yield name, np.asarray(found.leaf.save(np.asarray(value[n] if found.stacked else value)), order="C")
