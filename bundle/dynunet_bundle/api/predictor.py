"""Predict images that a Python program has in memory, with the components of inference.json.

The command ``predict`` builds the same components from the same settings, so its masks are equal.
"""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged

from dynunet_bundle.api.given_image import GivenImage, given_image
from dynunet_bundle.api.model_choice import ModelChoice
from dynunet_bundle.configs.preflight import require_device
from dynunet_bundle.configs.workflow import load_parser
from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.dataset.cases import IMAGE, NAME, PREDICTION
from dynunet_bundle.dataset.previous_stage import PREVIOUS
from dynunet_bundle.errors import (
    BundleError,
    ConfigError,
    PredictionError,
    failed_cases,
    first_line,
)
from dynunet_bundle.images.read import Volume
from dynunet_bundle.inference.evaluator import case_failure
from dynunet_bundle.inference.restore import RestoreClassesd
from dynunet_bundle.inference.save_mask import mask_array
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.networks.model_json import model_settings, previous_weights
from dynunet_bundle.networks.weights import require_weights

PROBABILITIES = "probabilities"
"""Key of the probabilities; that of the config is deleted at the end of its postprocessing."""

Given = str | Path | Sequence[str | Path]

logger = logging.getLogger(__name__)


class _Prepared(NamedTuple):
    """A case before the network, with its own copy of the steps: MONAI's inverses change their transforms."""

    name: str
    shape: tuple[int, ...]
    data: dict[str, Any]
    finish: Compose


