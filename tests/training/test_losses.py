"""The loss against float64 loops, MONAI's losses, and itself in two processes."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from monai.losses import DeepSupervisionLoss, DiceCELoss, FocalLoss
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.labels.scheme import IGNORE_CLASS, LabelScheme
from dynunet_bundle.training import losses as losses_module
from dynunet_bundle.training.losses import SegmentationLoss, label_at

CLASSES = LabelScheme(["background", "rim", "core"], [0, 1, 4])
REGIONS = LabelScheme(CLASSES.names, CLASSES.values, None, {"all": [1, 4], "core": [4]}, [1, 4])
SHAPES = [(8, 6, 12), (4, 3, 6)]
WEIGHTS = [0.7, 0.3]
VARIANTS = {
    "default": {},
    "batch dice": {"batch_dice": True},
    "background": {"include_background": True},
    "weights": {"dice_weight": 0.25, "pixel_weight": 2.0, "smooth": 1.0},
    "focal": {"pixel_loss": "focal", "focal_gamma": 1.5},
    "top-k": {"pixel_loss": "topk", "topk_percent": 7.0},
    "top-k, batch dice": {"pixel_loss": "topk", "batch_dice": True},
    "regions": {"labels": REGIONS},
    "regions, batch dice": {"labels": REGIONS, "batch_dice": True},
    "regions, focal": {"labels": REGIONS, "pixel_loss": "focal"},
    "regions, top-k": {"labels": REGIONS, "pixel_loss": "topk", "topk_percent": 30.0},
}


def make_loss(**settings) -> SegmentationLoss:
    return SegmentationLoss(**{"labels": CLASSES, "level_weights": WEIGHTS, **settings})


def made(channels: int, batch: int = 2, ignored: float = 0.2, seed: int = 0):
    """Logits of two levels, and a label with ignored voxels, a different share in each sample."""
    generator = torch.Generator().manual_seed(seed)
    outputs = [3 * torch.randn(batch, channels, *shape, generator=generator) for shape in SHAPES]
    label = torch.randint(0, 3, (batch, 1, *SHAPES[0]), generator=generator, dtype=torch.uint8)
    share = ignored * torch.arange(1, batch + 1).view(-1, 1, 1, 1, 1)
    hidden = torch.rand(label.shape, generator=generator) < share
    return outputs, label.masked_fill(hidden, IGNORE_CLASS)


def num_channels(settings) -> int:
    return settings.get("labels", CLASSES).num_outputs


def reference(outputs, label, weights=WEIGHTS, **settings) -> float:
    """The loss, computed voxel by voxel."""
    total = 0.0
    for weight, logits in zip(weights, outputs, strict=True):
        size = logits.shape[2:]
        coarse = F.interpolate(label.float(), size=size, mode="nearest-exact")[:, 0].int()
        total += weight * level(logits.detach().double().numpy(), coarse.numpy(), **settings)
    return total


def level(  # noqa: C901, PLR0912 - plain on purpose
    z: np.ndarray,
    label: np.ndarray,
    labels=CLASSES,
    batch_dice=False,
    include_background=False,
    pixel_loss="cross_entropy",
    focal_gamma=2.0,
    topk_percent=10.0,
    dice_weight=1.0,
    pixel_weight=1.0,
    smooth=1e-5,
) -> float:
    batch, channels = z.shape[:2]
    regions = labels.regions
    groups = [[(0, 1, 4).index(value) for value in values] for values in (regions or {}).values()]
    overlap, total = np.zeros((batch, channels)), np.zeros((batch, channels))
    by_sample: list[list[float]] = []
    for b in range(batch):
        losses = []
        for where in np.argwhere(label[b] != IGNORE_CLASS):
            place = tuple(where)
            true, values = label[b][place], z[(b, slice(None), *place)]
            if regions:
                p = 1 / (1 + np.exp(-values))
                t = np.array([true in group for group in groups], float)
                of_truth = np.where(t == 1, p, 1 - p)
            else:
                p = np.exp(values) / np.exp(values).sum()
                t = np.eye(channels)[true]
                of_truth = p[[true]]
            gain = (1 - of_truth) ** focal_gamma if pixel_loss == "focal" else 1
            losses += list(-np.log(of_truth) * gain)
            overlap[b] += p * t
            total[b] += p + t
        if pixel_loss == "topk" and losses:
            losses = sorted(losses)[-max(int(len(losses) * topk_percent / 100), 1) :]
        by_sample.append(losses)
    if batch_dice:
        overlap, total = overlap.sum(0, keepdims=True), total.sum(0, keepdims=True)
    dice = (2 * overlap + smooth) / (total + smooth)
    dice = dice if include_background or regions else dice[:, 1:]
    flat = [loss for losses in by_sample for loss in losses]
    by_voxel = np.mean(flat) if flat else 0.0
    if pixel_loss == "focal" and not regions:
        by_voxel /= channels
    return dice_weight * (1 - dice.mean()) + pixel_weight * by_voxel


@pytest.mark.parametrize("ignored", [0.0, 0.2, 0.5])  # with 0.5 the whole last patch is ignored
@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_is_that_of_the_reference(name, ignored):
    settings = VARIANTS[name]
    outputs, label = made(num_channels(settings), ignored=ignored)
    ours = make_loss(**settings)([logits.double() for logits in outputs], label)
    assert ours.item() == pytest.approx(reference(outputs, label, **settings), rel=1e-6)
    assert make_loss(**settings)(outputs, label).item() == pytest.approx(ours.item(), rel=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_in_evaluation_mode_slabs_give_the_loss_of_the_whole_case(name, monkeypatch):
    settings = VARIANTS[name]
    (logits, _), label = made(num_channels(settings), ignored=0.5)
    whole = make_loss(**settings)(logits, label)
    monkeypatch.setattr(losses_module, "SLAB_VALUES", 3 * logits[:, :, 0].numel())
    assert make_loss(**settings).eval()(logits, label).item() == pytest.approx(
        whole.item(), rel=1e-6
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_the_gradient_is_that_of_the_loss(name):
    settings = VARIANTS[name]
    outputs, label = made(num_channels(settings))
    outputs = [logits[..., :2, :2, :2].double().requires_grad_() for logits in outputs]
    loss, label = make_loss(**settings), label[..., :4, :4, :4]
    assert torch.autograd.gradcheck(lambda *levels: loss(list(levels), label), outputs)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_by_default_it_is_monais_dice_ce_in_deep_supervision(batch_dice, dims):
    outputs, label = made(3, ignored=0.0)
    if dims == 2:
        outputs, label = [logits[..., 0] for logits in outputs], label[..., 0]
    label[0] = 0  # no foreground in one patch
    theirs = DeepSupervisionLoss(
        DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=batch_dice),
        weights=WEIGHTS,
    )
    results = []
    for loss in (make_loss(batch_dice=batch_dice), theirs):
        levels = [logits.clone().requires_grad_() for logits in outputs]
        value = loss(levels, label)
        results.append([value, *torch.autograd.grad(value, levels)])
    for ours, other in zip(*results, strict=True):
        assert torch.allclose(ours, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("labels", [CLASSES, REGIONS])
def test_focal_is_monais(labels):
    (logits, _), label = made(labels.num_outputs, ignored=0.0)
    loss = SegmentationLoss(labels, pixel_loss="focal", dice_weight=0)
    if labels.sigmoid:
        members = torch.tensor([[0, 1, 1], [0, 0, 1]])
        target = members[:, label[:, 0].long()].movedim(0, 1)
        theirs = FocalLoss(gamma=2.0)(logits, target)
    else:
        theirs = FocalLoss(gamma=2.0, to_onehot_y=True, use_softmax=True)(logits, label)
    assert loss(logits, label).item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_ignored_voxel_has_no_gradient_and_no_say(name):
    settings = VARIANTS[name]
    outputs, label = made(num_channels(settings))
    (logits, _), loss = outputs, SegmentationLoss(**{"labels": CLASSES, **settings})
    hidden = (label == IGNORE_CLASS).expand_as(logits)
    logits.requires_grad_()
    value = loss(logits, label)
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient[hidden] == 0).all() and (gradient[~hidden] != 0).any()
    other = logits.detach().clone()
    other[hidden] = 50 * torch.randn(int(hidden.sum()))
    assert loss(other, label).item() == value.item()


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_to_count_is_no_loss(name):
    settings = VARIANTS[name]
    outputs, label = made(num_channels(settings), batch=1)
    for logits in outputs:
        logits.requires_grad_()
    value = make_loss(**settings)(outputs, torch.full_like(label, IGNORE_CLASS))
    value.backward()
    assert value.item() == 0
    assert all((logits.grad == 0).all() for logits in outputs)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", VARIANTS)
def test_certain_predictions_and_absent_classes_give_numbers(name, gamma):
    settings = {"smooth": 0.0, **VARIANTS[name], "focal_gamma": gamma}
    outputs, label = made(num_channels(settings), batch=1)
    certain = [(1e4 * logits).requires_grad_() for logits in outputs]
    value = make_loss(**settings)(certain, torch.zeros_like(label))
    value.backward()
    assert value.isfinite() and all(logits.grad.isfinite().all() for logits in certain)


@pytest.mark.parametrize("name", ["default", "regions"])
def test_autocast_does_not_make_it_coarse(name):
    settings = VARIANTS[name]
    outputs, label = made(num_channels(settings))
    halves = [(1000 * logits).half() for logits in outputs]
    expected = make_loss(**settings)([logits.float() for logits in halves], label)
    with torch.autocast("cpu", torch.bfloat16):
        value = make_loss(**settings)(halves, label)
    assert value.dtype == torch.float32 and value.item() == expected.item()


def test_a_single_tensor_is_the_finest_level_alone():
    (logits, _), label = made(3)
    alone = SegmentationLoss(CLASSES)(logits, label)
    assert make_loss()(logits, label).item() == alone.item()
    assert SegmentationLoss(CLASSES)([logits], label).item() == alone.item()


def test_a_head_without_weight_gets_a_gradient_of_zeros():
    outputs, label = made(3)
    for logits in outputs:
        logits.requires_grad_()
    SegmentationLoss(CLASSES, level_weights=[1.0, 0.0])(outputs, label).backward()
    assert (outputs[1].grad == 0).all() and (outputs[0].grad != 0).any()


@pytest.mark.parametrize("fine", range(1, 41))
def test_coarse_labels_are_nearest_exact(fine):
    label = torch.randint(0, 256, (2, 1, fine, 4), dtype=torch.uint8)
    for coarse in range(1, fine + 1):
        for size in ((coarse, 2), (coarse, 4)):
            theirs = F.interpolate(label.float(), size=size, mode="nearest-exact")
            ours = label_at(label, size)
            assert ours.dtype == torch.uint8 and torch.equal(ours, theirs.to(torch.uint8))


def test_a_coarse_label_is_a_view_where_the_sizes_divide():
    label = torch.zeros(1, 1, 40, 56, 40, dtype=torch.uint8)
    for ratio in (1, 2, 4, 8):
        coarse = label_at(label, [size // ratio for size in (40, 56, 40)])
        assert coarse.untyped_storage().data_ptr() == label.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pixel_loss": "dice"}, 'pixel_loss is "dice"'),
        ({"topk_percent": 0}, "topk_percent is 0"),
        ({"topk_percent": 101}, "topk_percent is 101"),
        ({"focal_gamma": -1}, "focal_gamma is -1"),
        ({"dice_weight": -1}, "dice_weight is -1"),
        ({"labels": LabelScheme(["background"])}, "only the background"),
    ],
)
def test_settings_that_cannot_work(settings, words):
    with pytest.raises(ConfigError, match=words):
        SegmentationLoss(**{"labels": CLASSES, **settings})


def test_one_weight_an_output():
    outputs, label = made(3)
    with pytest.raises(ConfigError, match=r"2 outputs, but loss#level_weights is \[1.0\]"):
        SegmentationLoss(CLASSES)(outputs, label)


def network(channels: int) -> nn.Module:
    """One weight per channel and level, so that its gradient is a sum over all voxels."""
    heads = nn.ModuleList(nn.Conv3d(1, channels, 1) for _ in SHAPES)
    torch.manual_seed(1)
    for parameter in heads.parameters():
        nn.init.normal_(parameter)
    return Heads(heads)


class Heads(nn.Module):
    def __init__(self, heads: nn.ModuleList) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, *levels: torch.Tensor) -> list[torch.Tensor]:
        return [head(image) for head, image in zip(self.heads, levels, strict=True)]


def step(model: nn.Module, settings, images, label) -> list[torch.Tensor]:
    """Loss and gradients of one step."""
    model.zero_grad()
    value = make_loss(**settings)(model(*images), label)
    value.backward()
    return [value.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


def work(rank: int, folder: str) -> None:
    """One of two processes, with half of the batch each."""
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    results = {}
    for name, settings in VARIANTS.items():
        images, label = made(1, batch=4)
        mine = slice(2 * rank, 2 * rank + 2)
        model = DistributedDataParallel(network(num_channels(settings)))
        results[name] = step(model, settings, [image[mine] for image in images], label[mine])
        with torch.no_grad():
            value = make_loss(**settings)(model(*[image[mine] for image in images]), label[mine])
        assert torch.allclose(value, results[name][0])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    # destroy_process_group holds the GIL and waits for gloo threads, which may need the GIL to free a tensor
    os._exit(0)


def test_two_processes_are_one_with_the_joint_batch(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, settings in VARIANTS.items():
        images, label = made(1, batch=4)
        value, *gradients = step(network(num_channels(settings)), settings, images, label)
        assert torch.allclose((first[name][0] + second[name][0]) / 2, value, rtol=1e-6), name
        for ours, theirs, joint in zip(first[name][1:], second[name][1:], gradients, strict=True):
            assert torch.equal(ours, theirs)
            assert torch.allclose(ours, joint, rtol=1e-5, atol=1e-6), name
