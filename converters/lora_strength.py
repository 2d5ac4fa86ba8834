"""How strong a LoRA is: alpha / rank of each layer, from its tensors, the file's header, or the adapter_config.json
beside it."""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from converters.files import metadata
from mwjax.data.text import parse_json, read_json
from mwjax.errors import InputError
from mwjax.ranges import Range, check_number

BESIDE = "adapter_config.json"  # PEFT's
ALPHA = Range(least=-1e6, most=1e6)
# What a header calls the same thing, without the prefixes that its writers put before it.
PREFIXES = ("transformer.", "diffusion_model.", "ss_")
NAMES = {
    "alpha": "lora_alpha",
    "lora_alpha": "lora_alpha",
    "network_alpha": "lora_alpha",
    "lora_network_alpha": "lora_alpha",
    "r": "r",
    "rank": "r",
    "dim": "r",
    "lora_r": "r",
    "lora_rank": "r",
    "lora_dim": "r",
    "network_dim": "r",
    "network_rank": "r",
    "use_rslora": "use_rslora",
    "rslora": "use_rslora",
    "rs_lora": "use_rslora",
    "use_dora": "use_dora",
    "dora_wd": "use_dora",
    "alpha_pattern": "alpha_pattern",
    "rank_pattern": "rank_pattern",
    "peft_type": "peft_type",
    "algo": "algo",
    "network_args": "network_args",
    "init_lora_weights": "init_lora_weights",
    "layer_replication": "layer_replication",
    "use_qalora": "use_qalora",
    "alora_invocation_tokens": "alora_invocation_tokens",
}
NESTED = "lora_adapter_metadata"  # diffusers': PEFT's settings as JSON
STRENGTHS = {"alpha", "alphas", "scale", "scales", "scaling", "multiplier", "strength", "rslora", "dora"}
OTHERS = "ss_", "modelspec."  # many entries of training, none of strength but those above
NOTHING = (None, "", "None", "null", "none")
# Settings that change what the matrices mean, and the values under which they do not.
HARMLESS: dict[str, tuple] = {
    "use_dora": (False,),
    "layer_replication": (*NOTHING, []),
    "use_qalora": (False,),
    "alora_invocation_tokens": (*NOTHING, []),
}
OF_ANOTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "milora")  # they start by changing the base


@dataclasses.dataclass(frozen=True)
class Strength:
    """What a file says of alpha for all layers.

    where: for errors. alpha: of layers that no pattern names; None: not said. patterns: alpha by a pattern of layers'
    names, as in PEFT. stabilised: whether strength is alpha / √rank (Kalajdzievski 2023), not alpha / rank.
    """

    where: str
    alpha: float | None = None
    patterns: Mapping[str, float] = dataclasses.field(default_factory=dict)
    stabilised: bool = False

    def said(self, layer: str) -> float | None:
        """Alpha of a layer by the settings; layer: its dotted name without a prefix."""
        for pattern, alpha in self.patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return alpha
        return self.alpha

    def alpha_of(self, layer: str, rank: int, own: float | None) -> float:
        """Alpha such that alpha / rank is a layer's strength. own: what a tensor says, which is meant so already.

        Raises InputError where tensor and settings leave it open.
        """
        said = self.said(layer)
        if not self.stabilised:
            if own is not None:
                return own
            return float(rank) if said is None else said
        if said is None:
            raise InputError(
                f"{self.where} says that it is rank-stabilised, but no lora_alpha; its strength is unknown"
            )
        stabilised = said * math.sqrt(rank)
        known = own is None or any(math.isclose(own, value, rel_tol=0.01) for value in (said, stabilised))
        if not known:
            raise InputError(
                f"{self.where} says alpha {said:g}, rank-stabilised, and its tensors say {own:g} for {layer}; "
                "its strength is unknown"
            )
        return stabilised


def strength_of(path: pathlib.Path, ranks: set[int], *, header: bool) -> Strength:
    """What a LoRA file says of its strength. ranks: of its matrices. header: whether it has one.

    Raises InputError for settings that are damaged, or under which the matrices are not an ordinary LoRA's.
    """
    settings = _in_header(path) if header else {}
    where = f"the header of {path}"
    beside = path.with_name(BESIDE)
    if not settings.keys() & {"lora_alpha", "alpha_pattern", "use_rslora"} and beside.exists():
        settings = read_json(beside) | settings
        where = str(beside)
        _check_rank(settings, ranks, path, beside)
    return _understood(settings, where)


