"""What every control is: something that text and image give it once a prompt, something that the frames' actions give
it, and an injection into the backbone at every step."""

from collections.abc import Mapping
from typing import Any, ClassVar

from mwjax.models.block import DiTConfig
from mwjax.models.cache import KV
from mwjax.models.dit import Injection
from mwjax.models.layers import Module
from mwjax.types import Array, Float


class Control(Module):
    """Parameters lie below the control's name in the table of controls.

    NEEDS_ACTIONS: whether it takes the features of the action encoder. SIGNAL_BATCH: the axis of its signal's arrays
    that counts the clips. EVERY: of a control with a branch, how many base blocks one of its blocks goes with; 0 for
    no branch.
    """

    config: DiTConfig
    action_dim: int

    NEEDS_ACTIONS: ClassVar[bool] = True
    SIGNAL_BATCH: ClassVar[int] = 0
    EVERY: ClassVar[int] = 0

    def context(self, text: Float[Array, "b s d"], image: Float[Array, "b i d"] | None) -> Any:
        """From embedded text and image, once per prompt; stacked over blocks: the clips are axis 1."""
        del text, image

    def signal(self, features: Float[Array, "b t a"] | None, inputs: Mapping[str, Array]) -> Any:
        """From the action features of these frames, or from other inputs."""
        raise NotImplementedError

    def inject(self, context: Any, signal: Any, scale: float | Array, past: KV | None) -> Injection:
        """scale: strength, one number or [b, 1, 1, 1]. past: what a branch has kept of the frames before."""
        raise NotImplementedError
