"""The model that another training goes on from. Nothing here imports torch at once."""

from pathlib import Path

from dynunet_bundle.errors import WeightsError
from dynunet_bundle.networks.model_json import learnt_mirroring, model_files, model_plan
from dynunet_bundle.planning.like import SourceModel


def starting_weights(model: Path) -> tuple[Path, int]:
    """The file that a training starts from, of several the first, and how many there are.

    Args:
        model: a ``.pt`` file, or a folder as in ``model_files``.

    Raises:
        WeightsError: as ``model_files``.
    """
    if not model.is_dir():
        return model, 1
    files = model_files(model)
    return files[0], len(files)


def source_model(model: Path) -> SourceModel:
    """A model whose plan a new data set takes.

    Args:
        model: as in ``starting_weights``.

    Raises:
        WeightsError: as ``model_plan``, or if there are no weights.
    """
    weights, _ = starting_weights(model)
    if not weights.is_file():
        raise WeightsError(
            f"{model} is missing. Pass a model.pt, a package, or the folder of a training."
        )
    return SourceModel(str(model), model_plan(weights), learnt_mirroring(weights))