def _in_header(path: pathlib.Path) -> dict[str, Any]:
    """The settings in a safetensors header, under PEFT's names. What says more counts more."""
    plain: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    for key, text in metadata(path).items():
        where = f"{key} in the header of {path}"
        if key == NESTED or text.lstrip().startswith("{"):
            found = _object(text, where, strict=key == NESTED)
            if key == NESTED or found.keys() & {"lora_alpha", "peft_type", "use_rslora", "alpha_pattern"}:
                nested |= {_known(name) or name: value for name, value in found.items()}
                continue
        name = _known(key)
        if name == "network_args":
            args = {_known(arg): value for arg, value in _object(text, where, strict=False).items()}
            plain |= {arg: value for arg, value in args.items() if arg in ("use_rslora", "use_dora", "algo")}
        elif name:
            _agree(plain, name, text, where)
        elif _matters(key) and text not in (*NOTHING, "1", "1.0"):
            raise InputError(f"{where} is {text[:40]!r}: what that does to its strength is not known here")
    return plain | nested


def _matters(key: str) -> bool:
    """Whether an unknown entry of a header sounds as if it changed the strength."""
    return not key.startswith(OTHERS) and bool(STRENGTHS & set(re.split(r"[._-]", key.lower())))


def _known(key: str) -> str | None:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return NAMES.get(key)


def _agree(settings: dict, name: str, value: str, where: str) -> None:
    before = settings.get(name)
    if before not in NOTHING and value not in NOTHING and before != value:
        raise InputError(f"{where} is {value[:40]!r}, another entry says {before[:40]!r}")
    settings[name] = before if value in NOTHING else value


def _object(text: str, where: str, *, strict: bool) -> dict:
    """A JSON object in a header; where it need not be one, an empty one for anything else."""
    try:
        value = parse_json(text, where)
    except InputError:
        if strict:
            raise
        return {}
    if isinstance(value, dict):
        return value
    if strict:
        raise InputError(f"{where} is no JSON object")
    return {}


def _check_rank(settings: dict, ranks: set[int], path: pathlib.Path, beside: pathlib.Path) -> None:
    """Raises InputError if the settings are those of another file of the folder."""
    pattern = settings.get("rank_pattern")
    said = {settings.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())} - {None}
    if said and not said & ranks:
        raise InputError(
            f"{beside} says rank {settings.get('r')}, {path.name} has {', '.join(map(str, sorted(ranks)))}; "
            "it is of another LoRA: move one of the two"
        )


def _understood(settings: dict, where: str) -> Strength:
    for name in ("peft_type", "algo"):
        kind = settings.get(name)
        if kind not in NOTHING and str(kind).lower() not in ("lora", "locon"):
            raise InputError(f"{where} says {name} {kind!r}; only an ordinary LoRA is known here")
    for name, harmless in HARMLESS.items():
        value = settings.get(name)
        if name.startswith("use_"):
            value = _truth(value, name, where)
        if value not in harmless:
            raise InputError(f"{where} says {name} {value!r}; only an ordinary LoRA is known here")
    start = str(settings.get("init_lora_weights", "")).lower()
    if start.startswith(OF_ANOTHER_BASE):
        raise InputError(f"{where} says init_lora_weights {start!r}: it is of a base that was changed for it")
    alpha = settings.get("lora_alpha")
    patterns = settings.get("alpha_pattern")
    if isinstance(patterns, str) and patterns not in NOTHING:
        patterns = _object(patterns, f"alpha_pattern in {where}", strict=True)
    if patterns in NOTHING:
        patterns = {}
    if not isinstance(patterns, dict):
        raise InputError(f"{where} says alpha_pattern {patterns!r}; it must be an object of names and numbers")
    return Strength(
        where,
        None if alpha in NOTHING else _number(alpha, "lora_alpha", where),
        {_pattern(name, where): _number(value, f"alpha_pattern {name}", where) for name, value in patterns.items()},
        _truth(settings.get("use_rslora"), "use_rslora", where),
    )


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise InputError(f"{where} says {name} {value[:40]!r}; it must be {ALPHA}") from None
    return float(check_number(value, f"{name} in {where}", ALPHA))


def _truth(value: Any, name: str, where: str) -> bool:
    text = json.dumps(value) if isinstance(value, bool) else str(value).lower()
    if value in NOTHING or text in ("false", "0"):
        return False
    if text in ("true", "1"):
        return True
    raise InputError(f"{where} says {name} {value!r}; it must be true or false")


def _pattern(pattern: str, where: str) -> str:
    """A regular expression that is sound and cannot run for ever."""
    simple = len(pattern) <= 300 and len(re.findall(r"[*+{]", pattern)) <= 4 and not re.search(r"\)[*+{]", pattern)
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        simple = False
    if not simple:
        raise InputError(f"{where} has alpha_pattern {pattern[:60]!r}, which is no simple pattern of names")
    return pattern
