r"""Export a trained model as TorchScript, ONNX or a TensorRT engine, compare each with the weights, and time it.

Or write it as a results folder of nnU-Net v2, which nnU-Net predicts with (docs/nnunet.md).

    dynunet-bundle export --model RUN --output_dir EXPORTED
    dynunet-bundle export --model RUN/models/model.pt --output_dir EXPORTED \
        --formats torchscript onnx tensorrt --precision float32 float16 --input DATA/imagesTs
    dynunet-bundle export --model RUN_OR_PACKAGE --output_dir nnUNet_results/Dataset004_Hippocampus --formats nnunet

The plan of the network is read from the model.json beside the weights. A file whose masks differ from those of the
weights is not written, and the exit code is 1.
"""

import argparse

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.terminal import say

SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""Precisions as the names of the files have them."""


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_old_names(weights="model", output="output_dir", images="input")
    parser.add_model("package, folder of a training, or file of weights")
    parser.add_output_dir("folder for the exported files")
    parser.add_config_files(
        "overlays for inference.json: other settings, or the plan of weights without model.json"
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
    parser.add_device()
    parser.add_trust()
    _add_checks(parser)


def _add_checks(parser: CommandParser) -> None:
    """Options of each file: its precision, and how it is compared with the weights."""
    from dynunet_bundle.shapes import POSITIVE, number_option

    parser.add_argument(
        "--precision",
        nargs="+",
        type=parser.old_values(fp32="float32", fp16="float16", bf16="bfloat16"),
        choices=tuple(SHORT),
        default=["float32"],
        help="precisions of each format (default: float32)",
    )
    parser.add_argument(
        "-i",
        "--input",
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


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    formats = [name for name in arguments.formats if name != "nnunet"]
    if formats:
        _export_networks(arguments, formats)
    if "nnunet" in arguments.formats:
        _export_results_folder(arguments)


def _export_results_folder(arguments: argparse.Namespace) -> None:
    from dynunet_bundle.nnunet.exporting import NnunetExportRequest, export_nnunet

    written = export_nnunet(
        NnunetExportRequest(
            bundle=BUNDLE,
            model=arguments.model,
            output=arguments.output_dir,
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


def _export_networks(arguments: argparse.Namespace, formats: list[str]) -> None:
    import torch

    from dynunet_bundle.delivery.export.export import ExportRequest, export_models, require_parity
    from dynunet_bundle.delivery.export.table import format_exports
    from dynunet_bundle.networks.model_json import model_files

    request = ExportRequest(
        bundle=BUNDLE,
        weights=model_files(arguments.model)[0],
        output=arguments.output_dir,
        overlays=arguments.config_file,
        formats=formats,
        precisions=[SHORT[name] for name in arguments.precision],
        images=arguments.input,
        num_patches=arguments.num_patches,
        repeats=arguments.repeats,
        device=arguments.device or ("cuda:0" if torch.cuda.is_available() else "cpu"),
        trust=arguments.trust,
    )
    rows = export_models(request)
    print(format_exports(rows))
    say("files and export.json are in {}", request.output)
    require_parity(rows)
