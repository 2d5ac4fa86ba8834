"""Import released weights: python -m converters import SOURCE OUT.

SOURCE is a downloaded folder of original Wan2.1-T2V weights (diffusion_pytorch_model*.safetensors, config.json,
Wan2.1_VAE.pth, models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl/). The .pth files need torch: pip install -e ".[convert]".
"""

import argparse
import json
import pathlib
import shutil
from collections.abc import Mapping

import numpy as np
from safetensors import safe_open
from tqdm import tqdm

from converters import dit, text, vae
from converters.folder import TEXT_FILE, TRANSFORMER, VAE_FILE, text_shapes, vae_shapes, world_shapes, write_tensors
from converters.tables import Row, load
from mwjax.errors import InputError, command
from mwjax.models.text import TextConfig
from mwjax.models.vae import VAEConfig

VAE_PTH = "Wan2.1_VAE.pth"
TEXT_PTH = "models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER = "google/umt5-xxl"


def read_pickle(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Tensors of a .pth file; nothing but tensors is ever unpickled."""
    try:
        import torch
    except ImportError:
        raise InputError(f'{path.name} needs PyTorch to be read; run: pip install -e ".[convert]"') from None
    import ml_dtypes

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for files that are cut short or carry code
        raise InputError(f"{path} is damaged or holds more than tensors ({type(error).__name__}); download it again") from None
    halves = {name: t.dtype == torch.bfloat16 for name, t in tensors.items()}
    return {name: t.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if halves[name] else t.numpy() for name, t in tensors.items()}


class Shards(Mapping):
    """The tensors of one or several safetensors files, read when asked for."""

    def __init__(self, paths: list[pathlib.Path]):
        self._files = {}
        for path in paths:
            try:
                file = safe_open(path, "np")
                self._files |= dict.fromkeys(file.keys(), file)
            except Exception as error:
                raise InputError(f"{path} is damaged ({error}); download it again") from None

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)

    def __iter__(self):
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def check(rows: tuple[Row, ...], tensors: Mapping, shapes: dict, path: pathlib.Path) -> None:
    try:
        load(rows, tensors, shapes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def import_wan(source: pathlib.Path, out: pathlib.Path) -> None:
    """Check every key of an original Wan2.1-T2V folder against our models and write a model folder with the same keys."""
    shards = sorted(source.glob("diffusion_pytorch_model*.safetensors"))
    wanted = [source / name for name in ("config.json", VAE_PTH, TEXT_PTH, TOKENIZER)]
    lost = [str(p) for p in wanted if not p.exists()] + ([] if shards else [str(source / "diffusion_pytorch_model.safetensors")])
    if lost:
        raise InputError(f"{source} is not a whole Wan2.1 download; missing: {', '.join(lost)}")
    config = json.loads((source / "config.json").read_text())
    if config.get("model_type", "t2v") != "t2v":
        raise InputError(f"{source} is a {config['model_type']} model; text-to-video models (t2v) can be imported")
    world, vae_cfg, text_cfg = dit.config_from_json(config), VAEConfig(), TextConfig()
    jobs = (
        (TRANSFORMER, dit.WORLD, lambda: Shards(shards), world_shapes(world), dit.config_to_json(world)),
        (VAE_FILE, vae.VAE, lambda: read_pickle(source / VAE_PTH), vae_shapes(vae_cfg), vae.config_to_json(vae_cfg)),
        (TEXT_FILE, text.TEXT, lambda: read_pickle(source / TEXT_PTH), text_shapes(text_cfg), text.config_to_json(text_cfg)),
    )
    for path, rows, tensors, shapes, config in tqdm(jobs, desc="importing", unit="network"):
        if (out / path).exists():
            continue
        tensors = tensors()
        check(rows, tensors, shapes, path)
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).with_name("config.json").write_text(json.dumps(config, indent=1) + "\n")
        write_tensors(out / path, tensors.items(), None)
    shutil.copytree(source / TOKENIZER, out / TEXT_FILE.parent, dirs_exist_ok=True)


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m converters", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    importer = commands.add_parser("import", help="original Wan2.1-T2V folder to a model folder")
    importer.add_argument("source", type=pathlib.Path, help="downloaded folder")
    importer.add_argument("out", type=pathlib.Path, help="model folder to write")
    args = parser.parse_args(argv)
    if not args.source.is_dir():
        raise InputError(f"{args.source} is not a folder; download it first: hf download Wan-AI/Wan2.1-T2V-1.3B --local-dir {args.source}")
    import_wan(args.source, args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
