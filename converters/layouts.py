"""What a folder of weights holds: which networks, in which files, under which names, of which sizes.

Each network is found by its file, its naming by one telling key; sizes come from the config beside it or, where the
original has none, from the tensors' shapes. Everything in which networks differ is in the table of `converters.kinds`.
"""

import dataclasses
import pathlib
from typing import Any

from converters.files import Tensors, open_pickle, open_shards
from converters.kinds import KINDS, OURS, Naming, Place
from converters.lora import DIFFUSERS_FILE, LORA_FILE, PEFT_FILE, LoRA, read_lora
from converters.tables import Row, check
from mwjax.data.text import read_json
from mwjax.errors import InputError
from mwjax.models.block import DiTConfig
from mwjax.models.shapes import SHAPES

TOKENIZERS = ("google/umt5-xxl", "tokenizer")
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")  # either is enough
BYT5 = "byt5"  # a tokenizer without files, which the text encoder's config names
LORA_FILES = (LORA_FILE, DIFFUSERS_FILE, PEFT_FILE)
RECORD = "conversion.json"  # beside a conversion: what it is of and, once it is whole, the hashes of its files


@dataclasses.dataclass(frozen=True)
class StoredNetwork:
    """A network found in a folder.

    kind: a key of KINDS. naming: "wan" or "diffusers". config: our sizes. tokenizer: what its config.json says of one.
    """

    kind: str
    naming: str
    config: Any
    tensors: Tensors
    tokenizer: str | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        return KINDS[self.kind].namings[self.naming].rows(self.config)

    @property
    def shapes(self) -> dict:
        return SHAPES[self.kind](self.config)

    def check(self) -> None:
        """Raises InputError, which lists what is wrong, unless every key is there exactly once in the right shape."""
        try:
            check(self.rows, self.tensors.specs, self.shapes)
        except InputError as error:
            raise InputError(f"{self.tensors.paths[0]}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder of weights. networks: by kind. tokenizer: "byt5" or the path of its files. lora: path of a file."""

    path: pathlib.Path
    networks: dict[str, StoredNetwork]
    tokenizer: str | None
    lora: pathlib.Path | None

    @property
    def transformer(self) -> StoredNetwork | None:
        return self.networks.get("transformer")

    @property
    def files(self) -> list[pathlib.Path]:
        """Every file of weights."""
        paths = [path for network in self.networks.values() for path in network.tensors.paths]
        return [*paths, self.lora] if self.lora else paths

    @property
    def missing(self) -> list[str]:
        """Networks and files that sampling needs and that are not there."""
        backbone = self.transformer.config.backbone if self.transformer else None
        lost = [name for name, kind in KINDS.items() if kind.needed(backbone) and name not in self.networks]
        return lost if self.tokenizer else [*lost, "tokenizer"]

    def check(self) -> "Folder":
        """Itself, if every key of every network and of the LoRA is there, and the networks fit each other. Reads no
        tensor. Raises InputError naming what does not."""
        for network in self.networks.values():
            network.check()
        if self.transformer:
            for network in self.networks.values():
                _check_fit(network, self.transformer.config.backbone)
            if self.lora:
                self.check_lora(self.lora)
        return self

    def check_lora(self, path: pathlib.Path) -> LoRA:
        """A LoRA file. Raises InputError if it is damaged or of another model."""
        return read_lora(path, self.transformer.shapes["backbone"])


def _check_fit(network: StoredNetwork, backbone: DiTConfig) -> None:
    """Raises InputError if a network gives another number of channels than the transformer takes."""
    feeds = KINDS[network.kind].feeds
    if feeds is None:
        return
    gives = getattr(network.config, feeds[0])
    takes = getattr(backbone, feeds[1])
    if gives != takes:
        raise InputError(
            f"{network.tensors.paths[0]}: this {network.kind} gives {gives} channels, the transformer takes {takes}; "
            "they belong to different models"
        )


def used(networks: dict[str, StoredNetwork]) -> dict[str, StoredNetwork]:
    """The networks without those of which the transformer among them takes nothing."""
    if "transformer" not in networks:
        return networks
    backbone = networks["transformer"].config.backbone
    return {kind: network for kind, network in networks.items() if KINDS[kind].taken(backbone)}


def locate(folder: pathlib.Path, kind: str) -> tuple[Place, str] | None:
    """Where the file or files of a network are, and their ending; None if there are none."""
    for place in KINDS[kind].places.values():
        where = folder / place.folder
        single = where / f"{place.stem}.safetensors"
        index = where / f"{place.stem}.safetensors.index.json"
        if single.exists() or index.exists() or any(where.glob(f"{place.stem}-*-of-*.safetensors")):
            return place, ".safetensors"
        if (where / f"{place.stem}.pth").exists():
            return place, ".pth"
    return None


def open_network(folder: pathlib.Path, kind: str) -> StoredNetwork | None:
    """The network of a kind in a folder, or None. Raises InputError if its files are damaged or of no known naming."""
    found = locate(folder, kind)
    if found is None:
        return None
    place, ending = found
    where = folder / place.folder
    tensors = open_pickle(where / f"{place.stem}.pth") if ending == ".pth" else open_shards(where, place.stem)
    tensors = KINDS[kind].normalised(tensors)
    naming = _naming_of(kind, tensors)
    config = read_json(where / "config.json") if place.config else _inferred(kind, tensors)
    try:
        sizes = KINDS[kind].completed(KINDS[kind].namings[naming].read(config), tensors)
        SHAPES[kind](sizes)
    except KeyError as error:
        raise InputError(f"{where / 'config.json'} lacks {error}") from None
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise InputError(f"{where / 'config.json'} gives sizes that make no {kind} ({error})") from None
    return StoredNetwork(kind, naming, sizes, tensors, config.get("tokenizer"))


def _naming_of(kind: str, tensors: Tensors) -> str:
    namings: dict[str, Naming] = KINDS[kind].namings
    for name, naming in namings.items():
        if naming.key in tensors:
            return name
    keys = " nor ".join(naming.key for naming in namings.values())
    raise InputError(f"{tensors.paths[0]} is no {kind} that is known here: it holds neither {keys}")


def _inferred(kind: str, tensors: Tensors) -> dict:
    """The constructor arguments of an original network that comes without a config."""
    try:
        return KINDS[kind].infer(tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{tensors.paths[0]} does not look like a {kind} of Wan2.1 ({error}); it may be damaged"
        ) from None


def open_folder(path: pathlib.Path) -> Folder:
    """What is in a folder. Raises InputError if there is no network in it, or a conversion that was cut short."""
    record = path / RECORD
    if record.exists() and "files" not in read_json(record):
        source = read_json(record).get("source")
        raise InputError(f"{path} is an unfinished conversion of {source}; run its command again")
    networks = used({kind: network for kind in KINDS if (network := open_network(path, kind))})
    lora = next((path / name for name in LORA_FILES if (path / name).exists()), None)
    if not networks and not lora:
        places = KINDS["transformer"].places
        known = [str(path / places[layout].file) for layout in ("wan", OURS)]
        raise InputError(f"{path} holds no weights that are known here; a transformer would be {' or '.join(known)}")
    named = [network.tokenizer for network in networks.values() if network.tokenizer]
    return Folder(path, networks, named[0] if named else _tokenizer_in(path), lora)


def _tokenizer_in(folder: pathlib.Path) -> str | None:
    for name in TOKENIZERS:
        if any((folder / name / file).exists() for file in TOKENIZER_FILES):
            return str(folder / name)
    return None
