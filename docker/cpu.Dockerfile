# tgo-pipeline on CPUs: docker build -f docker/cpu.Dockerfile -t tgo-pipeline . (in a clone of the repository)
# Never built: no Docker was at hand where this was written. Only building the package and the git setting were tried.
FROM python:3.11-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/tgo-pipeline
COPY . .
# An index of CPU builds of torch, such as its publisher's, saves 5 GB: --build-arg PIP_EXTRA_INDEX_URL=https://...
ARG PIP_EXTRA_INDEX_URL=""
RUN pip install --no-cache-dir --constraint constraints.txt .
# Any user may run it: weights and caches go to a folder that all may write.
ENV HF_HOME=/cache/huggingface TGO_CACHE=/cache/tgo-pipeline HOME=/cache
RUN mkdir -m 777 /cache && git config --system --add safe.directory '*'
# docker run --rm --user "$(id -u):$(id -g)" --shm-size 1g -v "$PWD:/project" tgo-pipeline init --demo
WORKDIR /project
ENTRYPOINT ["tgo"]
