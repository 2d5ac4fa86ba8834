"""Metrics against the public PyTorch, OpenCV and scikit-learn code that the published numbers come from."""

import jax
import jax.numpy as jnp
import numpy as np

from cases import case, relative_error
from converters import idm as idm_table
from converters.shapes import idm_shapes
from converters.tables import load
from mwjax.evaluation import control, fvd, resize, temporal, visual
from mwjax.evaluation.networks import amt, clip, i3d, lpips
from mwjax.evaluation.networks.idm import InverseDynamics


def test_idm():
    c = case("eval_idm")
    cfg = idm_table.config_from_json(c.meta["config"]["net"])
    weights = {k: v for k, v in c.weights().items() if idm_table.used(k)}
    params = load(idm_table.IDM, weights, idm_shapes(cfg))
    np.testing.assert_array_equal(resize.opencv_linear(c["in/video"], *cfg.image_size), c["out/resized"])
    temperature = c.meta["config"]["pi_head"]["temperature"]
    for at_once in (0, 4):
        network = InverseDynamics(idm_table.config_from_json(c.meta["config"]["net"], frames_at_once=at_once))
        buttons, camera = jax.jit(network.apply)({"params": params}, c["out/resized"][None])
        buttons, camera = (np.asarray(jax.nn.log_softmax(a[0] / temperature)) for a in (buttons, camera))
        assert relative_error(buttons, c["out/buttons_logp"]) <= 1e-5
        assert relative_error(camera, c["out/camera_logp"]) <= 1e-5
        np.testing.assert_array_equal(buttons.argmax(-1), c["out/buttons"])
        np.testing.assert_array_equal(camera.argmax(-1), c["out/camera_bins"])


