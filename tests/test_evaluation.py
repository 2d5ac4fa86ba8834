"""Scores, reports, weights of the metrics' networks, and the commands, on small videos."""

import dataclasses
import json
import shutil
import subprocess
import warnings

import numpy as np
import pytest
import torch

from converters import __main__ as converters_main
from converters import evaluation as weights_of
from converters import idm as idm_table
from converters.shapes import idm_shapes, parameter_count
from mwjax import evaluate
from mwjax.data.video import write_video
from mwjax.errors import InputError
from mwjax.evaluation import benchmark, control, train_idm
from mwjax.evaluation.networks import amt, clip, i3d, lpips
from mwjax.evaluation.networks.idm import IDMConfig
from mwjax.evaluation.scores import metrics, score, shuffled

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def count(shapes) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def test_released_sizes():
    """Parameters of the published files, as counted there."""
    cfg = IDMConfig()
    unused = 4096 * 4096 + 2 * 4096 + 2 * (320 * 4096 + 320)
    assert parameter_count(idm_shapes(cfg)) + unused == 482_330_046
    assert (len(amt.shapes()), count(amt.shapes())) == (213, 2_990_543)
    assert (len(clip.shapes(clip.CLIPConfig())), count(clip.shapes(clip.CLIPConfig()))) == (152, 87_849_216)
    assert len(i3d.shapes()) + 57 == 344  # and num_batches_tracked of every batch norm
    assert count({name: shape for name, shape in i3d.shapes().items() if "running" not in name}) == 12_697_264
    assert count(lpips.shapes()) == 14_714_688 + 1472
    assert idm_table.config_from_json(idm_table.config_to_json(cfg)) == cfg


def test_labels():
    keyboard, mouse = np.zeros((5, 7), np.float32), np.zeros((5, 2), np.float32)
    keyboard[1:, 0] = keyboard[2, 4] = 1  # w, and space at frame 2
    mouse[3] = -1.5, 4
    buttons, camera = control.labels((keyboard, mouse))
    assert buttons[:, control.BUTTONS.index("forward")].tolist() == [0, 1, 1, 1, 1]
    assert buttons[:, control.BUTTONS.index("jump")].tolist() == [0, 0, 1, 0, 0]
    assert control.direction(camera).tolist() == [0, 0, 0, control.DIRECTIONS.index("up right"), 0]
    later, _ = control.labels((keyboard, mouse), offset=1)
    assert later[:, control.BUTTONS.index("jump")].tolist() == [0, 1, 0, 0, 0]
    assert control.classes(buttons, ("back", "forward")).tolist() == [0, 2, 2, 2, 2]


def values(rng, right: bool) -> dict:
    asked = np.zeros((9, 20), int)
    asked[1:, 2] = rng.integers(2)
    asked[1:, 1] = 1 - asked[1:, 2]
    camera = np.full((9, 2), 5)
    camera[:, 1] = 8 if asked[1, 2] else 2
    degrees = control.bin_degrees(camera)
    return {"buttons": asked if right else 1 - asked, "camera": camera, "asked_buttons": asked, "asked_camera": degrees if right else -degrees,
            "mse": np.full(9, 0.01 * (1 + rng.random())), "ssim": rng.random(9)}  # fmt: skip


def test_scores_and_intervals():
    rng = np.random.default_rng(0)
    videos = [values(rng, right=i % 4 > 0) for i in range(40)]
    by_key = {m.key: m for m in metrics()}
    walk = score(by_key["walk"], videos)
    assert walk.value == 0.75
    assert walk.low < 0.75 < walk.high
    assert walk.high - walk.low == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 40), rel=0.25)
    assert score(by_key["walk"], videos) == walk  # the same every time
    assert score(by_key["yaw"], videos).value == 0.75
    psnr = score(by_key["psnr"], videos)
    assert psnr.value == pytest.approx(-10 * np.log10(np.mean([v["mse"].mean() for v in videos])))
    frames = score({m.key: m for m in metrics(conventional=True)}["psnr"], videos)
    assert frames.value == pytest.approx(np.mean([-10 * np.log10(v["mse"]) for v in videos]))
    assert score(by_key["lpips"], videos) is None
    assert score(by_key["jump"], videos) is None  # never asked for
    right = [values(rng, right=True) for _ in range(40)]
    chance = score(by_key["walk"], shuffled(right))
    assert chance.value < 0.8 < score(by_key["walk"], right).low


