"""The prepared store: each case is preprocessed once and kept as memory-mappable arrays.

Stored on disk, per case, in one flat folder (``NAME`` is the case's name and a hash of its path):

    NAME.image.npy       [C, D, H, W] float32, or float16 for training on a GPU
    NAME.label.npy       [1, D, H, W] uint8
    NAME.positions.npy   [foreground classes, K, 3] int16: voxels (d, h, w) of each class, to centre patches on;
                         if the label ignores some voxels, one more row with voxels that it does not ignore
    NAME.previous.npy    [1, D, H, W] uint8, in a cascade: the mask of the previous stage
    NAME.json            written last: shapes, sizes, identity and content of the sources, and the preprocessing

Only cases whose JSON does not match the sources or the preprocessing are prepared again; cases of a data set that was
moved or copied are recognised by their content. All files are written under a temporary name and renamed, so an
interrupted preparation leaves complete cases only; the next run prepares the rest.
"""

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch.utils.data import Dataset

from dynunet_bundle.dataset.case_errors import apply_to_case, too_large
from dynunet_bundle.dataset.cases import (
    NAME,
    Case,
    content_of,
    file_identity,
    name_in,
    name_of,
    unique_stem,
)
from dynunet_bundle.dataset.previous_stage import PREVIOUS
from dynunet_bundle.errors import (
    BundleError,
    CaseError,
    OutputError,
    PredictionError,
    failed_cases,
    first_line,
)
from dynunet_bundle.files import (
    TEMPORARY_SUFFIX,
    atomic_write,
    ensure_writable,
    json_sha256,
    remove_leftovers,
    write_json,
)
from dynunet_bundle.labels.extents import class_extents
from dynunet_bundle.machine.locks import exclusive
from dynunet_bundle.preprocessing.append_previous import append_masks
from dynunet_bundle.preprocessing.positions import (
    POSITIONS_PER_CLASS,
    sample_labelled,
    sample_positions,
)
from dynunet_bundle.preprocessing.prepared_case import (
    PreparedCase,
    adopt_moved,
    array_path,
    find_damage,
    read_facts,
    sidecar_path,
    stems_by_name,
)
from dynunet_bundle.preprocessing.recipe import recipe_of
from dynunet_bundle.terminal import progress

FORMAT_VERSION = 3
"""Version of the store's files, part of the key: a new version makes every case be prepared again."""

LOCK_NAME = ".lock"
"""Lock file of a store. One process prepares cases at a time; the others wait, then find the prepared cases."""

Builder = Callable[[Mapping[int, Case]], Iterator[tuple[int, BundleError | None]]]
"""Prepares cases by their numbers, and gives the error of each, or None."""

logger = logging.getLogger(__name__)


