"""Whole folders in and out: every layout, carried on after a stop, and refused when damaged."""

import json
import os
import shutil

import jax
import numpy as np
import pytest

from converters.__main__ import main
from converters.convert import export_model, import_model
from converters.files import Stream, open_safetensors, open_shards, sha256
from converters.folder import Model, load_model, save_model
from converters.layouts import normalised
from converters.shapes import image_shapes, text_shapes, vae_shapes, world_shapes
from mwjax.errors import InputError
from mwjax.models import lora
from mwjax.models.dit import DiTConfig
from mwjax.models.image import ImageConfig
from mwjax.models.text import TextConfig
from mwjax.models.vae import VAEConfig
from mwjax.models.world_model import WorldConfig

torch = pytest.importorskip("torch")


def draw(shapes: dict, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(np.float32), shapes)


def small_model(tmp_path, *, control: str = "none", image: bool = False, adapters: bool = False) -> Model:
    backbone = DiTConfig(24, 32, 2, 4, in_dim=36 if image else 16, text_dim=16, text_len=8, freq_dim=32, image_dim=80 if image else 0)
    world, vae, text = WorldConfig(backbone, control, 16 if control != "none" else 1536), VAEConfig(4, (1, 1, 2, 2), 1), TextConfig(300, 16, 16, 24, 2, 2)
    picture = ImageConfig(28, 14, 80, 2, 24, 1, 3) if image else None
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    (tokenizer / "tokenizer.json").write_text("{}")
    params = draw(world_shapes(world))
    model = Model(world, params, vae, draw(vae_shapes(vae)), text, draw(text_shapes(text)), str(tokenizer),
                  picture, draw(image_shapes(picture)) if image else None)  # fmt: skip
    if adapters:
        model.lora = lora.init(params["backbone"], 4, 2.0, jax.random.key(1))
    return model


def files(folder) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file() and p.name != "conversion.json"}


def same(a: Model, b: Model) -> None:
    for part in ("world_params", "vae_params", "text_params", "image_params", "lora"):
        jax.tree.map(np.testing.assert_array_equal, getattr(a, part), getattr(b, part))


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("wan", {}), ("wan", {"image": True}), ("diffusers", {}), ("diffusers", {"image": True}),
        ("micro-world", {"control": "controlnet", "adapters": True}), ("micro-world", {"control": "adaln", "image": True, "adapters": True}),
    ],
)  # fmt: skip
def test_export_then_import_is_the_identity(tmp_path, layout, options):
    model = small_model(tmp_path, **options)
    first = save_model(model, tmp_path / "first")
    export_model(first, tmp_path / "out", layout=layout, dtype=None)
    base = first if layout == "micro-world" or (layout == "wan" and model.image) else None
    import_model(tmp_path / "out", tmp_path / "again", base=base, lora=None, dtype=None, report=print)
    again = load_model(tmp_path / "again")
    if layout == "diffusers" and model.image:  # transformers' vision model has no head
        del model.image_params["head"]
        assert again.image.out_dim == 0
    same(model, again)
    assert (again.world, again.vae, again.text) == (model.world, model.vae, model.text)
    if layout == "diffusers" and model.image:
        return
    export_model(tmp_path / "again", tmp_path / "twice", layout=layout, dtype=None)
    skip = ".pth"  # a zip file that carries the time
    assert {k: v for k, v in files(tmp_path / "twice").items() if not k.endswith(skip)} == \
        {k: v for k, v in files(tmp_path / "out").items() if not k.endswith(skip)}  # fmt: skip


def test_a_folder_of_any_layout_is_loaded_directly(tmp_path):
    model = small_model(tmp_path)
    save_model(model, tmp_path / "first")
    for layout in ("wan", "diffusers"):
        export_model(tmp_path / "first", tmp_path / layout, layout=layout, dtype=None)
        same(model, load_model(tmp_path / layout))


def test_shards_carry_on(tmp_path):
    model = small_model(tmp_path, control="controlnet")
    first = save_model(model, tmp_path / "first")
    paths = export_model(first, tmp_path / "out", layout="micro-world", dtype=None, shard=40_000)
    assert len(paths) > 3
    before = files(tmp_path / "out")
    record = tmp_path / "out/conversion.json"
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "files"}))
    with pytest.raises(InputError, match="unfinished conversion"):
        import_model(tmp_path / "out", tmp_path / "again", base=first, lora=None, dtype=None, report=print)
    paths[1].unlink()
    paths[2].rename(paths[2].with_name(paths[2].name + ".part"))
    (tmp_path / "out/transformer/diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match="index"):
        open_shards(tmp_path / "out/transformer", "diffusion_pytorch_model")
    export_model(first, tmp_path / "out", layout="micro-world", dtype=None, shard=40_000)
    assert files(tmp_path / "out") == before
    import_model(tmp_path / "out", tmp_path / "again", base=first, lora=None, dtype=None, report=print)
    same(model, load_model(tmp_path / "again"))
    later = paths[0].stat().st_mtime_ns + 10**9
    weights = first / "transformer/diffusion_pytorch_model.safetensors"
    os.utime(weights, ns=(later, later))  # trained on in the meantime
    with pytest.raises(InputError, match="as it was before"):
        export_model(first, tmp_path / "out", layout="micro-world", dtype=None, shard=40_000)
    with pytest.raises(InputError, match="another conversion"):
        export_model(tmp_path / "again", tmp_path / "out", layout="micro-world", dtype=None)


def test_bfloat16_is_half_the_size(tmp_path):
    first = save_model(small_model(tmp_path), tmp_path / "first")
    export_model(first, tmp_path / "out", layout="diffusers", dtype=np.dtype("bfloat16"))
    tensors = open_safetensors([tmp_path / "out/transformer/diffusion_pytorch_model.safetensors"])
    assert {dtype.name for _, dtype in tensors.specs.values()} == {"bfloat16"}


@pytest.mark.parametrize("naming", ["peft", "diffusers", "released"])
def test_lora_namings(tmp_path, naming):
    model = small_model(tmp_path, adapters=True)
    first = save_model(model, tmp_path / "first")
    main(["export", str(first), str(tmp_path / "lora.safetensors"), "--format", "lora", "--naming", naming])
    base = save_model(small_model(tmp_path), tmp_path / "base")
    main(["import", str(base), str(tmp_path / "again"), "--lora", str(tmp_path / "lora.safetensors")])
    again = load_model(tmp_path / "again")
    for scale in (1.0, 0.5):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
            *(lora.merge(m.world_params["backbone"], m.lora, scale) for m in (model, again)),
        )
    if naming == "released":
        same(model, again)
    main(["inspect", str(tmp_path / "lora.safetensors")])


