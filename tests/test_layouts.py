"""Whole folders in and out: every layout, carried on after a stop, and refused when damaged."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest
from small import BACKBONE, drawn, refused, small_model

from converters import vae
from converters.__main__ import main
from converters.convert import export_model, import_model
from converters.files import TensorWriter, open_safetensors, open_shards, sha256
from converters.folder import load_model, save_model
from converters.kinds import KINDS, OURS, Place
from mwjax.errors import InputError
from mwjax.models import lora
from mwjax.models.model import Model, Network
from mwjax.models.shapes import SHAPES
from mwjax.models.world_model import WorldConfig

torch = pytest.importorskip("torch")

LAYERS = 4
SHARD = 40_000  # bytes
WEIGHTS = "diffusion_pytorch_model.safetensors"


def adapters_of(model: Model, seed: int = 0) -> dict:
    backbone = model.transformer.params["backbone"]
    return drawn(jax.eval_shape(lambda: lora.init(backbone, 4, 2.0, jax.random.key(0))), seed)


def toy(tmp_path, *, control: str = "", image: bool = False, adapters: bool = False) -> Model:
    """A small model with a tokenizer of its own."""
    backbone = dataclasses.replace(BACKBONE, num_layers=LAYERS)
    if image:
        backbone = dataclasses.replace(backbone, in_dim=36, image_dim=80)
    world = WorldConfig(backbone, (control,), 16) if control else WorldConfig(backbone)
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    (tokenizer / "tokenizer.json").write_text("{}")
    model = dataclasses.replace(small_model(world), tokenizer=str(tokenizer))
    return dataclasses.replace(model, lora=adapters_of(model)) if adapters else model


def files(folder) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "conversion.json"]
    return {str(path.relative_to(folder)): sha256(path) for path in paths}


def same(a: Model, b: Model) -> None:
    assert a.networks.keys() == b.networks.keys()
    for kind, network in a.networks.items():
        assert network.config == b.networks[kind].config
        jax.tree.map(np.testing.assert_array_equal, network.params, b.networks[kind].params)
    jax.tree.map(np.testing.assert_array_equal, a.lora, b.lora)


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("wan", {}),
        ("wan", {"image": True}),
        ("diffusers", {}),
        ("diffusers", {"image": True}),
        ("micro-world", {"control": "controlnet", "adapters": True}),
        ("micro-world", {"control": "adaln", "image": True, "adapters": True}),
    ],
)
def test_export_then_import_is_the_identity(tmp_path, layout, options):
    model = toy(tmp_path, **options)
    first = save_model(model, tmp_path / "first")
    export_model(first, tmp_path / "out", layout=layout)
    lacking = layout == "micro-world" or (layout == "wan" and "image" in options)
    import_model(tmp_path / "out", tmp_path / "again", base=first if lacking else None)
    again = load_model(tmp_path / "again")
    if layout == "diffusers" and "image" in options:  # transformers' vision model has no head
        assert again.image_encoder.config.out_dim == 0
        config, params = model.image_encoder
        headless = {name: tree for name, tree in params.items() if name != "head"}
        same(model.updated("image_encoder", config=dataclasses.replace(config, out_dim=0), params=headless), again)
        return
    same(model, again)
    export_model(tmp_path / "again", tmp_path / "twice", layout=layout)
    once, twice = (files(tmp_path / name) for name in ("out", "twice"))
    assert once.keys() == twice.keys()
    for name in once:
        assert once[name] == twice[name] or name.endswith(".pth")  # a zip file that carries the time


def test_a_folder_of_any_layout_is_loaded_directly(tmp_path):
    model = toy(tmp_path)
    save_model(model, tmp_path / "first")
    for layout in ("wan", "diffusers"):
        export_model(tmp_path / "first", tmp_path / layout, layout=layout)
        same(model, load_model(tmp_path / layout))


def test_shards_carry_on(tmp_path):
    model = toy(tmp_path, control="controlnet")
    first = save_model(model, tmp_path / "first")
    out = tmp_path / "out"
    paths = export_model(first, out, layout="micro-world", shard=SHARD)
    assert len(paths) > 3
    before = files(out)
    record = out / "conversion.json"
    unfinished = {key: value for key, value in json.loads(record.read_text()).items() if key != "files"}
    record.write_text(json.dumps(unfinished))
    with pytest.raises(InputError, match="unfinished conversion"):
        import_model(out, tmp_path / "again", base=first)
    paths[1].unlink()
    paths[2].rename(paths[2].with_name(paths[2].name + ".part"))
    (out / f"transformer/{WEIGHTS}.index.json").unlink()
    with pytest.raises(InputError, match="index"):
        open_shards(out / "transformer", "diffusion_pytorch_model")
    export_model(first, out, layout="micro-world", shard=SHARD)
    assert files(out) == before
    import_model(out, tmp_path / "again", base=first)
    same(model, load_model(tmp_path / "again"))


def test_a_folder_belongs_to_one_conversion(tmp_path):
    first = save_model(toy(tmp_path), tmp_path / "first")
    export_model(first, tmp_path / "out", layout="micro-world")
    import_model(first, tmp_path / "again")
    with pytest.raises(InputError, match="another conversion"):
        export_model(tmp_path / "again", tmp_path / "out", layout="micro-world")
    weights = first / "transformer" / WEIGHTS
    later = weights.stat().st_mtime_ns + 10**9
    os.utime(weights, ns=(later, later))  # trained on in the meantime
    with pytest.raises(InputError, match="as it was before"):
        export_model(first, tmp_path / "out", layout="micro-world")


def test_bfloat16_is_half_the_size_but_for_the_vae(tmp_path):
    first = save_model(toy(tmp_path), tmp_path / "first")
    paths = export_model(first, tmp_path / "out", layout="diffusers", dtype=np.dtype("bfloat16"))
    for path in paths:
        dtypes = {dtype.name for _, dtype in open_safetensors([path]).specs.values()}
        assert dtypes == {"float32" if path.parent.name == "vae" else "bfloat16"}


@pytest.mark.parametrize("naming", ["peft", "diffusers", "released"])
def test_lora_namings(tmp_path, naming):
    model = toy(tmp_path, adapters=True)
    first = save_model(model, tmp_path / "first")
    file = tmp_path / "lora.safetensors"
    main(["export", str(first), str(file), "--format", "lora", "--naming", naming])
    base = save_model(toy(tmp_path), tmp_path / "base")
    main(["import", str(base), str(tmp_path / "again"), "--lora", str(file)])
    again = load_model(tmp_path / "again")
    for scale in (1.0, 0.5):
        ours, theirs = (lora.merge(m.transformer.params["backbone"], m.lora, scale) for m in (model, again))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), ours, theirs)
    if naming == "released":
        same(model, again)
    main(["inspect", str(file)])


def test_a_file_written_tensor_by_tensor_appears_whole(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"tensor {i}": rng.normal(size=(i, 3)).astype(np.float32) for i in range(4)}
    arrays["scalar"] = np.float32(2)
    path = tmp_path / "a.safetensors"
    with TensorWriter(path, arrays) as file:
        for name, array in arrays.items():
            file.add(name, np.asarray(array))
        assert not path.exists()
    tensors = open_safetensors([path])
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name], array)


def test_an_interrupted_file_is_not_there(tmp_path):
    def interrupted():
        with TensorWriter(tmp_path / "a.safetensors", ["a", "b"]) as file:
            file.add("a", np.ones(2, np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_two_tensors_under_one_name_are_refused(tmp_path):
    names = ("conv1.bias", "model.conv1.bias")
    path = tmp_path / "vae.safetensors"
    with TensorWriter(path, names) as file:
        for name in names:
            file.add(name, np.ones(2, np.float32))
    with pytest.raises(InputError, match="twice"):
        vae.normalised(open_safetensors([path]))


def test_inspect_names_what_is_there(tmp_path, capsys):
    first = save_model(toy(tmp_path, control="adaln", image=True, adapters=True), tmp_path / "first")
    main(["inspect", str(first)])
    out = capsys.readouterr().out
    for word in ("adaln", "image_encoder", "rank 4", "missing for sampling: nothing"):
        assert word in out
    shutil.rmtree(first / "vae")
    main(["inspect", str(first)])
    assert "missing for sampling: vae" in capsys.readouterr().out


class Code:
    def __reduce__(self):
        return print, ("this must never run",)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


PART = "diffusion_pytorch_model-00001-of-00002.safetensors"
INDEX = f"{WEIGHTS}.index.json"
GONE = '{"weight_map": {"a": "gone.safetensors"}}'
VAE_FILE = "Wan2.1_VAE.pth"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: cut(folder / WEIGHTS), "damaged"),
        (lambda folder: cut(folder / VAE_FILE), "damaged"),
        (lambda folder: torch.save({"conv1.weight": Code()}, folder / VAE_FILE), "more than tensors"),
        (lambda folder: (folder / VAE_FILE).unlink(), "no vae"),
        (lambda folder: shutil.rmtree(folder / "google"), "no tokenizer"),
        (lambda folder: edit(folder / "config.json", dim=48), "wrong shape"),
        (lambda folder: edit(folder / "config.json", num_layers=LAYERS + 1), f"missing: blocks.{LAYERS}"),
        (lambda folder: (folder / "config.json").unlink(), "is missing"),
        (lambda folder: torch.save({"a": torch.ones(1)}, folder / VAE_FILE), "no vae that is known"),
        (lambda folder: torch.save({"conv1.weight": torch.ones(1)}, folder / VAE_FILE), "does not look like a vae"),
        (lambda folder: (folder / WEIGHTS).rename(folder / PART), "index"),
        (lambda folder: (folder / INDEX).write_text(GONE), "gone.safetensors"),
    ],
)
def test_damaged_downloads_are_refused_before_work_starts(tmp_path, damage, says, capsys):
    export_model(save_model(toy(tmp_path), tmp_path / "first"), tmp_path / "wan", layout="wan")
    damage(tmp_path / "wan")
    refused(main, ["import", tmp_path / "wan", tmp_path / "out"], says, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["import", "nowhere", "OUT"], "neither a folder"),
        (["inspect", "nowhere"], "not there"),
        (["export", "MODEL", "OUT", "--format", "wan"], "no place"),
        (["export", "MODEL", "OUT", "--format", "lora"], "no LoRA"),
        (["import", "MODEL", "FILE"], "cannot write"),
        (["export", "MODEL", "FULL", "--format", "micro-world"], "not empty"),
    ],
)
def test_wrong_commands(tmp_path, arguments, says, capsys):
    save_model(toy(tmp_path, control="controlnet"), tmp_path / "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    places = {"FILE": "full/thesis.txt", "MODEL": "model", "OUT": "out", "FULL": "full"}
    refused(main, [tmp_path / places[word] if word in places else word for word in arguments], says, capsys)


def test_networks_of_different_models_are_refused(tmp_path):
    image = save_model(toy(tmp_path, image=True), tmp_path / "image")
    plain = save_model(toy(tmp_path), tmp_path / "plain")
    shutil.rmtree(plain / "text_encoder")
    import_model(plain, tmp_path / "both", base=image)  # its image encoder is left out
    assert load_model(tmp_path / "both").image_encoder is None
    edit(image / "text_encoder/config.json", dim=32)
    with pytest.raises(InputError, match="wrong shape"):
        load_model(image)


def test_one_more_kind_of_network_is_one_row(tmp_path, monkeypatch):
    names = {OURS: "wan", "diffusers": "diffusers"}
    places = {layout: Place("transformer_2", "weights", naming) for layout, naming in names.items()}
    second = dataclasses.replace(KINDS["transformer"], places=places, optional=True, lora=False)
    monkeypatch.setitem(KINDS, "transformer_2", second)
    monkeypatch.setitem(SHAPES, "transformer_2", SHAPES["transformer"])
    one = toy(tmp_path, adapters=True)
    same(one, load_model(save_model(one, tmp_path / "one")))
    config = one.transformer.config
    expert = Network(config, drawn(SHAPES["transformer"](config), seed=1))
    two = dataclasses.replace(one, networks=one.networks | {"transformer_2": expert})
    save_model(two, tmp_path / "two")
    same(two, load_model(tmp_path / "two"))
    export_model(tmp_path / "two", tmp_path / "out", layout="diffusers")
    import_model(tmp_path / "out", tmp_path / "again")
    again = load_model(tmp_path / "again", loras=[])
    same(dataclasses.replace(two, lora=None), again)


def test_an_encoder_of_another_width_is_refused(tmp_path):
    first = save_model(toy(tmp_path), tmp_path / "first")
    wider = dataclasses.replace(BACKBONE, num_layers=LAYERS, text_dim=32)
    other = save_model(small_model(WorldConfig(wider)), tmp_path / "other")
    shutil.rmtree(other / "text_encoder")
    with pytest.raises(InputError, match="gives 16 channels, the transformer takes 32"):
        import_model(other, tmp_path / "both", base=first)


def test_a_lora_of_another_model_is_refused(tmp_path):
    wider = small_model(WorldConfig(dataclasses.replace(BACKBONE, dim=48)))
    first = save_model(dataclasses.replace(toy(tmp_path), lora=adapters_of(wider)), tmp_path / "first")
    with pytest.raises(InputError, match="wrong shape"):
        load_model(first)
