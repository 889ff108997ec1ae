"""CPU seconds and peak memory of the stages of a prediction. Needs only torch and the standard library."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import torch

START_UP, OTHER = "start-up", "other"


class Stages:
    """Attribute the CPU time of this process to stages, each a wrapped function.

    If one wrapped function calls another, the time in the inner one counts only for the inner one. Time before the
    first stage is ``start-up`` (imports), time between stages is ``other``.

    Attributes:
        seconds: CPU seconds by stage.
        peaks: peak resident memory of each stage, in MiB; empty except on Linux.
        calls: number of calls of each.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        self._open = [START_UP]
        # process_time starts at 0 with the process
        self._since = 0.0

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Make a function or a method a stage.

        Args:
            owner: module, class or object with the attribute.
            name: of the attribute.
            stage: name of the stage.
        """
        function: Callable[..., Any] = getattr(owner, name)

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._open == [START_UP]:
                self._open = [OTHER]
                self._note(START_UP)
            self._note(self._open[-1])
            self._open.append(stage)
            self.calls[stage] += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._note(self._open.pop())

        setattr(owner, name, timed)

    def finish(self) -> None:
        """Count the time since the last stage."""
        self._note(self._open[-1])

    def _note(self, stage: str) -> None:
        now = time.process_time()
        self.seconds[stage] += now - self._since
        self._since = now
        with suppress(OSError):
            self.peaks[stage] = max(self.peaks.get(stage, 0.0), peak_mib())
        forget_peak()


def peak_mib() -> float:
    """Peak resident memory of this process since ``forget_peak``, in MiB (Linux).

    ``ru_maxrss`` would include the parent's memory at the start of this process.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Reset the peak to the currently resident memory, if the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


class StandIn(torch.nn.Module):
    """A 1x1x1 convolution in place of a network.

    Args:
        network: the real network.
        bands: arguments of ``band_convolution``.
        num_real: number of first batches on which the real network also runs. It counts as the stage ``network``, the
            convolution as ``stand-in``.
        stages: the stages to which both are added.
    """

    def __init__(
        self, network: torch.nn.Module, bands: dict[str, Any], num_real: int, stages: Stages
    ) -> None:
        super().__init__()
        self.network = network
        self.convolution = band_convolution(**bands)
        self.left = num_real
        stages.wrap(self.network, "forward", "network")
        stages.wrap(self.convolution, "forward", "stand-in")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, classes, *patch]``."""
        if self.left:
            self.left -= 1
            self.network(x)
        result: torch.Tensor = self.convolution(x)
        return result


def band_convolution(num_classes: int, mean: float, std: float, width: float) -> torch.nn.Conv3d:
    """A convolution whose largest logit is the intensity band.

    Class k has intensities around ``k * width``: logits ``k h - k^2 / 2`` of ``h = intensity / width``.

    Args:
        num_classes: number of bands.
        mean: mean subtracted by the normalisation.
        std: standard deviation of the normalisation.
        width: width of a band.
    """
    classes = torch.arange(num_classes, dtype=torch.float32)
    convolution = torch.nn.Conv3d(1, num_classes, 1)
    with torch.no_grad():
        convolution.weight.copy_((classes * std / width).view(-1, 1, 1, 1, 1))
        convolution.bias.copy_(classes * mean / width - classes.square() / 2)  # type: ignore[union-attr]
    return convolution