def test_a_stream_is_a_safetensors_file(tmp_path):
    arrays = {f"tensor {i}": np.random.default_rng(i).normal(size=(i, 3)).astype(np.float32) for i in range(4)} | {"scalar": np.float32(2)}
    out = Stream(tmp_path / "a.safetensors", arrays)
    assert not (tmp_path / "a.safetensors").exists()
    for name, array in arrays.items():
        out.add(name, np.asarray(array))
    out.close()
    tensors = open_safetensors([tmp_path / "a.safetensors"])
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name], array)


def test_two_tensors_under_one_name_are_refused(tmp_path):
    out = Stream(tmp_path / "vae.safetensors", ["conv1.bias", "model.conv1.bias"])
    for name in ("conv1.bias", "model.conv1.bias"):
        out.add(name, np.ones(2, np.float32))
    out.close()
    with pytest.raises(InputError, match="twice"):
        normalised("vae", open_safetensors([tmp_path / "vae.safetensors"]))


def test_inspect_names_what_is_there(tmp_path, capsys):
    first = save_model(small_model(tmp_path, control="adaln", image=True, adapters=True), tmp_path / "first")
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


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: cut(f / "diffusion_pytorch_model.safetensors"), "damaged"),
        (lambda f: cut(f / "Wan2.1_VAE.pth"), "damaged"),
        (lambda f: torch.save({"conv1.weight": Code()}, f / "Wan2.1_VAE.pth"), "more than tensors"),
        (lambda f: (f / "Wan2.1_VAE.pth").unlink(), "no vae"),
        (lambda f: shutil.rmtree(f / "google"), "no tokenizer"),
        (lambda f: edit(f / "config.json", dim=48), "wrong shape"),
        (lambda f: edit(f / "config.json", num_layers=5), "missing: blocks.4"),
        (lambda f: (f / "config.json").unlink(), "is missing"),
        (lambda f: torch.save({"a": torch.ones(1)}, f / "Wan2.1_VAE.pth"), "no vae that is known"),
        (lambda f: (f / "diffusion_pytorch_model.safetensors").rename(f / "diffusion_pytorch_model-00001-of-00002.safetensors"), "index"),
        (lambda f: (f / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}'), "gone.safetensors"),
    ],
)
def test_damaged_downloads_are_refused_before_work_starts(tmp_path, damage, says, capsys):
    export_model(save_model(small_model(tmp_path), tmp_path / "first"), tmp_path / "wan", layout="wan", dtype=None)
    damage(tmp_path / "wan")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["import", str(tmp_path / "wan"), str(tmp_path / "out")])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error
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
    save_model(small_model(tmp_path, control="controlnet"), tmp_path / "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    places = {"FILE": "full/thesis.txt", "MODEL": "model", "OUT": "out", "FULL": "full"}
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / places[a]) if a in places else a for a in arguments])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_networks_of_different_models_are_refused(tmp_path):
    image = save_model(small_model(tmp_path, image=True), tmp_path / "image")
    plain = save_model(small_model(tmp_path), tmp_path / "plain")
    shutil.rmtree(plain / "text_encoder")
    import_model(plain, tmp_path / "both", base=image, lora=None, dtype=None, report=print)  # its image encoder is left out
    assert load_model(tmp_path / "both").image is None
    edit(image / "text_encoder/config.json", dim=32)
    with pytest.raises(InputError, match="wrong shape"):
        load_model(image)


def test_a_lora_of_another_model_is_refused(tmp_path):
    other = small_model(tmp_path, adapters=True)
    other.lora = lora.init(draw(world_shapes(WorldConfig(DiTConfig(48, 32, 2, 4, text_dim=16, text_len=8, freq_dim=32))))["backbone"], 4, 2.0, jax.random.key(0))
    first = save_model(other, tmp_path / "first")
    with pytest.raises(InputError, match="wrong shape"):
        load_model(first)
