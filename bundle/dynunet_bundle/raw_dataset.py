"""Raw cases as MONAI's Dataset."""

from typing import Any

from monai.data import Dataset

from dynunet_bundle.cases import apply_to_case


class RawDataset(Dataset):
    """MONAI's Dataset of raw cases whose errors name the case (``monai.data.Dataset`` wraps them in its own)."""

    def _transform(self, index: int) -> Any:
        return apply_to_case(self.data[index], self.transform)
