"""One kind of error for everything a user can mend: commands print it in one line and exit with code 2."""

import errno
import functools
import os
import sys


class InputError(ValueError):
    """A wrong input. The message names the input, what is wrong with it and what would be right."""


class Preempted(BaseException):  # as KeyboardInterrupt: nobody's `except Exception` may keep it
    """The run was told to stop (SIGTERM) and has saved what it did: commands say so and exit with code 0."""


NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
OUT_OF_MEMORY = (
    "use fewer frames, a smaller picture, --dtype bfloat16 or --tile 256 to sample; "
    "a smaller batch or more devices to train"
)


def command(main):
    """Decorate a command's main function: an InputError, a full disk or full memory ends it in one line and exit code
    2, Ctrl-C with 130."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except InputError as error:
            message, code = f"error: {error}", 2
        except Preempted as stop:
            print(stop, flush=True)
            return None
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            what = f"no space left on the disk while writing {error.filename or 'a file'}"
            message, code = f"error: {what}; free some and run the same command again", 2
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and not isinstance(error, MemoryError):
                raise
            reason = str(error).splitlines()[0][:200] if str(error) else "on the host"
            message, code = f"error: out of memory ({reason}); {OUT_OF_MEMORY}", 2
        except KeyboardInterrupt:
            message, code = "interrupted; run the same command again to continue", 130
        print(message, file=sys.stderr, flush=True)
        if code == 130:
            os._exit(code)  # worker threads of the loader must not hold the terminal
        sys.exit(code)

    return wrapped
