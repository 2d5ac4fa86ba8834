"""Studies, reports and the evaluating commands, on small videos."""

import dataclasses
import json
import shutil
import subprocess

import jax
import numpy as np
import pytest

from converters import metrics as weights_of
from mwjax import benchmark, evaluate, train
from mwjax.data.video import write_video
from mwjax.errors import InputError
from mwjax.evaluation import metrics, schedules, study
from mwjax.evaluation.metric import Curve, Measurement, Metric, Needs, each_frame, raw
from mwjax.evaluation.networks.idm import IDMConfig, InverseDynamics
from mwjax.evaluation.report import Report, summary, write

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


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
        held = "0 0 0 1 0 0 0 0 0" if i % 2 else "0 0 1 0 0 0 0 0 2"
        (tmp_path / "asked" / f"{i}.json").write_text(json.dumps([[8, held], ""]))
    return tmp_path


def run(root, *more, out="report") -> Report:
    """What the command does."""
    folders = {"--videos": "ours", "--reference": "real", "--actions": "asked", "--out": out}
    options = [text for option, name in folders.items() for text in (option, str(root / name))]
    args = evaluate.parser().parse_args([*options, *more])
    report = evaluate.score(args)
    write(report, args.out)
    return report


def written(root) -> dict:
    return json.loads((root / "report" / "report.json").read_text())


def test_report(clips, monkeypatch):
    small = clips / "idm"
    network = IDMConfig((48, 80), 4, (8, 16, 16), dim=32, num_heads=2)
    pixels = np.zeros((1, 9, 48, 80, 3), np.uint8)
    weights_of.save_idm(small, network, jax.jit(InverseDynamics(network).init)(jax.random.key(0), pixels)["params"])
    (clips / "ours" / "damaged.mp4").write_bytes(b"nothing")
    shutil.copy(clips / "ours" / "0.mp4", clips / "ours" / "alone.mp4")
    write_video(clips / "ours" / "short.mp4", np.zeros((4, 48, 80, 3), np.uint8), fps=10)
    options = ("--idm", str(small), "--weights", str(clips / "none"))
    report = run(clips, *options)
    names = ["ours", "ours, shuffled actions", "first frame repeated", "reference"]
    assert [row.name for row in report.rows] == names
    ours = report.rows[0]
    assert {"psnr", "ssim", "keyboard", "camera", "scenario", "strafe", "yaw"} <= ours.scores.keys()
    assert "lpips" not in ours.scores  # not computed is not zero
    data = written(clips)
    assert len(data["excluded"]) == 3
    assert any("alone" in line and "missing" in line for line in data["excluded"])
    assert any("short" in line and "4 frames" in line for line in data["excluded"])
    assert len([v for v in data["videos"] if v["row"] == "ours"]) == 5
    assert all((clips / "report" / v["file"]).exists() for v in data["videos"] if v["row"] in ("ours", "reference"))
    assert {v["row"] for v in data["videos"]} == set(names)
    assert {"left/right", "yaw"} == data["rows"][0]["confusion"].keys()
    assert {"PSNR, dB", "keyboard precision"} <= data["rows"][0]["curves"].keys()
    assert any("python -m converters metric lpips" in line for line in data["absent"])
    text = (clips / "report" / "report.md").read_text()
    assert "Micro-World I2W" in text
    assert "15.88" in text
    assert "not computed: LPIPS" in summary(report)
    # again: nothing is measured a second time, the numbers are the same
    idle = [replaced(metric, run=pytest.fail) for metric in metrics.METRICS]
    monkeypatch.setattr(metrics, "METRICS", tuple(idle))
    again = run(clips, *options)
    assert [row.scores for row in again.rows] == [row.scores for row in report.rows]


def replaced(metric: Metric, **changes) -> Metric:
    """The metric with a changed measurement."""
    return dataclasses.replace(metric, measurement=dataclasses.replace(metric.measurement, **changes))


BRIGHTNESS = Metric(
    key="brightness",
    title="brightness",
    better=-1,
    measurement=Measurement(
        name="brightness", group="toy", run=lambda network, frames, reference: {"bright": frames.mean((1, 2, 3))}
    ),
    values=("bright",),
    part=each_frame(raw("bright")),
    curve=Curve(title="brightness by frames", of_video=raw("bright")),
    digits=1,
    about="of 255",
    published={"Oasis": 127.0},
)


