"""Released sizes without allocating them, composition, attention."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import backbone, drawn

from mwjax.models import attention as attention_module
from mwjax.models import lora, world_model
from mwjax.models.action import ActionEncoder, windows
from mwjax.models.attention import attention
from mwjax.models.cache import append
from mwjax.models.controls import CONTROLS
from mwjax.models.dit import Injection
from mwjax.models.image import ImageConfig
from mwjax.models.shapes import image_shapes, parameter_count, text_shapes, vae_shapes, world_shapes
from mwjax.models.text import relative_buckets
from mwjax.models.variants import VARIANTS
from mwjax.models.world_model import WorldConfig, WorldModel, empty_past
from mwjax.parallel.mesh import MeshShape, make_mesh

T2W = VARIANTS["1.3B"]
SMALL = backbone()


def test_released_parameter_counts():
    assert parameter_count(world_shapes(T2W.world())) == 1_418_996_800
    assert parameter_count(world_shapes(VARIANTS["14B"].world())) == 16_394_878_784
    assert parameter_count(text_shapes(T2W.text)) == 5_680_910_336
    assert parameter_count(vae_shapes(T2W.vae)) == 126_892_531
    assert parameter_count(image_shapes(ImageConfig())) == 632_076_800
    assert 18.2e9 < parameter_count(world_shapes(VARIANTS["14B"].world("adaln"))) < 18.4e9
    assert 2.15e9 < parameter_count(world_shapes(T2W.world("controlnet"))) < 2.17e9


@pytest.mark.parametrize(("size", "control", "layers"), [("1.3B", "controlnet", 306), ("14B", "adaln", 488)])
def test_released_lora_layers(size, control, layers):
    world = VARIANTS[size].world(control)
    shapes = jax.eval_shape(
        lambda: lora.init(world_model.init(world, jax.random.key(0))["backbone"], 128, 64.0, jax.random.key(0))
    )
    alphas = [a for path, a in jax.tree_util.tree_leaves_with_path(shapes) if "alpha" in jax.tree_util.keystr(path)]
    assert sum(a.shape[0] if a.ndim else 1 for a in alphas) == layers


def test_released_forward_shapes():
    cfg = T2W.world("controlnet")
    model = WorldModel(cfg)

    def forward(params, x, t, inputs):
        condition = model.apply({"params": params}, inputs, method="condition")
        return model.apply({"params": params}, x, t, condition)[0]

    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    inputs = {name: shape(1, *size) for name, size in world_model.input_shapes(cfg, (21, 44, 80), 257).items()}
    assert {name: a.shape[1:] for name, a in inputs.items()} == {
        "text": (512, 4096),
        "keyboard": (81, 7),
        "mouse": (81, 2),
    }
    out = jax.eval_shape(forward, world_shapes(cfg), shape(1, 21, 44, 80, 16), shape(1), inputs)
    assert out.shape == (1, 21, 44, 80, 16)


def inputs(cfg: WorldConfig, batch: int = 2, latents: int = 3):
    keys = jax.random.split(jax.random.key(1), 4)
    b, frames = cfg.backbone, 4 * latents - 3
    x = jax.random.normal(keys[0], (batch, latents, 4, 6, b.in_dim))
    given = {
        "text": jax.random.normal(keys[1], (batch, 5, b.text_dim)),
        "keyboard": (jax.random.uniform(keys[2], (batch, frames, 7)) > 0.5).astype(jnp.float32),
        "mouse": jax.random.normal(keys[3], (batch, frames, 2)),
    }
    return x, jnp.array([900.0, 30.0]), given


@functools.partial(jax.jit, static_argnums=0)
def run(cfg, params, x, t, given):
    model = WorldModel(cfg)
    return model.apply({"params": params}, x, t, model.apply({"params": params}, given, method="condition"))[0]


def test_fresh_control_changes_nothing():
    cfg = WorldConfig(SMALL, ("controlnet",), 32)
    params = world_model.copy_base_into_control(jax.jit(world_model.init, static_argnums=0)(cfg, jax.random.key(0)))
    params["backbone"]["head"]["kernel"] = jax.random.normal(
        jax.random.key(2), params["backbone"]["head"]["kernel"].shape
    )
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
    np.testing.assert_array_equal(
        np.triu(buckets, 1)[np.triu_indices(300, 1)] - 16, np.tril(buckets, -1).T[np.triu_indices(300, 1)]
    )


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
    for a, b in zip(
        jax.jit(run, static_argnums=0)(kernel),
        jax.jit(run, static_argnums=0)(attention_module.BACKENDS["xla"]),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_attention_backend_by_device():
    table = {
        ("cpu", "", "float32"): "xla",
        ("gpu", "9.0", "bfloat16"): "cudnn",
        ("gpu", "9.0", "float32"): "xla",
        ("gpu", "gfx942", "bfloat16"): "triton",
        ("gpu", "gfx90a", "bfloat16"): "xla",
        ("tpu", "", "bfloat16"): "splash",
    }
    assert {key: attention_module.preferred(*key) for key in table} == table


def test_a_backend_that_fails_falls_back_with_the_reason(monkeypatch):
    monkeypatch.setattr(attention_module, "preferred", lambda *_: "cudnn")
    with pytest.warns(UserWarning, match="attention cudnn does not work here"):
        assert attention_module.choose("auto", "bfloat16") == "xla"


def actions_of(controls: tuple[str, ...], layers: int) -> WorldConfig:
    return WorldConfig(backbone(num_layers=layers), controls, 32)


def chunk_by_chunk(cfg: WorldConfig, params: dict, given: tuple, sizes: list[int], room: int) -> jax.Array:
    """Velocities of a clip whose chunks of latents each see those before through a cache; one program a chunk size."""
    model, (x, t, inputs) = WorldModel(cfg), given

    @jax.jit
    def step(past, x, t, condition):
        velocity, out = model.apply({"params": params}, x, t, condition, past=past)
        return velocity, append(past, out["kept"])

    condition = model.apply({"params": params}, inputs, method="condition")
    past = empty_past(cfg, batch=x.shape[0], room=room, size=x.shape[2:4])
    out, start = [], 0
    for size in sizes:
        now = slice(start, start + size)
        axis = {name: CONTROLS[name].SIGNAL_BATCH + 1 for name in cfg.controls}
        signals = {name: jnp.take(a, np.arange(12)[now], axis[name]) for name, a in condition.signals.items()}
        velocity, past = step(past, x[:, now], t[:, now], condition._replace(signals=signals))
        out.append(velocity)
        start += size
    assert step._cache_size() == len(set(sizes))
    return jnp.concatenate(out, 1)


@pytest.mark.parametrize("controls", [(), ("controlnet",), ("adaln",), ("controlnet", "adaln")])
@pytest.mark.parametrize("sequence", [1, 2])
def test_chunk_by_chunk_with_a_cache_is_the_clip_under_chunk_causal_attention(controls, sequence):
    """Noise levels differ from latent to latent; an odd number of layers, so that the last group of a branch is
    short."""
    cfg = actions_of(controls, 3)
    params, sizes = drawn(world_shapes(cfg)), [1, 2, 2]
    x, _, inputs_ = inputs(cfg, latents=5)
    t = jnp.asarray([[900.0, 500.0, 500.0, 30.0, 30.0], [10.0, 20.0, 20.0, 700.0, 700.0]])
    with jax.set_mesh(make_mesh(MeshShape(sequence=sequence), jax.devices()[:sequence])):
        model = WorldModel(cfg)

        @jax.jit
        def clip(x, t, given):
            condition = model.apply({"params": params}, given, method="condition")
            return model.apply({"params": params}, x, t, condition, chunks=((0, 1), (1, 3), (3, 5)))[0]

        whole = clip(x, t, inputs_)
        pieces = chunk_by_chunk(cfg, params, (x, t, inputs_), sizes, room=8)
    assert np.linalg.norm(pieces - whole) < 2e-6 * np.linalg.norm(whole)
    assert np.linalg.norm(run(cfg, params, x, t, inputs_) - whole) > 1e-3 * np.linalg.norm(whole)  # not what all see


def test_clips_of_a_batch_may_stand_at_different_places():
    cfg = actions_of(("controlnet",), 2)
    params, (x, _, given) = drawn(world_shapes(cfg)), inputs(cfg, latents=3)
    t = jnp.full((2, 3), 300.0)
    whole = chunk_by_chunk(cfg, params, (x, t, given), [1, 1, 1], room=4)
    model = WorldModel(cfg)
    condition = model.apply({"params": params}, given, method="condition")

    @jax.jit
    def step(past, x, frame):
        signals = {name: jnp.take_along_axis(a, frame.reshape(-1, 1, 1, 1), 1) for name, a in condition.signals.items()}
        return model.apply({"params": params}, x, t[:, :1], condition._replace(signals=signals), past=past)

    past = empty_past(cfg, batch=2, room=4, size=(4, 6))
    _, out = step(past, x[:, :1], jnp.array([0, 0]))
    first = append(past, out["kept"])
    _, out = step(first, x[:, 1:2], jnp.array([1, 1]))
    second = append(first, out["kept"])
    mixed = jax.tree.map(
        lambda a, b: jnp.stack([a[0], b[1]]) if a.ndim == 1 else jnp.stack([a[:, 0], b[:, 1]], 1), first, second
    )
    np.testing.assert_array_equal(mixed.frames, [1, 2])
    velocity, _ = step(mixed, jnp.stack([x[0, 1:2], x[1, 2:3]]), jnp.array([1, 2]))
    np.testing.assert_allclose(velocity[0, 0], whole[0, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(velocity[1, 0], whole[1, 2], rtol=1e-5, atol=1e-6)


def test_one_noise_level_for_all_is_a_noise_level_for_each():
    cfg = actions_of(("controlnet",), 3)
    params, (x, t, given) = drawn(world_shapes(cfg)), inputs(cfg)
    each = run(cfg, params, x, jnp.repeat(t[:, None], 3, 1), given)
    np.testing.assert_allclose(run(cfg, params, x, t, given), each, rtol=1e-5, atol=1e-6)


def test_injections_add_up():
    cfg = actions_of(("controlnet", "adaln"), 4)
    params, (x, t, given) = drawn(world_shapes(cfg)), inputs(cfg)
    both = run(cfg, params, x, t, given)
    for one in cfg.controls:
        other = run(dataclasses.replace(cfg, controls=(one,)), params, x, t, given)
        assert np.linalg.norm(both - other) > 1e-3 * np.linalg.norm(both)
    branch = Injection(branch=object())
    with pytest.raises(ValueError, match="two controls with a branch"):
        branch + branch


def test_blocks_of_a_controlnet_over_an_odd_number_of_layers_are_copies_of_every_second_one():
    cfg = actions_of(("controlnet",), 5)
    params = world_model.copy_base_into_control(drawn(world_shapes(cfg)))
    ours, base = (params[part]["blocks"]["ffn"]["dense_0"]["kernel"] for part in ("controlnet", "backbone"))
    np.testing.assert_array_equal(ours, base[[0, 2, 4]])


def test_actions_of_a_chunk_are_encoded_with_their_place_given():
    """The last twelve rows and their places give the feature that the whole clip gives."""
    encoder, rng = ActionEncoder(16), np.random.default_rng(0)
    keyboard, mouse = rng.integers(0, 2, (2, 21, 7)).astype(np.float32), rng.normal(size=(2, 21, 2)).astype(np.float32)
    params = drawn(jax.eval_shape(lambda: encoder.init(jax.random.key(0), keyboard, mouse)))
    whole = jax.jit(encoder.apply)(params, keyboard, mouse)
    part = jax.jit(lambda k, m, place: encoder.apply(params, k, m, np.arange(12)[None], place))
    for latent in (3, 4, 5):
        rows = slice(4 * latent - 11, 4 * latent + 1)
        feature = part(keyboard[:, rows], mouse[:, rows], jnp.arange(21)[rows])
        np.testing.assert_allclose(feature[:, 0], whole[:, latent], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["xla", "triton", "splash"])
def test_attention_to_the_first_keys(monkeypatch, name):
    """As many as are there, clip by clip; what lies behind them does not matter."""
    draw = lambda i, length: jax.random.normal(jax.random.key(i), (2, length, 2, 128))
    q, k, v, length = draw(0, 70), draw(1, 200), draw(2, 200), jnp.array([64, 130])
    run = jax.jit(lambda q, k, v: attention_module.prefix_attention(q, k, v, length, backend=name))
    plain = jnp.stack([attention(q[i : i + 1], k[i : i + 1, :n], v[i : i + 1, :n])[0] for i, n in enumerate((64, 130))])
    monkeypatch.setattr(attention_module, "BLOCK", 32)
    if name != "xla":
        kernel = functools.partial(attention_module.BACKENDS[name], interpret=True)
        monkeypatch.setitem(attention_module.BACKENDS, name, kernel)
    np.testing.assert_allclose(run(q, k, v), plain, rtol=1e-4, atol=1e-5)
