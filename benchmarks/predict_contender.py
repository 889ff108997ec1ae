"""One contender of the prediction benchmark, as a program that runs in that contender's environment.

    python -P -m benchmarks.predict_contender JOB.json

Unless the contender is ours, it imports only those modules of this project that need just torch. The jobs are:

- ``forward``: run the network repeatedly on one constant batch, waiting for the device; time each run.
- ``files``: from image files to mask files, in one process, with the seconds of each stage.
- ``restore``: convert synthetic logits to a mask on the grid of a file; ours only.
- ``export``: convert given logits to a mask; nnU-Net only.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.predict_stages import Stages, StandIn, forget_peak, peak_mib

SAMPLES = 1000
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = {"fp16": "float16", "bf16": "bfloat16", "tf32": "float32", "fp32": "float32"}


def forward(job: dict[str, Any]) -> dict[str, Any]:
    """Time the network alone."""
    device = torch.device(job["plan"]["device"])
    on_gpu = device.type == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = job["precision"] != "fp32"
    torch.backends.cudnn.allow_tf32 = job["precision"] != "fp32"
    network = {"ours": _our_network, "onnxruntime": _onnx, "nnunetv2": _peer_network}
    compute = network[job["contender"]](job, device)
    size = (job["batch"], len(job["plan"]["channel_names"]), *job["plan"]["patch_size"])
    batch = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(device)

    def clock() -> float:
        if on_gpu:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    _forget_peak(on_gpu)
    for _ in range(job["warm_up"]):
        compute(batch)
    ends, cpu = [clock()], time.process_time()
    for _ in range(job["num_steps"]):
        compute(batch)
        ends.append(clock())
    share = SAMPLES / (job["num_steps"] * job["batch"])
    return {
        "cpu_s": (time.process_time() - cpu) * share,
        "wall_s": (ends[-1] - ends[0]) * share,
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_mib(),
        "details": {
            "steps_ms": [1000 * (end - start) for start, end in zip(ends, ends[1:], strict=False)]
        },
    }


def _forget_peak(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    dtype = AUTOCAST.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _our_network(job: dict[str, Any], device: torch.device) -> Callable[[torch.Tensor], Any]:
    """The network of inference.json, as the inferer calls it."""
    workflow = importlib.import_module("dynunet_bundle.configs.workflow")
    precision = PRECISIONS[job["precision"]]
    overrides = {**job["plan"], "precision": precision}
    parser = workflow.load_workflow(job["bundle"], "inference.json", (), overrides).parser
    # without weights: the time does not depend on their values
    network = parser.get_parsed_content("network_def").eval().to(device)
    importlib.import_module("dynunet_bundle.networks.cpu.forward").fit_to_cpu(network)

    def compute(batch: torch.Tensor) -> Any:
        with torch.no_grad(), _autocast(job["precision"], device):
            return network(batch)

    return compute


def _onnx(job: dict[str, Any], device: torch.device) -> Callable[[torch.Tensor], Any]:
    """The same network, exported and run by onnxruntime."""
    workflow = importlib.import_module("dynunet_bundle.configs.workflow")
    formats = importlib.import_module("dynunet_bundle.delivery.export.formats")
    backends = importlib.import_module("dynunet_bundle.networks.exported")
    parser = workflow.load_workflow(job["bundle"], "inference.json", (), job["plan"]).parser
    network = parser.get_parsed_content("network_def").eval().cpu()
    path = Path(job["figures"]).with_suffix(".onnx")
    plan = job["plan"]
    shape = [len(plan["channel_names"]), *plan["patch_size"]]
    with path.open("wb") as file:
        formats.write_onnx(file, network, shape, job["precision"], {})
    return backends.OnnxNetwork(path)


def _peer_network(job: dict[str, Any], device: torch.device) -> Callable[[torch.Tensor], Any]:
    """nnU-Net's network, called as in its predictor."""
    peer = importlib.import_module("benchmarks.predict_peer")
    network = peer.network(job["plan"]).to(device)
    torch.backends.cudnn.benchmark = device.type == "cuda"

    def compute(batch: torch.Tensor) -> Any:
        with torch.inference_mode(), _autocast(job["precision"], device):
            return network(batch)

    return compute


def files(job: dict[str, Any]) -> dict[str, Any]:
    """Time a prediction from file to file; the whole process counts, including start-up."""
    start = time.perf_counter()
    stages = Stages()
    run = {"ours": _our_files, "nnunetv2": _peer_files}[job["contender"]](job, stages)
    run()
    stages.finish()
    return {
        "cpu_s": time.process_time(),
        "wall_s": time.perf_counter() - start,
        "peak_mib": max(stages.peaks.values(), default=None),
        "details": {
            "stages_s": dict(stages.seconds),
            "stages_mib": stages.peaks,
            "calls": dict(stages.calls),
        },
    }


