"""LoRA files: the released naming (`lora_unet__NAME_WITH_UNDERSCORES`), PEFT's over the original names, and diffusers'."""

from collections.abc import Mapping

from converters.dit import BACKBONE, DIFFUSERS
from converters.tables import KINDS, Row
from mwjax.errors import InputError


def _linear(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Rows of linear layers; the patch embedding is a convolution and has no adapter."""
    return tuple(row for row in rows if KINDS[row[2]] is KINDS["linear"])


LORA: tuple[Row, ...] = tuple(("lora_unet__" + theirs.replace(".", "_"), ours, "lora") for theirs, ours, _ in _linear(BACKBONE))
PEFT: tuple[Row, ...] = tuple(("diffusion_model." + theirs, ours, "peft") for theirs, ours, _ in _linear(BACKBONE))
PEFT_DIFFUSERS: tuple[Row, ...] = tuple(("transformer." + theirs, ours, "peft") for theirs, ours, _ in _linear(DIFFUSERS))

NAMINGS = {"released": (LORA, "lora_unet__"), "peft": (PEFT, "diffusion_model."), "diffusers": (PEFT_DIFFUSERS, "transformer.")}


def naming(tensors: Mapping) -> tuple[tuple[Row, ...], int]:
    """(rows, rank) of a LoRA file. Raises InputError if its names or ranks are none that is known here."""
    ranks = {shape[0] for name, (shape, _) in tensors.specs.items() if name.endswith((".lora_down.weight", ".lora_A.weight"))}
    rows = next((rows for rows, start in NAMINGS.values() if all(name.startswith(start) for name in tensors)), None)
    if rows is None or len(ranks) != 1:
        starts = ", ".join(start + "…" for _, start in NAMINGS.values())
        raise InputError(f"not a LoRA file that is known here (names begin with {starts}; one rank for all, not {sorted(ranks)})")
    return rows, ranks.pop()
