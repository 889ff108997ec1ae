#!/usr/bin/env bash
# Puts what the tests of a DICOMweb server need into a folder: Orthanc with its DICOMweb plugin, and dcmqi, with which
# MONAI Label makes a DICOM SEG:
#     setup_dicomweb.sh PYTHON FOLDER
# Orthanc's packages of Debian or Ubuntu are unpacked, not installed: no root, and no service that starts. Those that
# the system has are not downloaded. Without apt-get, install Orthanc yourself; the tests look for it in /usr as well.
set -euo pipefail
python="$1"
folder="$2"

mkdir -p "$folder/packages"
"$python" -m pip install --quiet --no-deps --upgrade --target "$folder/python" dcmqi==1.5.7
command -v apt-get > /dev/null || exit 0
cd "$folder/packages"
apt-get install --simulate --no-install-recommends orthanc orthanc-dicomweb \
    | awk '/^Inst / {print $2}' | xargs --no-run-if-empty apt-get download --quiet
for package in *.deb; do
    [ ! -e "$package" ] || dpkg --extract "$package" ..
done
