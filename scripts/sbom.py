"""Write the bill of materials of what is installed: packages, versions, licences, weights; CycloneDX 1.5 JSON.

    python scripts/sbom.py --out dist/sbom.json
    python scripts/sbom.py --out dist/sbom.json --weights bundle/models/model.pt

The same packages give the same file. What is installed otherwise than constraints.txt says is told, and with --strict
is an error.
"""

import argparse
import sys
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

ROOT = Path(__file__).resolve().parents[1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, help="the JSON file")
    parser.add_argument("--weights", nargs="+", type=Path, default=[], help="files of weights")
    parser.add_argument("--strict", action="store_true", help="refuse what is not pinned")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()

    from dynunet_bundle.delivery.sbom import differences, make_sbom
    from dynunet_bundle.errors import ConfigError
    from dynunet_bundle.files import ensure_writable, write_json

    document = make_sbom(arguments.weights)
    found = differences(document, ROOT / "constraints.txt")
    if found and arguments.strict:
        raise ConfigError(f"not as constraints.txt pins: {'; '.join(found)}. Run make install.")
    for line in found:
        print(f"not as constraints.txt pins: {line}", file=sys.stderr)
    ensure_writable(arguments.out.parent)
    write_json(arguments.out, document)
    print(f"{len(document['components'])} components are in {arguments.out}")


if __name__ == "__main__":
    with user_errors_exit():
        main()
