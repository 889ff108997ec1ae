"""A feed that costs nothing: one batch of made numbers over and over, to measure what the real feed adds to a step."""

from collections.abc import Iterator, Sequence

import torch


class SyntheticLoader:
    """The same batch at every iteration, in the form of ``DaliLoader``'s.

    Args:
        patch_size: voxels by axis, two or three values.
        batch_size: patches a batch.
        num_iterations: batches an epoch.
        num_channels: channels of the image.
        num_classes: classes of the label, including the background.
        device: where the batch is.
        seed: seed of its numbers.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        batch_size: int,
        num_iterations: int,
        num_channels: int,
        num_classes: int,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn((batch_size, num_channels, *patch_size), generator=generator)
        label = torch.randint(num_classes, (batch_size, 1, *patch_size), generator=generator)
        self.num_iterations = num_iterations
        self.batch = {
            "image": image.to(device),
            "label": label.to(device=device, dtype=torch.uint8),
        }

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.num_iterations

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Give one epoch."""
        for _ in range(self.num_iterations):
            yield dict(self.batch)
