"""Metrics against the public PyTorch, OpenCV and scikit-learn code that the published numbers come from."""

import jax
import numpy as np

from cases import case, relative_error
from converters import idm as idm_table
from converters.shapes import idm_shapes
from converters.tables import load
from mwjax.evaluation import control, resize
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
