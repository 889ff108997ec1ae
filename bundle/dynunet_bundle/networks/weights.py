"""Model weights and their description: saved together, checked together.

Stored on disk: ``model.pt`` holds tensors only. ``model.json`` beside it has the plan they were trained for, so that
weights of another plan are refused with a one-line message instead of a page of keys.
"""

import logging
import os
import pickle  # noqa: S403 - for the name of its exception only
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynunet_bundle.errors import WeightsError, first_line
from dynunet_bundle.files import atomic_write, sha256_of, versions, write_json
from dynunet_bundle.networks.exported import network_of
from dynunet_bundle.networks.fold_ensemble import FoldEnsemble, load_states
from dynunet_bundle.networks.model_json import (
    learnt_mirroring,
    missing_weights,
    model_facts,
    model_plan,
)
from dynunet_bundle.networks.residual import HEADS_PREFIX
from dynunet_bundle.networks.tensor_file import load_tensors
from dynunet_bundle.planning.plan import plan_differences
from dynunet_bundle.shapes import excerpt

HINT = (
    "Pass the overlays of its training to --config_file; "
    "dynunet-bundle predict needs none, it reads the plan beside the weights."
)

WEIGHTS_ERROR, GIVEN_WEIGHTS = "weights_error", "weights_are_given"
"""Attributes of a network: why its weights could not be loaded, and whether a client set others."""

logger = logging.getLogger(__name__)


def save_weights(
    path: Path,
    state: Mapping[str, torch.Tensor],
    plan: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write weights and the JSON beside them.

    Args:
        path: the ``.pt`` file.
        state: weights by name.
        plan: the plan ids.
        facts: further entries of the JSON, e.g. epoch and score.
    """
    sidecar = path.with_suffix(".json")
    with atomic_write(path) as file:
        torch.save(dict(state), file)
        # not earlier: if the disk is full, the old weights keep their JSON
        sidecar.unlink(missing_ok=True)
    made_with = {"versions": versions("monai", "torch")}
    write_json(sidecar, {"plan": dict(plan), "sha256": sha256_of(path), **facts, **made_with})


def load_weights(
    network: nn.Module, path: str | Path | Sequence[str], plan: Mapping[str, Any]
) -> None:
    """Load weights into a network, strictly.

    Args:
        network: a plain network of the plan, or a ``FoldEnsemble`` for several files.
        path: the ``.pt`` file, or a list of them.
        plan: the plan ids of the config.

    Raises:
        WeightsError: if a file is missing or damaged, does not match its JSON, or belongs to another plan.
    """
    files = weight_files(path)
    expected = network.network if isinstance(network, FoldEnsemble) else network
    load_states(network, [_checked_state(file, expected, plan) for file in files])


def weight_files(path: str | Path | Sequence[str]) -> list[Path]:
    """The files of weights: one, or those of an ensemble."""
    return [Path(path)] if isinstance(path, (str, Path)) else [Path(file) for file in path]


def _checked_state(
    path: Path, network: nn.Module, plan: Mapping[str, Any]
) -> Mapping[str, torch.Tensor]:
    if not path.is_file():
        raise missing_weights(path)
    state, facts = read_weights(path, checkpoint=True)
    require_own_plan(path, facts, plan)
    mismatch = _first_mismatch(network.state_dict(), state)
    if mismatch:
        raise WeightsError(f"{path} does not fit the network of this plan: {mismatch}. {HINT}")
    return state


def read_weights(
    path: Path, checkpoint: bool = False
) -> tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]:
    """Read weights and the content of the JSON beside them, which is empty if the JSON is missing.

    Args:
        path: the ``.pt`` file.
        checkpoint: accept the last state of a training too. Its weights are those of the last epoch, and its plan is
            the one that it holds.

    Raises:
        WeightsError: if the file is damaged, holds anything but tensors by name, or does not match its JSON; or if the
            JSON names the network by an import path, as earlier versions did.
    """
    sidecar, facts = path.with_suffix(".json"), model_facts(path)
    if "sha256" in facts and facts["sha256"] != sha256_of(path):
        raise WeightsError(
            f"{path} is not the file that {sidecar.name} describes (SHA-256 differs). "
            "Restore both, or delete the .json if you replaced the weights yourself."
        )
    model_plan(path)
    try:
        state = load_tensors(path)
    except pickle.UnpicklingError as error:
        # torch's own message says how to load such a file anyway; that would run its code
        raise WeightsError(
            f"{path} is not a file of weights: it holds other objects, which may run code. "
            "Get the file from a source you trust, as plain weights."
        ) from error
    except Exception as error:
        raise WeightsError(
            f"{path} is not a file of weights, or is damaged ({first_line(error)}). Get the file again."
        ) from error
    if not isinstance(state, Mapping):
        raise WeightsError(
            f"{path} holds a {type(state).__name__}, not weights by name. Export the model's state_dict again."
        )
    if isinstance(state.get("model"), Mapping) and isinstance(state.get("plan"), Mapping):
        if not checkpoint:
            raise WeightsError(
                f"{path} is the state of a training, with the names of its cases. Pass a model.pt."
            )
        facts = {**facts, "plan": state["plan"]}
        state = _weights_in(state)
    for name, value in state.items():
        fault = find_tensor_fault(name, value)
        if fault:
            raise WeightsError(f"{path}: {fault}. Export the model's state_dict again.")
    return state, facts


def _weights_in(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The weights of the network that a training evaluates, as ``model.pt`` has them."""
    averaged = checkpoint.get("averaged")
    # AveragedModel of torch has the network as its module, and a counter beside it
    prefix = "" if averaged is None else "module."
    named = checkpoint["model"] if averaged is None else averaged
    plain = {
        str(name).removeprefix(prefix): value
        for name, value in named.items()
        if str(name).startswith(prefix)
    }
    return {name: value for name, value in plain.items() if not name.startswith(HEADS_PREFIX)}


def find_tensor_fault(name: Any, value: Any) -> str | None:
    """Why an entry of a file is not a usable weight, or None.

    Args:
        name: key of the entry.
        value: the entry; only a plain tensor of finite numbers by a name is usable.
    """
    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        return f"{excerpt(str(name))!r} is of type {type(value).__name__}, not a tensor by name"
    if value.is_meta:
        return f"{name} is on the meta device: it has a shape but no values"
    if value.is_quantized or value.layout != torch.strided:
        return (
            f"{name} is a {'quantised' if value.is_quantized else 'sparse'} tensor, not a plain one"
        )
    if value.is_complex():
        return f"{name} has complex numbers"
    if value.is_floating_point() and not value.isfinite().all():
        return f"{name} has values that are NaN or infinite"
    return None


def _first_mismatch(
    ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]
) -> str | None:
    for key, value in ours.items():
        if key not in theirs:
            return f"it lacks {key}"
        if theirs[key].shape != value.shape:
            return f"{key} is {tuple(theirs[key].shape)}, the plan needs {tuple(value.shape)}"
    surplus = next((key for key in theirs if key not in ours), None)
    return None if surplus is None else f"it has {surplus}, which the plan lacks"


