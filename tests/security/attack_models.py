"""Attempts of ``attack.py`` with models from others: results folders of nnU-Net, model.json, and torch's pickles."""

import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from conftest import BUNDLE, ROOT
from helpers.mutations import OTHERS, TEXTS, mutations
from helpers.nnunet_results import make_results, nnunet_state, save_checkpoint, seeded_network

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.networks.model_json import model_files, model_settings
from dynunet_bundle.networks.weights import load_weights, read_weights
from dynunet_bundle.nnunet.component_rules import FUNCTION, MODULE, component_rules
from dynunet_bundle.nnunet.importing import ImportRequest, import_nnunet

Made = tuple[str, Callable[[Path], str | None]]

RULES = {"postprocessing_fns": [FUNCTION], "postprocessing_kwargs": [{"labels_or_regions": [1, 2]}]}
CODE = ("$__import__('os').system('touch marker')", "os.system", "@network", "%train.json#network")


def name(module: str, attribute: str) -> bytes:
    """Opcodes that look up a name."""
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def int32(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def dictionary(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def numpy_type(code: str) -> bytes:
    return name("numpy", "dtype") + text(code) + b"\x89\x88\x87R"


def fields_without_flags() -> bytes:
    """A numpy value whose field is an object at an address from the file; printing it crashes numpy."""
    fields = dictionary(a=numpy_type("O8") + int32(0) + b"\x86")
    state = b"(" + int32(3) + text("|") + b"N" + text("a") + b"\x85" + fields
    state += int32(8) + int32(1) + int32(0) + b"tb"
    data = name("_codecs", "encode") + text("A" * 8) + text("latin1") + b"\x86R"
    scalar = name("numpy._core.multiarray", "scalar")
    return scalar + numpy_type("V8") + state + data + b"\x86R"


def laughs(opening: bytes, close: bytes) -> bytes:
    """Forty containers, each with the one before twice."""
    made = b"K\x01q\x00"
    for level in range(40):
        before = b"h" + bytes([level])
        made += b"0" + opening + before + before + close + b"q" + bytes([level + 1])
    return made


def pieces(marker: Path) -> dict[str, bytes]:
    """Pickled values that run code, crash numpy, or take memory or time."""
    touch = pickle.dumps(Touching(marker), 2)[2:-1]
    return {
        "code": touch,
        "eval": name("builtins", "eval") + text("1") + b"\x85R",
        "bytearray": name("builtins", "bytearray") + int32(2**31 - 1) + b"\x85R",
        "memory of a tensor": name("torch", "FloatTensor") + int32(2**31 - 1) + b"\x85R",
        "memory of a storage": name("torch.storage", "UntypedStorage")
        + int32(2**31 - 1)
        + b"\x85R",
        "fields": fields_without_flags(),
        "object": name("numpy._core.multiarray", "scalar") + numpy_type("O8") + b"N\x86R",
        "lists": laughs(b"](", b"e"),
        "tuples": laughs(b"", b"\x86"),
        "key": b"}" + laughs(b"", b"\x86") + b"K\x01s",
        "itself": b"]q\x00h\x00a",
        "deep": b"]" * 3000 + b"a" * 2999,
        "memo": b"Nr" + struct.pack("<I", 2**31 - 1),
        "digits": b"\x8a\xff" + b"\x7f" * 255,
        "nothing": b"N",
        "number": int32(-7),
        "truth": b"\x88",
        "text": text(CODE[0]),
        "numbers": b"](" + int32(1) + int32(1) + b"e",
    }


class Touching:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


def torch_zip(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """A file as torch writes it, around a pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("a/byteorder", b"little")
        archive.writestr("a/version", b"3\n")


class Models:
    """Makers of attempts; each takes a random generator and a running number."""

    def __init__(self, made: Path, marker: Path) -> None:
        self.results = {
            kind: make_results(made / "nnunet" / kind, kind)
            for kind in ("PlainConvUNet", "ResidualEncoderUNet")
        }
        for folder in self.results.values():
            (folder / "postprocessing.json").write_text(json.dumps(RULES))
        self.pieces = pieces(marker)
        self.package = self._imported(self.results["PlainConvUNet"], made / "package")

    def nnunet(self, rng: np.random.Generator, index: int) -> Made:
        """A results folder of nnU-Net, of which one file is hostile."""
        kind = sorted(self.results)[int(rng.integers(len(self.results)))]
        ways = (self._json, self._json, self._json, self._texts, self._checkpoint, self._pickle)
        way = (*ways, self._pickle, self._zip)[int(rng.integers(len(ways) + 2))]
        seed = int(rng.integers(2**31))

        def act(folder: Path) -> str | None:
            results = folder / "Dataset099_Phantom"
            shutil.copytree(self.results[kind], results)
            # seeded here, so that the file is made in the process of the attempt
            given = way(results, Random(seed))  # noqa: S311 - nothing secret
            return self._compare(self._imported(given or results, folder), self.results[kind], way)

        return way.__name__.strip("_"), act

    def model(self, rng: np.random.Generator, index: int) -> Made:
        """A package whose model.json, or file of weights, is hostile, for ``predict.py --model``."""
        seed, has_pickle = int(rng.integers(2**31)), rng.random() < 0.3

        def act(folder: Path) -> str | None:
            random = Random(seed)  # noqa: S311 - nothing secret
            shutil.copytree(self.package / "models", folder / "models")
            path = folder / "models" / "model.json"
            if has_pickle:
                path.unlink()
                kind = random.choice(sorted(self.pieces))
                items = {"weight": self.pieces[kind]}
                state = dictionary(model=dictionary(**items), plan=dictionary(task_name=b"N"))
                pickled = random.choice([dictionary(**items), state])
                torch_zip(
                    path.with_suffix(".pt"), pickled, random.choice([0, zipfile.ZIP_DEFLATED])
                )
                read_weights(path.with_suffix(".pt"), checkpoint=True)
                return "wrong voxels"
            content = json.loads(path.read_text())
            content |= random.choice(
                [
                    {
                        "members": random.choice(
                            [["."], [".."], ["model.pt"] * 2, ["a/b.pt"], ["x"]]
                        )
                    },
                    {"keep_largest": random.choice([[[0]], [[-1]], [[2**40]], [[]], [["$x"]], 1])},
                    {"plan": {**content["plan"], "filters": [2**14] * 3}},
                    {"plan": {**content["plan"], "task_name": random.choice(CODE)}},
                    {"origin": random.choice(OTHERS)},
                    {},
                ]
            )
            if random.random() < 0.5:
                # a message about the sum would hide the others
                del content["sha256"]
            (_, data), *_ = islice(mutations(content, random), 1)
            path.write_bytes(random.choice([data, json.dumps(content).encode()]))
            self._load(folder)
            return None

        return "pickle" if has_pickle else "model.json", act

    def _imported(self, results: Path, folder: Path) -> Path:
        return import_nnunet(
            ImportRequest(
                bundle=BUNDLE,
                model=results,
                name="phantom_mri_segmentation",
                output=folder / "packages",
                changelog=ROOT / "CHANGELOG.md",
            )
        ).folder

    def _load(self, package: Path) -> dict[str, torch.Tensor]:
        """The weights as a prediction has them."""
        files = model_files(package)
        overrides = {"weights_file": str(files[0]), "device": "cpu"}
        settings = model_settings(files[0])
        parser = load_workflow(BUNDLE, "inference.json", (), overrides, plan=settings).parser
        network, plan = (parser.get_parsed_content(one) for one in ("network_def", "plan"))
        for file in files:
            load_weights(network, file, plan)
        for one in ("preprocessing", "inferer", "postprocessing"):
            parser.get_parsed_content(one)
        with torch.no_grad():
            network(torch.zeros(1, len(plan["channel_names"]), *[16] * plan["spatial_dims"]))
        return dict(network.state_dict())

    def _compare(self, package: Path, results: Path, way: Callable[..., Any]) -> str | None:
        """A package that was made has the weights of the results folder, unless these were changed."""
        ours = self._load(package)
        if way == self._checkpoint:
            return None
        theirs = seeded_network(0, results.name).state_dict()
        same = all(torch.equal(ours[key], theirs[key]) for key in ours)
        return None if same else "wrong voxels"

    def _json(self, results: Path, random: Random) -> None:
        path = results / random.choice(["plans.json"] * 3 + ["dataset.json", "postprocessing.json"])
        content = json.loads(path.read_text())
        inner, place = content, None
        if path.name == "plans.json" and random.random() < 0.8:
            place = content["configurations"]["3d_fullres"]
            inner = place
            if random.random() < 0.6:
                place, inner = place["architecture"], place["architecture"]["arch_kwargs"]
        (_, data), *_ = islice(mutations(inner, random), 1)
        if place is None:
            path.write_bytes(data)
        elif place is inner:
            raw = json.dumps({**content, "configurations": {"3d_fullres": 0}})
            path.write_bytes(raw.encode().replace(b'"3d_fullres": 0', b'"3d_fullres": ' + data))
        else:
            place["arch_kwargs"] = 0
            path.write_bytes(
                json.dumps(content).encode().replace(b'"arch_kwargs": 0', b'"arch_kwargs": ' + data)
            )

    def _texts(self, results: Path, random: Random) -> None:
        plans, dataset = (
            json.loads((results / f"{one}.json").read_text()) for one in ("plans", "dataset")
        )
        configuration = plans["configurations"]["3d_fullres"]
        network = configuration["architecture"]
        places = [
            *((plans, key) for key in ("dataset_name", "image_reader_writer")),
            *((network["arch_kwargs"], key) for key in ("norm_op", "nonlin")),
            *((configuration, key) for key in ("preprocessor_name", "inherits_from")),
            *((dataset["channel_names"], "0"), (dataset, "overwrite_image_reader_writer")),
            *((network, "network_class_name"), (configuration, "normalization_schemes")),
            (dataset, "labels"),
        ]
        for _ in range(random.choice([1, 1, 2])):
            inner, key = random.choice(places)
            chosen: Any = random.choice([*TEXTS, *CODE])
            if key == "labels":
                chosen = {"background": 0, chosen: 1, "tail": 2}
            inner[key] = [chosen] if key == "normalization_schemes" else chosen
        (results / "plans.json").write_text(json.dumps(plans))
        (results / "dataset.json").write_text(json.dumps(dataset))

    def _checkpoint(self, results: Path, random: Random) -> None:
        path = results / "fold_0" / "checkpoint_final.pth"
        state = nnunet_state(seeded_network(0, results_kind(results)))
        key = random.choice(sorted(state))
        value = state[key]
        if random.random() < 0.5:
            keys = ("network_weights", "init_args", "trainer_name", "current_epoch", "logging")
            key = random.choice([*keys, "inference_allowed_mirroring_axes"])
            items = {
                "network_weights": b"}",
                "init_args": dictionary(configuration=text("3d_fullres")),
                key: self.pieces[random.choice(sorted(self.pieces))],
            }
            torch_zip(path, dictionary(**items), random.choice([0, 0, zipfile.ZIP_DEFLATED]))
            return
        state[key] = random.choice(
            [
                *(value * float("nan"), value.to_sparse(), value.to("meta"), value[:0]),
                *(value.to(torch.complex64), torch.ones(1).expand(2**20, 2**14), value[None]),
                *OTHERS,
            ]
        )
        save_checkpoint(path, state)
        data = bytearray(path.read_bytes())
        for _ in range(random.choice([0, 0, 2])):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        path.write_bytes(data)

    def _pickle(self, results: Path, random: Random) -> None:
        (results / "postprocessing.json").unlink()
        function = name(MODULE, FUNCTION)
        piece = self.pieces[random.choice(sorted(self.pieces))]
        options = dictionary(labels_or_regions=piece)
        data = random.choice(
            [
                b"]" + function + b"a]" + options + b"a\x86",
                b"]" + piece + b"a]" + options + b"a\x86",
                piece,
                piece + piece + b"\x86",
                function + b"}" + text("a") + piece + b"sb" + b"]\x86",
            ]
        )
        protocol = bytes([0x80, random.choice([2, 4])])
        (results / "postprocessing.pkl").write_bytes(protocol + data + b".")
        component_rules(results)

    def _zip(self, results: Path, random: Random) -> Path:
        path = results.with_suffix(".zip")
        hostile = (
            "../plans.json",
            "/plans.json",
            "a/plans.json/plans.json",
            "plans.json/dataset.json",
        )
        names = [str(file.relative_to(results)) for file in sorted(results.rglob("*.*"))]
        with zipfile.ZipFile(path, "w", random.choice([0, zipfile.ZIP_DEFLATED])) as archive:
            for one in names:
                archive.write(results / one, f"r/{one}")
            for _ in range(random.choice([1, 1, 3])):
                member = zipfile.ZipInfo(
                    random.choice([*hostile, "r/plans.json", "x" * 300 + "/plans.json"])
                )
                member.external_attr = random.choice([0o100644, 0o120777]) << 16
                archive.writestr(member, b"/etc/passwd")
        if random.random() < 0.5:
            data = bytearray(path.read_bytes())
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
            path.write_bytes(data)
        return path


def results_kind(results: Path) -> str:
    """Name of the network of a results folder."""
    plans = json.loads((results / "plans.json").read_text())
    found = plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"]
    return str(found).rpartition(".")[2]
