#!/usr/bin/env bash
# Builds the environment of MONAI Label in which tests/clients start its server:
#     setup_label.sh PYTHON FOLDER
set -euo pipefail
python="$1"
folder="$2"
pins="$(cd "$(dirname "$0")" && pwd)/label-constraints.txt"

"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --constraint "$pins")
"${pip[@]}" --upgrade pip
"${pip[@]}" setuptools wheel torch numpy
# sam2 is built from source: isolated, its build would download a second torch. Nothing here uses it.
SAM2_BUILD_CUDA=0 "${pip[@]}" --no-build-isolation monailabel
"$folder/bin/python" -m pip uninstall --quiet --yes sam2
# what a bundle of this project needs beside what monailabel brings
"${pip[@]}" connected-components-3d fire jinja2 nvidia-dali-cuda120 pytorch-ignite SimpleITK tensorboard
