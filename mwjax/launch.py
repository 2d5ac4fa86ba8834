"""Start a command with the environment that its devices want, which must be set before jax is imported.

    python -m mwjax.launch mwjax.train --config configs/t2w_controlnet.py --config.dataset=DIR
    python -m mwjax.launch --print

What the environment holds already is kept. XLA flags that the installed jaxlib does not know would end the process;
they are left out, and named.
"""

import argparse
import importlib.util
import os
import sys

from mwjax.errors import InputError, command
from mwjax.runtime.environment import ENVIRONMENT, environment, find_platform


def parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="python -m mwjax.launch", description=__doc__, formatter_class=form)
    p.add_argument("--platform", choices=list(ENVIRONMENT), help="default: by the device files of this machine")
    p.add_argument("--print", action="store_true", help="print the environment, for a shell, and stop")
    what = "such as mwjax.train, and its arguments"
    p.add_argument("command", nargs=argparse.REMAINDER, metavar="MODULE …", help=what)
    return p


def check_module(name: str) -> None:
    """Raises InputError for what `python -m` could not start."""
    try:
        there = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        there = False
    if not there:
        raise InputError(f"{name!r} is no module that is installed; give one such as mwjax.train")


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    platform, target = find_platform()
    platform = args.platform or platform
    new, unknown = environment(platform, target)
    if unknown:
        print(f"left out, unknown to this jaxlib: {' '.join(unknown)}", file=sys.stderr)
    if args.print:
        print("\n".join(f'export {name}="{value}"' for name, value in new.items()))
        return
    if not args.command:
        raise InputError("no command; give a module, such as mwjax.train, and its arguments")
    check_module(args.command[0])
    found = f"{platform} ({target})" if target else platform
    print(f"{found}: {', '.join(new) or 'nothing to set'}", file=sys.stderr, flush=True)
    os.execve(sys.executable, [sys.executable, "-m", *args.command], os.environ | new)


if __name__ == "__main__":
    main()
