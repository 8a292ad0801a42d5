# All commands, for CPUs or GPUs. From the repository's root:
#
#   docker build -t registry.example.com/tganv2:1 .
#   docker build --build-arg EXTRAS="gpu ray" -t registry.example.com/tganv2:1 .
#   docker run --rm -v "$PWD:/work" registry.example.com/tganv2:1 train --flagfile=demo.flags --dry_run
#
# EXTRAS are any of gpu, ray, explore and fvd; examples/kubernetes needs gpu and ray. PYTHON_VERSION chooses the lane:
# 3.9 to 3.11 have TensorFlow 2.15, 3.12 and 3.13 have TensorFlow 2.21. CUDA comes as wheels; the host provides NVIDIA's
# driver and container toolkit (docker run --gpus all). The user has the number 1000 and writes to /work.
#
# This file has not been built yet: no Docker engine was available. Its commands and files are tested.
ARG PYTHON_VERSION=3.11
FROM python:${PYTHON_VERSION}-slim

# OpenCV needs the two libraries; KubeRay's probes call wget. Debian's versions follow the base image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes libgl1 libglib2.0-0 wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/tganv2
COPY requirements.txt requirements-explore.txt requirements-fvd.txt requirements-gpu.txt requirements-ray.txt constraints.txt ./
ARG EXTRAS=""
RUN set -- -r requirements.txt; \
    for extra in ${EXTRAS}; do set -- "$@" -r "requirements-${extra}.txt"; done; \
    pip install --no-cache-dir "$@" -c constraints.txt

COPY pyproject.toml README.md LICENSE ./
COPY data_prep data_prep
COPY flags flags
COPY tganv2_tf tganv2_tf
RUN pip install --no-cache-dir --no-deps .

RUN useradd --create-home --uid 1000 tganv2 && mkdir /work && chown tganv2 /work
USER 1000
WORKDIR /work
ENV PYTHONUNBUFFERED=1 NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["tganv2"]
CMD ["--help"]
