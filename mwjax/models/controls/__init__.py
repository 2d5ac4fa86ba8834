"""How actions enter the backbone: one module a file, one line a module in this table."""

from mwjax.models.controls.adaln import AdaLN
from mwjax.models.controls.control import Control
from mwjax.models.controls.controlnet import ControlNet

CONTROLS: dict[str, type[Control]] = {"controlnet": ControlNet, "adaln": AdaLN}
