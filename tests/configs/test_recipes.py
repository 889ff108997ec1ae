"""train.json trains by nnU-Net's recipe, and with the seed's two files by that of NVIDIA's nnU-Net for TensorFlow 2."""

import itertools
import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE, tiny_plan
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from monai.engines.utils import IterationEvents
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler

CONFIGS = BUNDLE / "configs"
RECIPE = tuple(str(CONFIGS / name) for name in ("seed_augmentation.json", "seed_recipe.json"))
"""The files of NVIDIA's recipe, as docs/training.md lists them."""

RECIPES = ("quick.json", "seed_augmentation.json", "seed_recipe.json")
SIX_LEVELS: dict[str, Any] = {
    "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
    "filters": [2, 2, 2, 2, 2, 2],
    "patch_size": [32, 32, 32],
}
LENGTH = {"epochs": 300, "iterations_per_epoch": 50}

Load = Callable[..., ConfigWorkflow]


def content(name: str) -> dict[str, Any]:
    return json.loads((CONFIGS / name).read_text())


def part(workflow: ConfigWorkflow, name: str) -> Any:
    return workflow.parser.get_parsed_content(name)


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    found = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of .lr_scheduler.step")
        for _ in range(steps):
            found.append(schedule.optimizer.param_groups[0]["lr"])
            schedule.step()
    return found


def level_weights(workflow: ConfigWorkflow, num_outputs: int) -> list[float]:
    """What the declared loss adds where one level is undecided between three classes and the others are right."""
    loss = part(workflow, "loss")
    label = torch.ones(1, 1, 32, 32, 32)
    sizes = [32 // 2**level for level in range(num_outputs)]
    right = [
        torch.tensor([0.0, 50.0, 0.0]).view(1, 3, 1, 1, 1).expand(1, 3, *[s] * 3) for s in sizes
    ]
    base = float(loss(right, label))
    # cross entropy ln 3; Dice loss of a class found with probability 1/3 and of one that is absent
    undecided = math.log(3) + (0.5 + 1) / 2
    found = []
    for level, size in enumerate(sizes):
        levels = [*right[:level], torch.zeros(1, 3, size, size, size), *right[level + 1 :]]
        found.append((float(loss(levels, label)) - base) / undecided)
    return found


def loss_of(workflow: ConfigWorkflow, *images: list[float]) -> float:
    """The declared loss on images of one label, 1, with the same probabilities everywhere."""
    label = torch.ones(len(images), 1, 16, 16, 16)
    logits = torch.tensor(images).log().view(len(images), 3, 1, 1, 1).expand(-1, -1, 16, 16, 16)
    return float(part(workflow, "loss")([logits], label))


def norm_after_clipping(workflow: ConfigWorkflow) -> float:
    """Norm of gradients of norm 1000 when the declared handler is through."""
    declared = workflow.parser["train#handlers"]
    (index,) = [i for i, item in enumerate(declared) if item["_target_"].endswith("Clipping")]
    network = part(workflow, "network")
    numbers = torch.randn(sum(p.numel() for p in network.parameters()))
    vector = iter(
        (1000 * numbers / numbers.norm()).split([p.numel() for p in network.parameters()])
    )
    for parameter in network.parameters():
        parameter.grad = next(vector).view_as(parameter)
    engine = Engine(lambda *_: None)
    engine.register_events(*IterationEvents)
    engine.state.iteration = engine.state.epoch_length = 1
    part(workflow, f"train#handlers#{index}").attach(engine)
    engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
    return float(torch.cat([p.grad.flatten() for p in network.parameters()]).norm())


def test_the_default_optimizer_is_nnunets(train_workflow: Load) -> None:
    workflow = train_workflow(epochs=1000)
    optimizer, network = part(workflow, "optimizer"), part(workflow, "network")
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.SGD
    assert (group["momentum"], group["nesterov"], group["dampening"]) == (0.99, True, 0)
    assert group["weight_decay"] == 3e-5
    assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters()]
    assert part(workflow, "lr_epoch_level") is True
    expected = [0.01 * (1 - epoch / 1000) ** 0.9 for epoch in range(1000)]
    np.testing.assert_allclose(rates(part(workflow, "lr_scheduler"), 1000), expected, rtol=1e-12)


def test_the_default_length_is_nnunets() -> None:
    train = content("train.json")
    assert (train["epochs"], train["iterations_per_epoch"], train["oversampling"]) == (
        1000,
        250,
        0.33,
    )


def test_the_default_loss_is_nnunets(train_workflow: Load) -> None:
    workflow = train_workflow(**SIX_LEVELS)
    expected = np.array([1, 1 / 2, 1 / 4, 1 / 8]) / 1.875
    np.testing.assert_allclose(level_weights(workflow, 4), expected, rtol=1e-3)
    assert len(part(workflow, "network").train()(torch.zeros(1, 1, 64, 32, 32))) == 4


def test_gradients_are_clipped_at_12_by_default_and_not_by_the_seed(train_workflow: Load) -> None:
    assert norm_after_clipping(train_workflow()) == pytest.approx(12, rel=1e-4)
    assert norm_after_clipping(train_workflow(*RECIPE)) == pytest.approx(1000, rel=1e-4)


