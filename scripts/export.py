r"""Export a trained model as TorchScript, ONNX or a TensorRT engine, compare each with the weights, and time it.

Or write it as a results folder of nnU-Net v2, which nnU-Net predicts with (docs/nnunet.md).

    python scripts/export.py --weights RUN/model.pt --output EXPORTED
    python scripts/export.py --weights RUN/model.pt --output EXPORTED \
        --formats torchscript onnx tensorrt --precision fp32 fp16 --images DATA/imagesTs
    python scripts/export.py --weights RUN_OR_PACKAGE --output nnUNet_results/Dataset004_Hippocampus --formats nnunet

The plan of the network is read from the model.json beside the weights. A file whose masks differ from those of the
weights is not written, and the exit code is 1.
"""

import argparse
import logging
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=BUNDLE / "models" / "model.pt",
        help="file of weights, for nnunet also a package or the folder of a training (default: bundle/models/model.pt)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the exported files")
    parser.add_argument(
        "--config_file",
        action="extend",
        nargs="+",
        default=[],
        help="overlays for inference.json: other settings, or the plan of weights without model.json",
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=("torchscript", "onnx", "tensorrt", "nnunet"),
        default=["torchscript", "onnx"],
        help="formats to write (default: torchscript onnx)",
    )
    parser.add_argument(
        "--file_ending",
        help="for nnunet: ending of the images, e.g. .nrrd (default: that of an imported model, else .nii.gz)",
    )
    add_check_options(parser)
    parser.add_argument(
        "--device", help="device, e.g. cpu or cuda:0 (default: a GPU if there is one)"
    )
    parser.add_argument(
        "--trust", action="store_true", help="accept code in overlays from outside bundle/configs"
    )
    return parser.parse_args()


def add_check_options(parser: argparse.ArgumentParser) -> None:
    """Options of each file: its precision, and how it is compared with the weights."""
    from dynunet_bundle.shapes import POSITIVE, number_option

    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("fp32", "fp16", "bf16"),
        default=["fp32"],
        help="precisions of each format (default: fp32)",
    )
    parser.add_argument(
        "--images",
        help="image or folder of images to take patches from (default: synthetic patches)",
    )
    parser.add_argument(
        "--num_patches",
        type=number_option(POSITIVE),
        default=4,
        help="number of patches to compare (default: 4)",
    )
    parser.add_argument(
        "--repeats",
        type=number_option(POSITIVE),
        default=10,
        help="timed runs; the median counts (default: 10)",
    )


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    formats = [name for name in arguments.formats if name != "nnunet"]
    if formats:
        export_networks(arguments, formats)
    if "nnunet" in arguments.formats:
        export_results_folder(arguments)


def export_results_folder(arguments: argparse.Namespace) -> None:
    from dynunet_bundle.nnunet.exporting import NnunetExportRequest, export_nnunet

    written = export_nnunet(
        NnunetExportRequest(
            bundle=BUNDLE,
            model=arguments.weights,
            output=arguments.output,
            overlays=arguments.config_file,
            file_ending=arguments.file_ending,
            trust=arguments.trust,
        )
    )
    lines = [
        f"{written.folder} is a results folder of nnU-Net:",
        *written.commands(),
        *written.notes,
    ]
    print("\n".join(lines))


def export_networks(arguments: argparse.Namespace, formats: list[str]) -> None:
    import torch

    from dynunet_bundle.delivery.export.export import ExportRequest, export_models, require_parity
    from dynunet_bundle.delivery.export.table import format_exports

    request = ExportRequest(
        bundle=BUNDLE,
        weights=arguments.weights,
        output=arguments.output,
        overlays=arguments.config_file,
        formats=formats,
        precisions=arguments.precision,
        images=arguments.images,
        num_patches=arguments.num_patches,
        repeats=arguments.repeats,
        device=arguments.device or ("cuda:0" if torch.cuda.is_available() else "cpu"),
        trust=arguments.trust,
    )
    rows = export_models(request)
    print(f"{format_exports(rows)}\nfiles and export.json are in {request.output}")
    require_parity(rows)


if __name__ == "__main__":
    with user_errors_exit():
        main()
