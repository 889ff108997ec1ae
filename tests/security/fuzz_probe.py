"""Reads spoiled inputs as a prediction does, in processes with little memory; a program of its own.

    python fuzz_probe.py SEED COUNT FOLDER

FOLDER/faults gets a line of JSON for each input that neither loads nor is refused by a BundleError.
"""

import faulthandler
import json
import os
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_inputs import Input, seeds, spoil

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.cases import apply_to_case
from dynunet_bundle.dataset.inputs import find_inputs
from dynunet_bundle.dicom_input.archives import remove_extractions
from dynunet_bundle.errors import BundleError

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
CHUNK = 64
SPARE_BYTES = 2 << 30
MAX_SECONDS = 10
LIMIT_GIB = "0.125"
"""With it no array that is allowed is larger than 1 GiB, which is what resampling may make of 128 MiB."""


def write(folder: Path, given: Input) -> Path:
    """Write an input; give what ``--input`` would be."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in given.items():
        (folder / name).write_bytes(content)
    names = sorted(given)
    single = len(names) == 1 or names[0].startswith("apart")
    header = next((name for name in names if name.endswith(("nhdr", "mhd"))), names[0])
    return folder / header if single and not names[0].endswith(".dcm") else folder


def note(folder: Path, at: str, error: str) -> None:
    with (folder / "faults").open("a") as file:
        file.write(json.dumps({"at": at, "error": error}) + "\n")


def read(source: Path, transform: Any) -> None:
    for case in find_inputs(source):
        found = apply_to_case(case, transform)["image"]
        assert found.ndim == 4 and bool(torch.isfinite(found.as_tensor()).all())


def inputs(seed: int, count: int) -> Iterator[tuple[int, str, Input]]:
    given = seeds()
    kinds = sorted(given)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        kind = kinds[index % len(kinds)]
        yield index, kind, spoil(rng, given[kind])


def run_chunk(chunk: list[tuple[int, str, Input]], folder: Path, transform: Any) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for index, kind, given in chunk:
        (folder / "at").write_text(f"{index} {kind}")
        # SimpleITK cannot be interrupted from Python
        faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)
        source = write(folder / "input", given)
        try:
            read(source, transform)
        except BundleError as error:
            assert str(folder) not in str(error), error
        except BaseException:
            note(folder, f"{index} {kind}", traceback.format_exc()[-3000:])
        faulthandler.cancel_dump_traceback_later()


def main() -> None:
    seed, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    os.environ["DYNUNET_MAX_IMAGE_GIB"] = LIMIT_GIB
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transform = load_workflow(BUNDLE, "inference.json").parser.get_parsed_content("preprocessing")
    todo = list(inputs(seed, count))
    # what is imported late is imported once
    read(write(folder / "input", seeds()["dicom plain"]), transform)
    read(write(folder / "input", seeds()["raw.mha"]), transform)
    for start in range(0, count, CHUNK):
        child = os.fork()
        if child == 0:
            run_chunk(todo[start : start + CHUNK], folder, transform)
            # os._exit runs no exit handlers
            remove_extractions()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status != 0:
            at = (folder / "at").read_text()
            note(folder, at, f"the process ended with status {status}")


if __name__ == "__main__":
    main()