class Predictor:
    """A model that predicts images in memory; no file is written.

    The masks are those of ``dynunet-bundle predict`` for the same image, bit for bit. Loading reads the weights once.
    The methods may be called from several threads: images are prepared and masks restored in parallel, and the network
    computes one image at a time.

    Args:
        model: folder or zip of a package, folder of a training or of a run of several folds, or file of weights. A
            list is an ensemble. Default: the weights of ``weights`` or ``config_files``, else those of the bundle.
        weights: files of weights, instead of ``model``.
        config_files: overlays for inference.json: other settings, or the plan of weights without model.json.
        device: ``"cpu"`` or ``"cuda:0"``; default: a GPU if there is one.
        mirroring: average over the mirrored versions that the training had (test-time augmentation).
        precision: ``"auto"``, ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        checkpoint: ``"best"``, or ``"last"`` for checkpoint_last.pt beside the weights.
        trust: accept code in overlays from outside the bundle (SECURITY.md).

    Attributes:
        plan: ids of the plan, such as ``channel_names`` and ``label_names``.

    Raises:
        BundleError: if the model cannot be loaded: no weights, weights of another plan, mirroring that was not
            trained, an unknown device, a cascade without its previous stage, ...
    """

    def __init__(
        self,
        model: Given | None = None,
        *,
        weights: Given | None = None,
        config_files: Sequence[str | Path] = (),
        device: str | torch.device | None = None,
        mirroring: bool = False,
        precision: str | None = None,
        checkpoint: str = "best",
        trust: bool = False,
    ) -> None:
        if model is not None and weights is not None:
            raise ConfigError("both model and weights were passed. Pass one of them.")
        for name, given in (("model", model), ("weights", weights)):
            if given is not None and not _listed(given):
                raise ConfigError(f"{name} is an empty list. Pass at least one, or leave it out.")
        if checkpoint not in ("best", "last"):
            raise ConfigError(f'checkpoint is {checkpoint!r}. Pass "best" or "last".')
        choice = ModelChoice(
            models=_listed(weights if model is None else model),
            config_files=list(map(str, _listed(config_files))),
            device=None if device is None else str(device),
            checkpoint=checkpoint,
            mirroring=mirroring,
            precision=precision,
        )
        files = choice.weights()
        self._load(choice, files, trust)
        self._previous: Predictor | None = None
        if self.plan["cascade"]:
            self._previous = self._first_stage(choice, files)

    def _load(self, choice: ModelChoice, files: Sequence[Path], trust: bool) -> None:
        """Build the components of inference.json, and load the weights."""
        parser = load_parser(
            BUNDLE,
            "inference.json",
            choice.config_files,
            choice.overrides(files),
            plan=model_settings(files[0]),
            trust=trust,
        )
        get = parser.get_parsed_content
        self._device = get("device")
        require_device(self._device)
        self._device = torch.device(self._device)
        self.plan: dict[str, Any] = get("plan")
        # a new network draws its weights
        with torch.random.fork_rng(devices=()):
            self._inferer, self._network = get("inferer"), get("network")
        require_weights(self._network)
        get("model_use").check()
        if hasattr(self._inferer, "progress"):
            self._inferer.progress = False
        self._network.eval()
        name = "cascade_preprocessing" if self.plan["cascade"] else "preprocessing"
        steps = get(name).flatten().transforms
        self._steps = (
            Compose([step for step in steps if not isinstance(step, LoadImaged)]),
            get("postprocessing"),
        )
        self._lock = threading.Lock()

    def _first_stage(self, choice: ModelChoice, files: Sequence[Path]) -> "Predictor":
        """The previous stage of a cascade, which lies beside its weights; overlays are for the cascade only."""
        weights = previous_weights(files[0])
        if not weights:
            raise ConfigError(
                f"{files[0]} is a cascade, and the weights of its previous stage are not beside it. Use a package, "
                "which has both, or the command dynunet-bundle predict with --previous_dir."
            )
        return Predictor(
            weights=weights,
            device=choice.device,
            mirroring=choice.mirroring,
            precision=choice.precision,
        )

    def predict(self, image: Any, affine: Any = None, *, name: str = "image") -> np.ndarray:
        """Predict the mask of one image.

        Args:
            image: a numpy array or torch tensor ``[X, Y, Z]`` or ``[C, X, Y, Z]``, of a picture ``[X, Y]`` or
                ``[C, X, Y]``; a MetaTensor of MONAI; an image of nibabel or SimpleITK.
            affine: ``[4, 4]`` from voxel indices to RAS+ millimetres, for an array. A picture needs none.
            name: name of the case, for messages.

        Returns:
            Label values ``[X, Y, Z]``, or ``[X, Y]`` of a picture, on the voxels of the image, in the data type that
            the command writes: uint8, or uint16 or int32 if a value needs it. The axes of an image of SimpleITK are
            in the order of its ``GetSize``; ``sitk.GetImageFromArray(mask.T)`` makes an image of them.

        Raises:
            ConfigError: for another type of image or affine.
            CaseError: if the image does not fit the plan: channels, NaN, a constant image, ...
            PredictionError: if the network gives NaN.
        """
        return self._mask(self._prepare(name, image, affine))

    def probabilities(self, image: Any, affine: Any = None, *, name: str = "image") -> np.ndarray:
        """Predict the probabilities of one image.

        Args:
            image: as for ``predict``.
            affine: as for ``predict``.
            name: as for ``predict``.

        Returns:
            ``[classes, X, Y, Z]`` float32, background first, or ``[regions, X, Y, Z]`` for a plan with regions; of a
            picture ``[classes, X, Y]``. Rules for largest components change the mask only.

        Raises:
            BundleError: as ``predict``.
        """
        prepared = self._prepare(name, image, affine)
        for step in prepared.finish.flatten().transforms:
            if isinstance(step, RestoreClassesd):
                step.probability_key, step.probability_type = PROBABILITIES, torch.float32
        shares = self._restored(prepared)[PROBABILITIES].as_tensor().numpy()
        return shares.reshape(len(shares), *prepared.shape)

    def predict_many(self, cases: Iterable[Sequence[Any]]) -> Iterator[tuple[str, np.ndarray]]:
        """Predict the masks of many images. A thread prepares the next image while the network computes.

        A case that fails does not end the others: its message is logged, and an error is raised after the last case.

        Args:
            cases: ``(name, image)`` or ``(name, image, affine)`` for each image, see ``predict``. The thread takes
                them one at a time, at most one ahead, so a generator that opens files keeps few in memory.

        Yields:
            The name and the mask of each image, in their order.

        Raises:
            ConfigError: if an item is not of this form.
            PredictionError: at the end, if some cases failed.
            BundleError: at the end, the error of the only case.
        """
        failures: list[BundleError] = []
        total = 0
        iterator = iter(cases)
        with ThreadPoolExecutor(1, "prepare") as pool:
            ahead = pool.submit(self._next, iterator)
            while (found := ahead.result()) is not None:
                ahead = pool.submit(self._next, iterator)
                total += 1
                try:
                    if isinstance(found, BundleError):
                        raise found
                    mask = self._mask(found)
                except BundleError as error:
                    logger.error("%s", first_line(error))
                    failures.append(error)
                else:
                    yield found.name, mask
        if failures and total == 1:
            raise failures[0]
        if failures:
            raise PredictionError(failed_cases(list(map(str, failures)), total))

    def _next(self, iterator: Iterator[Sequence[Any]]) -> _Prepared | BundleError | None:
        """The next case, prepared; its error; or None at the end."""
        try:
            item = next(iterator)
        except StopIteration:
            return None
        if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
            raise ConfigError(
                f"an item of the cases is of type {type(item).__name__}, not (name, image) or (name, image, affine)."
            )
        name, image, *affine = item
        try:
            return self._prepare(str(name), image, *affine)
        except BundleError as error:
            return error

    def _prepare(self, name: str, image: Any, affine: Any = None) -> _Prepared:
        num_channels = len(self.plan["channel_names"])
        found = given_image(image, affine, name, num_channels, self.plan["spatial_dims"])
        # together, since a step is undone by the object that did it
        prepare, finish = deepcopy(self._steps)
        case: dict[str, Any] = {IMAGE: found.tensor(), NAME: name}
        if self._previous is not None:
            mask = self._previous.predict(found.volume.array, found.volume.affine, name=name)
            volume = Volume(mask.reshape(1, *found.volume.array.shape[1:]), found.volume.affine)
            case[PREVIOUS] = GivenImage(volume, found.shape).tensor()
        return _Prepared(name, found.shape, apply_to_case(case, prepare), finish)

    def _mask(self, case: _Prepared) -> np.ndarray:
        mask = self._restored(case)[PREDICTION]
        return mask_array(mask[0].as_tensor()).reshape(case.shape)

    def _restored(self, case: _Prepared) -> dict[str, Any]:
        """The results of a case after its postprocessing."""
        image: MetaTensor = case.data[IMAGE]
        try:
            logits = self._logits(image.as_tensor())
            result: dict[str, Any] = apply_to_case(
                {**case.data, PREDICTION: logits, NAME: case.name}, case.finish
            )
        except Exception as error:
            failure = case_failure(error, lambda: case.name, image.shape[1:])
            if failure is None or failure is error:
                raise
            raise failure from error
        return result

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``[outputs, D, H, W]`` of a preprocessed image ``[C, D, H, W]``; one image at a time."""
        with self._lock, torch.no_grad(), _same_each_time():
            logits: torch.Tensor = self._inferer(image[None].to(self._device), self._network)[0]
        return logits


def _listed(given: Given | None) -> Sequence[str | Path]:
    if given is None:
        return ()
    return [given] if isinstance(given, (str, Path)) else list(given)


@contextmanager
def _same_each_time() -> Iterator[None]:
    """Let cuDNN choose the same kernels each time, as MONAI's ``set_determinism`` does for a command."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
