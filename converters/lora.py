"""LoRA files in the released naming: `lora_unet__NAME_WITH_UNDERSCORES.lora_down.weight`, `.lora_up.weight`, `.alpha`."""

from converters.dit import BACKBONE
from converters.tables import KINDS, Row

# A row for every linear layer of the backbone, its dots written as underscores; the patch embedding is a convolution and has none.
LORA: tuple[Row, ...] = tuple(
    ("lora_unet__" + theirs.replace(".", "_"), ours, "lora") for theirs, ours, kind in BACKBONE if KINDS[kind] is KINDS["linear"]
)