def test_one_more_metric_is_a_line(clips, monkeypatch):
    """Nothing but the table is told: table, page and JSON show it, and --metrics knows its group."""
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, BRIGHTNESS))
    report = run(clips, "--metrics", "visual", "toy")
    ours = report.rows[0].scores["brightness"]
    assert 100 < ours.value < 150
    head, _, row, *_, oasis = summary_lines(clips)
    assert head.endswith("| brightness ↓ |")
    assert row.endswith(f"| {ours.value:.1f} [{ours.low:.1f}, {ours.high:.1f}] |")
    assert oasis == "| published (Minecraft): Oasis | 14.90 | – | 127.0 |"
    data = written(clips)
    shown = {"key": "brightness", "title": "brightness", "better": -1, "digits": 1, "about": "of 255"}
    assert data["metrics"][-1] == shown
    assert data["rows"][0]["scores"]["brightness"] == dataclasses.asdict(ours)
    assert len(data["rows"][0]["curves"]["brightness by frames"]) == 9
    assert all("brightness" in video["scores"] for video in data["videos"] if video["row"] == "ours")
    assert '"key": "brightness"' in (clips / "report" / "report.html").read_text()


def summary_lines(root) -> list[str]:
    """The lines of the table in report.md."""
    return [line for line in (root / "report" / "report.md").read_text().splitlines() if line.startswith("|")]


def test_what_a_metric_lacks_is_said(clips):
    """Without argv; every need that is not met is a line, and nothing is measured for it."""

    def lacking(name: str, **needs) -> Metric:
        measurement = Measurement(name=name, group="toy", needs=Needs(**needs), run=pytest.fail)
        return dataclasses.replace(BRIGHTNESS, key=name, title=name, measurement=measurement)

    unmet = (
        lacking("a", reference="clip"),
        lacking("b", actions=True),
        lacking("c", network="net"),
        lacking("d", network="other"),
        lacking("e", frames=10),
        lacking("f", side=49),
    )
    asked = {
        "videos": {"ours": clips / "ours"},
        "out": clips / "report",
        "absent": {"net": "a network; get it with: luck"},
    }
    report = study.evaluate(study.Study(metrics=(*unmet, BRIGHTNESS), **asked))
    assert report.absent == (
        "a: need --reference",
        "b: need --actions",
        "c: needs a network; get it with: luck",
        "d: needs the network 'other'",
        "e: needs 10 frames, there are 9",
        "f: needs pictures of at least 49×49 pixels, there are some of 48",
    )
    assert [row.scores.keys() for row in report.rows] == [{"brightness"}]
    with pytest.raises(InputError, match="nothing that --metrics toy asks for can be computed; a: need --reference"):
        study.evaluate(study.Study(metrics=unmet, **asked))
    with pytest.raises(InputError, match="a row cannot be called 'reference'"):
        study.Study(metrics=(BRIGHTNESS,), **asked | {"videos": {"reference": clips / "ours"}})
    with pytest.raises(InputError, match="limit 0 must be at least 1"):
        study.Study(metrics=(BRIGHTNESS,), limit=0, **asked)


def test_a_video_too_small_is_not_measured(clips):
    """Of two folders, one has large enough videos: the other has no score, and a line says why."""
    (clips / "large").mkdir()
    write_video(clips / "large" / "0.mp4", np.zeros((9, 64, 64, 3), np.uint8), fps=10)
    demanding = replaced(BRIGHTNESS, needs=Needs(side=64))
    folders = {"ours": clips / "ours", "large": clips / "large"}
    report = study.evaluate(study.Study(videos=folders, out=clips / "report", metrics=(demanding,)))
    assert [list(row.scores) for row in report.rows] == [[], ["brightness"]]
    assert len(report.absent) == 1


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_page_in_a_browser(clips):
    run(clips, "--metrics", "visual")
    ours = [video for video in written(clips)["videos"] if video["row"] == "ours"]
    worst = min(ours, key=lambda video: video["scores"]["psnr"])["name"]

    def page(where: str) -> str:
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--virtual-time-budget=3000",
            f"--user-data-dir={clips / 'profile'}",
            "--dump-dom",
        ]
        url = f"file://{clips / 'report' / 'report.html'}{where}"
        command = [CHROMIUM, *options, url]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    shown = page("#row=ours&sort=psnr&order=worst")
    assert shown.count("<figure") == 5
    assert shown.index("<figure") < shown.index(f'data-name="{worst}"') < shown.index("</figure>")
    assert "published (Minecraft): Oasis" in shown
    reverse = page("#row=ours&sort=psnr&order=best")
    assert reverse.rindex(f'data-name="{worst}"') == reverse.rindex('data-name="')


