"""One contender of the training benchmark, as a program that runs in that contender's environment.

    python -P train_contender.py JOB.json

It imports this project only if the contender is ours. The job defines the contender, the plan, the feed and the
precision. A step is: next batch, zero gradients, forward, loss, backward, clipping at 12, optimizer. The figures of the
timed steps after a warm-up are written to the file named in the job: seconds for 1,000 samples, the time of each step,
and the time of its parts.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch

SAMPLES = 1000
MAX_NORM = 12.0
PARTS = ("feed", "forward", "loss", "backward", "optimizer")


@dataclass
class Training:
    """Parts of a training step.

    Attributes:
        network: in training mode, on the device.
        loss: of outputs and target.
        optimizer: of the network's parameters.
        batches: endless: image and target on the device.
        close: called at the end.
    """

    network: Any
    loss: Callable[[Any, Any], torch.Tensor]
    optimizer: Any
    batches: Iterator[tuple[torch.Tensor, Any]]
    close: Callable[[], None] = lambda: None


def ours(job: dict[str, Any]) -> Training:
    """Network, loss and optimizer of train.json for the plan of the job."""
    workflow = importlib.import_module("dynunet_bundle.configs.workflow")
    numerics = importlib.import_module("dynunet_bundle.training.process.numerics")
    numerics.keep_freed_memory(job["device"])
    parser = workflow.load_workflow(job["bundle"], "train.json", (), job["plan"]).parser
    parts = {name: parser.get_parsed_content(name) for name in ("network", "loss", "optimizer")}
    parser.get_parsed_content("numerics")
    feed = _feed(job, parser)
    batches = (
        (batch["image"].to(job["device"]), batch["label"].to(job["device"]))
        for batch in chain.from_iterable(repeat(feed))
    )
    close = getattr(feed, "close", lambda: None)
    return Training(parts["network"].train(), parts["loss"], parts["optimizer"], batches, close)


def _feed(job: dict[str, Any], parser: Any) -> Any:
    plan = job["plan"]
    common = {"batch_size": job["batch"], "num_iterations": 1, "device": job["device"]}
    if job["feed"] == "constant batch":
        module = importlib.import_module("benchmarks.synthetic_feed")
        sizes = {"num_channels": job["channels"], "num_classes": job["classes"]}
        return module.SyntheticLoader(plan["patch_size"], **sizes, **common)
    loader: Any
    if job["feed"] == "center crop":
        loader = importlib.import_module("benchmarks.center_crop").CenterCropLoader
    else:
        loader = importlib.import_module("dynunet_bundle.feed.loader").DaliLoader
        common["augmentation"] = parser.get_parsed_content("augmentation")
    stored = importlib.import_module("benchmarks.train").StoredCases
    threads = {"num_threads": job["num_threads"], "num_workers": job["num_workers"]}
    dataset = stored(job["cases"], tuple(job["shape"]))
    return loader(dataset, plan["patch_size"], **threads, **common)


def nnunetv2(job: dict[str, Any]) -> Training:
    """nnU-Net's network, loss and optimizer as in its trainer, with one constant batch.

    The network and the Dice are compiled on a GPU but not on a CPU, which is nnU-Net's default.
    """
    device = torch.device(job["device"])
    plan = job["plan"]
    network = _peer_network(job).to(device).train()
    if device.type == "cuda":
        network = torch.compile(network)
        torch.backends.cudnn.benchmark = True
    optimizer = torch.optim.SGD(
        network.parameters(), 0.01, weight_decay=3e-5, momentum=0.99, nesterov=True
    )
    generator = torch.Generator().manual_seed(0)
    size = (job["batch"], job["channels"], *plan["patch_size"])
    image = torch.randn(size, generator=generator).to(device)
    label = torch.randint(
        job["classes"], (job["batch"], 1, *plan["patch_size"]), generator=generator
    )
    targets, divisor = [], [1] * len(plan["patch_size"])
    for strides in plan["strides"][:-1]:
        divisor = [whole * stride for whole, stride in zip(divisor, strides, strict=True)]
        coarse = [whole // part for whole, part in zip(plan["patch_size"], divisor, strict=True)]
        resized = torch.nn.functional.interpolate(label.float(), coarse, mode="nearest-exact")
        targets.append(resized.to(device=device, dtype=torch.int16))
    return Training(network, _peer_loss(job), optimizer, repeat((image, targets)))


def _peer_network(job: dict[str, Any]) -> Any:
    unet = importlib.import_module("dynamic_network_architectures.architectures.unet")
    plan, dims = job["plan"], len(job["plan"]["patch_size"])
    levels = len(plan["strides"])
    return unet.PlainConvUNet(
        input_channels=job["channels"],
        n_stages=levels,
        features_per_stage=plan["filters"],
        conv_op=getattr(torch.nn, f"Conv{dims}d"),
        kernel_sizes=plan["kernel_sizes"],
        strides=plan["strides"],
        n_conv_per_stage=[2] * levels,
        num_classes=job["classes"],
        n_conv_per_stage_decoder=[2] * (levels - 1),
        conv_bias=True,
        norm_op=getattr(torch.nn, f"InstanceNorm{dims}d"),
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )


def _peer_loss(job: dict[str, Any]) -> Any:
    folder = "nnunetv2.training.loss"
    dice = importlib.import_module(f"{folder}.dice").MemoryEfficientSoftDiceLoss
    compound = importlib.import_module(f"{folder}.compound_losses").DC_and_CE_loss
    wrapper = importlib.import_module(f"{folder}.deep_supervision").DeepSupervisionWrapper
    settings = {
        "batch_dice": job["plan"]["batch_dice"],
        "smooth": 1e-5,
        "do_bg": False,
        "ddp": False,
    }
    loss = compound(settings, {}, dice_class=dice)
    if job["device"].startswith("cuda"):
        loss.dc = torch.compile(loss.dc)
    weights = [0.5**level for level in range(len(job["plan"]["strides"]) - 1)]
    weights[-1] = 0.0
    return wrapper(loss, [weight / sum(weights) for weight in weights])


class Stepper:
    """Steps of a training in one precision.

    Args:
        training: parts of a step.
        device: device of the training.
        precision: ``fp32``, ``tf32``, ``amp`` (float16 with scaled gradients) or ``bf16``.
    """

    def __init__(self, training: Training, device: torch.device, precision: str) -> None:
        self.training = training
        self.device = device
        self.dtype = {"amp": torch.float16, "bf16": torch.bfloat16}.get(precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "amp")
        torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
        torch.backends.cudnn.allow_tf32 = precision != "fp32"

    def step(self, clock: Callable[[], float]) -> list[float]:
        """Do one step; return the clock at its start and after each part."""
        training = self.training
        moments = [clock()]
        image, target = next(training.batches)
        moments.append(clock())
        training.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            output = training.network(image)
            moments.append(clock())
            loss = training.loss(output, target)
        moments.append(clock())
        self.scaler.scale(loss).backward()
        moments.append(clock())
        self.scaler.unscale_(training.optimizer)
        torch.nn.utils.clip_grad_norm_(training.network.parameters(), MAX_NORM)
        self.scaler.step(training.optimizer)
        self.scaler.update()
        moments.append(clock())
        return moments

    def wait(self) -> float:
        """Wait for the device; return the time in s."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def measured(stepper: Stepper, job: dict[str, Any]) -> dict[str, Any]:
    """Warm up, then time the steps of the job; return the figures."""
    on_gpu = stepper.device.type == "cuda"
    for _ in range(job["warm_up"]):
        stepper.step(time.process_time)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(stepper.device)
    moments, ends = [], [stepper.wait()]
    cpu = time.process_time()
    for _ in range(job["num_steps"]):
        moments.append(stepper.step(time.process_time))
        ends.append(stepper.wait())
    share = SAMPLES / (job["num_steps"] * job["batch"])
    figures = {
        "cpu_s": (time.process_time() - cpu) * share,
        "wall_s": (ends[-1] - ends[0]) * share,
        "peak_mib": _peak_mib(stepper.device),
    }
    if on_gpu:
        # in separate steps, since waiting after each part would slow down the steps above
        moments = [stepper.step(stepper.wait) for _ in range(job["warm_up"])]
    steps = [1000 * (end - start) for start, end in zip(ends, ends[1:], strict=False)]
    return {**figures, "details": {"steps_ms": steps, "parts_ms": _parts(moments)}}


def _parts(moments: list[list[float]]) -> dict[str, float]:
    """Mean time of each part, in ms: CPU time on a CPU, wall time on a GPU."""
    times = torch.tensor(moments, dtype=torch.float64).diff(dim=1).mean(0) * 1000
    return dict(zip(PARTS, times.tolist(), strict=True))


def _peak_mib(device: torch.device) -> float:
    """Peak memory of this process in MiB: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if "VmHWM" in line)


def main() -> None:
    """Do the job named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    training = {"ours": ours, "nnunetv2": nnunetv2}[job["contender"]](job)
    figures = measured(Stepper(training, torch.device(job["device"]), job["precision"]), job)
    training.close()
    Path(job["figures"]).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