def test_fvd_of_sets():
    rng = np.random.default_rng(0)
    make = lambda mean: [{"logits": rng.normal(mean, 1, (8, 400))} for _ in range(6)]
    by_key = {m.key: m for m in metrics()}
    near, far = score(by_key["fvd"], make(0), make(0)), score(by_key["fvd"], make(1), make(0))
    assert near.value < far.value
    assert far.low < far.value < far.high
    assert score(by_key["fvd16"], make(1), make(0)).value > 0
    assert score(by_key["fvd16"], [{"logits": np.zeros((3, 400))}], make(0)) is None  # fewer than 16 frames


@pytest.fixture
def clips(tmp_path):
    """Five clips with references and actions; each moves sideways at its own speed."""
    rng = np.random.default_rng(0)
    for folder in ("ours", "real", "asked"):
        (tmp_path / folder).mkdir()
    for i in range(5):
        scene = rng.integers(0, 256, (48, 160, 3), dtype=np.uint8).repeat(1, 0)
        video = np.stack([scene[:, 4 * t : 4 * t + 80] for t in range(9)])
        write_video(tmp_path / "real" / f"{i}.mp4", video, fps=10)
        write_video(tmp_path / "ours" / f"{i}.mp4", video // 2 + 60, fps=10)
        (tmp_path / "asked" / f"{i}.json").write_text(json.dumps([[8, "0 0 0 1 0 0 0 0 0" if i % 2 else "0 0 1 0 0 0 0 0 2"], ""]))
    return tmp_path


def run(root, *more, out="report") -> list:
    options = ["--videos", str(root / "ours"), "--reference", str(root / "real"), "--actions", str(root / "asked"), "--out", str(root / out)]
    return evaluate.evaluate(evaluate.parser().parse_args([*options, *more]))


def test_report(clips, capsys, monkeypatch):
    small = clips / "idm"
    network = IDMConfig((48, 80), 4, (8, 16, 16), dim=32, num_heads=2)
    params = train_idm.jax.jit(train_idm.InverseDynamics(network).init)(train_idm.jax.random.key(0), np.zeros((1, 9, 48, 80, 3), np.uint8))["params"]
    weights_of.save_idm(small, network, params)
    (clips / "ours" / "damaged.mp4").write_bytes(b"nothing")
    shutil.copy(clips / "ours" / "0.mp4", clips / "ours" / "alone.mp4")
    write_video(clips / "ours" / "short.mp4", np.zeros((4, 48, 80, 3), np.uint8), fps=10)
    rows = run(clips, "--idm", str(small), "--weights", str(clips / "none"))
    assert [row.name for row in rows] == ["ours", "ours, shuffled actions", "first frame repeated", "reference"]
    assert {"psnr", "ssim", "keyboard", "camera", "scenario", "strafe", "yaw"} <= rows[0].scores.keys()
    data = json.loads((clips / "report" / "report.json").read_text())
    assert len(data["excluded"]) == 3
    assert any("alone" in line and "missing" in line for line in data["excluded"])
    assert any("short" in line and "4 frames" in line for line in data["excluded"])
    assert len([v for v in data["videos"] if v["row"] == "ours"]) == 5
    assert all((clips / "report" / v["file"]).exists() for v in data["videos"] if v["row"] in ("ours", "reference"))
    assert {v["row"] for v in data["videos"]} == {row.name for row in rows}
    assert any("python -m converters metric lpips" in line for line in data["absent"])
    assert "lpips" not in rows[0].scores  # not computed is not zero
    text = (clips / "report" / "report.md").read_text()
    assert "Micro-World I2W" in text
    assert "15.88" in text
    printed = capsys.readouterr().out
    assert "not computed: LPIPS" in printed
    # again: nothing is measured a second time, the numbers are the same
    monkeypatch.setattr(evaluate, "PARTS", {name: dataclasses.replace(part, run=pytest.fail) for name, part in evaluate.PARTS.items()})
    again = run(clips, "--idm", str(small), "--weights", str(clips / "none"))
    assert [row.scores for row in again] == [row.scores for row in rows]


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_page_in_a_browser(clips):
    run(clips, "--metrics", "visual")
    worst = json.loads((clips / "report" / "report.json").read_text())["videos"]
    worst = min((v for v in worst if v["row"] == "ours"), key=lambda v: v["scores"]["psnr"])["name"]

    def page(where: str) -> str:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--virtual-time-budget=3000",
                   f"--user-data-dir={clips / 'profile'}", "--dump-dom"]  # fmt: skip
        url = f"file://{clips / 'report' / 'report.html'}{where}"
        return subprocess.run([CHROMIUM, *options, url], capture_output=True, text=True, timeout=60, check=True).stdout

    shown = page("#row=ours&sort=psnr&order=worst")
    assert shown.count("<figure") == 5
    assert shown.index("<figure") < shown.index(f'data-name="{worst}"') < shown.index("</figure>")
    assert "published (Minecraft): Oasis" in shown
    assert page("#row=ours&sort=psnr&order=best").rindex(f'data-name="{worst}"') == page("#row=ours&sort=psnr&order=best").rindex('data-name="')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--videos", "nowhere"), "not a folder"),
        (("--reference", "nowhere"), "--reference nowhere is not a folder"),
        (("--idm", "nowhere"), "neither vpt, vizdoom nor a folder"),
        (("--metrics", "control"), "nothing that --metrics control asks for can be computed; keyboard and camera precision: need --actions"),
        (("--frames", "100"), "none of the 5 videos can be scored"),
    ],
)
def test_bad_input(clips, capsys, change, words):
    options = {"--videos": str(clips / "ours"), "--reference": str(clips / "real"), "--out": str(clips / "report")} | dict([change])
    with pytest.raises(SystemExit) as stop:
        evaluate.main([text for pair in options.items() for text in pair])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("text", ['{"job": {"seed": 1}}', '{"actions": null}', '{"actions": {"1": {"ws": 0}}}', "[1]", '{"actions": {"a": {}}}', "{", '[[3, "0"], ""]'])
