"""Which weights of another training are copied, and that the log says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.handlers import CheckpointLoader
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dynunet_bundle.errors import WeightsError
from dynunet_bundle.networks.architectures import training_network
from dynunet_bundle.networks.dynunet import HEADS_PREFIX, inference_state_dict, unwrapped
from dynunet_bundle.networks.weights import save_weights
from dynunet_bundle.planning.plan import PLAN_IDS
from dynunet_bundle.training.handlers.fine_tuning import PretrainedWeights
from dynunet_bundle.training.handlers.matching import match_weights

TRAIN = json.loads((BUNDLE / "configs" / "train.json").read_text())
DYNUNET, RESENC = "DynUNet", "ResidualEncoderUNet"
FIRST = {DYNUNET: "input_block.conv1.conv.weight", RESENC: "stem.conv.weight"}
OUTPUT, BIAS = "output_block.conv.conv.weight", "output_block.conv.conv.bias"
LEVELS: dict[str, Any] = {
    "spatial_dims": 2,
    "kernel_sizes": [[3, 3]] * 4,
    "strides": [[1, 1]] + [[2, 2]] * 3,
    "filters": [2, 3, 4, 5],
}
LEVELS_3D: dict[str, Any] = {
    "spatial_dims": 3,
    "kernel_sizes": [[3, 3, 3]] * 4,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * 3,
}

Start = Callable[..., ConfigWorkflow]


def plan_of(architecture: str = DYNUNET, **changes: Any) -> dict[str, Any]:
    """Two channels and three classes."""
    own = {"channel_names": ["T1", "T2"], "label_names": ["background", "edema", "tumour"]}
    plan = {name: TRAIN[name] for name in PLAN_IDS}
    return {**plan, "architecture": architecture, "filters": LEVELS["filters"], **own, **changes}


def network_of(plan: dict[str, Any], seed: int, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    sizes = {
        "in_channels": len(plan["channel_names"]),
        "out_channels": len(plan["regions"] or plan["label_names"]),
    }
    network = training_network(plan["architecture"], **{**LEVELS, **sizes, **changes})
    for value in network.parameters():  # biases begin as zeros, norms as ones
        nn.init.normal_(value)
    return network


def copied_state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def save(
    path: Path, plan: dict[str, Any], seed: int = 1, **changes: Any
) -> dict[str, torch.Tensor]:
    """Save a trained model like the checkpoint does, and return its weights."""
    state = inference_state_dict(network_of(plan, seed, **changes))
    save_weights(path, state, plan, {"epoch": 7})
    return state


def start_engine(handler: PretrainedWeights, *others: Any) -> None:
    engine = Engine(lambda *_: None)
    for other in (*others, handler):
        other.attach(engine)
    engine.run([0])


@pytest.fixture(params=[DYNUNET, RESENC])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_weights_of_the_same_plan_are_taken_over_whole(
    architecture: str, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(architecture)
    theirs = save(tmp_path / "model.pt", plan)
    network = network_of(plan, 2)
    before = copied_state(network)
    start_engine(PretrainedWeights(network, str(tmp_path / "model.pt"), plan))
    heads = [name for name in before if name.startswith(HEADS_PREFIX)]
    assert heads
    for name, value in network.state_dict().items():
        assert torch.equal(value, (before if name in heads else theirs)[name]), name
    tensors = {value.data_ptr(): value for value in theirs.values()}.values()
    assert len(tensors) < len(theirs) or architecture == RESENC
    num_values = sum(value.numel() for value in tensors)
    assert f"copied {len(tensors)} tensors, {num_values:,} of {num_values:,} values" in log.text
    assert "fresh: supervision_heads.*" in log.text
    assert "matched" not in log.text
    assert "skipped" not in log.text


def test_channels_and_classes_are_matched_by_name(
    architecture: str, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    theirs = save(tmp_path / "model.pt", plan_of(architecture))
    plan = plan_of(
        architecture,
        channel_names=["FLAIR", "T2", "T1"],
        label_names=["background", "tumour", "cyst", "edema"],
    )
    network = network_of(plan, 2)
    before = copied_state(network)
    start_engine(PretrainedWeights(network, str(tmp_path / "model.pt"), plan))
    state, first = network.state_dict(), FIRST[architecture]
    for here, there in ((1, 1), (2, 0)):
        assert torch.equal(state[first][:, here], theirs[first][:, there])
    assert torch.equal(state[first][:, 0], before[first][:, 0])
    for name in (OUTPUT, BIAS):
        for here, there in ((0, 0), (1, 2), (3, 1)):
            assert torch.equal(state[name][here], theirs[name][there])
        assert torch.equal(state[name][2], before[name][2])
    num_values = sum(
        value.numel() for name, value in network.named_parameters() if HEADS_PREFIX not in name
    )
    num_fresh = 9 * 2 + 2 + 1
    assert f"{num_values - num_fresh:,} of {num_values:,} values" in log.text
    others = (
        set(theirs) - {first, OUTPUT, BIAS} - {name for name in theirs if "skip_layers" in name}
    )
    assert all(torch.equal(state[name], theirs[name]) for name in others)
    assert f"{first} (T2, T1; fresh: FLAIR)" in log.text
    assert f"{OUTPUT} (background, tumour, edema; fresh: cyst)" in log.text
    assert "skipped" not in log.text


def test_the_same_names_in_another_order_are_put_in_order(architecture: str) -> None:
    source = plan_of(architecture)
    plan = plan_of(architecture, channel_names=["T2", "T1"])
    theirs = inference_state_dict(network_of(source, 1))
    network = network_of(plan, 2)
    fit = match_weights(network, theirs, plan, source)
    fit.copy()
    first = FIRST[architecture]
    assert torch.equal(network.state_dict()[first], theirs[first].flip(1))
    assert fit.matched == [f"{first} (T2, T1)"]


def test_a_channel_of_another_kind_is_a_start_but_another_class_is_not() -> None:
    source = plan_of(channel_names=["CT"], label_names=["background", "liver"])
    plan = plan_of(channel_names=["MRI"], label_names=["background", "spleen"])
    theirs = inference_state_dict(network_of(source, 1))
    network = network_of(plan, 2)
    before = copied_state(network)
    fit = match_weights(network, theirs, plan, source)
    fit.copy()
    state = network.state_dict()
    assert torch.equal(state[FIRST[DYNUNET]], theirs[FIRST[DYNUNET]])
    assert torch.equal(state[BIAS][0], theirs[BIAS][0])
    assert torch.equal(state[BIAS][1], before[BIAS][1])
    assert f"{FIRST[DYNUNET]} (CT for MRI)" in fit.matched
    assert f"{BIAS} (background; fresh: spleen)" in fit.matched


def test_a_region_is_not_the_class_of_that_name() -> None:
    regions = {"whole": [1, 2], "edema": [1], "tumour": [2]}
    source, plan = plan_of(), plan_of(regions=regions, regions_class_order=[1, 1, 2])
    theirs = inference_state_dict(network_of(source, 1))
    network = network_of(plan, 2)
    before = copied_state(network)
    fit = match_weights(network, theirs, plan, source)
    fit.copy()
    assert torch.equal(network.state_dict()[OUTPUT], before[OUTPUT])
    reason = (
        "it is for background, edema, tumour, here for region whole, region edema, region tumour"
    )
    assert f"{OUTPUT} ({reason})" in fit.skipped
    fewer = plan_of(regions={"tumour": [2], "edema": [1]}, regions_class_order=[2, 1])
    smaller = network_of(fewer, 3)
    match_weights(smaller, inference_state_dict(network), fewer, plan).copy()
    assert torch.equal(smaller.state_dict()[BIAS], before[BIAS][[2, 1]])


def test_without_a_plan_beside_them_only_equal_shapes_are_taken(
    architecture: str, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    theirs = save(tmp_path / "model.pt", plan_of(architecture))
    (tmp_path / "model.json").unlink()
    plan = plan_of(architecture, channel_names=["T1"], label_names=["background", "a", "b"])
    network = network_of(plan, 2)
    before = copied_state(network)
    start_engine(PretrainedWeights(network, str(tmp_path / "model.pt"), plan))
    state, first = network.state_dict(), FIRST[architecture]
    assert torch.equal(state[first], before[first])
    assert torch.equal(state[OUTPUT], theirs[OUTPUT])
    assert f"skipped: {first} (it is (2, 2, 3, 3), here (2, 1, 3, 3))" in log.text


def test_names_that_do_not_fit_the_tensors_are_not_trusted() -> None:
    source = plan_of(channel_names=["T1", "T2", "FLAIR"])
    theirs = inference_state_dict(network_of(plan_of(), 1))
    plan = plan_of(channel_names=["T2"])
    fit = match_weights(network_of(plan, 2), theirs, plan, source)
    assert fit.matched == []
    assert fit.skipped == [f"{FIRST[DYNUNET]} (it is (2, 2, 3, 3), here (2, 1, 3, 3))"]


def test_doubled_names_are_taken_one_by_one() -> None:
    source = plan_of(channel_names=["MRI", "MRI"])
    plan = plan_of(channel_names=["MRI", "MRI", "MRI"])
    theirs = inference_state_dict(network_of(source, 1))
    network = network_of(plan, 2)
    before = copied_state(network)
    match_weights(network, theirs, plan, source).copy()
    ours = network.state_dict()[FIRST[DYNUNET]]
    assert torch.equal(ours[:, :2], theirs[FIRST[DYNUNET]])
    assert torch.equal(ours[:, 2], before[FIRST[DYNUNET]][:, 2])


def test_more_levels_and_heads_in_the_file_are_listed() -> None:
    plan = plan_of()
    longer = {"kernel_sizes": [[3, 3]] * 5, "strides": [[1, 1]] + [[2, 2]] * 4}
    deep = network_of(plan, 1, filters=[2, 3, 4, 5, 5], **longer)
    shallow = network_of(plan, 2)
    fit = match_weights(shallow, deep.state_dict(), plan, plan)
    assert fit.has_body
    surplus = [text for text in fit.skipped if text.startswith("downsamples.2.")]
    assert surplus
    assert all(text.endswith("(this network has none)") for text in surplus)
    # here 5 filters of 4 inputs, there 5 of 5
    assert any(text.startswith("bottleneck.conv1.conv.weight (it is") for text in fit.skipped)
    ours = match_weights(deep, inference_state_dict(shallow), plan, plan)
    assert "downsamples.2.conv1.conv.weight" in ours.missing
    # heads are never copied: they belong to levels of another network
    heads = {value.data_ptr() for value in shallow.supervision_heads.parameters()}
    assert not heads & {tensor.data_ptr() for tensor, _ in fit.copies}


def test_statistics_of_batch_norms_are_weights_too() -> None:
    plan = plan_of(norm_name=["BATCH", {"affine": True}])
    batch = {"norm_name": ("BATCH", {"affine": True})}
    trained = network_of(plan, 1, **batch)
    trained.train()(torch.randn(2, 2, 16, 16))
    network = network_of(plan, 2, **batch)
    match_weights(network, inference_state_dict(trained), plan, plan).copy()
    name = "input_block.norm1.running_mean"
    assert torch.equal(network.state_dict()[name], trained.state_dict()[name])
    assert network.state_dict()["input_block.norm1.num_batches_tracked"] == 1


@pytest.mark.parametrize(
    ("there", "changes"),
    [(RESENC, {}), (DYNUNET, {"filters": [4, 6, 8, 10]}), (DYNUNET, LEVELS_3D)],
    ids=["architecture", "filters", "dimensions"],
)
def test_a_network_with_nothing_in_common_is_refused(
    tmp_path: Path, there: str, changes: dict[str, Any]
) -> None:
    save(tmp_path / "model.pt", plan_of(there), **changes)
    network = network_of(plan_of(), 2)
    before = copied_state(network)
    with pytest.raises(WeightsError, match="model.pt has no inner convolution.*--pretrained") as e:
        start_engine(PretrainedWeights(network, str(tmp_path / "model.pt"), plan_of()))
    assert "\n" not in str(e.value)
    # not even the outputs, although they fit
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "model.pt is missing. Pass --pretrained"),
        (b"no weights", "is not a file of weights"),
        ({"f": print}, "may run code"),
        ([1], "holds a list, not weights"),
        ({"epoch": 1, "network": {}}, "'epoch' is of type int, not a tensor by name"),
        ({}, "no inner convolution"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=message):
        start_engine(PretrainedWeights(network_of(plan_of(), 2), str(path), plan_of()))


def test_weights_that_are_not_those_of_their_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save(path, plan_of())
    torch.save(inference_state_dict(network_of(plan_of(), 3)), path)
    with pytest.raises(WeightsError, match="SHA-256"):
        start_engine(PretrainedWeights(network_of(plan_of(), 2), str(path), plan_of()))


def test_wrapped_networks_take_them_in_place(tmp_path: Path) -> None:
    plan = plan_of()
    theirs = save(tmp_path / "model.pt", plan)
    network = network_of(plan, 2).to(memory_format=torch.channels_last)
    wrapped = nn.DataParallel(torch.compile(network))
    start_engine(PretrainedWeights(wrapped, str(tmp_path / "model.pt"), plan))
    weight = network.state_dict()[FIRST[DYNUNET]]
    assert torch.equal(weight, theirs[FIRST[DYNUNET]])
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_weights_that_a_client_loads_win(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    plan = plan_of()
    save(tmp_path / "model.pt", plan)
    label = save(tmp_path / "label.pt", plan, seed=5)
    network = network_of(plan, 2)
    loader = CheckpointLoader(str(tmp_path / "label.pt"), {"model": network})
    start_engine(PretrainedWeights(network, str(tmp_path / "model.pt"), plan), loader)
    assert torch.equal(network.state_dict()[OUTPUT], label[OUTPUT])
    assert "is not used" in log.text


def part(workflow: ConfigWorkflow, name: str) -> Any:
    return workflow.parser.get_parsed_content(name)


@pytest.fixture
def start(train_workflow: Start, tmp_path: Path) -> Start:
    """``start("folder", epochs=4)``: a fresh workflow with its files in that folder."""

    def fresh(folder: str, **overrides: Any) -> ConfigWorkflow:
        folders = {"ckpt_dir": tmp_path / folder, "output_dir": tmp_path / f"{folder}_run"}
        return train_workflow(**{key: str(value) for key, value in folders.items()}, **overrides)

    return fresh


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_training_starts_from_them_and_goes_on_from_its_own(
    start: Start, tmp_path: Path, log: pytest.LogCaptureFixture, ema_decay: float | None
) -> None:
    start("first", epochs=1).run()
    theirs = torch.load(tmp_path / "first" / "model.pt", weights_only=True)
    settings = {"pretrained": str(tmp_path / "first" / "model.pt"), "ema_decay": ema_decay}
    # with a rate of 0 the weights stay the initial ones; the average starts from them too
    start("still", epochs=1, learning_rate=0.0, **settings).run()
    still = torch.load(tmp_path / "still" / "model.pt", weights_only=True)
    assert all(torch.equal(still[name], value) for name, value in theirs.items())
    workflow = start("tuned", epochs=1, **settings)
    assert isinstance(part(workflow, "averaged_network"), AveragedModel) is (ema_decay is not None)
    workflow.run()
    tuned = torch.load(tmp_path / "tuned" / "checkpoint_last.pt", weights_only=True)["model"]
    assert not torch.equal(tuned[OUTPUT], theirs[OUTPUT])
    # a resumed training does not read the file
    (tmp_path / "first" / "model.pt").unlink()
    log.clear()
    resumed = start("tuned", epochs=2, **settings)
    seen: dict[str, torch.Tensor] = {}
    network = unwrapped(part(resumed, "network"))
    part(resumed, "train#trainer").add_event_handler(
        Events.EPOCH_STARTED, lambda: seen.update(copied_state(network))
    )
    resumed.run()
    assert all(torch.equal(seen[name], value) for name, value in tuned.items())
    assert "copied" not in log.text
    with pytest.raises(WeightsError, match="Pass --pretrained"):
        start("tuned", epochs=2, restart=True, **settings).run()


def test_a_cascade_starts_from_a_plain_network_and_only_its_masks_are_fresh() -> None:
    source, plan = plan_of(), plan_of(cascade=True)
    theirs = inference_state_dict(network_of(source, 1))
    # two channels, and masks of two classes
    network = network_of(plan, 2, in_channels=4)
    before = copied_state(network)
    fit = match_weights(network, theirs, plan, source)
    fit.copy()
    first = FIRST[DYNUNET]
    state = network.state_dict()
    assert torch.equal(state[first][:, :2], theirs[first])
    assert torch.equal(state[first][:, 2:], before[first][:, 2:])
    assert fit.matched == [f"{first} (T1, T2; fresh: mask of edema, mask of tumour)"]
