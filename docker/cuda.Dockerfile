# tgo-pipeline on NVIDIA GPUs: docker build -f docker/cuda.Dockerfile -t tgo-pipeline-cuda . (in a clone of the repository)
# Never built, and never run on a GPU: no Docker was at hand where this was written. Only building the package and the git
# setting were tried. torch of the registry brings CUDA's libraries; the host needs NVIDIA's driver and its container toolkit.
FROM python:3.11-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc git libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/tgo-pipeline
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[hub,tracking]'
# Any user may run it: weights and caches go to a folder that all may write. Mount a disk there: weights take gigabytes.
ENV HF_HOME=/cache/huggingface TGO_CACHE=/cache/tgo-pipeline HOME=/cache
RUN mkdir -m 777 /cache && git config --system --add safe.directory '*'
# docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/project" -v /data/cache:/cache \
#   tgo-pipeline-cuda doctor
WORKDIR /project
ENTRYPOINT ["tgo"]
