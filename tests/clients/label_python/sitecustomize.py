"""Make PyPI's torchvision, a CUDA build, load beside a CPU build of torch, in each Python process that finds this file.

The operators of such a torchvision do not load, and its Python part then fails to import; monailabel imports it. They
are declared here without a body: nothing that a bundle needs calls them. Python imports a module of this name at its
start, and MONAI Label passes its PYTHONPATH to the processes that train and predict for it.
"""

import sys
from importlib.abc import MetaPathFinder
from typing import Any

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class DeclareOperators(MetaPathFinder):
    """Declares the operators before the first import of torchvision, and finds no module itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Declare them if ``name`` is torchvision."""
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        import torch

        if not torch.version.cuda:
            for operator in ("nms", "qnms"):
                torch.library.define(f"torchvision::{operator}", SIGNATURE)


sys.meta_path.insert(0, DeclareOperators())
