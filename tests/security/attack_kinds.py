"""Attempts of ``attack.py``: hostile files of every kind, texts and overlays, each decided by the seed and a number."""

import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "images"))

import test_damage
from attack_models import Models
from conftest import BUNDLE
from fuzz_inputs import Input, seeds, spoil
from helpers.mutations import TEXTS, mutations
from monai.transforms import Compose, LoadImaged
from test_code_check import EXPRESSIONS
from test_json_mutations import KINDS

from dynunet_bundle.configs.code_check import require_safe
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.dataset.inputs import find_inputs
from dynunet_bundle.errors import BundleError
from dynunet_bundle.networks.weights import load_weights, save_weights
from dynunet_bundle.preprocessing.reader import ImageFileReader

GROUPS = {
    "image": 36,
    "bit flip": 16,
    "JSON": 24,
    "weights": 6,
    "overlay": 5,
    "archive": 3,
    "argument": 2,
    "nnU-Net": 5,
    "model": 3,
}
"""Groups of attempts, and their share of a hundred."""

PLAN = {"task_name": "Task99_Attack"}
COMPONENTS = (
    *("os.system", "subprocess.run", "builtins.eval", "monai.bundle.run", "torch.load"),
    *("torch.hub.load", "pickle.load", "monai.data.PersistentDataset", "LoadImaged", "DataLoader"),
    *("torch.utils.data.datapipes.utils.decoder.basichandlers", "SimpleInferer", "Compose"),
    *("dynunet_bundle.delivery.package.make.make_package", "dynunet_bundle.configs.shared.shared"),
)


@dataclass(frozen=True)
class Attempt:
    """One hostile input.

    Attributes:
        kind: ``"group: kind"``, for the table.
        act: reads the input in a folder; gives None, or a bad outcome that raised nothing.
    """

    kind: str
    act: Callable[[Path], str | None]