def test_dice_of_the_whole_batch_is_the_seeds_alone(train_workflow: Load) -> None:
    right, undecided = [1e-20, 1.0, 1e-20], [1 / 3] * 3
    cross_entropy = math.log(3) / 2
    each = loss_of(train_workflow(deep_supervision=False), right, undecided)
    assert each - cross_entropy == pytest.approx((0 + (0.5 + 1) / 2) / 2, abs=1e-3)
    whole = loss_of(train_workflow(*RECIPE, deep_supervision=False), right, undecided)
    # class 1: 2 (1 + 1/3) / (1 + 1/3 + 2)
    assert whole - cross_entropy == pytest.approx((0.2 + 1) / 2, abs=1e-3)


@pytest.mark.parametrize(("overlays", "smooth"), [((), 1e-5), (RECIPE, 1e-6)])
def test_smoothing_of_dice(train_workflow: Load, overlays: tuple[str, ...], smooth: float) -> None:
    workflow = train_workflow(*overlays, deep_supervision=False)
    # probabilities of an absent class that sum up to 1e-5
    absent = 1e-5 / 16**3
    expected = (1 - smooth / (1e-5 + smooth)) / 2
    assert loss_of(workflow, [1e-20, 1.0, absent]) == pytest.approx(expected, abs=1e-3)


def test_the_recipe_is_an_overlay_and_repeats_no_other_file() -> None:
    recipe, train = content("seed_recipe.json"), content("train.json")
    assert recipe.keys() <= train.keys()
    for section in ("loss", "optimizer", "lr_scheduler"):
        assert recipe[section].keys() <= train[section].keys()
    assert not recipe.keys() & content("seed_augmentation.json").keys()
    for one, other in itertools.combinations(RECIPES, 2):
        ours, theirs = content(one), content(other)
        same = [name for name in ours.keys() & theirs if ours[name] == theirs[name]]
        assert not [name for name in same if isinstance(ours[name], (dict, list))], (one, other)


def test_the_recipe_has_the_seeds_augmentation(train_workflow: Load) -> None:
    for dims, volumes in ((2, 2), (3, None)):
        workflow = train_workflow(*RECIPE, **tiny_plan(dims))
        assert part(workflow, "augmentation") == content("seed_augmentation.json")["augmentation"]
        assert part(workflow, "volumes_per_batch") == volumes
    text = (CONFIGS.parents[1] / "docs" / "training.md").read_text()
    assert "'configs/seed_augmentation.json','configs/seed_recipe.json']" in text


def test_the_recipes_ids(train_workflow: Load) -> None:
    recipe = content("seed_recipe.json")
    expected = {
        "epochs": 300,
        "skip_validation": 100,
        "val_interval": 1,
        "learning_rate": 3e-4,
        "lr_epoch_level": False,
        "gradient_clip": None,
        "batch_dice": True,
        "deep_supervision": True,
        "oversampling": 0.33,
    }
    assert {name: recipe[name] for name in expected} == expected
    plan = part(train_workflow(*RECIPE), "plan")
    assert (plan["batch_size"], plan["batch_dice"]) == (2, True)
    assert part(train_workflow(*RECIPE, **tiny_plan(2)), "batch_size") == 64


def test_the_recipes_schedule_is_the_seeds(train_workflow: Load) -> None:
    """Keras's CosineDecayRestarts(3e-4, 4096, t_mul=2, m_mul=1, alpha=0.1), a step an iteration."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    theirs = CosineAnnealingWarmRestarts(optimizer, T_0=4096, T_mult=2, eta_min=3e-5)
    workflow = train_workflow(*RECIPE, **LENGTH)
    ours = part(workflow, "lr_scheduler")
    np.testing.assert_allclose(rates(ours, 15000), rates(theirs, 15000), rtol=1e-9)


def test_the_recipes_weight_decay_is_an_l2_term_of_the_loss(train_workflow: Load) -> None:
    """Adam divides by the norm of the gradient, so that such a term alone moves a weight by the whole rate."""
    workflow = train_workflow(*RECIPE)
    optimizer, network = part(workflow, "optimizer"), part(workflow, "network")
    assert type(optimizer) is torch.optim.Adam
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(2.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        moved = 2 - parameter.detach()
        expected = 0.0 if "norm" in name else 3e-4 * 2e-4 / (2e-4 + 1e-8)
        torch.testing.assert_close(moved, torch.full_like(moved, expected), rtol=1e-3, atol=0)


def test_the_recipes_levels_are_the_seeds(train_workflow: Load) -> None:
    """0.5333 * 0.5^i for three outputs; what the network has below them counts nothing."""
    six = train_workflow(*RECIPE, **SIX_LEVELS)
    expected = [8 / 15, 4 / 15, 2 / 15]
    np.testing.assert_allclose(level_weights(six, 4), [*expected, 0], rtol=1e-3, atol=1e-6)
    for num_levels in (3, 4, 5):
        shape = {key: SIX_LEVELS[key][:num_levels] for key in ("kernel_sizes", "strides")}
        workflow = train_workflow(*RECIPE, **shape, filters=[2] * num_levels)
        outputs = part(workflow, "network").train()(torch.zeros(1, 1, 64, 32, 32))
        assert len(outputs) == num_levels - 2
        found = level_weights(workflow, num_levels - 2)
        np.testing.assert_allclose(found, expected[: num_levels - 2], rtol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_recipe_trains(train_workflow: Load, dims: int) -> None:
    plan = {
        **tiny_plan(dims),
        "batch_size": 4,
        "epochs": 2,
        "skip_validation": 1,
    }
    workflow = train_workflow(*RECIPE, **plan)
    network = part(workflow, "network")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    workflow.run()
    assert part(workflow, "validate#evaluator").state.best_metric_epoch == 2
    for key, value in network.state_dict().items():
        assert not torch.equal(value, before[key]), key
