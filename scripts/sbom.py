"""Write a bill of materials of the installed packages, with versions, licences and weights (CycloneDX 1.6 JSON).

    python scripts/sbom.py --out dist/sbom.json
    python scripts/sbom.py --out dist/sbom.json --weights bundle/models/model.pt --weights_license CC-BY-SA-4.0

The packages are listed by cyclonedx-bom, which make install brings. The same environment gives the same file.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import ConfigError, user_errors_exit

ROOT = Path(__file__).resolve().parents[1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--weights", nargs="+", type=Path, default=[], help="files of weights")
    parser.add_argument("--weights_license", help="SPDX name of the licence of the weights")
    return parser.parse_args()


def environment() -> dict[str, Any]:
    """The installed packages, with the project of pyproject.toml at the root."""
    tool = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    # with texts: some packages, MONAI for one, name their licence in a way that is taken for a text
    options = ["--gather-license-texts", "--pyproject", str(ROOT / "pyproject.toml")]
    done = subprocess.run(  # noqa: S603 - the interpreter itself, without a shell
        [*tool, *options, sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ConfigError(f"cyclonedx-bom failed: {lines[-1]}. Run make install, which brings it.")
    document: dict[str, Any] = json.loads(done.stdout)
    root = document["metadata"]["component"]
    # the project's own installation names a folder of this machine, and the root stands for it
    own = [one for one in document["components"] if one["name"] == root["name"]]
    root["version"] = own[0]["version"] if own else "unknown"
    references = [one["bom-ref"] for one in own]
    document["components"] = [one for one in document["components"] if one not in own]
    document["dependencies"] = [
        one for one in document["dependencies"] if one["ref"] not in references
    ]
    return document


def weights_component(path: Path, licence: str | None) -> dict[str, Any]:
    from dynunet_bundle.files import sha256_of

    if not path.is_file():
        raise ConfigError(f"{path} is not a file of weights.")
    digest = sha256_of(path)
    component = {
        "type": "machine-learning-model",
        "bom-ref": f"weights:{digest}",
        "name": path.name,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    return component | ({"licenses": [{"expression": licence}]} if licence else {})


def main() -> None:
    arguments = parse_arguments()

    from dynunet_bundle.files import ensure_writable, write_json

    weights = [weights_component(one, arguments.weights_license) for one in arguments.weights]
    document = environment()
    document["components"] += sorted(weights, key=lambda one: str(one["bom-ref"]))
    ensure_writable(arguments.out.parent)
    write_json(arguments.out, document)
    print(f"{len(document['components'])} components are in {arguments.out}")


if __name__ == "__main__":
    with user_errors_exit():
        main()
