"""The job folder with which NVFlare starts a federation, and the model that it ends with.

Stored on disk, in the job folder: ``meta.json``, ``app/config/config_fed_server.json`` and ``config_fed_client.json``
as ``FedAvgRecipe.export`` of NVFlare 2.9.0 writes them, ``app/custom/client.py`` and ``app/custom/start.pt``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import ConfigError, WeightsError
from dynunet_bundle.federation.site import SCORE
from dynunet_bundle.files import atomic_write, ensure_writable, write_json
from dynunet_bundle.networks.dynunet import unwrapped
from dynunet_bundle.networks.model_json import MODEL
from dynunet_bundle.networks.residual import HEADS_PREFIX
from dynunet_bundle.networks.tensor_file import load_tensors
from dynunet_bundle.networks.weights import find_tensor_fault, read_weights, save_weights

CLIENT_SCRIPT = '''"""A site's client, written by dynunet-bundle federate; its code is in the site's own package."""

from dynunet_bundle.federation.site import take_part

take_part(num_rounds={num_rounds}, local_epochs={local_epochs})
'''


class JobRequest(NamedTuple):
    """A federation.

    Attributes:
        package: folder of the package that every site has.
        folder: job folder to write.
        num_sites: sites that take part; a round waits for all of them.
        num_rounds: rounds.
        local_epochs: epochs that each site trains in a round.
        from_scratch: begin with random weights instead of those of the package.
    """

    package: Path
    folder: Path
    num_sites: int
    num_rounds: int
    local_epochs: int
    from_scratch: bool = False


def write_federated_job(request: JobRequest) -> Path:
    """Write the job folder.

    Returns:
        The folder.

    Raises:
        BundleError: if the package cannot be read, or the folder exists or cannot be written.
    """
    folder = request.folder
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty. Choose another --output_dir.")
    weights = starting_state(request.package, request.from_scratch)
    custom, config = folder / "app" / "custom", folder / "app" / "config"
    for path in (custom, config):
        ensure_writable(path)
    with atomic_write(custom / "start.pt") as file:
        torch.save(weights, file)
    script = CLIENT_SCRIPT.format(num_rounds=request.num_rounds, local_epochs=request.local_epochs)
    with atomic_write(custom / "client.py") as file:
        file.write(script.encode())
    write_json(config / "config_fed_server.json", _server(request))
    write_json(config / "config_fed_client.json", _client())
    write_json(
        folder / "meta.json",
        {
            "name": folder.name,
            "resource_spec": {},
            "min_clients": request.num_sites,
            "deploy_map": {"app": ["@ALL"]},
        },
    )
    return folder


def starting_state(package: Path, from_scratch: bool) -> dict[str, torch.Tensor]:
    """Weights of the training network of a package, heads of the deep supervision included.

    Args:
        package: its folder.
        from_scratch: whether the weights of the package are not used.

    Raises:
        BundleError: if a config or the weights cannot be read, or do not fit each other.
    """
    if not (package / "configs" / "train.json").is_file():
        raise ConfigError(
            f"{package} is not the folder of a package with configs/train.json. Make one with dynunet-bundle package."
        )
    workflow = load_workflow(package, "train.json", settings={"bundle_root": str(package)})
    network = unwrapped(workflow.parser.get_parsed_content("network_def"))
    if not from_scratch:
        state, _ = read_weights(package / "models" / MODEL)
        lacking, surplus = network.load_state_dict(state, strict=False)
        lacking = [name for name in lacking if not name.startswith(HEADS_PREFIX)]
        if lacking or surplus:
            raise WeightsError(
                f"{package / 'models' / MODEL} does not fit the network of train.json ({[*lacking, *surplus][0]}). "
                "Use a package as dynunet-bundle package wrote it, or pass --from_scratch."
            )
    return {
        name: value.detach().cpu().contiguous().clone()
        for name, value in network.state_dict().items()
    }


def save_global_model(global_model: Path, package: Path, folder: Path) -> Path:
    """Write the weights that a federation ended with as the model of a package: ``model.pt`` and ``model.json``.

    Args:
        global_model: ``FL_global_model.pt`` of the server.
        package: folder of the package.
        folder: to write to.

    Returns:
        Path of ``model.pt``.

    Raises:
        BundleError: if a file cannot be read, or does not fit the package.
    """
    if not global_model.is_file():
        raise WeightsError(f"{global_model} is missing. Pass FL_global_model.pt of the server.")
    content = load_tensors(global_model)
    state = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise WeightsError(
            f"{global_model} is not a model of NVFlare. Pass FL_global_model.pt of the server."
        )
    expected = {
        name: value
        for name, value in starting_state(package, from_scratch=True).items()
        if not name.startswith(HEADS_PREFIX)
    }
    for name, value in expected.items():
        fault = find_tensor_fault(name, state.get(name))
        if fault or state[name].shape != value.shape:
            raise WeightsError(
                f"{global_model} does not fit the network of {package}: {fault or name}. "
                "Pass the package of this federation."
            )
    workflow = load_workflow(package, "train.json", settings={"bundle_root": str(package)})
    plan: Mapping[str, Any] = workflow.parser.get_parsed_content("plan")
    model = ensure_writable(folder) / MODEL
    save_weights(model, {name: state[name].contiguous() for name in expected}, plan, {})
    return model


def _server(request: JobRequest) -> dict[str, Any]:
    selector = "nvflare.app_common.widgets.intime_model_selector.IntimeModelSelector"
    persistor = "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"
    return {
        "format_version": 2,
        "workflows": [
            {
                "id": "controller",
                "path": "nvflare.app_common.workflows.fedavg.FedAvg",
                "args": {"num_clients": request.num_sites, "num_rounds": request.num_rounds},
            }
        ],
        "components": [
            {"id": "model_selector", "path": selector, "args": {"key_metric": SCORE}},
            {
                "id": "persistor",
                "path": persistor,
                "args": {"source_ckpt_file_full_name": "start.pt", "load_device": "cpu"},
            },
        ],
        "task_data_filters": [],
        "task_result_filters": [],
    }


def _client() -> dict[str, Any]:
    executor = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"
    return {
        "format_version": 2,
        "executors": [
            {
                "tasks": ["*"],
                "executor": {
                    "path": executor,
                    "args": {
                        "execution_mode": "in_process",
                        "task_script_path": "client.py",
                        "params_exchange_format": "pytorch",
                    },
                },
            }
        ],
        "components": [],
        "task_data_filters": [],
        "task_result_filters": [],
    }
