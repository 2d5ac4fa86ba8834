"""LoRA files, in every naming in use: which layers they change, how strongly, and by which tensors."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from flax.traverse_util import unflatten_dict

from converters.dit import BACKBONE_ROWS
from converters.dit import DIFFUSERS_ROWS as DIFFUSERS_BACKBONE_ROWS
from converters.files import Tensors, floating, open_tensors
from converters.lora_names import ENDINGS, PATCH, Names, Spot, dotted, names_of, refuse_other_kinds, split
from converters.lora_strength import Strength, strength_of
from converters.tables import Row, match, refuse
from mwjax.errors import InputError
from mwjax.models.block import DiTConfig
from mwjax.models.shapes import world_shapes
from mwjax.models.world_model import WorldConfig

LORA_FILE = "lora_diffusion_pytorch_model.safetensors"  # as released, and in our model folders
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"


def _linear(rows: tuple[Row, ...]) -> list[tuple[str, str]]:
    """(their name, our path) of the linear layers; the patch embedding is a convolution and has no adapter."""
    return [(theirs, ours) for theirs, ours, layer in rows if layer == "linear"]


LORA_ROWS: tuple[Row, ...] = tuple(
    ("lora_unet__" + theirs.replace(".", "_"), ours, "lora") for theirs, ours in _linear(BACKBONE_ROWS)
)
PEFT_ROWS: tuple[Row, ...] = tuple(
    ("diffusion_model." + theirs, ours, "peft") for theirs, ours in _linear(BACKBONE_ROWS)
)
DIFFUSERS_ROWS: tuple[Row, ...] = tuple(
    ("transformer." + theirs, ours, "peft") for theirs, ours in _linear(DIFFUSERS_BACKBONE_ROWS)
)


@dataclasses.dataclass(frozen=True)
class Naming:
    """How LoRA files are written. rows: of the matrices. start: of every name. differences: how the names of plain
    differences (of biases, norms, modulation) go on after `start`, dots replaced by `dot`; None: there is no place."""

    rows: tuple[Row, ...]
    start: str
    dot: str | None


NAMINGS = {
    "released": Naming(LORA_ROWS, "lora_unet__", "_"),
    "peft": Naming(PEFT_ROWS, "diffusion_model.", "."),
    "diffusers": Naming(DIFFUSERS_ROWS, "transformer.", None),
}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One layer's: names of its two matrices, alpha (strength is alpha / rank; a number, in the type of its tensor),
    rank."""

    down: str
    up: str
    alpha: np.ndarray
    rank: int