NOTHING = "nothing that --metrics control asks for can be computed; keyboard and camera precision: need --actions"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--videos", "nowhere"), "--videos nowhere is not a folder"),
        (("--reference", "nowhere"), "--reference nowhere is not a folder"),
        (("--idm", "nowhere"), "neither vpt, vizdoom nor a folder"),
        (("--metrics", "control"), NOTHING),
        (("--frames", "100"), "none of the 5 videos can be scored"),
        (("--frames", "-1"), "frames -1 must be 0 (as many as most have) or more"),
    ],
)
def test_bad_input(clips, capsys, change, words):
    folders = {"--videos": "ours", "--reference": "real", "--out": "report"}
    options = {option: str(clips / name) for option, name in folders.items()} | dict([change])
    with pytest.raises(SystemExit) as stop:
        evaluate.main([text for pair in options.items() for text in pair])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        '{"job": {"seed": 1}}',
        '{"actions": null}',
        '{"actions": {"1": {"ws": 0}}}',
        "[1]",
        '{"actions": {"a": {}}}',
        "{",
        '[[3, "0"], ""]',
    ],
)
def test_a_bad_label_is_left_out(clips, text):
    (clips / "asked" / "0.json").write_text(text)
    run(clips, "--metrics", "visual")
    excluded = written(clips)["excluded"]
    assert len(excluded) == 1
    assert "0.json" in excluded[0]


def test_odd_names_and_equal_videos(clips):
    """Names that mean something in HTML, in addresses or in tables; a video that is its reference."""
    shutil.copy(clips / "real" / "1.mp4", clips / "ours" / "1.mp4")
    for folder in ("ours", "real"):
        (clips / folder / "0.mp4").rename(clips / folder / "50% <b>#1|.mp4")
    (clips / "asked" / "0.json").rename(clips / "asked" / "50% <b>#1|.json")
    report = run(clips, "--metrics", "visual", "--title", "GAME DATA <script>")
    assert np.isfinite(report.rows[0].scores["psnr"].value)
    page = (clips / "report" / "report.html").read_text()
    assert page.count("<script") == 2
    assert "50%25%20%3Cb%3E%231%7C.mp4" in page


def test_nothing_left_to_score(clips):
    for path in (clips / "asked").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="none of the 5 videos could be scored"):
        run(clips)


def test_benchmark_schedules():
    for name in schedules.SCHEDULES:
        keyboard, mouse = schedules.schedule(name, 17)
        assert keyboard.shape == (17, 7)
        assert not keyboard[0].any()
        assert not mouse[0].any()
    keyboard, _ = schedules.schedule("there and back", 17)
    assert keyboard[1:9, 0].all()
    assert keyboard[9:, 1].all()


@pytest.mark.slow
def test_idm_and_benchmark(tmp_path, capsys, monkeypatch):
    """A few steps of training an inverse dynamics model, then the whole protocol with the shipped base as its model."""
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)
    monkeypatch.setattr(jax, "local_devices", lambda *_: one)
    changes = {
        "out": tmp_path / "idm",
        "record.scenes": 2,
        "record.clips": 2,
        "stages.0.test.scenes": 1,
        "stages.0.test.clips": 2,
        "stages.0.steps": 4,
        "stages.0.batch": 2,
        "stages.0.optimizer": "adamw",
        "stages.0.autoencoded": 0.0,
    }
    config = [f"--config.{name}={value}" for name, value in changes.items()]
    train.main(["--config", "idm_vizdoom", *config])
    accuracy = json.loads((tmp_path / "idm" / "model" / "accuracy.json").read_text())["unseen levels"]
    assert accuracy["clips"] > 0
    assert 0 <= accuracy["camera"]["direction"] <= 1
    few = ("key w", "forward turning", "there and back")
    monkeypatch.setattr(schedules, "SCHEDULES", {name: schedules.SCHEDULES[name] for name in few})
    idm = str(tmp_path / "idm" / "model")
    options = ["--model", "tiny=base", "--out", str(tmp_path / "bench"), "--levels", "2", "--frames", "5"]
    options += ["--steps", "1", "--idm", idm]
    benchmark.main(options)
    data = json.loads((tmp_path / "bench" / "report" / "report.json").read_text())
    names = ["base", "base, shuffled actions", "first frame repeated", "reference"]
    assert [row["name"] for row in data["rows"]] == names
    assert len([v for v in data["videos"] if v["row"] == "base"]) == 2 * len(few)
    video = tmp_path / "bench" / "base" / "000_key_w.mp4"
    before = video.read_bytes()
    video.unlink()
    benchmark.main(options)  # carries on
    assert video.read_bytes() == before
    with pytest.raises(SystemExit):
        benchmark.main([*options, "--levels", "3"])
    assert "holds another test set" in capsys.readouterr().err
