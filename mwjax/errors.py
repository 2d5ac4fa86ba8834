"""One kind of error for everything a user can mend: commands print it in one line and exit with code 2."""

import errno
import functools
import os
import sys


class InputError(ValueError):
    """A wrong input. The message names the input, what is wrong with it and what would be right; it is one line,
    whatever it quotes."""

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).splitlines()))


class Preempted(BaseException):  # as KeyboardInterrupt: nobody's `except Exception` may keep it
    """The run was told to stop (SIGTERM) and has saved what it did: commands say so and exit with code 0."""


NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
OF_THE_SYSTEM = (errno.EIO, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EMFILE, errno.ENFILE, errno.EFBIG)
OUT_OF_MEMORY = (
    "use fewer frames, a smaller picture, --dtype bfloat16 or --tile 256 to sample; "
    "a smaller batch or more devices to train"
)


def full_disk(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a disk is full; libraries wrap the system's in their
    own."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        if getattr(now, "errno", None) in NO_SPACE or "No space left on device" in str(now):
            return True
        now = now.__cause__ or now.__context__
    return False


def explained(error: Exception) -> str | None:
    """The one line for what a user can mend; None for an error that is a fault of the program."""
    if isinstance(error, InputError):
        return str(error)
    if full_disk(error):
        what = f"no space left on the disk while writing {getattr(error, 'filename', None) or 'a file'}"
        return f"{what}; free some and run the same command again"
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED:
        return f"{error.filename or 'a file'} may not be read or written: {error.strerror}"
    if isinstance(error, OSError) and error.errno in OF_THE_SYSTEM:
        return f"{error.filename or 'a file'}: {error.strerror}"
    if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError):
        reason = str(error).splitlines()[0][:200] if str(error) else "on the host"
        return f"out of memory ({reason}); {OUT_OF_MEMORY}"
    return None


def show_all() -> None:
    """Have what the terminal's encoding cannot show replaced, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def command(main):
    """Decorate a command's main function: an InputError, a full disk, a missing permission or full memory ends it in
    one line and exit code 2, Ctrl-C with 130."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        show_all()
        try:
            return main(*args, **kwargs)
        except Preempted as stop:
            print(stop, flush=True)
            return None
        except BrokenPipeError:  # whoever read what is printed has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(1)
        except Exception as error:
            line = explained(error)
            if line is None:
                raise
            message, code = f"error: {' '.join(line.split())}", 2
        except KeyboardInterrupt:
            message, code = "interrupted; run the same command again to continue", 130
        print(message, file=sys.stderr, flush=True)
        if code == 130:
            os._exit(code)  # worker threads of the loader must not hold the terminal
        sys.exit(code)

    return wrapped
