"""Start MONAI Label where torch is a CPU build and torchvision, as PyPI has it, a CUDA build.

The operators of such a torchvision do not load, and its Python part then fails to import; monailabel imports it. They
are declared here without a body: nothing that a bundle needs calls them.
"""

import runpy
import sys

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

if not torch.version.cuda:
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", SIGNATURE)
sys.argv[0] = "monailabel"
runpy.run_module("monailabel.main", run_name="__main__")
