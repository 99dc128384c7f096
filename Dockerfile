# docker build -t ditscale . && docker run --rm --gpus all --shm-size 16g -v "$PWD:/work" ditscale ditscale doctor
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

# A compiler and Python.h are for FFCV and torch.compile, the next three for FFCV, the last two for studies on several hosts.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev python3-venv pkg-config libturbojpeg0-dev libopencv-dev openssh-client pdsh \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/ditscale
COPY constraints.txt setup.cfg pyproject.toml README.md LICENSE ./
COPY ds_configs ds_configs
COPY sweeps sweeps
COPY ditscale ditscale
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -c constraints.txt setuptools wheel '.[inception]' \
    && /opt/venv/bin/pip install --no-cache-dir -c constraints.txt --no-build-isolation ffcv

ENV PATH=/opt/venv/bin:$PATH
WORKDIR /work
CMD ["ditscale", "--help"]
