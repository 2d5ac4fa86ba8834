"""What a file is by its first bytes, whatever its name says: downloads go wrong in few ways."""

import pathlib
import zipfile

from mwjax.errors import InputError

SAFETENSORS = "safetensors"
PYTORCH = "PyTorch"
HEAD = 4096  # bytes that are looked at
MOST_HEADER = 100 * 10**6  # bytes of a safetensors header, as its own library allows

# (first bytes, what the file is, what to do)
UNPACK = "unpack it and name the file inside"
MAGIC = (
    (b"version https://git-lfs", "a git-LFS pointer, not the weights", "run git lfs pull, or download the file itself"),
    (b"version https://hawser", "a git-LFS pointer, not the weights", "run git lfs pull, or download the file itself"),
    (b"GGUF", "a GGUF file of quantised weights", "use the safetensors file of the same model"),
    (b"GGML", "a GGML file of quantised weights", "use the safetensors file of the same model"),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (b"7z\xbc\xaf", "a 7-Zip archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"\x93NUMPY", "a NumPy array", "use a safetensors or .pth file"),
    (b"\x89HDF", "an HDF5 file (of Keras, perhaps)", "use a safetensors or .pth file"),
    (b"\x89PNG", "a picture", "use a safetensors or .pth file"),
    (b"%PDF", "a PDF document", "use a safetensors or .pth file"),
    (b"<?xml", "an XML page, perhaps an error of the server", "download it again, signed in if it asks for that"),
)
PAGES = (b"<!doctype", b"<html", b"<head", b"<body")
TAR = slice(257, 262)


def form_of(path: pathlib.Path) -> str:
    """SAFETENSORS or PYTORCH. Raises InputError, which says what it is instead, for anything else."""
    head = _head(path)
    size = path.stat().st_size
    if not head:
        raise InputError(f"{path} is empty: damaged, or its download was cut; download it again")
    length = int.from_bytes(head[:8], "little")  # of a safetensors header; may look like anything's first bytes
    if head[8:9] == b"{" and length <= MOST_HEADER:
        return SAFETENSORS
    for start, what, advice in MAGIC:
        if head.startswith(start):
            raise InputError(f"{path} is {what}; {advice}")
    if head.lstrip().lower().startswith(PAGES):
        advice = "download it again, signed in if it asks for that"
        raise InputError(f"{path} is an HTML page, perhaps an error of the server; {advice}")
    if head[TAR] == b"ustar":
        raise InputError(f"{path} is a tar archive; {UNPACK}")
    if head.startswith(b"PK"):
        return _zipped(path)
    if _pickled(head):
        return PYTORCH
    if head.lstrip()[:1] in (b"{", b"["):
        raise InputError(f"{path} is JSON text, not weights; use a safetensors or .pth file")
    if not head.strip(b"\0"):
        raise InputError(f"{path} is damaged: it begins with nothing but zeros; download it again")
    what = "its header would be longer than itself" if length > size else "it begins as neither does"
    raise InputError(f"{path} is damaged or not a safetensors or .pth file ({what}); download it again")


def _head(path: pathlib.Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except PermissionError:
        raise InputError(f"{path} may not be read: no permission") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None


def _zipped(path: pathlib.Path) -> str:
    """PYTORCH for a zip archive that PyTorch wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is damaged ({error}); download it again") from None
    if any(name.endswith(("data.pkl", "constants.pkl")) for name in names):
        return PYTORCH
    if names and all(name.endswith(".npy") for name in names):
        raise InputError(f"{path} is an archive of NumPy arrays; use a safetensors or .pth file")
    raise InputError(f"{path} is a zip archive; {UNPACK}")


def _pickled(head: bytes) -> bool:
    """Whether a file begins as a pickle does: of protocol 2 or later, or older PyTorch's."""
    return head[:1] == b"\x80" and 2 <= head[1] <= 5 if len(head) > 1 else False
