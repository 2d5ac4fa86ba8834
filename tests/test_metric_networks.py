"""Networks that metrics use: their released sizes, and published weights read and refused."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch

from converters import __main__ as converters_main
from converters import idm as idm_table
from converters import metrics as weights_of
from mwjax.errors import InputError
from mwjax.evaluation.networks import amt, clip, i3d, lpips
from mwjax.evaluation.networks.idm import IDMConfig, idm_shapes
from mwjax.models.shapes import parameter_count


def count(shapes) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def test_released_sizes():
    """Parameters of the published files, as counted there."""
    cfg = IDMConfig()
    unused = 4096 * 4096 + 2 * 4096 + 2 * (320 * 4096 + 320)
    assert parameter_count(idm_shapes(cfg)) + unused == 482_330_046
    assert (len(amt.shapes()), count(amt.shapes())) == (213, 2_990_543)
    tower = clip.shapes(clip.CLIPConfig())
    assert (len(tower), count(tower)) == (152, 87_849_216)
    assert len(i3d.shapes()) + 57 == 344  # and num_batches_tracked of every batch norm
    assert count({name: shape for name, shape in i3d.shapes().items() if "running" not in name}) == 12_697_264
    assert count(lpips.shapes()) == 14_714_688 + 1472
    assert idm_table.config_from_json(idm_table.config_to_json(cfg)) == cfg


def drawn(shapes: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_published_weights_are_read(tmp_path):
    """Files in the layouts in which they are published: a state dict, one inside a checkpoint."""
    files = {
        "amt-s.pth": {"state_dict": drawn(amt.shapes()), "epoch": 1},
        "i3d.pt": drawn(i3d.shapes()) | {"Conv3d_1a_7x7.bn.num_batches_tracked": torch.tensor(0)},
    }
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
    with pytest.raises(
        InputError, match="not 40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af as published"
    ):
        weights_of.import_network("clip", [path.rename(tmp_path / "ViT-B-32.pt")], tmp_path / "weights")


def test_wrong_weights_are_refused(tmp_path):
    state = drawn(amt.shapes())
    state.pop("comb_block.0.bias")
    state["extra"] = torch.zeros(1)
    state["feat_encoder.conv2.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(
        InputError,
        match=r"1 missing: comb_block\.0\.bias; 1 unexpected: extra; 1 of the wrong shape: feat_encoder.conv2\.bias",
    ):
        weights_of.import_network("amt", [tmp_path / "a.pth"], tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