class PreparedDataset(Dataset):
    """Cases prepared from raw files on first use: ``train#dataset`` and ``validate#dataset`` of train.json.

    A map-style data set of whole cases, ``{"image": [C, D, H, W], "label": [1, D, H, W]}`` tensors; in a cascade the
    masks of the previous stage are the last channels of the image. The training feed reads regions from the files of
    ``cases()`` instead. MONAI's PersistentDataset pickles whole cases, so regions cannot be read separately, and its
    key depends on the item only, not on the content of the files.

    Args:
        data: raw cases, ``[{"image": path, "label": path}, ...]``.
        transform: the declared preprocessing.
        store_dir: folder of the store; several data sets may share it.
        num_classes: labels including the background.
        num_workers: number of threads; the heavy parts of the transforms release the interpreter lock.
        dtype: type of the stored image, ``"float32"`` or ``"float16"``.
        cascade: whether cases have a mask of a previous stage.

    Attributes:
        builder: prepares cases in other processes by their ``build``; None prepares them in threads.
    """

    def __init__(
        self,
        data: Sequence[Case],
        transform: Compose,
        store_dir: str,
        num_classes: int,
        num_workers: int = 2,
        dtype: str = "float32",
        cascade: bool = False,
    ) -> None:
        self.data = list(data)
        self.transform = transform
        self.store_dir = Path(store_dir)
        self.num_classes = num_classes
        self.num_workers = num_workers
        self.dtype = np.dtype(dtype)
        self.num_masks = num_classes - 1 if cascade else 0
        recipe = {
            "format": FORMAT_VERSION,
            "dtype": dtype,
            "num_classes": num_classes,
            "positions_per_class": POSITIONS_PER_CLASS,
            "transform": recipe_of(transform),
        }
        self.recipe_hash = json_sha256(recipe)
        self.builder: Builder | None = None
        self._cases: list[PreparedCase] | None = None

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One prepared case: its name, a float32 image and a uint8 label.

        Raises:
            CaseError: if the case does not fit into memory.
        """
        case = self.cases()[index]
        try:
            return {**self._load(case), NAME: case.name}
        except MemoryError as error:
            raise too_large(case.name, first_line(error)) from error

    def _load(self, case: PreparedCase) -> dict[str, torch.Tensor]:
        image = np.load(case.image, allow_pickle=False).astype(np.float32, copy=False)
        label = np.load(case.label, allow_pickle=False)
        item = {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}
        if self.num_masks:
            previous = torch.from_numpy(np.load(case.previous, allow_pickle=False))
            item["image"] = append_masks(item["image"], previous, self.num_classes)
        return item

    def cases(self) -> list[PreparedCase]:
        """All cases in the order of ``data``; missing and outdated ones are prepared.

        Raises:
            BundleError: if cases cannot be prepared; all others are. A single one raises its own error.
            OutputError: if the store cannot be written.
        """
        if self._cases is None:
            self._cases = self._prepare()
        return self._cases

    def _prepare(self) -> list[PreparedCase]:
        ensure_writable(self.store_dir)
        found = [self._lookup(case) for case in self.data]
        if None in found:
            with exclusive(self.store_dir / LOCK_NAME, "preparation"):
                found = self._prepare_missing()
        return [case for case in found if case is not None]

    def _prepare_missing(self) -> list[PreparedCase | None]:
        """Look again, since another process may have prepared some cases, and prepare the others."""
        found = [self._lookup(case) for case in self.data]
        todo = [index for index, case in enumerate(found) if case is None]
        for index, moved in zip(todo, self._adopt_all(todo), strict=True):
            found[index] = moved
        todo = [index for index in todo if found[index] is None]
        if todo:
            logger.info("preparing %d of %d cases in %s", len(todo), len(found), self.store_dir)
            failures = []
            built = (
                self._build_elsewhere(self.builder, todo) if self.builder else self._build_all(todo)
            )
            for index, case in built:
                if isinstance(case, BundleError):
                    failures.append(case)
                else:
                    found[index] = case
            if len(failures) == 1:
                raise failures[0]
            if failures:
                raise PredictionError(failed_cases(list(map(str, failures)), len(found)))
        return found

    def _adopt_all(self, indices: Sequence[int]) -> list[PreparedCase | None]:
        """The cases that are prepared under an earlier path of their files, else None."""
        known = stems_by_name(self.store_dir)

        def adopt(index: int) -> PreparedCase | None:
            case = self.data[index]
            stem = self._stem(case)
            others = [other for other in known.get(name_in(stem.name), ()) if other != stem]
            try:
                moved = bool(others) and adopt_moved(case, stem, self._identity(case), others)
            except (CaseError, OSError):  # a raw file cannot be read, which the preparation reports
                return None
            return self._lookup(case) if moved else None

        with ThreadPoolExecutor(self.num_workers) as pool:
            adopted = list(pool.map(adopt, indices))
        number = sum(case is not None for case in adopted)
        if number:
            total = len(self.data)
            logger.info("%d of %d cases were prepared under an earlier path", number, total)
        return adopted

    def _build_elsewhere(
        self, builder: Builder, indices: Sequence[int]
    ) -> Iterator[tuple[int, PreparedCase | BundleError]]:
        for index, error in builder({index: self.data[index] for index in indices}):
            case = error or self._lookup(self.data[index])
            if case is None:
                raise OutputError(
                    f"{name_of(self.data[index])} was prepared on another machine, but is not in {self.store_dir}. All "
                    "machines must see this folder under this path."
                )
            yield index, case

    def build(self, case: Case, transform: Compose | None = None) -> PreparedCase | BundleError:
        """Prepare one case; the caller holds the lock of the store.

        Args:
            case: the raw case.
            transform: a copy of the preprocessing, for a thread of its own.

        Returns:
            The prepared case, or why it cannot be prepared.

        Raises:
            OutputError: if the store cannot be written.
        """
        try:
            return self._build(case, transform or self.transform)
        except OutputError:
            raise
        except BundleError as error:
            return copy.copy(error)  # without the frames that hold its arrays
        except MemoryError as error:
            return too_large(name_of(case), first_line(error))

    def _build_all(
        self, indices: Sequence[int]
    ) -> Iterator[tuple[int, PreparedCase | BundleError]]:
        own = threading.local()
        # list the folder once, not per case: it may have thousands of files
        leftovers = [path.name for path in self.store_dir.glob(f".*{TEMPORARY_SUFFIX}")]

        def build(index: int) -> tuple[int, PreparedCase | BundleError]:
            # each thread has its own transform, because MONAI's readers store the files that they read
            if not hasattr(own, "transform"):
                own.transform = copy.deepcopy(self.transform)
            stem = self._stem(self.data[index]).name
            if any(name.startswith(f".{stem}.") for name in leftovers):
                remove_leftovers(self.store_dir, f"{stem}.")
            return index, self.build(self.data[index], own.transform)

        pool = ThreadPoolExecutor(self.num_workers)
        try:
            yield from progress(pool.map(build, indices), "prepare", total=len(indices))
        finally:
            pool.shutdown(cancel_futures=True)

    def _stem(self, case: Case) -> Path:
        return self.store_dir / unique_stem(case)

    def _identity(self, case: Case) -> dict[str, Any]:
        return {"recipe": self.recipe_hash, "sources": file_identity(case)}

    def _lookup(self, case: Case) -> PreparedCase | None:
        """The prepared case if it is complete and up to date, else None."""
        stem = self._stem(case)
        facts = read_facts(stem)
        if facts is None:
            return None
        try:
            identity = self._identity(case)
        except CaseError:  # a raw file is missing, which the preparation reports
            return None
        fits = max(facts["present"], default=0) < self.num_classes
        if facts["identity"] != identity or not fits:
            return None
        damaged = find_damage(stem, facts)
        if damaged:
            logger.warning("%s is damaged; preparing %s again", damaged, name_of(case))
            return None
        return PreparedCase.of(stem, facts)

    def _build(self, case: Case, transform: Compose) -> PreparedCase:
        name = name_of(case)
        stem = self._stem(case)
        identity = self._identity(case)
        if "label" not in case:
            raise CaseError(name, "it has no label", "Training needs an image and a label.")
        digests = content_of(case)
        transformed = apply_to_case(case, transform)
        image = transformed["image"].as_tensor().numpy().astype(self.dtype, copy=False)
        label = transformed["label"].as_tensor().numpy().astype(np.uint8, copy=False)
        positions, present = sample_positions(label, self.num_classes, name)
        labelled = sample_labelled(label, name)
        if labelled is not None:
            positions = np.concatenate([positions, labelled])
        arrays = {"image": image, "label": label, "positions": positions}
        if self.num_masks:
            arrays[PREVIOUS] = transformed[PREVIOUS].as_tensor().numpy().astype(np.uint8)
        sidecar = sidecar_path(stem)
        # a case is valid only with its JSON, so that is deleted first and written last
        with suppress(FileNotFoundError):
            sidecar.unlink()
        sizes = {}
        for array, content in arrays.items():
            path = array_path(stem, array)
            with atomic_write(path) as file:
                np.save(file, np.ascontiguousarray(content), allow_pickle=False)
            sizes[array] = path.stat().st_size
        facts = {
            "name": name,
            "identity": identity,
            "content": digests,
            "shape": list(label.shape[1:]),
            "present": present,
            "sparse": labelled is not None,
            **class_extents(
                label[0], transformed["label"].affine.numpy(), range(1, self.num_classes)
            )._asdict(),
            "bytes": sizes,
        }
        write_json(sidecar, facts)
        return PreparedCase.of(stem, facts)
