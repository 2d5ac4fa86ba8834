"""Muon's table: matrices and convolutions are orthogonalised per layer, the rest goes to Adam."""

import jax.numpy as jnp
import numpy as np
import optax

from mwjax.training.optim import muon_with_adam


def test_muon_orthogonalises_each_layer_and_leaves_vectors_to_adam():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    shapes = {
        "params/backbone/blocks/ffn/dense_0/kernel": (2, 8, 8),
        "params/encoder/conv1/kernel": (3, 3, 3, 2, 8),
        "params/backbone/blocks/ffn/dense_0/bias": (2, 8),
        "params/backbone/head/kernel": (8, 8),
        "params/encoder/norm/gamma": (8,),
    }
    params = {path: draw(*shape) for path, shape in shapes.items()}
    rule = muon_with_adam(lambda step: 1.0, weight_decay=0.0, clip=1e9)
    updates, _ = rule.update({path: draw(*p.shape) for path, p in params.items()}, rule.init(params), params)
    assert optax.global_norm(updates) > 0
    for layer in np.asarray(updates["params/backbone/blocks/ffn/dense_0/kernel"]):
        assert 0.6 < np.linalg.svd(layer)[1].min() < np.linalg.svd(layer)[1].max() < 1.3
    conv = np.asarray(updates["params/encoder/conv1/kernel"]).reshape(54, 8)
    assert 0.6 < np.linalg.svd(conv)[1].min() < np.linalg.svd(conv)[1].max() < 1.3
    for path in list(shapes)[2:]:  # Adam's first step (with Nesterov's look-ahead) has the same size everywhere
        sizes = np.abs(updates[path])
        np.testing.assert_allclose(sizes, sizes.flat[0], rtol=1e-3)
