"""Export a trained model; a file is only kept if it computes the same as the weights.

NVIDIA's example documents such a mode, ``nav``, but does not implement it.
Stored on disk: ``model_PRECISION.SUFFIX`` with a JSON beside it, and ``export.json``.
"""

import copy
import datetime
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynunet_bundle.configs.preflight import require_device
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.select import find_images
from dynunet_bundle.delivery.export.formats import (
    DTYPES,
    SUFFIXES,
    WRITERS,
    tensorrt_network,
    unavailable,
)
from dynunet_bundle.delivery.export.parity import (
    Times,
    compare,
    image_patches,
    run_on,
    synthetic_patches,
    time_patch,
)
from dynunet_bundle.delivery.export.table import REPORT_NAME, ExportRow
from dynunet_bundle.errors import EXIT_FAILED, BundleError, ConfigError
from dynunet_bundle.files import atomic_write, ensure_writable, sha256_of, versions, write_json
from dynunet_bundle.networks.exported import BACKENDS, computes, sidecar_of
from dynunet_bundle.networks.model_json import model_plan
from dynunet_bundle.networks.weights import load_weights
from dynunet_bundle.terminal import tell_start

logger = logging.getLogger(__name__)


class ParityError(BundleError):
    """An exported model does not compute the same as the weights."""

    exit_code = EXIT_FAILED


@dataclass(frozen=True)
class ExportRequest:
    """Model, formats and checks of an export.

    Attributes:
        bundle: the bundle folder.
        weights: ``model.pt``.
        output: folder of the exported files.
        overlays: config files with which the weights were trained.
        formats: any of ``torchscript``, ``onnx`` and ``tensorrt``.
        precisions: any of ``fp32``, ``fp16`` and ``bf16``.
        images: an image, or a folder of images, from which patches are taken; None for synthetic patches.
        num_patches: number of patches on which results are compared.
        repeats: timed runs; the median is reported.
        device: device on which the exported models run.
        trust: accept code in overlays from outside ``configs``.
    """

    bundle: Path
    weights: Path
    output: Path
    overlays: Sequence[str] = ()
    formats: Sequence[str] = ("torchscript", "onnx")
    precisions: Sequence[str] = ("fp32",)
    images: str | None = None
    num_patches: int = 4
    repeats: int = 10
    device: str = "cpu"
    trust: bool = False

    def __post_init__(self) -> None:
        """Check the numbers and the device.

        Raises:
            ConfigError: if a number is below 1 or the device does not exist.
        """
        if min(self.num_patches, self.repeats) < 1:
            raise ConfigError(
                f"--num_patches is {self.num_patches} and --repeats is {self.repeats}. Both must be 1 or more."
            )
        require_device(self.device)


@dataclass(frozen=True)
class Reference:
    """The network to export, and its results.

    Attributes:
        network: of inference.json, with the weights; in float32 on the CPU.
        patches: ``[B, C, *patch]`` on the device.
        logits: of these patches, float32 on the CPU.
        times: of one patch.
        facts: origin of the model, stored in the JSON beside each file.
        regions: whether outputs are regions.
        shape: ``[C, *patch]``.
    """

    network: nn.Module
    patches: torch.Tensor
    logits: torch.Tensor
    times: Times
    facts: Mapping[str, Any]
    regions: bool
    shape: Sequence[int]


def export_models(request: ExportRequest) -> list[ExportRow]:
    """Write, check and time each format in each precision.

    A file is moved to its place after it has passed its check; if it fails, an earlier file is kept.

    Args:
        request: model, formats and checks.

    Returns:
        One row for the weights themselves and one per file, also written to ``export.json``. See ``require_parity``.

    Raises:
        ConfigError: if a package is missing.
        WeightsError: if the weights are missing or belong to another plan.
        OutputError: if the folder cannot be written to.
    """
    tell_start(
        "export",
        formats=list(request.formats),
        precisions=list(request.precisions),
        device=request.device,
        folder=request.output,
    )
    wanted = [(name, precision) for name in request.formats for precision in request.precisions]
    reasons = {pair: unavailable(*pair, request.device) for pair in wanted}
    ensure_writable(request.output)
    reference = _reference(request)
    rows = [ExportRow("torch", "fp32", "ok", **asdict(reference.times))]
    for name, precision in wanted:
        reason = reasons[name, precision]
        if reason:
            rows.append(ExportRow(name, precision, f"not available: {reason}"))
            continue
        logger.info("exporting %s %s", name, precision)
        rows.append(_export(request, reference, name, precision))
    write_json(request.output / REPORT_NAME, _report(request, reference, rows))
    return rows