@dataclasses.dataclass(frozen=True)
class LoRA:
    """A LoRA file that was understood for a backbone.

    adapters: by the spot of their layer's kernel. differences: what is added to leaves as it is, by their spot;
    several functions add up, each gives an array in our layout.
    """

    path: pathlib.Path
    tensors: Tensors
    names: Names
    adapters: dict[Spot, Adapter]
    differences: dict[Spot, list[Callable[[], np.ndarray]]]

    @property
    def described(self) -> str:
        """What it holds, in one line."""
        ranks = sorted({adapter.rank for adapter in self.adapters.values()})
        parts = []
        if ranks:
            strengths = sorted({float(_strength(adapter)) for adapter in self.adapters.values()})
            span = _span("rank", "ranks", ranks)
            strength = _span("alpha / rank", "alpha / rank", strengths)
            parts.append(f"{len(self.adapters)} of {self.names.layers} layers, {span}, {strength}")
        if self.differences:
            parts.append(f"differences of {len(self.differences)} tensors")
        return ", ".join(parts)

    def matrices(self, spot: Spot) -> tuple[np.ndarray, np.ndarray]:
        """(down [in, r], up [r, out]) of a layer, in the file's type."""
        adapter = self.adapters[spot]
        return tuple(_matrix(self.tensors[name]).T for name in (adapter.down, adapter.up))

    def leaves(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """(path of a layer, its adapter {"down", "up", "alpha"} in float32), stacked where the layer is.

        A layer of a stack that the file has nothing for gets zeros; smaller ranks than the stack's largest are filled
        up with zeros, and alpha grows with them, so that alpha / rank stays.
        """
        stacks: dict[str, list[Spot]] = {}
        for spot in self.adapters:
            stacks.setdefault(spot.path, []).append(spot)
        for path in self.names.shapes:
            if path in stacks:
                yield path.removesuffix("/kernel"), self._stacked(path, stacks[path])

    def _stacked(self, path: str, spots: list[Spot]) -> dict[str, np.ndarray]:
        rank = max(self.adapters[spot].rank for spot in spots)
        fan_in, fan_out = self.names.shapes[path]
        stack = self.names.stack(path)
        down = np.zeros((*stack, fan_in, rank), np.float32)
        up = np.zeros((*stack, rank, fan_out), np.float32)
        alpha = np.zeros(stack, np.float32)
        for spot in spots:
            place = () if spot.number is None else (spot.number,)
            adapter = self.adapters[spot]
            low, high = self.matrices(spot)
            down[(*place, slice(None), slice(adapter.rank))] = low
            up[(*place, slice(adapter.rank))] = high
            value = np.float32(adapter.alpha)
            alpha[place] = value if adapter.rank == rank else np.float64(value) * rank / adapter.rank
        return {"down": down, "up": up, "alpha": alpha}

    def tree(self) -> dict:
        """The adapters as a tree beside the backbone's parameters; see `mwjax.models.lora`."""
        flat = {f"{path}/{part}": leaf for path, parts in self.leaves() for part, leaf in parts.items()}
        return unflatten_dict(flat, sep="/").get("backbone", {})

    def difference(self, spot: Spot) -> np.ndarray:
        """What is added to a leaf, in float32 and our layout."""
        return sum(np.asarray(part(), np.float32) for part in self.differences[spot])


def _span(one: str, several: str, values: list) -> str:
    return f"{one} {values[0]:g}" if len(values) == 1 else f"{several} {values[0]:g} to {values[-1]:g}"


def open_lora(path: pathlib.Path) -> Tensors:
    """The tensors of a LoRA file. Raises InputError if it is missing or damaged, or another kind of adapter."""
    tensors = open_tensors(path)
    refuse_other_kinds(tensors, path)
    return tensors


def read_lora(path: pathlib.Path, backbone: dict) -> LoRA:
    """A LoRA file for a backbone of these shapes. Raises InputError if it is damaged, of another model, or holds a key
    that is not known."""
    return _read(open_lora(path), names_of(backbone), path, sizes=True)


def inspect_lora(path: pathlib.Path) -> LoRA:
    """A LoRA file for whatever backbone it is of: shapes are not compared, and the number of layers is a guess."""
    tensors = open_lora(path)
    bare = [name.replace(".", "_") for name in tensors]
    numbers = [int(found[1]) for name in bare if (found := re.search(r"(?:^|_)blocks_([0-9]{1,3})_", name))]
    image = any(re.search(r"img|image|add_[kv]_proj|norm_added", name) for name in bare)
    sizes = {"dim": 16, "ffn_dim": 16, "num_heads": 1, "text_dim": 16, "text_len": 1, "freq_dim": 16}
    config = DiTConfig(**sizes, num_layers=1 + max(numbers, default=0), image_dim=16 if image else 0)
    return _read(tensors, names_of(world_shapes(WorldConfig(config))["backbone"]), path, sizes=False)


@dataclasses.dataclass
class Found:
    """The keys of a file, sorted. low: {spot of a kernel: {part: key}}; plain: {spot: keys of what is added as it is};
    layers: how the file calls the layer of a spot."""

    low: dict[Spot, dict[str, str]] = dataclasses.field(default_factory=dict)
    plain: dict[Spot, list[str]] = dataclasses.field(default_factory=dict)
    layers: dict[Spot, str] = dataclasses.field(default_factory=dict)
    unknown: list[str] = dataclasses.field(default_factory=list)
    twice: list[str] = dataclasses.field(default_factory=list)


def _sorted(tensors: Tensors, names: Names) -> Found:
    found = Found()
    for key in tensors:
        layer, part = split(key) or ("", "")
        low = part not in ENDINGS
        spot = names.find(layer, "weight" if low else part) if layer else None
        if spot is None or (low and not spot.path.endswith("/kernel")):
            found.unknown.append(key)
            continue
        found.layers.setdefault(spot, dotted(layer))
        if not low:
            found.plain.setdefault(spot, []).append(key)
        elif part in found.low.setdefault(spot, {}):
            found.twice.append(key)
        else:
            found.low[spot][part] = key
    return found


def _read(tensors: Tensors, names: Names, path: pathlib.Path, *, sizes: bool) -> LoRA:
    found = _sorted(tensors, names)
    twice = [*found.twice, *(keys[1] for keys in found.plain.values() if len(keys) > 1)]
    if twice:
        raise InputError(f"{path} has two adapters of one layer: {twice[0]} is the second")
    lost = [
        f"the {part} matrix of {found.layers[spot]}"
        for spot, parts in found.low.items()
        for part in ("down", "up")
        if part not in parts
    ]
    wrong = [] if lost or found.unknown else list(_misfits(tensors, names, found, sizes=sizes))
    try:
        refuse(lost, found.unknown, wrong)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not found.low and not found.plain:
        raise InputError(f"{path} holds no LoRA")
    ranks = {tensors.shape(parts["down"])[0] for parts in found.low.values()}
    strength = strength_of(path, ranks, header=tensors.header)
    lora = LoRA(path, tensors, names, {}, {})
    for spot, key in ((spot, key) for spot, keys in found.plain.items() for key in keys):
        lora.differences.setdefault(spot, []).append(partial(_plain, lora, spot, key))
    for spot, parts in found.low.items():
        adapter = _adapter(tensors, parts, found.layers[spot], strength)
        if spot.path == PATCH:
            lora.differences.setdefault(spot, []).append(partial(_convolution, lora, adapter))
        else:
            lora.adapters[spot] = adapter
        if "up_bias" in parts:
            bias = Spot(spot.path.removesuffix("kernel") + "bias", spot.number)
            lora.differences.setdefault(bias, []).append(partial(_bias, lora, adapter, parts["up_bias"]))
    return lora


def _misfits(tensors: Tensors, names: Names, found: Found, *, sizes: bool) -> Iterator[str]:
    """What of a file's tensors has a shape or type that does not fit. sizes: whether to compare with the model's."""
    for spot, parts in found.low.items():
        fan_in, fan_out = names.shapes[spot.path]
        down, up = (tensors.shape(parts[part]) for part in ("down", "up"))
        rank = down[0] if down else 0
        low = names.matches[PATCH].shape([down]) if spot.path == PATCH else _flat(down)[::-1]
        high = _flat(up)[::-1]
        if rank == 0 or len(low or ()) != 2 or len(high) != 2 or high[0] != rank:
            yield f"{parts['down']} is {_size(down)} and {parts['up']} {_size(up)}, which cannot be multiplied"
        elif sizes and (low, high) != ((fan_in, rank), (rank, fan_out)):
            yield f"{parts['down']} and its other half give {low[0]} by {high[1]}, not {fan_in} by {fan_out}"
        if "alpha" in parts and tensors.shape(parts["alpha"]) not in ((), (1,)):
            yield f"{parts['alpha']} is {_size(tensors.shape(parts['alpha']))}, not one number"
        if "up_bias" in parts and sizes and tensors.shape(parts["up_bias"]) != (fan_out,):
            yield f"{parts['up_bias']} is {_size(tensors.shape(parts['up_bias']))}, not {fan_out}"
    for spot, key in ((spot, key) for spot, keys in found.plain.items() for key in keys):
        given = names.matches[spot.path].shape([tensors.shape(key)])
        expected = names.shapes[spot.path]
        if sizes and given != expected:
            yield f"{key} is {_size(tensors.shape(key))}, which gives {given or 'no fit'}, not {expected}"
    alphas = {parts.get("alpha") for parts in found.low.values()}
    for key, (_, dtype) in tensors.specs.items():
        if not floating(dtype) and (key not in alphas or dtype.kind not in "iu"):
            yield f"{key} is of {dtype.name} numbers, which are no weights"


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a matrix that is kept as a convolution of one pixel."""
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape


def _matrix(array: np.ndarray) -> np.ndarray:
    return array.reshape(_flat(array.shape))


def _adapter(tensors: Tensors, parts: dict[str, str], layer: str, strength: Strength) -> Adapter:
    rank = tensors.shape(parts["down"])[0]
    own = tensors[parts["alpha"]].reshape(()) if "alpha" in parts else None
    alpha = strength.alpha_of(layer, rank, None if own is None else float(own))
    kept = own if own is not None and floating(own.dtype) and float(own) == alpha else np.array(alpha, np.float32)
    return Adapter(parts["down"], parts["up"], kept, rank)


def _strength(adapter: Adapter) -> np.float32:
    return np.float32(adapter.alpha) / np.float32(adapter.rank)


def _plain(lora: LoRA, spot: Spot, key: str) -> np.ndarray:
    return lora.names.matches[spot.path].join([lora.tensors[key]])


def _bias(lora: LoRA, adapter: Adapter, key: str) -> np.ndarray:
    return lora.tensors[key].astype(np.float32) * _strength(adapter)


def _convolution(lora: LoRA, adapter: Adapter) -> np.ndarray:
    """What the two convolutions of the patch embedding's adapter do, as one."""
    down = lora.names.matches[PATCH].join([lora.tensors[adapter.down]]).astype(np.float32)
    return _strength(adapter) * (down @ _matrix(lora.tensors[adapter.up]).T.astype(np.float32))


def with_differences(lora: LoRA, path: str, leaf: np.ndarray, scale: float) -> np.ndarray:
    """A leaf of the backbone (its path begins "backbone/") with `scale` times its differences added."""
    for spot in lora.differences:
        if spot.path != path:
            continue
        if leaf.dtype != np.float32 or not leaf.flags.writeable:
            leaf = leaf.astype(np.float32)
        place = ... if spot.number is None else spot.number
        leaf[place] += np.float32(scale) * lora.difference(spot)
    return leaf


def renamed(lora: LoRA, naming: str) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of all that a LoRA file holds, in a naming. Raises InputError if that has no place for it.

    Only released names have a place for alpha: elsewhere alpha / rank is multiplied into the up matrices.
    """
    how = NAMINGS[naming]
    if lora.differences and how.dot is None:
        raise InputError(f"{lora.path} has differences of biases or norms, for which {naming} has no place; use peft")
    paths = dict.fromkeys(spot.path for path in lora.names.shapes for spot in lora.adapters if spot.path == path)
    for path in paths:
        spots = sorted((spot for spot in lora.adapters if spot.path == path), key=_number)
        for part in ("alpha", "down", "up") if naming == "released" else ("down", "up"):
            target = match(how.rows, f"{path.removesuffix('/kernel')}/{part}", lora.names.stack(path))
            for spot in spots:
                array = _parts(lora, spot, own_alpha=naming == "released")[part]
                yield from zip(target.layers[_number(spot)], target.part(array), strict=True)
    for spot in lora.differences:
        plain = match(BACKBONE_ROWS, spot.path, lora.names.stack(spot.path))
        (name,) = plain.layers[_number(spot)]
        (array,) = plain.part(lora.difference(spot))
        layer, _, part = name.rpartition(".")
        layer = how.start + layer.replace(".", how.dot)
        yield f"{layer}.{DIFFERENCES[part]}", array


DIFFERENCES = {"weight": "diff", "bias": "diff_b", "modulation": "diff_m"}


def _number(spot: Spot) -> int:
    return spot.number or 0


def _parts(lora: LoRA, spot: Spot, *, own_alpha: bool) -> dict[str, np.ndarray]:
    """A layer's arrays, in the file's types."""
    down, up = lora.matrices(spot)
    alpha = lora.adapters[spot].alpha
    if not own_alpha:
        up = (up * (alpha / lora.adapters[spot].rank)).astype(up.dtype)
    return {"down": down, "up": up, "alpha": alpha}
