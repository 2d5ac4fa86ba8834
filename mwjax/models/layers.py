"""Small layers shared by all networks. Computation follows the dtype of the input; norms and sinusoids are in
float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mwjax.types import Array, Float, Real


def along(vector: Float[Array, " c"], x: Array) -> Array:
    """A vector over the last axis, in x's dtype and with its number of axes."""
    return jnp.asarray(vector, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class Module(nn.Module):
    """A Flax module that takes a parameter that is there as it is. Flax's own compares its shape with the
    initialiser's, which it traces for that at every call: nearly a third of tracing the backbone. Shapes of weights
    are checked where they are loaded."""

    @nn.nowrap
    def param(self, name: str, init, *args):
        there = self.scope is not None and self.scope.has_variable("params", name)
        return self.get_variable("params", name) if there else super().param(name, init, *args)


class Dense(Module):
    """x W + b and, where the collection "lora" holds an adapter for this layer, + (alpha / rank) · x down up."""

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = x @ kernel.astype(x.dtype)
        if self.has_variable("lora", "down"):
            down, up, alpha = (self.get_variable("lora", name).astype(x.dtype) for name in ("down", "up", "alpha"))
            y = y + (x @ down) @ up * (alpha / down.shape[-1])
        if self.use_bias:
            y = y + along(self.param("bias", nn.initializers.zeros, (self.features,)), y)
        return y


class MLP(Module):
    """Dense, activation, Dense."""

    hidden: int
    features: int
    activation: str = "gelu"

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
        x = Dense(self.hidden, name="dense_0")(x)
        return Dense(self.features, name="dense_1")(ACTIVATIONS[self.activation](x))


ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
}


class RMSNorm(Module):
    """x / √(mean x² + eps) · scale over the last axis."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        return y.astype(x.dtype) * along(scale, x)


def layer_norm(x: Float[Array, "*b c"], eps: float) -> Float[Array, "*b c"]:
    """(x − mean) / √(variance + eps) over the last axis, returned in float32."""
    x = x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + eps)


class LayerNorm(Module):
    """layer_norm with a learned scale and bias."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        y = layer_norm(x, self.eps)
        return (y * along(scale, y) + along(bias, y)).astype(x.dtype)


def sinusoid(positions: Real[Array, "*b"], width: int) -> Float[Array, "*b w"]:
    """cos then sin of position · 10000^(−i / (width/2)), in float32 (Vaswani et al. 2017)."""
    frequencies = 10000.0 ** (-np.arange(width // 2, dtype=np.float64) / (width // 2))
    # The product is formed in two parts, so that large positions lose no digits: position = whole + rest.
    high = np.round(frequencies * 2**12) / 2**12
    low = frequencies - high
    whole = jnp.floor(positions.astype(jnp.float32))[..., None]
    rest = positions.astype(jnp.float32)[..., None] - whole
    # whole · high is exact (10 + 12 bits); what is left is small.
    small = whole * along(low, whole) + rest * along(frequencies, rest)
    cos, sin = jnp.cos(whole * along(high, whole)), jnp.sin(whole * along(high, whole))
    cos_small, sin_small = jnp.cos(small), jnp.sin(small)
    return jnp.concatenate([cos * cos_small - sin * sin_small, sin * cos_small + cos * sin_small], -1)


def stacked_init(block: nn.Module, length: int, *args, method: str | None = None):
    """An initialiser of `length` independent copies of an unbound module's parameters, stacked on a new leading
    axis."""

    def init(rng: jax.Array):
        return jax.vmap(lambda key: block.init(key, *args, method=method)["params"])(jax.random.split(rng, length))

    return init
