"""The environment that the launcher sets."""

import os
import subprocess
import sys

from mwjax.runtime.environment import FLAGS, environment, find_platform, known


def test_platform_and_target_come_from_device_files(tmp_path):
    root = f"{tmp_path}/"
    assert find_platform(root) == ("cpu", "")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/accel0").touch()
    assert find_platform(root) == ("tpu", "")
    (tmp_path / "dev/nvidiactl").touch()
    assert find_platform(root) == ("cuda", "")
    (tmp_path / "dev/kfd").touch()
    for node, version in (("0", 0), ("1", 90402)):  # the processor is a node too
        folder = tmp_path / "sys/class/kfd/kfd/topology/nodes" / node
        folder.mkdir(parents=True)
        (folder / "properties").write_text(f"simd_count 4\ngfx_target_version {version}\n")
    assert find_platform(root) == ("rocm", "gfx942")
    (folder / "properties").write_text("gfx_target_version 90010")
    assert find_platform(root) == ("rocm", "gfx90a")


def test_unknown_flags_are_left_out():
    good, bad = known((*FLAGS["rocm"], "--xla_no_such_flag=1"))
    assert bad == ["--xla_no_such_flag=1"]
    assert good == list(FLAGS["rocm"])


def test_what_is_set_stays(monkeypatch):
    monkeypatch.setenv("GPU_MAX_HW_QUEUES", "4")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=2")
    new, _ = environment("rocm", "gfx950")
    assert "GPU_MAX_HW_QUEUES" not in new
    assert new["RCCL_WARP_SPEED_AUTO"] == "0"
    assert new["XLA_FLAGS"].endswith("--xla_gpu_autotune_level=4 --xla_gpu_autotune_level=2")


def test_a_command_is_started_with_it():
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC")}
    out = subprocess.run(
        [sys.executable, "-m", "mwjax.launch", "--platform", "cpu", "mwjax.data.actions", "w*4"],
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    assert "MALLOC_TOP_PAD_" in out.stderr
    assert "w" in out.stdout
