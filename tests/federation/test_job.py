"""The job folder of a federation, and the model that it ends with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import run_script
from helpers.package_cases import request_for

from dynunet_bundle.delivery.package.make import make_package
from dynunet_bundle.errors import ConfigError, WeightsError
from dynunet_bundle.federation.job import save_global_model, starting_state
from dynunet_bundle.federation.site import SITES_VARIABLE, read_site
from dynunet_bundle.networks.residual import HEADS_PREFIX
from dynunet_bundle.networks.weights import read_weights


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(request_for(tmp_path_factory.mktemp("package"))).folder


def test_the_job_begins_with_the_weights_of_the_package(package: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    words = ["--output_dir", job, "--num_sites", 3, "--num_rounds", 7, "--local_epochs", 2]
    done = run_script("federate", package, *words)
    assert done.returncode == 0, done.stderr
    start = torch.load(job / "app" / "custom" / "start.pt", weights_only=True)
    state, _ = read_weights(package / "models" / "model.pt")
    assert all(torch.equal(start[name], value) for name, value in state.items())
    # the heads of the deep supervision are trained together, too
    heads = {name for name in start if name not in state}
    assert all(name.startswith(HEADS_PREFIX) for name in heads)
    assert json.loads((job / "meta.json").read_text())["min_clients"] == 3
    config = job / "app" / "config"
    server = json.loads((config / "config_fed_server.json").read_text())
    assert server["workflows"][0]["args"] == {"num_clients": 3, "num_rounds": 7}
    assert (config / "config_fed_client.json").is_file()
    script = (job / "app" / "custom" / "client.py").read_text()
    assert "take_part(num_rounds=7, local_epochs=2)" in script
    # nothing of the machine that wrote it
    for file in job.rglob("*.[jp][sy]*"):
        assert str(tmp_path) not in file.read_text() and str(package) not in file.read_text()
    again = run_script("federate", package, *words)
    assert again.returncode == 2 and "is not empty" in again.stderr


def test_random_weights_are_those_of_a_seed(package: Path) -> None:
    ours, again = (starting_state(package, from_scratch=True) for _ in range(2))
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_a_federation_can_begin_without_a_model(package: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(package / "configs", bare / "configs")
    assert starting_state(bare, from_scratch=True)
    with pytest.raises(WeightsError, match=r"model\.pt"):
        starting_state(bare, from_scratch=False)
    with pytest.raises(ConfigError, match="is not the folder of a package"):
        starting_state(tmp_path, from_scratch=True)


def test_the_last_weights_of_the_server_become_a_model(package: Path, tmp_path: Path) -> None:
    weights = starting_state(package, from_scratch=True)
    torch.save({"model": weights, "train_conf": {}}, tmp_path / "FL_global_model.pt")
    model = save_global_model(tmp_path / "FL_global_model.pt", package, tmp_path / "out")
    state, facts = read_weights(model)
    expected, _ = read_weights(package / "models" / "model.pt")
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, weights[name]) for name, value in state.items())
    assert facts["plan"]["label_names"] == ["background", "head", "tail"]


def test_weights_of_another_network_are_refused(package: Path, tmp_path: Path) -> None:
    file = tmp_path / "FL_global_model.pt"
    with pytest.raises(WeightsError, match="is missing"):
        save_global_model(file, package, tmp_path / "out")
    for content in ({"model": {"a": torch.zeros(1)}}, [1, 2], {"model": 3}):
        torch.save(content, file)
        with pytest.raises(
            WeightsError, match=r"does not fit the network|is not a model of NVFlare"
        ):
            save_global_model(file, package, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_site_without_its_file_learns_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SITES_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=f"{SITES_VARIABLE} is not set"):
        read_site("site-1")
    monkeypatch.setenv(SITES_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigError, match=r"site-1\.json"):
        read_site("site-1")
    (tmp_path / "site-1.json").write_text(json.dumps({"package": "p", "dataset_dir": 3}))
    with pytest.raises(ConfigError, match="site-1"):
        read_site("site-1")