def require_parity(rows: Sequence[ExportRow]) -> None:
    """Refuse an export with a failed check.

    Raises:
        ParityError: naming the formats.
    """
    failed = [f"{row.format} {row.precision}: {row.status}" for row in rows if row.has_failed]
    if failed:
        raise ParityError(
            f"exported models differ from the weights: {'; '.join(failed)}. "
            "Choose another --formats or --precision."
        )


def _reference(request: ExportRequest) -> Reference:
    overrides = {"weights_file": str(request.weights), "device": "cpu"}
    workflow = load_workflow(
        request.bundle,
        "inference.json",
        request.overlays,
        overrides,
        plan=model_plan(request.weights),
        trust=request.trust,
    )
    parsed = workflow.parser.get_parsed_content
    plan = parsed("plan")
    network = parsed("network_def").eval()
    load_weights(network, request.weights, plan)
    # the network of a cascade has more input channels than the image
    shape = [_in_channels(network), *plan["patch_size"]]
    if request.images is None:
        patches = synthetic_patches(shape, request.num_patches)
    else:
        num_channels = len(plan["channel_names"])
        if num_channels != shape[0]:
            raise ConfigError(
                "this network also needs the mask of a previous stage, which --input cannot provide. "
                "Leave out --input."
            )
        cases = find_images(request.images, num_channels)
        patches = image_patches(cases, parsed("preprocessing"), shape, request.num_patches)
    patches = patches.to(request.device)
    network.to(request.device)
    logits, times = run_on(network, patches), time_patch(network, patches[:1], request.repeats)
    return Reference(
        network=network.cpu(),
        patches=patches,
        logits=logits,
        times=times,
        facts={
            "plan": plan,
            "weights_sha256": sha256_of(request.weights),
            "versions": versions("monai", "torch"),
        },
        regions=plan["regions"] is not None,
        shape=shape,
    )


def _in_channels(network: nn.Module) -> int:
    """Input channels, from the first convolution's weight ``[outputs, C, *kernel]``."""
    return next(weight.shape[1] for weight in network.parameters() if weight.ndim > 1)


def _export(request: ExportRequest, reference: Reference, name: str, precision: str) -> ExportRow:
    path = request.output / f"model_{precision}{SUFFIXES[name]}"
    facts = {**reference.facts, "format": name, "precision": precision}
    with tempfile.TemporaryDirectory() as folder:
        # MONAI opens engines only by a name with this suffix
        draft = Path(folder) / f"model{SUFFIXES[name]}"
        with draft.open("wb") as file:
            WRITERS[name](file, reference.network, reference.shape, precision, facts)
        try:
            row = _checked(request, reference, ExportRow(name, precision, "ok", path.name), draft)
        except ParityError as error:
            return ExportRow(name, precision, f"failed: {error}")
        with atomic_write(path) as file, draft.open("rb") as content:
            shutil.copyfileobj(content, file)
            # the old JSON describes the replaced file
            sidecar_of(path).unlink(missing_ok=True)
    row = replace(row, mib=path.stat().st_size / 2**20, sha256=sha256_of(path))
    write_json(sidecar_of(path), {"sha256": row.sha256, **facts})
    return row


def _checked(
    request: ExportRequest, reference: Reference, row: ExportRow, draft: Path
) -> ExportRow:
    """Add the parity and the times of the written file to its row.

    Raises:
        ParityError: if it does not compute the same as the weights.
    """
    device = torch.device(request.device)
    if row.format == "tensorrt":
        # the engine is opened by its first patch
        network = tensorrt_network(
            copy.deepcopy(reference.network), draft.with_suffix(""), row.precision
        )
    else:
        network = BACKENDS[row.format](draft)
    parity = compare(reference.logits, run_on(network, reference.patches), reference.regions)
    problem = parity.problem(row.precision)
    if problem:
        raise ParityError(problem)
    row = replace(row, max_difference=parity.max_difference, dice=parity.dice)
    if row.format == "torchscript" and not computes(DTYPES[row.precision], device):
        return replace(row, remark=f"checked in fp32: this CPU has no {row.precision} arithmetic")
    times = time_patch(network, reference.patches[:1], request.repeats)
    return replace(row, **asdict(times))


def _report(
    request: ExportRequest, reference: Reference, rows: Sequence[ExportRow]
) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            **machine_facts(),
            "threads": torch.get_num_threads(),
            "device": request.device,
        },
        **reference.facts,
        "patches": {
            "source": "made up" if request.images is None else "images",
            "number": len(reference.patches),
            "shape": list(reference.shape),
        },
        "models": [asdict(row) for row in rows],
    }


def machine_facts() -> dict[str, Any]:
    """Processor, cores and system; no host name."""
    processor = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):  # not Linux, or a processor without that line
        pass
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