def test_a_bad_label_is_left_out(clips, text):
    (clips / "asked" / "0.json").write_text(text)
    run(clips, "--metrics", "visual")
    data = json.loads((clips / "report" / "report.json").read_text())
    assert len(data["excluded"]) == 1
    assert "0.json" in data["excluded"][0]


def test_odd_names_and_equal_videos(clips):
    """Names that mean something in HTML, in addresses or in tables; a video that is its reference."""
    shutil.copy(clips / "real" / "1.mp4", clips / "ours" / "1.mp4")
    for folder in ("ours", "real"):
        (clips / folder / "0.mp4").rename(clips / folder / "50% <b>#1|.mp4")
    (clips / "asked" / "0.json").rename(clips / "asked" / "50% <b>#1|.json")
    rows = run(clips, "--metrics", "visual", "--title", "GAME DATA <script>")
    assert np.isfinite(rows[0].scores["psnr"].value)
    page = (clips / "report" / "report.html").read_text()
    assert page.count("<script") == 2
    assert "50%25%20%3Cb%3E%231%7C.mp4" in page


def test_nothing_left_to_score(clips):
    for path in (clips / "asked").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="none of the 5 videos could be scored"):
        run(clips)


def drawn(shapes: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_published_weights_are_read(tmp_path):
    """Files in the layouts in which they are published: a state dict, one inside a checkpoint, several files, a TorchScript archive."""
    files = {"amt-s.pth": {"state_dict": drawn(amt.shapes()), "epoch": 1}, "i3d.pt": drawn(i3d.shapes()) | {"Conv3d_1a_7x7.bn.num_batches_tracked": torch.tensor(0)}}
    for name, state in files.items():
        torch.save(state, tmp_path / name)
    for name, file in (("amt", "amt-s.pth"), ("i3d", "i3d.pt")):
        converters_main.main(["metric", name, str(tmp_path / file), "--out", str(tmp_path / "weights")])
        loaded = weights_of.load_network(name, tmp_path / "weights")
        state = files[file].get("state_dict", files[file])
        assert all(np.array_equal(loaded[key], state[key].numpy()) for key in loaded)
        assert len(json.loads((tmp_path / "weights" / name / "config.json").read_text())["sha256"][file]) == 64


def test_torchscript_and_parts(tmp_path, monkeypatch):
    cfg = clip.CLIPConfig(32, 8, 16, 1, 2, 8)
    small = dataclasses.replace(weights_of.SOURCES["clip"], shapes=lambda: clip.shapes(cfg))
    monkeypatch.setitem(weights_of.SOURCES, "clip", small)

    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in (drawn(clip.shapes(cfg)) | {"token_embedding.weight": torch.zeros(2, 2)}).items():
                *parents, leaf = name.split(".")
                node = self
                for part in parents:
                    if not hasattr(node, part):
                        setattr(node, part, torch.nn.Module())
                    node = getattr(node, part)
                node.register_parameter(leaf, torch.nn.Parameter(value))

        def forward(self, x):
            return x

    path = tmp_path / "tower.pt"
    with warnings.catch_warnings(action="ignore"):  # torch.jit is on its way out; the file is older
        torch.jit.script(Tower()).save(str(path))
    weights_of.import_network("clip", [path], tmp_path / "weights")
    assert weights_of.load_network("clip", tmp_path / "weights").keys() == clip.shapes(cfg).keys()
    with pytest.raises(InputError, match="not 40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af as published"):
        weights_of.import_network("clip", [path.rename(tmp_path / "ViT-B-32.pt")], tmp_path / "weights")


def test_wrong_weights_are_refused(tmp_path):
    state = drawn(amt.shapes())
    state.pop("comb_block.0.bias")
    state["extra"] = torch.zeros(1)
    state["feat_encoder.conv2.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"1 missing: comb_block\.0\.bias; 1 unexpected: extra; 1 of the wrong shape: feat_encoder.conv2\.bias"):
        weights_of.import_network("amt", [tmp_path / "a.pth"], tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_benchmark_schedules():
    for name in benchmark.SCHEDULES:
        keyboard, mouse = benchmark.schedule(name, 17)
        assert keyboard.shape == (17, 7)
        assert not keyboard[0].any()
        assert not mouse[0].any()
    keyboard, _ = benchmark.schedule("there and back", 17)
    assert keyboard[1:9, 0].all()
    assert keyboard[9:, 1].all()


@pytest.mark.slow
def test_idm_and_benchmark(tmp_path, capsys, monkeypatch):
    """A few steps of training an inverse dynamics model, then the whole protocol with the shipped base as its model."""
    config = ["--config", "configs/idm_vizdoom.py", f"--config.out={tmp_path / 'idm'}", "--config.record.scenes=2", "--config.record.clips=2",
              "--config.test.scenes=1", "--config.test.clips=2", "--config.stage.steps=4", "--config.stage.batch=2", "--config.stage.optimizer=adamw",
              "--config.autoencoded=0.0"]  # fmt: skip
    train_idm.main(config)
    accuracy = json.loads((tmp_path / "idm" / "model" / "accuracy.json").read_text())["unseen levels"]
    assert accuracy["clips"] > 0
    assert 0 <= accuracy["camera"]["direction"] <= 1
    monkeypatch.setattr(benchmark, "SCHEDULES", {name: benchmark.SCHEDULES[name] for name in ("key w", "forward turning", "there and back")})
    options = ["--model", "tiny=base", "--out", str(tmp_path / "bench"), "--levels", "2", "--frames", "5", "--steps", "1", "--idm", str(tmp_path / "idm" / "model")]
    benchmark.main(options)
    data = json.loads((tmp_path / "bench" / "report" / "report.json").read_text())
    assert [row["name"] for row in data["rows"]] == ["base", "base, shuffled actions", "first frame repeated", "reference"]
    assert len([v for v in data["videos"] if v["row"] == "base"]) == 2 * len(benchmark.SCHEDULES)
    before = (tmp_path / "bench" / "base" / "000_key_w.mp4").read_bytes()
    (tmp_path / "bench" / "base" / "000_key_w.mp4").unlink()
    benchmark.main(options)  # carries on
    assert (tmp_path / "bench" / "base" / "000_key_w.mp4").read_bytes() == before
    with pytest.raises(SystemExit):
        benchmark.main([*options, "--levels", "3"])
    assert "holds another test set" in capsys.readouterr().err


def test_the_shipped_idm_reads_the_game(tmp_path, monkeypatch):
    """Turning and walking in the real game of an unseen level, at the size that the tiny model makes; and what ships stays small."""
    from mwjax.data.clips import fit
    from mwjax.evaluation.camera import motion
    from mwjax.evaluation.measure import read_off
    from mwjax.worlds.doom import DoomWorld
    from mwjax.worlds.world import Action

    monkeypatch.chdir(tmp_path)  # the game writes files where it stands
    cfg, params = weights_of.load_idm(weights_of.SHIPPED_IDM)
    world, right = DoomWorld("arena:gallery:9700"), []
    for yaw in (4.0, -4.0):
        video = [world.reset(seed=1).rgb] + [world.step(Action(yaw=yaw))[0].rgb for _ in range(16)]
        _, camera = read_off(cfg, params, fit(np.stack(video), 48, 80, 2))
        right.append(np.mean(np.sign(control.bin_degrees(np.asarray(camera))[1:, 1]) == np.sign(yaw)))
    walks = [[world.reset(seed=1).rgb] + [world.step(Action(ws=ws))[0].rgb for _ in range(16)] for ws in (1, 2)]
    forward, backward = (motion(fit(np.stack(video), 48, 80, 2), "walk") for video in walks)
    assert forward > 0.3 > -0.3 > backward
    world.close()
    assert min(right) > 0.8, right
    files = [path for path in weights_of.SHIPPED_IDM.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 16e6
