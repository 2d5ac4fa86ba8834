"""Tensor files: reading one tensor at a time from safetensors (whole or sharded) and .pth, writing safetensors as a
stream."""

import contextlib
import hashlib
import json
import math
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import ml_dtypes  # noqa: F401  teaches numpy bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from converters.forms import PYTORCH, SAFETENSORS, form_of
from mwjax.data.files import whole, write_whole
from mwjax.data.text import read_json
from mwjax.errors import InputError

DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}
NUMPY = {code: np.dtype(name) for name, code in DTYPES.items()}
Specs = Mapping[str, tuple[tuple[int, ...], np.dtype]]  # {name: (shape, dtype)}
OTHERS = {"int8", "int16"}  # of tensors in pickles that are never weights
LARGEST = 2.0**64  # no weight is as large; one flipped bit makes such
# The bits of a number's size, and from where on it is infinite or above LARGEST: far faster than asking each number.
BITS = {
    "float32": (np.uint32, 0x7FFFFFFF, 0x5F800000),
    "bfloat16": (np.uint16, 0x7FFF, 0x5F80),
    "float16": (np.uint16, 0x7FFF, 0x7C00),
}


def floating(dtype: np.dtype) -> bool:
    """Whether numbers of this type can be weights."""
    return dtype.name in BITS or dtype.name == "float64"


def sane(array: np.ndarray) -> bool:
    """Whether no number of an array is infinite, beyond LARGEST, or none at all. Integers are."""
    if array.dtype.name in BITS:
        unsigned, mask, limit = BITS[array.dtype.name]
        flat = np.ascontiguousarray(array).reshape(-1).view(unsigned)
        return all((part & unsigned(mask)).max() < limit for part in _pieces(flat))
    return not floating(array.dtype) or bool((np.abs(array) < LARGEST).all())


def _pieces(flat: np.ndarray, size: int = 2**20) -> Iterator[np.ndarray]:
    """A long array, piece by piece, so that little more is in memory."""
    return (flat[start : start + size] for start in range(0, len(flat), size))


def write_json(path: pathlib.Path, value: dict) -> None:
    """Write a JSON file, indented by one space; folders are made."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


class Tensors(Mapping):
    """Named tensors that are read when asked for.

    specs: {name: (shape, dtype)}, known without reading. paths: the files that they lie in. header: whether these have
    one of safetensors. What is read is looked at: no weight is infinite, beyond LARGEST, or no number at all.
    """

    def __init__(
        self,
        specs: Specs,
        read: Callable[[str], np.ndarray],
        paths: Iterable[pathlib.Path],
        *,
        header: bool = False,
    ):
        self.specs = specs
        self.paths = tuple(paths)
        self.header = header
        self._read = read

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises InputError, naming the tensor, for one that cannot be a weight."""
        if name not in self.specs:
            raise KeyError(name)
        array = self._read(name)
        if not sane(array):
            where = self.paths[0] if len(self.paths) == 1 else self.paths[0].parent
            what = "a value that is not a number, or one that is far too large"
            raise InputError(f"{where} is damaged: its tensor {name} holds {what}; get the file again")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def shape(self, name: str) -> tuple[int, ...]:
        """Known without reading. Raises KeyError if there is no such tensor."""
        return self.specs[name][0]

    def renamed(self, rename: Callable[[str], str | None]) -> "Tensors":
        """The same tensors under other names; those renamed to None are left out. Raises InputError if two come to the
        same name."""
        names: dict[str, str] = {}
        for old in self.specs:
            new = rename(old)
            if new in names:
                raise InputError(f"{self.paths[0]} holds {new} twice, as {names[new]} and as {old}")
            if new is not None:
                names[new] = old
        specs = {new: self.specs[old] for new, old in names.items()}
        return Tensors(specs, lambda new: self._read(names[new]), self.paths, header=self.header)

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape, _ in self.specs.values())


def open_safetensors(paths: list[pathlib.Path]) -> Tensors:
    """The tensors of one or several safetensors files. Raises InputError for a damaged file or a name that comes twice.

    Tensors are read from their place in the file, not mapped, so that what has been read does not stay in memory.
    """
    places = {}
    specs = {}
    for path in paths:
        for name, (dtype, shape, start) in _header(path).items():
            if name in places:
                raise InputError(f"{path} holds {name}, which another file of the folder holds too")
            places[name] = (path, start)
            specs[name] = (shape, dtype)

    def read(name: str) -> np.ndarray:
        path, start = places[name]
        shape, dtype = specs[name]
        try:
            return np.fromfile(path, dtype, math.prod(shape), offset=start).reshape(shape)
        except (OSError, ValueError):
            raise InputError(f"{path} was changed, cut or taken away while it was read; try again") from None

    return Tensors(specs, read, paths, header=True)


def open_tensors(path: pathlib.Path) -> Tensors:
    """The tensors of a file, safetensors or PyTorch's by what it holds. Raises InputError for anything else."""
    return open_safetensors([path]) if form_of(path) == SAFETENSORS else open_pickle(path)


