# georsr on NVIDIA GPUs:
#   docker build -t georsr .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/data" georsr sr scene.tif out.tif
# Without a GPU the same image runs on the CPU.
FROM nvidia/cuda:12.8.1-base-ubuntu24.04

# PROJ, GDAL and CUDA's libraries come with the wheels of rasterio and torch
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/georsr
COPY pyproject.toml README.md LICENSE ./
COPY georsr georsr
COPY cli cli
COPY qgis qgis
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir . \
    && /opt/venv/bin/georsr --version

ENV PATH="/opt/venv/bin:$PATH"
RUN useradd --create-home georsr
USER georsr
WORKDIR /data
ENTRYPOINT ["georsr"]
CMD ["--help"]
