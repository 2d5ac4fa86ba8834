"""Metrics against the public PyTorch, OpenCV and scikit-learn code that the published numbers come from."""

import jax
import jax.numpy as jnp
import numpy as np

from cases import case, needs, relative_error
from converters import idm as idm_table
from converters.tables import load
from mwjax.evaluation import control, resize
from mwjax.evaluation.metrics import fvd, lpips, psnr_ssim, scenario, smoothness, temporal
from mwjax.evaluation.networks import amt, clip, i3d
from mwjax.evaluation.networks import lpips as lpips_network
from mwjax.evaluation.networks.idm import InverseDynamics, idm_shapes


@needs("eval_idm")
def test_idm():
    c = case("eval_idm")
    cfg = idm_table.config_from_json(c.meta["config"]["net"])
    weights = {k: v for k, v in c.weights().items() if idm_table.used(k)}
    params = load(idm_table.ROWS, weights, idm_shapes(cfg))
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


@needs("eval_control_scores")
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
    degrees = control.bin_degrees(np.arange(11))
    np.testing.assert_allclose(degrees[[0, 1, 2, 6]], [-10, -5.809483, -3.215369, 0.615394], atol=1e-6)
    np.testing.assert_array_equal(control.camera_bin(degrees), np.arange(11))


@needs("eval_visual")
def test_visual():
    c = case("eval_visual")
    size = tuple(c.meta["config"]["size"])
    weights = c.weights()
    assert {k: tuple(v) for k, v in c.meta["weights"].items()} == lpips_network.shapes()
    video, reference = c["in/video"], c["in/reference"]
    first = resize.pictures(video[:, 0], size)
    first_reference = resize.pictures(reference[:, 0], size)
    assert relative_error(np.moveaxis(first, -1, 1), c["out/resized_first"]) <= 1e-6
    pairs = list(zip(video, reference, strict=True))
    errors = [psnr_ssim.frame_errors(v, r, size=size) for v, r in pairs]
    mean = {k: np.mean([e[k] for e in errors], dtype=np.float64) for k in errors[0]}
    assert abs(psnr_ssim.psnr(mean["mse"]) - c["out/psnr"]) <= 1e-4
    np.testing.assert_allclose([e["ssim"] for e in errors], c["out/ssim_per_frame"], rtol=0, atol=2e-5)
    assert abs(mean["ssim"] - c["out/ssim"]) <= 2e-5
    pictures = [(resize.pictures(v, size), resize.pictures(r, size)) for v, r in pairs]
    cropped = [psnr_ssim.ssim(v, r, cropped=True).mean() for v, r in pictures]
    assert abs(np.mean(cropped) - c["out/ssim_cropped"]) <= 2e-5
    layers = lpips_network.lpips_layers(weights, first, first_reference)
    assert relative_error(layers, c["out/lpips_layers_first"]) <= 2e-5
    per_frame = np.stack([lpips.lpips(weights, v, r, size=size) for v, r in pairs])
    assert relative_error(per_frame, c["out/lpips_per_frame"]) <= 1e-5
    for name, rescaled in (("out/lpips", False), ("out/lpips_rescaled", True)):
        ours = np.mean([lpips.lpips(weights, v, r, size=size, rescaled=rescaled) for v, r in pairs])
        assert relative_error(ours, c[name]) <= 1e-5


@needs("eval_fvd")
def test_fvd():
    c = case("eval_fvd")
    weights = c.weights()
    prefixes = tuple(c.meta["prefixes"])
    assert {k: tuple(v) for k, v in c.meta["weights"].items()} == i3d.shapes()
    first = fvd.preprocess(jnp.asarray(c["in/generated"][0, :1]) / 255.0)
    assert relative_error(np.moveaxis(first, -1, 0), c["out/preprocessed_first"]) <= 1e-6

    def logits(who: str) -> np.ndarray:
        videos = [jnp.asarray(video, jnp.float32) / 255 for video in c[f"in/{who}"]]
        return np.stack([fvd.logits(weights, video, prefixes=prefixes) for video in videos], 1)

    generated, reference = logits("generated"), logits("reference")
    assert relative_error(generated, c["out/logits_generated"]) <= 1e-5
    assert relative_error(reference, c["out/logits_reference"]) <= 1e-5
    ours = [fvd.frechet(a, b) for a, b in zip(generated, reference, strict=True)]
    assert relative_error(ours, c["out/frechet_exact"]) <= 1e-5
    assert relative_error(ours, c["out/frechet"]) <= 1e-5
    assert relative_error(np.mean(ours), c["out/fvd"]) <= 1e-5