def attempts(seed: int, made: Path, marker: Path) -> Callable[[int], Attempt]:
    """What gives the attempt of a number.

    Args:
        seed: of all attempts.
        made: folder for valid files, which are made here.
        marker: file that payloads write.
    """
    kinds = Kinds(made, marker)
    names = [name for name, share in GROUPS.items() for _ in range(share)]

    def find(number: int) -> Attempt:
        rng = np.random.default_rng([seed, number])
        # neighbours are of different groups, so that a short run has all of them
        group = names[number * 37 % 100]
        makers = {
            "image": kinds.image,
            "bit flip": kinds.bit_flip,
            "JSON": kinds.json,
            "weights": kinds.weights,
            "overlay": kinds.overlay,
            "archive": kinds.archive,
            "argument": kinds.argument,
            "nnU-Net": kinds.models.nnunet,
            "model": kinds.models.model,
        }
        kind, act = makers[group](rng, number // 100)
        return Attempt(f"{group}: {kind}", act)

    return find


def write(folder: Path, given: Input) -> Path:
    """Write an input; gives the value of ``--input``."""
    folder.mkdir(parents=True)
    for name, content in given.items():
        (folder / name).write_bytes(content)
    names = sorted(given)
    single = len(names) == 1 or names[0].startswith("apart")
    header = next((name for name in names if name.endswith(("nhdr", "mhd"))), names[0])
    return folder / header if single and not names[0].endswith(".dcm") else folder


def read(source: Path, transform: Callable[[Any], Any]) -> None:
    """Read and prepare all images of an input, as a prediction does."""
    for case in find_inputs(source):
        found = apply_to_case(case, transform)["image"]
        assert found.ndim == 4
        assert bool(torch.isfinite(found.as_tensor()).all())


Made = tuple[str, Callable[[Path], str | None]]


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


class Kinds:
    """Makers of attempts; each takes a random generator and a running number."""

    def __init__(self, made: Path, marker: Path) -> None:
        self.marker = marker
        self.models = Models(made, marker)
        self.inputs = seeds()
        workflow = load_workflow(BUNDLE, "inference.json")
        self.transform = workflow.parser.get_parsed_content("preprocessing")
        self.loading = Compose([LoadImaged("image", reader=ImageFileReader, image_only=True)])
        self.sound: dict[str, tuple[Path, Path, np.ndarray, bytes]] = {}
        for kind in test_damage.WITH_CHECKSUM:
            folder = made / kind
            folder.mkdir(parents=True)
            path, stored = test_damage.make(folder, kind)
            voxels = apply_to_case({"image": str(path), "name": "case"}, self.loading)["image"]
            self.sound[kind] = (path, stored, voxels.numpy().copy(), stored.read_bytes())
        self.files: dict[str, tuple[Path, Callable[[], Any], bytes]] = {}
        for kind, (make, _) in KINDS.items():
            folder = made / "json" / kind.replace(" ", "_")
            folder.mkdir(parents=True)
            path, reader = make(folder)
            reader()
            self.files[kind] = (path, reader, path.read_bytes())
        # imported here once, not in every process
        read(write(made / "a", self.inputs["dicom plain"]), self.transform)
        read(write(made / "b", self.inputs["raw.mha"]), self.transform)

    def image(self, rng: np.random.Generator, index: int) -> Made:
        """An image file or DICOM folder, spoiled anywhere."""
        kind = sorted(self.inputs)[int(rng.integers(len(self.inputs)))]
        given: Input = spoil(rng, self.inputs[kind])

        def act(folder: Path) -> None:
            read(write(folder / "input", given), self.transform)

        return kind, act

    def bit_flip(self, rng: np.random.Generator, index: int) -> Made:
        """One bit behind the header of a format with a checksum."""
        kind = sorted(self.sound)[int(rng.integers(len(self.sound)))]
        path, stored, voxels, content = self.sound[kind]
        start, end = test_damage.place_of_voxels(kind, content)
        place = int(rng.integers(8 * start, 8 * end))

        def act(folder: Path) -> str | None:
            spoiled = bytearray(content)
            spoiled[place // 8] ^= 1 << place % 8
            header, data = folder / path.name, folder / stored.name
            header.write_bytes(path.read_bytes())
            data.write_bytes(spoiled)
            case = {"image": str(header), "name": "case"}
            found = apply_to_case(case, self.loading)["image"].numpy()
            return None if np.array_equal(found, voxels) else "wrong voxels"

        return kind, act

    def json(self, rng: np.random.Generator, index: int) -> Made:
        """A mutation of one of our JSON files."""
        kind = sorted(self.files)[int(rng.integers(len(self.files)))]
        path, reader, valid = self.files[kind]
        random = Random(int(rng.integers(2**31)))  # noqa: S311 - nothing secret
        (_, content), *_ = islice(mutations(json.loads(valid), random), 1)

        def act(folder: Path) -> None:
            path.write_bytes(content)
            try:
                reader()
            finally:
                path.write_bytes(valid)

        return kind, act

    def weights(self, rng: np.random.Generator, index: int) -> Made:
        """Weights with another content, or a damaged file, with and without the JSON beside them."""
        network = torch.nn.Conv3d(1, 3, 1)
        state = network.state_dict()
        name = "weight" if rng.random() < 0.5 else "bias"
        value = state[name]
        contents: dict[str, Any] = {
            "not a number": {**state, name: value * float("nan")},
            "infinite": {**state, name: value + float("inf")},
            "missing": {other: item for other, item in state.items() if other != name},
            "more": {**state, "more": value},
            "text": {**state, name: "text"},
            "sparse": {**state, name: value.to_sparse()},
            "meta": {**state, name: value.to("meta")},
            "complex": {**state, name: value.to(torch.complex64)},
            "other shape": {**state, name: value[..., None]},
            "list": list(state.values()),
            "pickle": {**state, name: Touch(self.marker)},
            "old pickle": Touch(self.marker),
            "damaged": state,
        }
        kind = sorted(contents)[int(rng.integers(len(contents)))]
        has_sidecar, places = rng.random() < 0.5, rng.random(4)

        def act(folder: Path) -> str | None:
            path = folder / "model.pt"
            if has_sidecar:
                save_weights(path, state, PLAN, {})
            if kind == "old pickle":
                path.write_bytes(pickle.dumps(contents[kind]))
            else:
                torch.save(contents[kind], path)
            if kind == "damaged":
                data = bytearray(path.read_bytes())
                for place in places:
                    data[int(place * len(data))] ^= 1 << int(place * 8e6) % 8
                path.write_bytes(data)
            load_weights(torch.nn.Conv3d(1, 3, 1), path, PLAN)
            if kind == "damaged":
                return None
            return "wrong voxels"

        return kind, act

    def overlay(self, rng: np.random.Generator, index: int) -> Made:
        """One overlay or two, with expressions and components that are not allowed, or not together."""
        code = f"$__import__('pathlib').Path({str(self.marker)!r}).touch()"
        expressions = (*EXPRESSIONS, code, "$@code()", "$[@code][0]('x')", "@code", "%code")
        train = json.loads((BUNDLE / "configs" / "train.json").read_text())
        ids = sorted(train)

        def text() -> str:
            return expressions[int(rng.integers(len(expressions)))]

        def component() -> dict[str, Any]:
            target = COMPONENTS[int(rng.integers(len(COMPONENTS)))]
            return {"_target_": target, "a": text(), "reader": "NumpyReader", "_mode_": "callable"}

        def content() -> dict[str, Any]:
            chosen = [
                ids[int(place)] for place in rng.integers(len(ids), size=int(rng.integers(1, 4)))
            ]
            made: dict[str, Any] = {}
            for name in chosen:
                key = name + ("", "#0", "#_target_", "::a")[int(rng.integers(4))]
                values = (text, component, lambda: [text()], lambda: {"x": component()})
                made[("", "+")[int(rng.random() < 0.2)] + key] = values[int(rng.integers(4))]()
            return made

        contents = [content() for _ in range(1 + int(rng.random() < 0.5))]

        def act(folder: Path) -> None:
            files = [folder / f"{number}.json" for number in range(len(contents))]
            for file, made in zip(files, contents, strict=True):
                file.write_text(json.dumps(made))
            require_safe([BUNDLE / "configs" / "train.json", *files], BUNDLE / "configs")
            parser = load_workflow(BUNDLE, "train.json", list(map(str, files))).parser
            for made in contents:
                for name in made:
                    try:
                        parser.get_parsed_content(name.lstrip("+"))
                    except Exception:  # noqa: BLE001, S110 - whatever it means, it must not touch the marker
                        pass

        return f"{len(contents)}", act

    def archive(self, rng: np.random.Generator, index: int) -> Made:
        """A zip whose members have hostile names and kinds."""
        dicom = next(iter(self.inputs["dicom plain"].values()))
        names = [TEXTS[int(place)] for place in rng.integers(len(TEXTS), size=3)]
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                member = zipfile.ZipInfo("x")
                member.filename = name.encode("utf-8", "replace").decode() or "x"
                member.external_attr = int(rng.choice([0o100644, 0o120777, 0o040755])) << 16
                archive.writestr(member, dicom if rng.random() < 0.7 else b"/etc/passwd")

        def act(folder: Path) -> str | None:
            path = folder / "in" / "study.zip"
            path.parent.mkdir()
            path.write_bytes(buffer.getvalue())
            try:
                read(path, self.transform)
            finally:
                outside = [found.name for found in folder.iterdir() if found.name != "in"]
                assert not outside and len(list(path.parent.iterdir())) == 1
            return None

        return "zip", act

    def argument(self, rng: np.random.Generator, index: int) -> Made:
        """Paths and other values of a command line that mean something to MONAI's parser."""
        code = f"$__import__('pathlib').Path({str(self.marker)!r}).touch()"
        texts = [*TEXTS, code, *EXPRESSIONS, *(f"a{sign}b" for sign in "$@%#")]
        values = {
            name: texts[int(rng.integers(len(texts)))]
            for name in ("input", "output_dir", "weights_file", "previous_dir", "series_rules")
        }

        def act(folder: Path) -> str | None:
            workflow = load_workflow(BUNDLE, "inference.json", (), values)
            parser = workflow.parser
            found = {name: parser.get_parsed_content(name) for name in values}
            assert found == values
            try:
                find_inputs(folder / values["input"])
            except (BundleError, OSError, ValueError):
                pass
            return None

        return "value", act
