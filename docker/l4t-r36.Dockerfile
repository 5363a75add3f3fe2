# JetPack 6 (L4T r36), whose CUDA is that of the base. Torch for it comes from an index, by the addresses of wheels, or from
# wheels in docker/wheelhouse. docker/build l4t-r36 builds it, docs/docker.md says with which arguments.
ARG BASE_IMAGE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE_IMAGE} AS uv
ARG PIP_CERT=/etc/ssl/certs/ca-certificates.crt
# hadolint ignore=DL3008
RUN { python3 -c "import ensurepip" && test -e "${PIP_CERT}"; } 2>/dev/null \
 || { apt-get update && apt-get install --yes --no-install-recommends ca-certificates python3-venv && rm -rf /var/lib/apt/lists/*; }
COPY constraints.txt /
RUN python3 -m venv /uv && /uv/bin/pip install --quiet --no-cache-dir --constraint /constraints.txt uv \
 && cp "${PIP_CERT}" /uv/certificates.crt

FROM ${BASE_IMAGE}
# hadolint ignore=DL3008
RUN command -v python3 >/dev/null \
 || { apt-get update && apt-get install --yes --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*; }
RUN mkdir -m 1777 /runs /cache
WORKDIR /plumbline
ENV PATH=/opt/venv/bin:${PATH} PLUMBLINE_RUNS=/runs XDG_CACHE_HOME=/cache PYTHONDONTWRITEBYTECODE=1 \
    PYTEST_ADDOPTS="-p no:cacheprovider" NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all

# Torch first, as the board's own line of it has it
ARG TORCH=""
ARG EXPECTED_TORCH=""
ARG EXPECTED_CUDA=""
RUN missing() { echo "expected --build-arg $1, got none; see JetPack 6 in docs/docker.md" >&2; exit 1; }; \
    test -n "${TORCH}" || missing "TORCH='torch==VERSION torchvision==VERSION', or the addresses of their wheels"; \
    test -n "${EXPECTED_TORCH}" || missing "EXPECTED_TORCH=VERSION, the torch that shall be there at the end"; \
    test -n "${EXPECTED_CUDA}" || missing "EXPECTED_CUDA=VERSION, that of this torch, or none"
ARG UV_CACHE_DIR=/uv-cache
ARG SSL_CERT_FILE=/uv/certificates.crt
ARG TORCH_INDEX=""
# hadolint ignore=SC2086
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=cache,target=/uv-cache \
    --mount=type=bind,source=docker/wheelhouse,target=/wheelhouse \
    --mount=type=bind,source=docker/fingerprint.py,target=/fingerprint.py \
    /uv/bin/uv venv --quiet --python python3 /opt/venv \
 && /uv/bin/uv pip install --quiet --python /opt/venv --link-mode copy --find-links /wheelhouse \
      ${TORCH_INDEX:+--index "${TORCH_INDEX}"} ${TORCH} \
 && python /fingerprint.py --expect-torch "${EXPECTED_TORCH}" --expect-cuda "${EXPECTED_CUDA}" --after "the install of TORCH"

# Ours last, from constraints.txt without those of torch and its CUDA. What replaces torch all the same ends the build.
ARG REQUIREMENTS=""
COPY pyproject.toml constraints.txt ./
# hadolint ignore=SC2086
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=cache,target=/uv-cache \
    --mount=type=bind,source=docker/wheelhouse,target=/wheelhouse \
    --mount=type=bind,source=docker/fingerprint.py,target=/fingerprint.py --mount=type=tmpfs,target=/tmp \
    grep -vE "^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==" constraints.txt >/tmp/constraints.txt \
 && /uv/bin/uv pip install --quiet --python /opt/venv --link-mode copy --compile-bytecode --find-links /wheelhouse \
      --constraint /tmp/constraints.txt --requirement pyproject.toml ${REQUIREMENTS} \
 && python /fingerprint.py --expect-torch "${EXPECTED_TORCH}" --expect-cuda "${EXPECTED_CUDA}" --after "the last install"

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
