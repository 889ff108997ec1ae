"""Lookahead (Zhang et al., 2019, arXiv 1907.08610) around any optimizer; neither torch nor MONAI has it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from dynunet_bundle.errors import ConfigError


class Lookahead(Optimizer):
    """Wrap an optimizer with Lookahead: every few steps, the weights are reset to a slowly moving copy.

    At each ``steps``-th step: slow += rate * (weights - slow); weights = slow. The wrapped optimizer keeps its
    moments. This and the defaults follow TensorFlow Addons. The slow weights are first copied at the first step, so
    weights may be loaded before it.

    Parameter groups are shared with the wrapped optimizer, so a schedule acts on both. The state dict is the wrapped
    optimizer's plus one entry: states with and without Lookahead can be loaded into each other.

    Args:
        optimizer: the optimizer to wrap.
        steps: steps between two updates of the slow weights.
        rate: fraction of the way that the slow weights move towards the weights, above 0, at most 1.

    Raises:
        ConfigError: for ``steps`` or ``rate`` out of range.
    """

    def __init__(self, optimizer: Optimizer, steps: int = 6, rate: float = 0.5) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"lookahead steps is {steps!r}. Give a whole number, at least 1.")
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ConfigError(f"lookahead rate is {rate!r}. Give a number above 0, at most 1.")
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer = optimizer
        self.steps = steps
        self.rate = rate
        self._num_steps = 0
        self._slow: dict[torch.Tensor, torch.Tensor] = {}
        self._share()

    def _share(self) -> None:
        """Refer to the wrapped optimizer's groups and state; needed again after loading, which replaces them."""
        self.param_groups = self.optimizer.param_groups
        self.state = self.optimizer.state

    def _parameters(self) -> list[torch.Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step the wrapped optimizer; at each ``steps``-th call, update the slow weights.

        Args:
            closure: as in torch.

        Returns:
            The result of the closure.
        """
        parameters = self._parameters()
        for parameter in parameters:
            if parameter not in self._slow:
                self._slow[parameter] = parameter.detach().clone()
        loss = self.optimizer.step(closure)
        self._num_steps += 1
        if self._num_steps % self.steps == 0:
            # the network may have moved to another device
            slow = [self._slow[parameter].to(parameter.device) for parameter in parameters]
            torch._foreach_lerp_(slow, parameters, self.rate)
            torch._foreach_copy_(parameters, slow)
            self._slow = dict(zip(parameters, slow, strict=True))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state, plus ``lookahead``: step count and slow weights, in the order of groups."""
        slow = [self._slow.get(parameter) for parameter in self._parameters()]
        own = {"num_steps": self._num_steps, "slow_weights": slow}
        return {**self.optimizer.state_dict(), "lookahead": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; without a ``lookahead`` entry the slow weights are copied at the next step.

        Args:
            state_dict: result of ``state_dict``; its tensors may be on another device.
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
