# docker build -t sam2unet .                          CPU
# docker build -t sam2unet --build-arg DEVICE=cuda .  NVIDIA GPU; needs the NVIDIA container toolkit on the host
# docker run --rm -v "$PWD:/work" sam2unet train --help
# docker run --rm --gpus all -v "$PWD:/work" sam2unet doctor
FROM python:3.12-slim

ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 SAM2UNET_CACHE=/cache

# The wheels of PyPI contain CUDA. PyTorch's own index has smaller wheels without it. No version is pinned, so that pip
# installs a pair of torch and torchvision that fits.
# hadolint ignore=DL3013
RUN case "$DEVICE" in \
      cpu) pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu ;; \
      cuda) pip install torch torchvision ;; \
      *) echo "error: DEVICE is $DEVICE; give cpu or cuda" >&2; exit 2 ;; \
    esac

WORKDIR /source
COPY pyproject.toml requirements.txt README.md LICENSE ./
COPY configs configs
COPY sam2unet sam2unet
# hadolint ignore=DL3013
RUN pip install ".[annotations,check,export,fast,log,medical,plots,video]" \
    && useradd --create-home --uid 1000 user && mkdir /cache /work && chown user /cache /work

USER 1000
WORKDIR /work
ENTRYPOINT ["sam2unet"]
CMD ["--help"]
