"""Lookahead of Zhang et al., 2019 (arXiv 1907.08610), around any optimizer; neither torch nor MONAI has it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from dynunet_bundle.errors import ConfigError


class Lookahead(Optimizer):
    """Let an optimizer go some steps, then pull a slow copy of the weights towards it, and begin again from there.

    At each ``steps``-th step: slow += rate * (weights - slow); weights = slow. The wrapped optimizer keeps its
    moments, as in TensorFlow Addons, whose defaults are ours. The slow weights begin as the weights before the first
    step, so weights may be loaded before.

    The groups are the wrapped optimizer's own: schedules act on both. Its state dict is the wrapped optimizer's with
    one more entry; so an optimizer without Lookahead loads it, and Lookahead loads one without it and begins there.

    Args:
        optimizer: the one to wrap.
        steps: steps between two updates of the slow weights.
        rate: how far the slow weights go towards the weights, above 0, up to 1.

    Raises:
        ConfigError: for ``steps`` or ``rate`` out of range.
    """

    def __init__(self, optimizer: Optimizer, steps: int = 6, rate: float = 0.5) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"lookahead steps is {steps!r}. Give a whole number from 1 on.")
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ConfigError(f"lookahead rate is {rate!r}. Give a number above 0, up to 1.")
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer = optimizer
        self.steps = steps
        self.rate = rate
        self._num_steps = 0
        self._slow: dict[torch.Tensor, torch.Tensor] = {}
        self._share()

    def _share(self) -> None:
        """Have the wrapped optimizer's groups and state; loading gives it new ones."""
        self.param_groups = self.optimizer.param_groups
        self.state = self.optimizer.state

    def _parameters(self) -> list[torch.Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step the wrapped optimizer; update the slow weights when it is time.

        Args:
            closure: as in torch.

        Returns:
            What the closure returned.
        """
        parameters = self._parameters()
        for parameter in parameters:
            if parameter not in self._slow:
                self._slow[parameter] = parameter.detach().clone()
        loss = self.optimizer.step(closure)
        self._num_steps += 1
        if self._num_steps % self.steps == 0:
            # the network may have moved
            slow = [self._slow[parameter].to(parameter.device) for parameter in parameters]
            torch._foreach_lerp_(slow, parameters, self.rate)
            torch._foreach_copy_(parameters, slow)
            self._slow = dict(zip(parameters, slow, strict=True))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, and ``lookahead`` with the step count and the slow weights in order of groups."""
        slow = [self._slow.get(parameter) for parameter in self._parameters()]
        own = {"num_steps": self._num_steps, "slow_weights": slow}
        return {**self.optimizer.state_dict(), "lookahead": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave; without its ``lookahead`` entry the slow weights begin at the next step.

        Args:
            state_dict: tensors may be on another device.
        """
        self.optimizer.load_state_dict(state_dict)
        self._share()
        own = state_dict.get("lookahead", {"num_steps": 0, "slow_weights": []})
        self._num_steps = own["num_steps"]
        pairs = zip(self._parameters(), own["slow_weights"], strict=False)
        self._slow = {
            parameter: torch.empty_like(parameter, requires_grad=False).copy_(slow)
            for parameter, slow in pairs
            if slow is not None
        }
