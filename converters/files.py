"""Tensor files: reading one tensor at a time from safetensors (whole or sharded) and .pth, writing safetensors as a stream."""

import hashlib
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping

import ml_dtypes  # noqa: F401  teaches numpy bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from mwjax.errors import InputError

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}
NUMPY = {code: np.dtype(name) for name, code in DTYPES.items()}


def read_json(path: pathlib.Path) -> dict:
    """A JSON file. Raises InputError if it is missing or damaged."""
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise InputError(f"{path} is not a JSON object")
        return value
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error})") from None


class Tensors(Mapping):
    """Named tensors that are read when asked for. `specs`: {name: (shape, dtype)}, known without reading."""

    def __init__(self, specs: dict[str, tuple[tuple[int, ...], np.dtype]], read: Callable[[str], np.ndarray], paths: Iterable[pathlib.Path]):
        self.specs, self._read, self.paths = specs, read, tuple(paths)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.specs:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def renamed(self, rename: Callable[[str], str | None]) -> "Tensors":
        """The same tensors under other names; those renamed to None are left out. Raises InputError if two come to the same name."""
        names: dict[str, str] = {}
        for old in self.specs:
            new = rename(old)
            if new in names:
                raise InputError(f"{self.paths[0]} holds {new} twice, as {names[new]} and as {old}")
            if new is not None:
                names[new] = old
        return Tensors({new: self.specs[old] for new, old in names.items()}, lambda new: self._read(names[new]), self.paths)

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(int(np.prod(shape)) for shape, _ in self.specs.values())


def open_safetensors(paths: list[pathlib.Path]) -> Tensors:
    """The tensors of one or several safetensors files. Raises InputError for a damaged file or a name that comes twice.

    Tensors are read from their place in the file, not mapped, so that what has been read does not stay in memory.
    """
    places, specs = {}, {}
    for path in paths:
        for name, (dtype, shape, start) in _header(path).items():
            if name in places:
                raise InputError(f"{path} holds {name}, which another file of the folder holds too")
            places[name], specs[name] = (path, start), (shape, dtype)

    def read(name: str) -> np.ndarray:
        (path, start), (shape, dtype) = places[name], specs[name]
        return np.fromfile(path, dtype, math.prod(shape), offset=start).reshape(shape)

    return Tensors(specs, read, paths)


def _header(path: pathlib.Path) -> dict[str, tuple[np.dtype, tuple[int, ...], int]]:
    """{name: (dtype, shape, first byte)} of a safetensors file."""
    try:
        with safe_open(path, "np"):  # the library's own checks
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({error}); download it again") from None
    header.pop("__metadata__", None)
    odd = sorted({entry["dtype"] for entry in header.values()} - NUMPY.keys())
    if odd:
        raise InputError(f"{path} holds {odd[0]} numbers, which are not known here; use a bfloat16, float16 or float32 file")
    return {name: (NUMPY[e["dtype"]], tuple(e["shape"]), 8 + length + e["data_offsets"][0]) for name, e in header.items()}


def metadata(path: pathlib.Path) -> dict[str, str]:
    """The free text of a safetensors header."""
    with safe_open(path, "np") as file:
        return file.metadata() or {}


def open_shards(folder: pathlib.Path, stem: str) -> Tensors:
    """`stem`.safetensors, or the files that its index names. Raises InputError if the index and the files disagree."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        single = folder / f"{stem}.safetensors"
        parts = sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
        if not single.exists() and parts:
            raise InputError(f"{index} is missing, though {len(parts)} of its files are there; download it again")
        return open_safetensors([single])
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise InputError(f"{index} has no weight_map")
    files = sorted(set(names.values()))
    lost = [name for name in files if not (folder / name).exists()]
    if lost:
        raise InputError(f"{index} names files that are not there: {', '.join(lost)}; download again")
    tensors = open_safetensors([folder / name for name in files])
    absent = [name for name in names if name not in tensors]
    if absent:
        raise InputError(f"{index} names tensors that no file holds: {', '.join(absent[:8])}")
    return tensors


def open_pickle(path: pathlib.Path) -> Tensors:
    """The tensors of a .pth file, of which nothing but tensors is ever unpickled, or of a TorchScript archive."""
    if not path.exists():
        raise InputError(f"{path} is missing")
    try:
        import torch
    except ImportError:
        raise InputError(f'{path.name} needs PyTorch to be read; run: pip install -e ".[convert]"') from None
    try:
        state = _state(path, torch)
        tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    except Exception as error:  # torch raises many kinds for files that are cut short or carry code
        raise InputError(f"{path} is damaged or holds more than tensors ({type(error).__name__}); download it again") from None

    def read(name: str) -> np.ndarray:
        tensor = tensors[name].contiguous()
        return tensor.view(torch.int16).numpy().view(NUMPY["BF16"]) if tensor.dtype == torch.bfloat16 else tensor.numpy()

    return Tensors({name: (tuple(t.shape), np.dtype(str(t.dtype).removeprefix("torch."))) for name, t in tensors.items()}, read, [path])


def _state(path: pathlib.Path, torch) -> dict:
    """The state of a .pth file or of a TorchScript archive; of a checkpoint, what it keeps under "state_dict"."""
    if zipfile.is_zipfile(path) and any(name.endswith("constants.pkl") for name in zipfile.ZipFile(path).namelist()):
        return dict(torch.jit.load(path, map_location="cpu").state_dict())
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    return state["state_dict"] if isinstance(state.get("state_dict"), dict) else state


class Stream:
    """A safetensors file written tensor by tensor; it appears under its name when closed, whole."""

    def __init__(self, path: pathlib.Path, names: Iterable[str]):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._part = path, path.with_name(path.name + ".part")
        self._room = sum(len(json.dumps(name)) + 160 for name in names) + 64  # the header comes first and is known last; spaces may fill it
        self._room += -self._room % 8
        self._header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
        self._offset = 0
        self._file = self._part.open("wb")
        self._file.seek(8 + self._room)

    def add(self, name: str, array: np.ndarray) -> None:
        end = self._offset + array.nbytes
        self._header[name] = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [self._offset, end]}
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._offset = end

    def close(self) -> None:
        header = json.dumps(self._header, separators=(",", ":")).encode().ljust(self._room)
        assert len(header) == self._room
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + header)
        self._file.close()
        os.replace(self._part, self.path)


def sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
