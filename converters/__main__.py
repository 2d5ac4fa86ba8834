"""Weights in and out: import a released model, export one to the files that others load, see what a folder holds."""

import argparse
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from converters import metrics
from converters.convert import LAYOUTS, export_model, import_model, write_lora
from converters.folder import SHIPPED
from converters.kinds import OURS
from converters.layouts import open_folder
from converters.lora import NAMINGS as LORA_NAMINGS
from converters.lora import inspect_lora
from mwjax.errors import InputError, command


def obtain(name: str) -> pathlib.Path:
    """A local folder, a shipped model, or a download from the Hugging Face hub (kept in its cache; a cut download
    carries on). Raises InputError if there is no such thing."""
    path = SHIPPED.get(name, pathlib.Path(name))
    if path.exists():
        return path
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise InputError(f"{name} is neither a folder nor a Hugging Face name such as Wan-AI/Wan2.1-T2V-1.3B")
    from huggingface_hub import snapshot_download

    try:
        return pathlib.Path(snapshot_download(name))
    except Exception as error:  # the hub raises many kinds: no network, no such name, no access
        what = str(error).partition("\n")[0]
        raise InputError(
            f"{name} is no local folder and could not be downloaded ({type(error).__name__}: {what})"
        ) from None


def _add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=["keep", "bfloat16", "float32"],
        default="keep",
        help="of the written weights, but the VAE's",
    )


def _dtype(args: argparse.Namespace) -> np.dtype | None:
    return None if args.dtype == "keep" else np.dtype(args.dtype)


def _list_written(paths: list[pathlib.Path]) -> None:
    print("wrote")
    for path in paths:
        print(f"  {path}")


def import_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help="folder, or Hugging Face name such as Wan-AI/Wan2.1-T2V-1.3B or amd/Micro-World-T2W"
    )
    parser.add_argument("out", type=pathlib.Path, help="model folder to write; an unfinished one is continued")
    parser.add_argument(
        "--base", default="", help="folder or name that gives what SOURCE lacks (VAE, encoders, tokenizer)"
    )
    parser.add_argument(
        "--lora",
        type=pathlib.Path,
        default=None,
        help="LoRA file to go with the model (released, PEFT or diffusers naming)",
    )
    parser.add_argument("--variant", default="", help="sub-folder of SOURCE, such as T2W or I2W")
    _add_dtype(parser)


def run_import(args: argparse.Namespace) -> None:
    base = obtain(args.base) if args.base else None
    source = obtain(args.source) / args.variant
    _list_written(import_model(source, args.out, base=base, lora=args.lora, dtype=_dtype(args)))


def export_flags(parser: argparse.ArgumentParser) -> None:
    formats = [*(name for name in LAYOUTS if name != OURS), "lora"]
    parser.add_argument("checkpoint", help="model folder (runs/…/model)")
    parser.add_argument("out", type=pathlib.Path, help="folder to write (a .safetensors file for --format lora)")
    parser.add_argument("--format", required=True, choices=formats, dest="layout")
    parser.add_argument("--naming", choices=list(LORA_NAMINGS), default="released", help="key names of --format lora")
    _add_dtype(parser)


def run_export(args: argparse.Namespace) -> None:
    source = obtain(args.checkpoint)
    if args.layout != "lora":
        _list_written(export_model(source, args.out, layout=args.layout, dtype=_dtype(args)))
        return
    folder = open_folder(source)
    if folder.lora is None:
        raise InputError(f"{args.checkpoint} has no LoRA")
    if args.out.suffix != ".safetensors":
        raise InputError(f"{args.out} must end in .safetensors")
    _list_written([write_lora(folder.lora, folder.transformer, args.out, args.naming, dtype=_dtype(args))])


def inspect_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="folder, .safetensors file or shipped model")


def run_inspect(args: argparse.Namespace) -> None:
    path = SHIPPED.get(args.path, pathlib.Path(args.path))
    if not path.exists():
        raise InputError(f"{args.path} is not there")
    if path.is_file():
        _show_lora(path)
    else:
        _show_folder(path)


def _show_lora(path: pathlib.Path) -> None:
    lora = inspect_lora(path)
    for name in lora.tensors:
        lora.tensors[name]  # refused if it is damaged
    print(f"LoRA: {lora.described}, {lora.tensors.count:,} parameters, names such as {next(iter(lora.tensors))}")


def _show_folder(path: pathlib.Path) -> None:
    folder = open_folder(path).check()
    for kind, network in folder.networks.items():
        tensors = network.tensors
        dtypes = ", ".join(sorted({dtype.name for _, dtype in tensors.specs.values()}))
        files = f"{len(tensors.paths)} file(s)"
        print(f"{kind}: {tensors.count:,} parameters, {dtypes}, {network.naming} names, {files}")
        print(f"  {network.config}")
    if folder.lora:
        lora = folder.check_lora(folder.lora) if folder.transformer else inspect_lora(folder.lora)
        print(f"LoRA: {lora.described}, {lora.tensors.count:,} parameters")
    print(f"tokenizer: {folder.tokenizer or 'none'}")
    print(f"missing for sampling: {', '.join(folder.missing) or 'nothing'}")


def metric_flags(parser: argparse.ArgumentParser) -> None:
    names = "; ".join(f"{name}: {source.what}" for name, source in metrics.SOURCES.items())
    parser.add_argument("name", choices=list(metrics.SOURCES), help=names)
    parser.add_argument(
        "files",
        nargs="*",
        type=pathlib.Path,
        help="what was downloaded by hand (.pth, .pt, .weights, .safetensors)",
    )
    parser.add_argument("--out", type=pathlib.Path, default=metrics.FOLDER, help="(default: %(default)s)")


def run_metric(args: argparse.Namespace) -> None:
    downloaded = []
    if not args.files:
        folder = args.out / "downloads"
        downloaded = [metrics.fetch(url, folder) for url in metrics.SOURCES[args.name].urls]
    try:
        print(f"wrote {metrics.import_network(args.name, args.files or downloaded, args.out)}")
    except InputError:
        for path in downloaded:  # so that the same command downloads them again
            path.unlink(missing_ok=True)
        raise


class Subcommand(NamedTuple):
    """flags(parser) adds its own; run(args) does it. Raises InputError for what a user can mend."""

    help: str
    flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


SUBCOMMANDS = {
    "import": Subcommand(
        "released weights (any layout) to a model folder for mwjax.sample and mwjax.train", import_flags, run_import
    ),
    "export": Subcommand("a model folder to files that other programs load", export_flags, run_export),
    "inspect": Subcommand("what a folder or LoRA file holds and lacks", inspect_flags, run_inspect),
    "metric": Subcommand(
        "published weights of a network that mwjax.evaluate uses; downloaded unless FILES are given",
        metric_flags,
        run_metric,
    ),
}


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m converters", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, subcommand in SUBCOMMANDS.items():
        subcommand.flags(commands.add_parser(name, help=subcommand.help))
    args = parser.parse_args(argv)
    SUBCOMMANDS[args.command].run(args)


if __name__ == "__main__":
    main()