def _our_files(job: dict[str, Any], stages: Stages) -> Callable[[], Any]:
    """inference.json, as scripts/predict.py runs it."""
    workflow = importlib.import_module("dynunet_bundle.configs.workflow").load_workflow(
        job["bundle"],
        "inference.json",
        (),
        {
            **job["plan"],
            **job["overrides"],
            "input": job["input"],
            "output_dir": job["output"],
            "weights_file": job["weights"],
            "precision": job["precision"],
            "displayable_configs#mirroring": job["mirroring"],
        },
    )
    for module, owner, name, stage in (
        ("preprocessing.raw_dataset", "RawDataset", "_transform", "preprocess"),
        ("inference.inferer", "PatchInferer", "__call__", "windows"),
        ("inference.restore", "RestoreClassesd", "__call__", "restore"),
        ("inference.save_mask", "SaveMaskd", "__call__", "write"),
    ):
        found = importlib.import_module(f"dynunet_bundle.{module}")
        stages.wrap(getattr(found, owner), name, stage)
    if job["bands"]:
        evaluator = workflow.parser.get_parsed_content("evaluator")
        # the inferer also does this, but only after StandIn has wrapped the old forward
        importlib.import_module("dynunet_bundle.networks.cpu.forward").fit_to_cpu(evaluator.network)
        # the handler that loads weights keeps the real network
        evaluator.network = StandIn(evaluator.network, job["bands"], job["num_real"], stages)
    return workflow.run


def _peer_files(job: dict[str, Any], stages: Stages) -> Callable[[], Any]:
    """nnUNetv2_predict -npp 0 -nps 0."""
    peer = importlib.import_module("benchmarks.predict_peer")
    network = peer.network(job["plan"])
    if job["bands"]:
        network = StandIn(network, job["bands"], job["num_real"], stages)
    predictor = peer.predictor(job["plan"], network, job["mirroring"])
    inference = importlib.import_module("nnunetv2.inference.predict_from_raw_data")
    stages.wrap(predictor.configuration_manager.preprocessor_class, "run_case", "preprocess")
    stages.wrap(predictor, "predict_logits_from_preprocessed_data", "windows")
    stages.wrap(inference, "export_prediction_from_logits", "restore")
    stages.wrap(predictor.plans_manager.image_reader_writer_class, "write_seg", "write")
    Path(job["output"]).mkdir(exist_ok=True)
    return lambda: predictor.predict_from_files_sequential(job["input"], job["output"])


def restore(job: dict[str, Any]) -> dict[str, Any]:
    """Restore synthetic logits of many classes to the grid of a file."""
    workflow = importlib.import_module("dynunet_bundle.configs.workflow")
    classes = importlib.import_module("dynunet_bundle.inference.restore")
    start = time.perf_counter()
    parser = workflow.load_workflow(job["bundle"], "inference.json", (), job["plan"]).parser
    preprocessing = parser.get_parsed_content("preprocessing")
    image = preprocessing({"image": job["input"]})["image"]
    labels = parser.get_parsed_content("labels")
    logits = torch.empty(labels.num_outputs, *image.shape[1:]).normal_()
    before = time.process_time()
    mask = classes.RestoreClassesd("pred", preprocessing, labels)({"image": image, "pred": logits})
    return {
        "cpu_s": time.process_time() - before,
        "wall_s": time.perf_counter() - start,
        "peak_mib": peak_mib(),
        "details": {"shape": list(mask["pred"].shape), "logits MiB": logits.nbytes / 2**20},
    }


def export(job: dict[str, Any]) -> dict[str, Any]:
    """Prepare a case with nnU-Net's preprocessor and restore given logits ``[C, z, y, x]`` with its export."""
    peer = importlib.import_module("benchmarks.predict_peer")
    exporting = importlib.import_module("nnunetv2.inference.export_prediction")
    plans, configuration = peer.managers(job["plan"], job["reader"])
    content = peer.dataset_json(job["plan"])
    preprocessor = configuration.preprocessor_class(verbose=False)
    image, _, properties = preprocessor.run_case(job["images"], None, plans, configuration, content)
    logits = np.load(job["logits"], allow_pickle=False)
    if image.shape[1:] != logits.shape[1:]:
        raise ValueError(f"nnU-Net prepares shape {image.shape[1:]}, ours is {logits.shape[1:]}")
    before = time.process_time()
    mask = exporting.convert_predicted_logits_to_segmentation_with_correct_shape(
        torch.from_numpy(logits),
        plans,
        configuration,
        plans.get_label_manager(content),
        properties,
    )
    np.save(job["mask"], mask)
    return {"cpu_s": time.process_time() - before, "wall_s": None, "peak_mib": peak_mib()}


JOBS = {"forward": forward, "files": files, "restore": restore, "export": export}


def main() -> None:
    """Do the job named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    figures = JOBS[job["job"]](job)
    Path(job["figures"]).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
