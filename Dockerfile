# dynunet-bundle with the pinned packages of constraints.txt, with or without a GPU.
#
#     docker build --tag dynunet-bundle .
#
# The image contains no data or weights: mount both. Run it as your own user, so that you own its output files. --init
# forwards signals, --shm-size is for the processes that load cases, --network none because nothing is downloaded:
#
#     docker run --rm --init --gpus all --shm-size 8g --network none --user "$(id -u):$(id -g)" \
#         --mount type=bind,src="$PWD/DATA",dst=/data,readonly --mount type=bind,src="$PWD/OUT",dst=/out \
#         dynunet-bundle run training --config_file configs/train.json \
#         --dataset_dir /data/Task04_Hippocampus --ckpt_dir /out/models --output_dir /out/run
#
#     docker run --rm --init --gpus all --shm-size 8g --network none --user "$(id -u):$(id -g)" \
#         --mount type=bind,src="$PWD/DATA",dst=/data,readonly --mount type=bind,src="$PWD/OUT",dst=/out \
#         dynunet-bundle run inference --config_file configs/inference.json \
#         --input /data/Task04_Hippocampus/imagesTs --weights_file /out/models/model.pt --output_dir /out/masks
#
# Without a GPU omit --gpus. Scripts, such as plan.py, and torchrun:
#
#     docker run ... --entrypoint python dynunet-bundle ../scripts/plan.py \
#         --dataset_dir /data/Task09_Spleen --output /out/plan.json --cache_dir /out/surveys
#     docker run ... --entrypoint torchrun dynunet-bundle --standalone --nproc_per_node=8 -m monai.bundle run training ...
#
# To use a bundle made by scripts/package.py, mount it over the one in the image:
#
#     docker run ... --mount type=bind,src="$PWD/dist/NAME",dst=/opt/dynunet-bundle/bundle,readonly dynunet-bundle run ...
#
# "docker stop -t 120" gives a training time to save; it exits with code 75, and the same command resumes it.
# PyPI's torch for Linux is built for CUDA 13.0: the host needs an NVIDIA driver of series 580 or later and NVIDIA's
# container toolkit. torch's metadata select the CUDA libraries; all other packages except setuptools and wheel are pinned.

FROM python:3.11.15-slim-bookworm

# for any --user, even without an entry in /etc/passwd; torch names its caches by USER
ENV HOME=/tmp \
    USER=bundle \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /opt/dynunet-bundle

# files that select packages come first, so that a change of the code does not reinstall them
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY bundle/dynunet_bundle/__init__.py bundle/dynunet_bundle/
RUN python -m pip install --no-cache-dir --constraint constraints.txt torch \
    && python -m pip install --no-cache-dir --constraint constraints.txt --editable ".[cluster,complete,dicom,export,watch]"

COPY scripts scripts
COPY bundle bundle

USER 1000:1000
WORKDIR /opt/dynunet-bundle/bundle
ENTRYPOINT ["python", "-m", "monai.bundle"]
CMD ["--help"]