def _header(path: pathlib.Path) -> dict[str, tuple[np.dtype, tuple[int, ...], int]]:
    """{name: (dtype, shape, first byte)} of a safetensors file."""
    if form_of(path) != SAFETENSORS:
        raise InputError(f"{path} is a PyTorch file under the name of a safetensors file; rename it to .pth")
    try:
        with safe_open(path, "np"):  # the library's own checks
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({error}); download it again") from None
    header.pop("__metadata__", None)
    odd = sorted({entry["dtype"] for entry in header.values()} - NUMPY.keys())
    if odd:
        raise InputError(
            f"{path} holds {odd[0]} numbers, which are not known here; use a bfloat16, float16 or float32 file"
        )
    first = 8 + length
    return {
        name: (NUMPY[entry["dtype"]], tuple(entry["shape"]), first + entry["data_offsets"][0])
        for name, entry in header.items()
    }


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
    for name in names.values():
        if not isinstance(name, str) or pathlib.PurePath(name).name != name:
            raise InputError(f"{index} names {name!r}, which is no file beside it")
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
    """The tensors of a .pth file, of which nothing but tensors is ever unpickled, or of a TorchScript archive.

    Raises InputError if it is missing or damaged, or holds more than tensors.
    """
    if form_of(path) != PYTORCH:
        raise InputError(f"{path} is a safetensors file under the name of a PyTorch file; rename it to .safetensors")
    try:
        import torch
    except ImportError:
        raise InputError(f'{path.name} needs PyTorch to be read; run: pip install -e ".[convert]"') from None
    try:
        state = _state(path, torch)
        tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds for files that are cut short or carry code
        kind = type(error).__name__
        raise InputError(f"{path} is damaged or holds more than tensors ({kind}); download it again") from None

    def read(name: str) -> np.ndarray:
        tensor = tensors[name].contiguous()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(NUMPY["BF16"])
        return tensor.numpy()

    odd = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()} - DTYPES.keys() - OTHERS)
    if odd:
        raise InputError(f"{path} holds {odd[0]} numbers, which are not known here; use a bfloat16 or float32 file")
    specs = {
        name: (tuple(tensor.shape), np.dtype(str(tensor.dtype).removeprefix("torch.")))
        for name, tensor in tensors.items()
    }
    return Tensors(specs, read, [path])


DEEPEST = 4  # nests in a nest
NESTS = ("state_dict", "model_state_dict", "model", "module", "generator", "params", "weights", "ema", "generator_ema")


def _state(path: pathlib.Path, torch) -> dict:
    """The state of a .pth file or of a TorchScript archive; of a checkpoint, what it keeps under a name of NESTS.
    Raises InputError if those are several."""
    zipped = zipfile.is_zipfile(path)
    if zipped and any(name.endswith("constants.pkl") for name in zipfile.ZipFile(path).namelist()):
        return dict(torch.jit.load(path, map_location="cpu").state_dict())
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    if not isinstance(state, dict):
        raise InputError(f"{path} holds a {type(state).__name__}, not tensors by name")
    for _ in range(DEEPEST):
        inner = [name for name in NESTS if isinstance(state.get(name), dict)]
        bare = any(isinstance(value, torch.Tensor) for value in state.values())
        if not inner or (bare and inner[0] != NESTS[0]):
            break
        if len(inner) > 1 and inner[0] != NESTS[0]:
            raise InputError(f"{path} holds several networks: {', '.join(inner)}; save the one you mean on its own")
        state = state[inner[0]]
    return {name: value for name, value in state.items() if isinstance(name, str)}


class TensorWriter:
    """A safetensors file written tensor by tensor: `with TensorWriter(path, names) as file: file.add(name, array)`.

    It appears under its name at the end, whole. names: of all tensors that will be added.
    """

    def __init__(self, path: pathlib.Path, names: Iterable[str]):
        self.path = path
        # The header comes first and is known last; spaces may fill it.
        room = sum(len(json.dumps(name)) + 160 for name in names) + 64
        self._room = room + -room % 8
        self._header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
        self._offset = 0

    def __enter__(self) -> "TensorWriter":
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(whole(self.path))
            self._file = stack.enter_context(part.open("wb"))
            self._file.seek(8 + self._room)
            self._open = stack.pop_all()
        return self

    def add(self, name: str, array: np.ndarray) -> None:
        """Write the next tensor."""
        end = self._offset + array.nbytes
        self._header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [self._offset, end],
        }
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._offset = end

    def __exit__(self, *error) -> None:
        if error[0] is not None:
            self._open.__exit__(*error)  # what was written goes away
            return
        with self._open:
            header = json.dumps(self._header, separators=(",", ":")).encode().ljust(self._room)
            assert len(header) == self._room
            self._file.seek(0)
            self._file.write(self._room.to_bytes(8, "little") + header)


def write_tensors(
    path: pathlib.Path, pairs: Iterable[tuple[str, np.ndarray]], dtype: jax.typing.DTypeLike | None = None
) -> None:
    """Write (name, array) pairs as `dtype`, each as it is if None, to a safetensors file that appears whole or not at
    all."""
    pairs = list(pairs)
    with TensorWriter(path, [name for name, _ in pairs]) as file:
        for name, array in pairs:
            array = np.asarray(array)
            file.add(name, array if dtype is None else array.astype(dtype))


def sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
