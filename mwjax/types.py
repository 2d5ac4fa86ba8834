"""Dimension legend and array aliases.

b batch, f frames, t latent time (f = 4t − 3), h w height and width (of pixels, latents or patches, as the text says),
c channels, l tokens, s text tokens, n heads, k channels of a head, d model width, a action width.
"""

from jaxtyping import Array, Bool, Float, Int, UInt8

__all__ = ["Array", "Bool", "Float", "Int", "UInt8"]