def test_control_scores():
    c = case("eval_control_scores")
    predicted, asked = (c[f"in/{who}_buttons"] for who in ("pred", "label"))
    cameras = [c[f"in/{who}_camera"] for who in ("pred", "label")]
    for who, camera in zip(("pred", "label"), cameras, strict=True):
        np.testing.assert_array_equal(control.camera_bin(camera), c[f"out/{who}_camera_bins"])
        np.testing.assert_array_equal(control.direction(camera), c[f"out/{who}_direction"])
    assert list(control.BUTTONS) == c.meta["button_names"]
    for name in ("matrix", "mineworld"):
        tasks = control.TASKS[name]
        assert [control.task_name(t) for t in tasks] == c.meta[f"{name}_tasks"]
        hits = np.stack([control.task_hits(p, a, tasks) for p, a in zip(predicted, asked, strict=True)])
        accuracy = hits.mean((0, 2))
        np.testing.assert_allclose(accuracy, c[f"out/{name}_task_accuracy"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(accuracy.mean(), c[f"out/{name}_keyboard_precision"], rtol=0, atol=1e-12)
        for task in tasks:
            pair = [control.classes(b, task).reshape(-1) for b in (predicted, asked)]
            scores = control.macro_scores(control.confusion(*pair, 3 if len(task) == 2 else 2))
            for key, value in c.meta[f"{name}_metrics"][control.task_name(task)].items():
                if key != "class_num":
                    assert abs(scores[key] - value) <= 1e-12, (task, key)
    for i, pair in enumerate(control.MATRIX[:2]):
        np.testing.assert_array_equal(control.classes(predicted, pair), c["out/matrix_pair_classes_pred"][:, i])
    precision = [control.camera_hits(p, a).mean() for p, a in zip(*cameras, strict=True)]
    loss = [control.camera_loss(p, a) for p, a in zip(*cameras, strict=True)]
    for ours, theirs in ((precision, "camera_precision"), (loss, "camera_loss")):
        np.testing.assert_allclose(ours, c[f"out/{theirs}_per_video"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(np.mean(ours), c[f"out/{theirs}"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(control.bin_degrees(np.arange(11))[[0, 1, 2, 6]], [-10, -5.809483, -3.215369, 0.615394], atol=1e-6)
    np.testing.assert_array_equal(control.camera_bin(control.bin_degrees(np.arange(11))), np.arange(11))


def test_visual():
    c = case("eval_visual")
    size, weights = tuple(c.meta["config"]["size"]), c.weights()
    assert {k: tuple(v) for k, v in c.meta["weights"].items()} == lpips.shapes()
    video, reference = c["in/video"], c["in/reference"]
    first = visual.prepare(video[:, 0], size)
    assert relative_error(np.moveaxis(first, -1, 1), c["out/resized_first"]) <= 1e-6
    errors = [visual.frame_errors(v, r, size=size) for v, r in zip(video, reference, strict=True)]
    mean = {k: np.mean([e[k] for e in errors], dtype=np.float64) for k in errors[0]}
    assert abs(visual.psnr(mean["mse"]) - c["out/psnr"]) <= 1e-4
    np.testing.assert_allclose([e["ssim"] for e in errors], c["out/ssim_per_frame"], rtol=0, atol=2e-5)
    assert abs(mean["ssim"] - c["out/ssim"]) <= 2e-5
    cropped = [visual.ssim(visual.prepare(v, size), visual.prepare(r, size), cropped=True).mean() for v, r in zip(video, reference, strict=True)]
    assert abs(np.mean(cropped) - c["out/ssim_cropped"]) <= 2e-5
    layers = lpips.lpips_layers(weights, first, visual.prepare(reference[:, 0], size))
    assert relative_error(layers, c["out/lpips_layers_first"]) <= 2e-5
    pairs = list(zip(video, reference, strict=True))
    assert relative_error(np.stack([visual.lpips(weights, v, r, size=size) for v, r in pairs]), c["out/lpips_per_frame"]) <= 1e-5
    for name, rescaled in (("out/lpips", False), ("out/lpips_rescaled", True)):
        ours = np.mean([visual.lpips(weights, v, r, size=size, rescaled=rescaled) for v, r in pairs])
        assert relative_error(ours, c[name]) <= 1e-5


def test_fvd():
    c = case("eval_fvd")
    weights, prefixes = c.weights(), tuple(c.meta["prefixes"])
    assert {k: tuple(v) for k, v in c.meta["weights"].items()} == i3d.shapes()
    first = fvd.preprocess(jnp.asarray(c["in/generated"][0, :1]) / 255.0)
    assert relative_error(np.moveaxis(first, -1, 0), c["out/preprocessed_first"]) <= 1e-6
    of = lambda who: np.stack([fvd.logits(weights, jnp.asarray(v, jnp.float32) / 255, prefixes=prefixes) for v in c[f"in/{who}"]], 1)
    generated, reference = of("generated"), of("reference")
    assert relative_error(generated, c["out/logits_generated"]) <= 1e-5
    assert relative_error(reference, c["out/logits_reference"]) <= 1e-5
    ours = [fvd.frechet(a, b) for a, b in zip(generated, reference, strict=True)]
    assert relative_error(ours, c["out/frechet_exact"]) <= 1e-5
    assert relative_error(ours, c["out/frechet"]) <= 1e-5
    assert relative_error(np.mean(ours), c["out/fvd"]) <= 1e-5


def test_temporal_consistency():
    c = case("eval_temporal_consistency")
    m = c.meta["config"]
    cfg = clip.CLIPConfig(m["input_resolution"], m["patch_size"], m["width"], m["layers"], m["heads"], m["output_dim"])
    weights = c.weights()
    assert {k: tuple(v) for k, v in c.meta["weights"].items()} == clip.shapes(cfg)
    scores = []
    for i in (0, 1):
        frames = c[f"in/video_{i}"]
        assert relative_error(np.moveaxis(temporal.clip_pixels(frames, cfg.image_size), -1, 1), c[f"out/preprocessed_{i}"]) <= 1e-5
        features = np.asarray(temporal.frame_features(cfg, weights, frames))
        assert relative_error(features, c[f"out/features_{i}"]) <= 1e-5
        similar = temporal.similarities(features)
        np.testing.assert_allclose(similar, c[f"out/similarity_{i}"], rtol=0, atol=1e-5)
        scores.append(temporal.temporal_consistency(similar))
    np.testing.assert_allclose([s.mean() for s in scores], c["out/score_per_video"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(scores).mean(), c["out/score"], rtol=0, atol=1e-5)


def test_motion_smoothness():
    c = case("eval_motion_smoothness")
    weights = c.weights()
    assert {k: tuple(v) for k, v in c.meta["weights"].items()} == amt.shapes()
    result = jax.jit(amt.between)(weights, *(c[f"in/frame_{i}"][None].astype(np.float32) / 255 for i in (0, 1)))
    first = lambda a: np.moveaxis(np.asarray(a[0]), -1, 0)
    for level in (4, 3, 2):
        for i in (0, 1):
            assert relative_error(first(result.flows[level][i]), c[f"out/flow{i}_{level}"]) <= 1e-5, (level, i)
    for level in (4, 3):
        assert relative_error(first(result.features[level]), c[f"out/feature_{level}"]) <= 1e-5
    assert relative_error(first(result.frame), c["out/interpolated"]) <= 1e-5
    between = temporal.interpolated(weights, c["in/video"])
    off = np.abs(between.astype(int) - c["out/predicted_frames"].astype(int))
    assert off.max() <= 1
    assert np.mean(off > 0) <= 3e-4
    score, differences = temporal.motion_smoothness(c["in/video"], between)
    np.testing.assert_allclose(differences, c["out/differences"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(score, c["out/score"], rtol=0, atol=1e-5)


def test_scenario_consistency():
    c = case("eval_scenario_consistency")
    width, height = c.meta["config"]["target_size"]
    assert c.meta["config"]["max_shift"] == temporal.MAX_SHIFT
    scores = []
    for i in (0, 1):
        np.testing.assert_array_equal(resize.area(c[f"in/video_{i}"], height, width), c[f"out/resized_{i}"])
        distances = temporal.scenario_distances(c[f"in/video_{i}"], (height, width))
        assert relative_error(distances, c[f"out/distances_{i}"]) <= 1e-5
        scores.append(temporal.scenario_consistency(distances))
    np.testing.assert_allclose(scores, c["out/score_per_video"], rtol=1e-5)
    np.testing.assert_allclose(np.mean(scores), c["out/score"], rtol=1e-5)
