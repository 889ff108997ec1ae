#!/usr/bin/env bash
# Builds the environment of MONAI Deploy in which tests/clients run an application:
#     setup_deploy.sh PYTHON FOLDER
set -euo pipefail
python="$1"
folder="$2"
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"

"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet)
"${pip[@]}" --constraint "$root/constraints.txt" torch
# the packages that a bundle of this project needs; the bundle brings its own code
"${pip[@]}" --constraint "$root/constraints.txt" "$root[dicom]"
"$folder/bin/python" -m pip uninstall --quiet --yes dynunet-bundle
"${pip[@]}" --no-deps --requirement "$here/deploy-requirements.txt"
