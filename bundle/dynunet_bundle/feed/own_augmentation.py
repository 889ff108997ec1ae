"""Transforms of a user on finished samples, after the augmentation of the feed.

A sample depends on the seed and on its own number only, as in the rest of the feed: before each sample, the random
state of the transforms is set from both. So threads, workers, ranks and an interruption do not change it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose

from dynunet_bundle.dataset.cases import IMAGE, LABEL
from dynunet_bundle.dataset.previous_stage import PREVIOUS
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.preprocessing.recipe import recipe_of

STREAM = 7
"""Key of the random stream of these transforms, apart from those of the feed."""

Step = Callable[[dict[str, Any]], Mapping[Any, Any]]


class OwnAugmentation:
    """Apply dictionary transforms to each sample of a batch: ``own_augmentation`` of train.json.

    A transform gets ``image`` ``[C, *patch]`` float32 and ``label`` ``[1, *patch]`` uint8, in a cascade also
    ``previous`` ``[classes, *patch]`` float32, on the device of the feed, and returns them in the same shapes. Random
    numbers come from ``self.R`` of MONAI's ``Randomizable``, and from nowhere else.

    Args:
        transforms: the transforms, in their order.
        seed: seed of the feed.
        num_masks: in a cascade, number of foreground classes of the previous stage; else 0.

    Raises:
        ConfigError: if one is not callable.
    """

    def __init__(self, transforms: Sequence[Step], seed: int, num_masks: int = 0) -> None:
        wrong = next((step for step in transforms if not callable(step)), None)
        if wrong is not None:
            raise ConfigError(
                f"own_augmentation has a {type(wrong).__name__}, not a transform. Give a list of objects with _target_."
            )
        self.transforms = list(transforms)
        self.seed = seed
        self.num_masks = num_masks
        # before their first use, which changes attributes
        self.description = [recipe_of(step) for step in self.transforms]
        self._compose = Compose(self.transforms)

    def __call__(
        self, batch: Mapping[str, torch.Tensor], numbers: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """Transform a batch.

        Args:
            batch: ``image`` ``[B, C, *patch]`` and ``label`` ``[B, 1, *patch]``.
            numbers: global number of each sample.

        Returns:
            A batch of the same form.

        Raises:
            ConfigError: if a transform changes a shape.
        """
        if not self.transforms:
            return dict(batch)
        images, labels = batch[IMAGE], batch[LABEL]
        samples = [
            self._sample(image, label, number)
            for image, label, number in zip(images, labels, numbers, strict=True)
        ]
        parts = zip(*samples, strict=True)
        return {**batch, **dict(zip((IMAGE, LABEL), map(torch.stack, parts), strict=True))}

    def _sample(
        self, image: torch.Tensor, label: torch.Tensor, number: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        stream = np.random.SeedSequence(self.seed, spawn_key=(STREAM, number))
        self._compose.set_random_state(seed=int(stream.generate_state(1)[0]))
        num_channels = len(image) - self.num_masks
        given = {IMAGE: image[:num_channels].clone(), LABEL: label.clone()}
        if self.num_masks:
            given[PREVIOUS] = image[num_channels:].clone()
        shapes = {key: tuple(tensor.shape) for key, tensor in given.items()}
        found = self._compose(given)
        plain = {key: torch.as_tensor(found[key]).as_subclass(torch.Tensor) for key in shapes}
        for key, shape in shapes.items():
            if tuple(plain[key].shape) != shape:
                raise ConfigError(
                    f"own_augmentation gives a {key} of shape {tuple(plain[key].shape)}, not {shape}. A transform "
                    "keeps the shape of a patch."
                )
        channels = [plain[key].to(image) for key in shapes if key != LABEL]
        return torch.cat(channels), plain[LABEL].to(label)