def require_own_plan(path: Path, facts: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Refuse weights of another plan.

    Args:
        path: the ``.pt`` file.
        facts: the content of its JSON; without a plan nothing is known.
        plan: the plan ids of the config.

    Raises:
        WeightsError: naming the ids that differ.
    """
    differences = plan_differences(facts["plan"], plan) if "plan" in facts else []
    if differences:
        raise WeightsError(
            f"{path} was trained with another plan than this config: {'; '.join(differences)}. {HINT}"
        )


def require_learnt_mirroring(path: Path, axes: Sequence[int]) -> None:
    """Refuse mirroring over axes that the training did not mirror.

    Args:
        path: the ``.pt`` file.
        axes: axes that the prediction mirrors over.

    Raises:
        WeightsError: naming the axes of the training.
    """
    learnt = learnt_mirroring(path) if axes else None
    if learnt is not None and not set(axes) <= set(learnt):
        raise WeightsError(
            f"{path} was trained with mirroring over the axes {learnt} only, but mirror_axes is {list(axes)}. "
            "Predict without mirroring, or pass --mirror_axes with axes of the training."
        )


def inference_network(
    network_def: nn.Module,
    device: torch.device | str,
    weights_file: str | Sequence[str] = "",
    plan: Mapping[str, Any] | None = None,
    backend: str = "torch",
    backend_file: str | None = None,
) -> nn.Module:
    """The network with weights: ``network`` of inference.json, evaluate.json; ``network#model`` of inference_trt.json.

    So every client that takes the network gets checked weights, and one that sets others afterwards, as MONAI's
    federated client does, keeps them. If the weights cannot be loaded, the network can be looked at, but raises the
    error instead of computing, until weights are set.

    Args:
        network_def: a plain network of the plan.
        device: device of the network.
        weights_file: path of the weights; a list gives an ensemble.
        plan: the plan ids, which weights and exported model must match.
        backend: ``"torch"``, or the runtime of an exported model, see ``exported.network_of``.
        backend_file: the exported model.

    Raises:
        BundleError: as ``exported.network_of``.
    """
    device = torch.device(device)
    if backend != "torch":
        exported = network_of(network_def, plan or {}, backend, backend_file, weights_file)
        logger.info("weights: %s", Path(str(backend_file)).name)
        return exported
    network = network_def.to(device).eval()
    if not isinstance(weights_file, str):
        network = FoldEnsemble(network)
    try:
        load_weights(network, weights_file, plan or {})
    except WeightsError as error:
        setattr(network, WEIGHTS_ERROR, error)
        network.register_forward_pre_hook(_require_weights)
    else:
        logger.info("weights: %s", ", ".join(told_apart(weight_files(weights_file))))
    network.register_load_state_dict_post_hook(_note_given)
    return network


def require_weights(network: Any) -> None:
    """Raise the error of ``inference_network`` if the network has no weights.

    Raises:
        WeightsError: why the weights were not loaded.
    """
    error = getattr(network, WEIGHTS_ERROR, None)
    if error is not None:
        raise error


def weights_are_given(network: Any) -> bool:
    """Whether a client set other weights in a network of ``inference_network``, as MONAI's federated client does."""
    return bool(getattr(network, GIVEN_WEIGHTS, False))


# hooks are functions of the module, so that the network can be copied and pickled
def _require_weights(network: nn.Module, _: Any) -> None:
    require_weights(network)


def _note_given(network: nn.Module, _: Any) -> None:
    setattr(network, WEIGHTS_ERROR, None)
    setattr(network, GIVEN_WEIGHTS, True)


def told_apart(files: Sequence[Path]) -> list[str]:
    """Short names of files for a log: their names, or their paths below the folder that they share if names repeat.

    Args:
        files: paths of weights.
    """
    names = [file.name for file in files]
    if len(set(names)) == len(names):
        return names
    shared = Path(os.path.commonpath([file.absolute().parent for file in files]))
    return [str(file.absolute().relative_to(shared)) for file in files]
