"""A feed without cost: one synthetic batch over and over, to measure what the real feed adds to a step."""

from collections.abc import Iterator, Sequence

import torch


class SyntheticLoader:
    """The same batch in every iteration, in the form of ``DaliLoader``'s batches.

    Args:
        patch_size: voxels per axis, two or three values.
        batch_size: patches per batch.
        num_iterations: batches per epoch.
        num_channels: channels of the image.
        num_classes: classes of the label, including the background.
        device: device of the batch.
        seed: seed of the batch.
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
        """Batches per epoch."""
        return self.num_iterations

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches of one epoch."""
        for _ in range(self.num_iterations):
            yield dict(self.batch)
