"""What a training says of itself while it runs: curves, rates, a bar, a trace of a few steps."""

import contextlib
import pathlib
import time
from collections.abc import Iterator

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from mwjax.training.flops import peak


class Throughput:
    """Rates of the steps since they were last asked for."""

    def __init__(self):
        self._begin()

    def _begin(self) -> None:
        self._began = time.perf_counter()
        self._waited = 0.0
        self._steps = self._tokens = self._arithmetic = 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for data; once a step."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began
        self._steps += 1

    def add(self, tokens: int, arithmetic: int) -> None:
        self._tokens += tokens
        self._arithmetic += arithmetic

    def rates(self, mesh: Mesh) -> dict[str, float]:
        """seconds_per_step, of which data_seconds wait for data; tokens and TFLOP per second; mfu where the device's
        peak is known."""
        seconds = time.perf_counter() - self._began
        out = {"seconds_per_step": seconds / self._steps, "data_seconds": self._waited / self._steps}
        if self._tokens:
            out["tokens_per_second"] = self._tokens / seconds
        if self._arithmetic:
            out["tflops_per_device"] = self._arithmetic / seconds / mesh.size / 1e12
            if fastest := peak(mesh.devices.flat[0]):
                out["mfu"] = out["tflops_per_device"] * 1e12 / fastest
        self._begin()
        return out


class LeftOut:
    """Steps that changed nothing, counted since the beginning of a stage. What each step says of itself stays on the
    device until it is asked for."""

    def __init__(self, before: int = 0):
        self._count = before
        self._waiting: list[jax.Array] = []

    def add(self, in_a_row: jax.Array) -> None:
        """in_a_row: steps left out in a row, 0 if this one was not."""
        self._waiting.append(in_a_row)

    def count(self) -> int:
        self._count += sum(int(value) > 0 for value in jax.device_get(self._waiting))
        self._waiting.clear()
        return self._count


class Trace:
    """A profile of three steps, from `first` on; 0 for none."""

    def __init__(self, folder: pathlib.Path, *, first: int, begun: int, last: int):
        self._folder = folder / "profile"
        self._wanted = first > 0
        self._first = max(first, begun + 1)
        self._last = min(self._first + 2, last)

    def before(self, step: int) -> None:
        if self._wanted and step == self._first:
            jax.profiler.start_trace(self._folder)

    def after(self, step: int, values, *, stop: bool) -> None:
        """values: results of the step, which are waited for. stop: whether it was the last one of this process."""
        if self._wanted and step >= self._first and (step == self._last or stop):
            jax.block_until_ready(values)
            jax.profiler.stop_trace()
            self._wanted = False
            tqdm.write(f"wrote {self._folder}")
