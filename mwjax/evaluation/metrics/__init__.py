"""All metrics. Each file declares its own in METRICS; a new one is a new file and its name in FILES."""

from collections.abc import Sequence

from mwjax.errors import InputError
from mwjax.evaluation.metric import Metric
from mwjax.evaluation.metrics import control, followed, fvd, lpips, psnr_ssim, scenario, smoothness, temporal

FILES = (
    psnr_ssim,
    lpips,
    fvd,
    control,
    temporal,
    smoothness,
    scenario,
    followed,
)  # in the order of the table's columns
METRICS: tuple[Metric, ...] = tuple(metric for file in FILES for metric in file.METRICS)


def groups() -> tuple[str, ...]:
    """What one can ask for: groups of metrics."""
    return tuple(dict.fromkeys(metric.measurement.group for metric in METRICS))


def choose(
    names: Sequence[str] | None = None, *, tasks: str = "matrix", conventional: bool = False
) -> tuple[Metric, ...]:
    """The metrics of some groups (default: of all).

    tasks: of keyboard precision, a name of control.TASKS. conventional: PSNR as the mean over frames and LPIPS of
    pictures in [-1, 1], not as in the published table. Raises InputError for an unknown group.
    """
    names = groups() if names is None else names
    unknown = [name for name in names if name not in groups()]
    if unknown:
        raise InputError(f"metrics {unknown[0]!r} are unknown; use some of {', '.join(groups())}")
    options = {"tasks": tasks, "conventional": conventional}

    def counts(metric: Metric) -> bool:
        return all(options[name] == value for name, value in metric.when.items())

    return tuple(metric for metric in METRICS if metric.measurement.group in names and counts(metric))
