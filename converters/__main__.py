"""Weights in and out: import a released model, export one to the files that others load, look at what a folder holds."""

import argparse
import pathlib

import numpy as np

from converters import evaluation
from converters.convert import LAYOUTS, export_model, import_model, write_lora
from converters.files import NUMPY
from converters.folder import SHIPPED
from converters.layouts import open_folder, open_lora
from converters.lora import NAMINGS as LORA_NAMINGS
from converters.lora import naming as lora_naming
from mwjax.errors import InputError, command


def fetch(name: str) -> pathlib.Path:
    """A local folder, a shipped model, or a download from the Hugging Face hub (kept in its cache; a cut download carries on)."""
    path = SHIPPED.get(name, pathlib.Path(name))
    if path.exists():
        return path
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise InputError(f"{name} is neither a folder nor a Hugging Face name such as Wan-AI/Wan2.1-T2V-1.3B")
    from huggingface_hub import snapshot_download

    try:
        return pathlib.Path(snapshot_download(name))
    except Exception as error:  # the hub raises many kinds: no network, no such name, no access
        raise InputError(f"{name} is no local folder and could not be downloaded ({type(error).__name__}: {str(error).partition(chr(10))[0]})") from None


def inspect(path: pathlib.Path) -> None:
    """Print what a folder or LoRA file holds. Raises InputError if it is damaged or does not fit together."""
    if path.is_file():
        tensors = open_lora(path)
        rows, rank = lora_naming(tensors)
        name = next(name for name, (r, _) in LORA_NAMINGS.items() if r is rows)
        layers = sum(n.endswith((".lora_down.weight", ".lora_A.weight")) for n in tensors)
        print(f"LoRA: rank {rank}, {layers} layers, {name} names, {tensors.count:,} parameters")
        return
    folder = open_folder(path)
    folder.check()
    for kind, network in folder.networks.items():
        dtypes = ", ".join(sorted({dtype.name for _, dtype in network.tensors.specs.values()}))
        print(f"{kind}: {network.tensors.count:,} parameters, {dtypes}, {network.naming} names, {len(network.tensors.paths)} file(s)")
        print(f"  {network.config}")
    if folder.lora:
        tensors = open_lora(folder.lora)
        print(f"LoRA: rank {lora_naming(tensors)[1]}, {tensors.count:,} parameters")
    print(f"tokenizer: {folder.tokenizer or 'none'}")
    print(f"missing for sampling: {', '.join(folder.missing) or 'nothing'}")


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m converters", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    importer = commands.add_parser("import", help="released weights (any layout) to a model folder for mwjax.sample and mwjax.train")
    importer.add_argument("source", help="folder, or Hugging Face name such as Wan-AI/Wan2.1-T2V-1.3B or amd/Micro-World-T2W")
    importer.add_argument("out", type=pathlib.Path, help="model folder to write; an unfinished one is continued")
    importer.add_argument("--base", default="", help="folder or name that gives what SOURCE lacks (VAE, encoders, tokenizer)")
    importer.add_argument("--lora", type=pathlib.Path, default=None, help="LoRA file to go with the model (released, PEFT or diffusers naming)")
    importer.add_argument("--variant", default="", help="sub-folder of SOURCE, such as T2W or I2W")
    exporter = commands.add_parser("export", help="a model folder to files that other programs load")
    exporter.add_argument("checkpoint", help="model folder (runs/…/model)")
    exporter.add_argument("out", type=pathlib.Path, help="folder to write (a .safetensors file for --format lora)")
    exporter.add_argument("--format", required=True, choices=[*(name for name in LAYOUTS if name != "mwjax"), "lora"], dest="layout")
    exporter.add_argument("--naming", choices=list(LORA_NAMINGS), default="released", help="key names of --format lora")
    for sub in (importer, exporter):
        sub.add_argument("--dtype", choices=["keep", "bfloat16", "float32"], default="keep", help="of the written weights, but the VAE's")
    inspector = commands.add_parser("inspect", help="what a folder or LoRA file holds and lacks")
    inspector.add_argument("path", help="folder, .safetensors file or shipped model")
    metric = commands.add_parser("metric", help="published weights of a network that mwjax.evaluate uses; downloaded unless FILES are given")
    metric.add_argument("name", choices=list(evaluation.SOURCES), help="; ".join(f"{name}: {source.what}" for name, source in evaluation.SOURCES.items()))
    metric.add_argument("files", nargs="*", type=pathlib.Path, help="what was downloaded by hand (.pth, .pt, .weights, .safetensors)")
    metric.add_argument("--out", type=pathlib.Path, default=evaluation.FOLDER, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    if args.command == "metric":
        downloaded = [] if args.files else [evaluation.fetch(url, args.out / "downloads") for url in evaluation.SOURCES[args.name].urls]
        try:
            print(f"wrote {evaluation.import_network(args.name, args.files or downloaded, args.out)}")
        except InputError:
            for path in downloaded:  # so that the same command downloads them again
                path.unlink(missing_ok=True)
            raise
        return
    if args.command == "inspect":
        inspect(SHIPPED.get(args.path) or _existing(args.path))
        return
    dtype = None if args.dtype == "keep" else {np.dtype(d).name: np.dtype(d) for d in NUMPY.values()}[args.dtype]
    if args.command == "import":
        base = fetch(args.base) if args.base else None
        paths = import_model(fetch(args.source) / args.variant, args.out, base=base, lora=args.lora, dtype=dtype, report=print)
    elif args.layout == "lora":
        folder = open_folder(fetch(args.checkpoint))
        if folder.lora is None:
            raise InputError(f"{args.checkpoint} has no LoRA")
        if args.out.suffix != ".safetensors":
            raise InputError(f"{args.out} must end in .safetensors")
        paths = write_lora(folder.lora, folder.networks["transformer"], args.out, args.naming, dtype=dtype)
    else:
        paths = export_model(fetch(args.checkpoint), args.out, layout=args.layout, dtype=dtype)
    print("wrote")
    for path in paths:
        print(f"  {path}")


def _existing(name: str) -> pathlib.Path:
    if not pathlib.Path(name).exists():
        raise InputError(f"{name} is not there")
    return pathlib.Path(name)


if __name__ == "__main__":
    main()
