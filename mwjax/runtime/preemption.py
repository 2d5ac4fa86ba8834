"""Being told to stop: SIGTERM, as schedulers send it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import ClassVar

import jax
from jax.experimental import multihost_utils

from mwjax.errors import Preempted


class PreemptionGuard:
    """Notes a SIGTERM within a `with`: it ends the process at once or, within `deferred`, sets `requested`."""

    _asked: ClassVar[int] = 0  # how often all processes together asked; jax's own service counts on from there

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

    def stop(self) -> bool:
        """Whether to stop; asked at every step. All processes of a run get the same answer at the same step, also for
        a SIGTERM that came where nobody asked, between two stages."""
        if jax.process_count() == 1:
            return self.requested
        PreemptionGuard._asked += 1
        return multihost_utils.reached_preemption_sync_point(PreemptionGuard._asked)