@needs("eval_temporal_consistency")
def test_temporal_consistency():
    c = case("eval_temporal_consistency")
    m = c.meta["config"]
    cfg = clip.CLIPConfig(m["input_resolution"], m["patch_size"], m["width"], m["layers"], m["heads"], m["output_dim"])
    weights = c.weights()
    assert {k: tuple(v) for k, v in c.meta["weights"].items()} == clip.shapes(cfg)
    scores = []
    for i in (0, 1):
        frames = c[f"in/video_{i}"]
        pixels = np.moveaxis(temporal.clip_pixels(frames, cfg.image_size), -1, 1)
        assert relative_error(pixels, c[f"out/preprocessed_{i}"]) <= 1e-5
        features = np.asarray(temporal.frame_features(cfg, weights, frames))
        assert relative_error(features, c[f"out/features_{i}"]) <= 1e-5
        similar = temporal.similarities(features)
        np.testing.assert_allclose(similar, c[f"out/similarity_{i}"], rtol=0, atol=1e-5)
        scores.append(temporal.temporal_consistency(similar))
    np.testing.assert_allclose([s.mean() for s in scores], c["out/score_per_video"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(scores).mean(), c["out/score"], rtol=0, atol=1e-5)


@needs("eval_motion_smoothness")
def test_motion_smoothness():
    c = case("eval_motion_smoothness")
    weights = c.weights()
    assert {k: tuple(v) for k, v in c.meta["weights"].items()} == amt.shapes()
    pair = (c[f"in/frame_{i}"][None].astype(np.float32) / 255 for i in (0, 1))
    result = jax.jit(amt.between)(weights, *pair)

    def first(array) -> np.ndarray:
        return np.moveaxis(np.asarray(array[0]), -1, 0)

    for level in (4, 3, 2):
        for i in (0, 1):
            assert relative_error(first(result.flows[level][i]), c[f"out/flow{i}_{level}"]) <= 1e-5, (level, i)
    for level in (4, 3):
        assert relative_error(first(result.features[level]), c[f"out/feature_{level}"]) <= 1e-5
    assert relative_error(first(result.frame), c["out/interpolated"]) <= 1e-5
    between = smoothness.interpolated(weights, c["in/video"])
    off = np.abs(between.astype(int) - c["out/predicted_frames"].astype(int))
    assert off.max() <= 1
    assert np.mean(off > 0) <= 3e-4
    differences = smoothness.differences(c["in/video"], between)
    np.testing.assert_allclose(differences, c["out/differences"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(smoothness.motion_smoothness(differences), c["out/score"], rtol=0, atol=1e-5)


@needs("eval_scenario_consistency")
def test_scenario_consistency():
    c = case("eval_scenario_consistency")
    width, height = c.meta["config"]["target_size"]
    max_shift = c.meta["config"]["max_shift"]
    scores = []
    for i in (0, 1):
        video = c[f"in/video_{i}"]
        np.testing.assert_array_equal(resize.area(video, height, width), c[f"out/resized_{i}"])
        distances = scenario.scenario_distances(video, (height, width), max_shift=max_shift)
        assert relative_error(distances, c[f"out/distances_{i}"]) <= 1e-5
        scores.append(scenario.scenario_consistency(distances))
    np.testing.assert_allclose(scores, c["out/score_per_video"], rtol=1e-5)
    np.testing.assert_allclose(np.mean(scores), c["out/score"], rtol=1e-5)
