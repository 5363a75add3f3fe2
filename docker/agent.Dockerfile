# The agent, for boards whose Python is too old for a probe: L4T r32.7 (JetPack 4) and r35 (JetPack 5).
# docker/build agent builds it; for r35, give BASE_IMAGE=nvcr.io/nvidia/l4t-jetpack:r35.4.1.
ARG BASE_IMAGE=nvcr.io/nvidia/l4t-base:r32.7.1
FROM ${BASE_IMAGE}
# hadolint ignore=DL3008
RUN command -v python3 >/dev/null \
 || { apt-get update && apt-get install --yes --no-install-recommends python3-minimal && rm -rf /var/lib/apt/lists/*; }
RUN mkdir -m 1777 /cache
COPY agent/plumbline_agent.py /plumbline/
RUN ln -s /plumbline/plumbline_agent.py /usr/local/bin/plumbline-agent
ENV XDG_CACHE_HOME=/cache PYTHONDONTWRITEBYTECODE=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all

ARG BASE_IMAGE
ARG BASE_DIGEST=""
ARG REVISION=""
RUN --mount=type=bind,source=docker/fingerprint.py,target=/fingerprint.py \
    python3 /fingerprint.py --base "${BASE_IMAGE}" --base-digest "${BASE_DIGEST}" --revision "${REVISION}"

VOLUME ["/cache"]
WORKDIR /cache
USER 10001:10001
CMD ["plumbline-agent", "--version"]
