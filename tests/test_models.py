"""Released sizes without allocating them, composition, attention."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import drawn

from converters.shapes import image_shapes, parameter_count, text_shapes, vae_shapes, world_shapes
from mwjax.models import attention as attention_module
from mwjax.models import lora, world_model
from mwjax.models.action import windows
from mwjax.models.attention import attention
from mwjax.models.dit import DiTConfig
from mwjax.models.image import ImageConfig
from mwjax.models.text import relative_buckets
from mwjax.models.variants import VARIANTS
from mwjax.models.world_model import WorldConfig, WorldModel

T2W = VARIANTS["1.3B"]
SMALL = DiTConfig(dim=48, ffn_dim=64, num_heads=2, num_layers=4, text_dim=16, text_len=8, freq_dim=32)


def test_released_parameter_counts():
    assert parameter_count(world_shapes(T2W.world("none"))) == 1_418_996_800
    assert parameter_count(world_shapes(VARIANTS["14B"].world("none"))) == 16_394_878_784
    assert parameter_count(text_shapes(T2W.text)) == 5_680_910_336
    assert parameter_count(vae_shapes(T2W.vae)) == 126_892_531
    assert parameter_count(image_shapes(ImageConfig())) == 632_076_800
    assert 18.2e9 < parameter_count(world_shapes(VARIANTS["14B"].world("adaln"))) < 18.4e9
    assert 2.15e9 < parameter_count(world_shapes(T2W.world("controlnet"))) < 2.17e9


@pytest.mark.parametrize(("size", "control", "layers"), [("1.3B", "controlnet", 306), ("14B", "adaln", 488)])
def test_released_lora_layers(size, control, layers):
    world = VARIANTS[size].world(control)
    shapes = jax.eval_shape(lambda: lora.init(world_model.init(world, jax.random.key(0))["backbone"], 128, 64.0, jax.random.key(0)))
    alphas = [a for path, a in jax.tree_util.tree_leaves_with_path(shapes) if "alpha" in jax.tree_util.keystr(path)]
    assert sum(a.shape[0] if a.ndim else 1 for a in alphas) == layers


def test_released_forward_shapes():
    cfg = T2W.world("controlnet")
    model = WorldModel(cfg)

    def forward(params, x, t, text, keyboard, mouse):
        return model.apply({"params": params}, x, t, model.apply({"params": params}, text, keyboard, mouse, method="condition"))[0]

    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    out = jax.eval_shape(forward, world_shapes(cfg), shape(1, 21, 44, 80, 16), shape(1), shape(1, 512, 4096), shape(1, 81, 7), shape(1, 81, 2))
    assert out.shape == (1, 21, 44, 80, 16)


def inputs(cfg: WorldConfig, batch: int = 2):
    keys = jax.random.split(jax.random.key(1), 4)
    b = cfg.backbone
    return (
        jax.random.normal(keys[0], (batch, 3, 4, 6, b.in_dim)), jnp.array([900.0, 30.0]), jax.random.normal(keys[1], (batch, 5, b.text_dim)),
        (jax.random.uniform(keys[2], (batch, 9, 7)) > 0.5).astype(jnp.float32), jax.random.normal(keys[3], (batch, 9, 2)),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def run(cfg, params, x, t, text, keyboard, mouse):
    model = WorldModel(cfg)
    return model.apply({"params": params}, x, t, model.apply({"params": params}, text, keyboard, mouse, method="condition"))[0]


def test_fresh_control_changes_nothing():
    cfg = WorldConfig(SMALL, "controlnet", 32)
    params = world_model.copy_base_into_control(jax.jit(world_model.init, static_argnums=0)(cfg, jax.random.key(0)))
    params["backbone"]["head"]["kernel"] = jax.random.normal(jax.random.key(2), params["backbone"]["head"]["kernel"].shape)
    x = inputs(cfg)
    with_control = run(cfg, params, *x)
    without = run(WorldConfig(SMALL), {"backbone": params["backbone"]}, *x)
    assert float(jnp.abs(without).max()) > 0.1
    np.testing.assert_allclose(with_control, without, atol=1e-5)
    # The copies take part once their projections have grown.
    shape = params["controlnet"]["after_proj"]["kernel"].shape
    params["controlnet"]["after_proj"]["kernel"] = jax.random.normal(jax.random.key(3), shape)
    assert float(jnp.abs(run(cfg, params, *x) - without).max()) > 1e-3


def test_remat_and_unrolling_change_no_gradient():
    x = inputs(WorldConfig(SMALL))
    params = drawn(world_shapes(WorldConfig(SMALL)))
    grads = []
    for how in ({}, {"remat": "dots"}, {"remat": "blocks"}, {"unroll": True}):
        cfg = WorldConfig(dataclasses.replace(SMALL, **how))
        grads.append(jax.jit(jax.grad(lambda p, cfg=cfg: jnp.mean(run(cfg, p, *x) ** 2)))(params))
    for other in grads[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads[0], other)


def test_action_windows():
    rows = windows(21)
    assert rows.shape == (21, 12)
    np.testing.assert_array_equal(rows[0], 0)
    np.testing.assert_array_equal(rows[1], [1] * 9 + [2, 3, 4])
    np.testing.assert_array_equal(rows[5], np.arange(9, 21))


def test_relative_buckets_are_symmetric_and_bounded():
    buckets = relative_buckets(300, 32, 128)
    assert buckets.min() == 0
    assert buckets.max() == 31
    np.testing.assert_array_equal(np.triu(buckets, 1)[np.triu_indices(300, 1)] - 16, np.tril(buckets, -1).T[np.triu_indices(300, 1)])


@pytest.mark.parametrize(("l", "s"), [(70, 70), (64, 33), (130, 5)])
def test_blockwise_attention_equals_plain(monkeypatch, l, s):
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, n, 3, 8)) for key, n in zip(keys, (l, s, s), strict=True))

    def value_and_grad():
        return jax.jit(jax.value_and_grad(lambda q, k, v: jnp.sum(jnp.sin(attention(q, k, v))), (0, 1, 2)))(q, k, v)

    plain = value_and_grad()
    monkeypatch.setattr(attention_module, "BLOCK", 32)
    blocks = value_and_grad()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), plain, blocks)


def test_attention_memory_is_linear_in_tokens():
    def temporaries(tokens: int) -> int:
        shape = jax.ShapeDtypeStruct((1, tokens, 2, 16), jnp.float32)
        grad = jax.grad(lambda q, k, v: attention(q, k, v).sum(), (0, 1, 2))
        return jax.jit(grad).lower(shape, shape, shape).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(16384) < 3 * temporaries(8192)


@pytest.mark.parametrize("name", ["triton", "splash"])
@pytest.mark.parametrize(("l", "s"), [(128, 128), (200, 200), (130, 64), (70, 33)])
def test_attention_kernels_equal_the_portable_one(name, l, s):
    """The kernels in interpret mode: forward and backward."""
    draw = lambda i, length: jax.random.normal(jax.random.key(i), (2, length, 2, 128))
    q, k, v, g = draw(0, l), draw(1, s), draw(2, s), draw(3, l)

    def run(attend):
        out, back = jax.vjp(lambda *a: attend(*a, 128**-0.5), q, k, v)
        return out, *back(g)

    kernel = functools.partial(attention_module.BACKENDS[name], interpret=True)
    for a, b in zip(jax.jit(run, static_argnums=0)(kernel), jax.jit(run, static_argnums=0)(attention_module.BACKENDS["xla"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_attention_backend_by_device():
    table = {("cpu", "", "float32"): "xla", ("gpu", "9.0", "bfloat16"): "cudnn", ("gpu", "9.0", "float32"): "xla", ("gpu", "gfx942", "bfloat16"): "triton",
             ("gpu", "gfx90a", "bfloat16"): "xla", ("tpu", "", "bfloat16"): "splash"}  # fmt: skip
    assert {key: attention_module.preferred(*key) for key in table} == table


def test_a_backend_that_fails_falls_back_with_the_reason(monkeypatch):
    monkeypatch.setattr(attention_module, "preferred", lambda *_: "cudnn")
    with pytest.warns(UserWarning, match="attention cudnn does not work here"):
        assert attention_module.choose("auto", "bfloat16") == "xla"
