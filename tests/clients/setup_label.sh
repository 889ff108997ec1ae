#!/usr/bin/env bash
# Builds the environment of MONAI Label in which tests/clients run: setup_label.sh PYTHON FOLDER
set -euo pipefail
python="$1"
folder="$2"
here="$(cd "$(dirname "$0")" && pwd)"
pins="$here/label-constraints.txt"

"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --constraint "$pins")
"${pip[@]}" --upgrade pip wheel setuptools
"${pip[@]}" torch numpy
# sam2 builds from source; isolated, its build would download a second torch
SAM2_BUILD_CUDA=0 "${pip[@]}" --no-build-isolation monailabel
# pydicom-seg, which monailabel asks for, breaks with pydicom 3, and newer DICOM clients break with pydicom 2
"${pip[@]}" "pydicom<3" "dicomweb-client[gcp]<0.60" "pynetdicom<3"
# what a bundle of this project needs; monailabel brings the rest
"${pip[@]}" connected-components-3d nvidia-dali-cuda120 fire tensorboard SimpleITK pytorch-ignite pytest jinja2
"$folder/bin/python" -m pip uninstall --quiet --yes sam2
