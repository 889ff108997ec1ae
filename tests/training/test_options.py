"""Options of train.json for parts that are not ours, each tested by its effect on a real training."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import tiny_plan
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.engines.utils import IterationEvents
from torch import nn

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.training.process.numerics import set_numerics

Workflow = Callable[..., ConfigWorkflow]


def part(workflow: ConfigWorkflow, name: str) -> Any:
    return workflow.parser.get_parsed_content(name)


def train(workflow: ConfigWorkflow) -> dict[str, torch.Tensor]:
    """Run a training and return the weights."""
    workflow.run()
    return part(workflow, "network").state_dict()


@pytest.fixture
def one_step(train_workflow: Workflow) -> Workflow:
    return lambda *overlays, **own: train_workflow(
        *overlays, **{"epochs": 1, "iterations_per_epoch": 1, "skip_validation": 1, **own}
    )


def test_epochs_and_iterations(train_workflow: Workflow) -> None:
    workflow = train_workflow(epochs=3, iterations_per_epoch=2)
    workflow.run()
    state = part(workflow, "train#trainer").state
    assert (state.epoch, state.iteration) == (3, 6)
    assert part(workflow, "train#dataloader").iteration == 6


def test_the_seed_decides_weights_and_samples(one_step: Workflow, tmp_path: Any) -> None:
    first, same, other = (
        train(one_step(seed=seed, ckpt_dir=str(tmp_path / name)))
        for seed, name in ((3, "a"), (3, "b"), (4, "c"))
    )
    assert all(first[name].equal(same[name]) for name in first)
    assert not any(first[name].equal(other[name]) for name in first if first[name].ndim > 1)


@pytest.mark.parametrize(
    ("norm_name", "kind"),
    [
        (["INSTANCE", {"affine": True}], nn.InstanceNorm3d),
        (["BATCH", {}], nn.BatchNorm3d),
        (["GROUP", {"num_groups": 2}], nn.GroupNorm),
        ("", nn.Identity),
    ],
)
def test_norms(one_step: Workflow, norm_name: Any, kind: type[nn.Module]) -> None:
    workflow = one_step(norm_name=norm_name)
    workflow.run()
    network = part(workflow, "network_def")
    kinds = (nn.InstanceNorm3d, nn.BatchNorm3d, nn.GroupNorm)
    found = {kind for kind in kinds for module in network.modules() if isinstance(module, kind)}
    assert found == ({kind} if kind is not nn.Identity else set())


def test_the_negative_slope_is_that_of_every_activation(one_step: Workflow) -> None:
    network = part(one_step(negative_slope=0.2), "network_def")
    slopes = [m.negative_slope for m in network.modules() if hasattr(m, "negative_slope")]
    # two per block, three levels down and two up
    assert slopes == [0.2] * 10


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_deep_supervision_decides_the_number_of_outputs(
    one_step: Workflow, deep_supervision: bool
) -> None:
    workflow = one_step(
        deep_supervision=deep_supervision,
        filters=[4, 4, 4, 4],
        kernel_sizes=[[3, 3, 3]] * 4,
        strides=[[1, 1, 1]] + [[2, 2, 2]] * 3,
    )
    outputs: list[Any] = []
    part(workflow, "train#trainer").add_event_handler(
        IterationEvents.FORWARD_COMPLETED,
        lambda engine: outputs.append(engine.state.output["pred"]),
    )
    workflow.run()
    sizes = [tuple(output.shape[2:]) for output in outputs[0]]
    assert sizes == ([(16, 16, 16), (8, 8, 8)] if deep_supervision else [(16, 16, 16)])


def test_accumulated_batches_equal_one_large_batch(one_step: Workflow, tmp_path: Any) -> None:
    """Dice is per patch, so the mean of two losses equals the loss of the joint batch."""
    settings = {"gradient_clip": None}
    large = train(one_step(batch_size=4, ckpt_dir=str(tmp_path / "large"), **settings))
    small = train(
        one_step(
            batch_size=2,
            gradient_accumulation=2,
            iterations_per_epoch=2,
            ckpt_dir=str(tmp_path / "small"),
            **settings,
        )
    )
    for name, value in large.items():
        torch.testing.assert_close(small[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("limit", "clipped"), [(1e-3, True), (None, False), (1e6, False)])
def test_gradients_are_clipped_to_the_limit(
    one_step: Workflow, limit: float | None, clipped: bool
) -> None:
    workflow = one_step(gradient_clip=limit)
    network = part(workflow, "network")
    norms: list[float] = []

    def note(engine: Engine) -> None:
        gradients = [p.grad.flatten() for p in network.parameters()]
        norms.append(float(torch.cat(gradients).norm()))

    part(workflow, "train#trainer").add_event_handler(Events.ITERATION_COMPLETED, note)
    workflow.run()
    assert norms[0] == pytest.approx(limit, rel=1e-3) if clipped else norms[0] > 0.01


def test_averaged_weights_are_validated_and_delivered(
    train_workflow: Workflow, tmp_path: Any
) -> None:
    decay = 0.75
    workflow = train_workflow(ema_decay=decay, iterations_per_epoch=3, epochs=1)
    network = part(workflow, "network")
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    validated: list[Any] = []

    def average(engine: Engine) -> None:
        for name, value in network.state_dict().items():
            start = engine.state.iteration == 1
            expected[name] = (
                value.clone() if start else decay * expected[name] + (1 - decay) * value
            )

    def note(engine: Engine) -> None:
        validated.append(
            {name: value.clone() for name, value in engine.network.state_dict().items()}
        )

    part(workflow, "train#trainer").add_event_handler(Events.ITERATION_COMPLETED, average)
    part(workflow, "validate#evaluator").add_event_handler(Events.STARTED, note)
    workflow.run()
    model = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    for name, value in model.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(validated[0][f"module.{name}"], value)


@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize(("amp", "name"), [(True, "bfloat16"), (True, "auto"), (False, "auto")])
def test_mixed_precision_computes_in_the_declared_type(
    train_workflow: Workflow, monkeypatch: pytest.MonkeyPatch, amp: bool, name: str, bfloat16: bool
) -> None:
    monkeypatch.setattr("dynunet_bundle.networks.precision.has_bfloat16", lambda: bfloat16)
    workflow = train_workflow(
        device="cpu", amp=amp, amp_dtype=name, epochs=1, iterations_per_epoch=1
    )
    found: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def note(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        found[module.training].add(output.dtype)

    part(workflow, "network").bottleneck.conv1.conv.register_forward_hook(note)
    workflow.run()
    half = amp and (name == "bfloat16" or bfloat16)
    wanted = {torch.bfloat16} if half else {torch.float32}
    assert found == {True: wanted, False: wanted}
    assert {value.dtype for value in part(workflow, "network").parameters()} == {torch.float32}


def test_float16_on_a_cpu_is_refused(train_workflow: Workflow) -> None:
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        train_workflow(device="cpu", amp=True, amp_dtype="float16").run()


@pytest.mark.parametrize("dims", [2, 3])
def test_weights_lie_with_their_channels_last(one_step: Workflow, dims: int) -> None:
    plan = tiny_plan(dims)
    memory_format = torch.channels_last_3d if dims == 3 else torch.channels_last
    workflow = one_step(**plan)
    workflow.run()
    for parameter in part(workflow, "network").parameters():
        if parameter.ndim == dims + 2:
            assert parameter.is_contiguous(memory_format=memory_format)
    plain = one_step(**plan, memory_format="$torch.contiguous_format")
    assert all(p.is_contiguous() for p in part(plain, "network").parameters())


def test_a_compiled_network_trains_and_is_saved_under_plain_names(
    one_step: Workflow, tmp_path: Any
) -> None:
    compiled = train(
        one_step(
            compile=True,
            ckpt_dir=str(tmp_path / "compiled"),
            **{"train#trainer#compile_kwargs": {"backend": "aot_eager"}},
        )
    )
    plain = train(one_step(ckpt_dir=str(tmp_path / "plain")))
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-5, rtol=1e-4)
    model = torch.load(tmp_path / "compiled" / "model.pt", weights_only=True)
    assert set(model) <= set(plain)


@pytest.mark.parametrize(("tf32", "deterministic"), [(True, False), (False, True)])
def test_numerics(tf32: bool, deterministic: bool) -> None:
    try:
        set_numerics(tf32, deterministic)
        assert torch.backends.cuda.matmul.allow_tf32 is tf32
        assert torch.backends.cudnn.allow_tf32 is tf32
        assert torch.backends.cudnn.benchmark is not deterministic
        assert torch.are_deterministic_algorithms_enabled() is deterministic
    finally:
        set_numerics()
