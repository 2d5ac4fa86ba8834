"""Being told to stop: SIGTERM, as schedulers send it."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax

from mwjax.errors import Preempted


class PreemptionGuard:
    """Notes a SIGTERM within a `with`: it ends the process at once or, within `deferred`, sets `requested`."""

    def __init__(self):
        self.requested = False
        self._deferred = False

    def __enter__(self) -> "PreemptionGuard":
        def note(*_):
            self.requested = True
            if not self._deferred:
                raise Preempted("stopped; the same command carries on")

        # Of several processes, jax's own service knows.
        alone = threading.current_thread() is threading.main_thread() and jax.process_count() == 1
        self._before = signal.signal(signal.SIGTERM, note) if alone else None
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
