"""Several trainings of one plan, whose logits are averaged."""

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.predictions import prediction, run_of, save_cases, threshold_weights
from monai.networks.nets import DynUNet

from dynunet_bundle.errors import ConfigError, WeightsError
from dynunet_bundle.networks.cpu.forward import LeanDynUNet, fit_to_cpu
from dynunet_bundle.networks.fold_ensemble import FoldEnsemble, load_states

SETTINGS = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "kernel_size": [3, 3, 3],
    "strides": [1, 2, 2],
    "upsample_kernel_size": [2, 2],
    "filters": [4, 8, 8],
    "norm_name": ["INSTANCE", {"affine": True}],
    "act_name": ["leakyrelu", {"inplace": True, "negative_slope": 0.01}],
    "trans_bias": True,
}


def network(seed: int) -> DynUNet:
    torch.manual_seed(seed)
    return DynUNet(**SETTINGS).eval()


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_the_logits_are_the_mean_of_the_members():
    members = [network(seed) for seed in range(3)]
    ensemble = FoldEnsemble(network(9))
    load_states(ensemble, [member.state_dict() for member in members])
    x = image(2, 1, 8, 8, 8)
    with torch.no_grad():
        expected = torch.stack([member(x) for member in members]).mean(0)
        torch.testing.assert_close(ensemble(x), expected, rtol=1e-5, atol=1e-6)


def test_one_member_alone_decides_as_it_does_by_itself():
    ensemble = FoldEnsemble(network(3))
    ensemble.load_members([network(0).state_dict()])
    x = image(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(ensemble(x).argmax(1), network(0)(x).argmax(1))


def test_the_members_of_an_ensemble_predict_as_a_cpu_likes_it():
    plain, ours = (FoldEnsemble(network(9)) for _ in range(2))
    fit_to_cpu(ours)
    assert isinstance(ours.network, LeanDynUNet)
    x = image(1, 1, 16, 16, 16)
    for ensemble in (plain, ours):
        load_states(ensemble, [network(seed).state_dict() for seed in (0, 1)])
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x), rtol=1e-4, atol=1e-4)


def test_an_ensemble_without_weights_says_so():
    with pytest.raises(ConfigError, match="weights_file"):
        FoldEnsemble(network(0))(image(1, 1, 8, 8, 8))
    with pytest.raises(ConfigError, match="2 files"):
        load_states(network(0), [{}, {}])


def test_inference_takes_a_list_of_weights(tmp_path):
    arrays = save_cases(tmp_path / "in", "a")
    files = [
        str(threshold_weights(tmp_path / f"{index}.pt", low))
        for index, low in enumerate((40.0, 50.0, 70.0))
    ]
    plain = {"spacing": [1.6, 1.2, 1.0]}
    prediction(tmp_path / "in", tmp_path / "out", files, **plain).run()
    mask = np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    box = (arrays["a"] == 60) | (arrays["a"] == 120)
    # two of three find the whole box, so the mean has it; the third alone misses its part of 60
    assert np.array_equal(mask > 0, box)
    assert len(run_of(tmp_path / "out")["weights"]) == 3
    with pytest.raises(WeightsError, match="there are no weights"):
        prediction(tmp_path / "in", tmp_path / "out", [*files, "gone.pt"], **plain).run()
