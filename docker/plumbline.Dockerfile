# x86 with CUDA, a CPU alone, and JetPack 7 (L4T 38 and 39). Torch's own wheels bring CUDA; the machine gives the driver.
# docker/build plumbline builds it, docs/docker.md says with which arguments.
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE} AS uv
ARG PIP_CERT=/etc/ssl/certs/ca-certificates.crt
COPY constraints.txt /
RUN python3 -m venv /uv && /uv/bin/pip install --quiet --no-cache-dir --constraint /constraints.txt uv

FROM ${BASE_IMAGE}
# Installed where the base has not got it: g++ for the runtime `compiled` and for sparse layers
ARG SYSTEM_PACKAGES=""
# hadolint ignore=DL3008,SC2086
RUN if [ -n "${SYSTEM_PACKAGES}" ]; then \
      apt-get update && apt-get install --yes --no-install-recommends ${SYSTEM_PACKAGES} && rm -rf /var/lib/apt/lists/*; \
    fi
RUN mkdir -m 1777 /runs /cache
WORKDIR /plumbline
ENV PATH=/opt/venv/bin:${PATH} PLUMBLINE_RUNS=/runs XDG_CACHE_HOME=/cache PYTHONDONTWRITEBYTECODE=1 \
    PYTEST_ADDOPTS="-p no:cacheprovider" NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The large layer: all that ours needs, and nothing of ours, so that a changed source installs nothing again
ARG UV_CACHE_DIR=/uv-cache
ARG SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
ARG EXTRA_INDEX=""
ARG EXTRAS=""
ARG REQUIREMENTS=""
COPY pyproject.toml constraints.txt ./
# hadolint ignore=SC2046,SC2086
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=cache,target=/uv-cache \
    /uv/bin/uv venv --quiet /opt/venv \
 && /uv/bin/uv pip install --quiet --python /opt/venv --link-mode copy --compile-bytecode --constraint constraints.txt \
      ${EXTRA_INDEX:+--index "${EXTRA_INDEX}" --index-strategy unsafe-best-match} \
      --requirement pyproject.toml $(for extra in ${EXTRAS}; do echo "--extra ${extra}"; done) ${REQUIREMENTS}

COPY README.md LICENSE ./
COPY src src
COPY benchmarks benchmarks
COPY models models
COPY harness harness
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=tmpfs,target=/tmp \
    /uv/bin/uv pip install --quiet --no-cache --python /opt/venv --no-deps --no-build-isolation --editable . \
 && python -m compileall -q benchmarks harness models src

ARG BASE_IMAGE
ARG BASE_DIGEST=""
ARG REVISION=""
RUN --mount=type=bind,source=docker/fingerprint.py,target=/fingerprint.py \
    python /fingerprint.py --base "${BASE_IMAGE}" --base-digest "${BASE_DIGEST}" --revision "${REVISION}"

VOLUME ["/runs", "/cache"]
USER 10001:10001
CMD ["pytest", "benchmarks/", "--tier", "smoke"]
