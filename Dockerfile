# The server on a CPU.
#
#     docker build --tag minicpmv .
#     docker run --publish 8000:8000 minicpmv                                 # nano, which is inside
#     docker run --publish 8000:8000 --volume models:/home/minicpmv/.cache \
#         minicpmv serve openbmb/MiniCPM-V-2_6
#
# compose.yaml starts it with its page, Prometheus and Grafana.

FROM python:3.11-slim-bookworm AS build

ARG EXTRAS=serve,video
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Before the package, so that a change to it does not fetch torch again. Other indexes give torch
# with CUDA, which is several gigabytes.
RUN python -m venv /opt/minicpmv \
    && /opt/minicpmv/bin/pip install --index-url https://download.pytorch.org/whl/cpu \
        "torch>=2.9,<2.14"
COPY pyproject.toml README.md LICENSE ./
COPY minicpmv ./minicpmv
RUN /opt/minicpmv/bin/pip install ".[${EXTRAS}]"

FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="minicpmv" \
      org.opencontainers.image.description="The MiniCPM-V family behind the protocols of OpenAI" \
      org.opencontainers.image.licenses="Apache-2.0"
# The kernels are compiled for the processor that the container runs on, at its first start.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 minicpmv \
    && install --directory --owner minicpmv /home/minicpmv/.cache
COPY --from=build /opt/minicpmv /opt/minicpmv
ENV PATH=/opt/minicpmv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MINICPMV_HOST=0.0.0.0
USER 10001
WORKDIR /home/minicpmv
VOLUME /home/minicpmv/.cache
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('MINICPMV_PORT', '8000') + '/health', timeout=4)"]
ENTRYPOINT ["minicpmv"]
CMD ["serve"]
