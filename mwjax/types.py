"""Dimension legend and array aliases.

b batch, f frames, t latent time (f = 4t − 3), h w height and width (of pixels, latents or patches, as the text says),
c channels, l tokens, p tokens of a latent frame, s text tokens, n heads, k channels of a head, d model width, a action
width.
"""

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Real, UInt8

Array = jax.Array | np.ndarray

__all__ = ["Array", "Bool", "Float", "Int", "Real", "UInt8"]
