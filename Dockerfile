# The receiver, the workers and the tools in one image: `serve`, `work`, `status`, `check` …
#
# Handlers are no part of it: mount their folder at /handlers, or, when they import packages of their own:
#
#     FROM wa-ingest
#     USER root
#     RUN pip install some-package
#     USER wa-ingest
#     COPY bot.py .
#     ENV WA_HANDLERS=bot:handlers

# The Python of the image is the one that CI runs every test on: .ci/run reads it here.
FROM python:3.13-slim-bookworm AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/venv/bin/python
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils
# It sees the pip that the base image has, so it needs none of its own.
RUN python -m venv --without-pip --system-site-packages /venv
# What the package needs, on its own: the layer that holds it stays the same until the lock file changes. With the extras for
# traces and PostgreSQL, which cost nothing until they are asked for, and without the server that `wa-ingest up` brings along.
COPY requirements.image.lock /
# Wheels only: nothing is compiled here, so no compiler is needed. The lock file has their hashes, so pip checks them. More
# than half of their size is debug information.
RUN pip install --quiet --only-binary :all: --requirement /requirements.image.lock \
    && find /venv -name '*.so*' -type f -exec strip --strip-unneeded {} +


FROM python:3.13-slim-bookworm AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY pyproject.toml requirements.lock README.md LICENSE wa_ingest.py ./
COPY ingest ingest
COPY workers workers
COPY docs/troubleshooting.md docs/
RUN PIP_BUILD_CONSTRAINT=/source/requirements.lock pip wheel --quiet --no-deps --wheel-dir /wheel .


FROM python:3.13-slim-bookworm
# A fixed uid, so that the owner of a mounted folder can be told. New volumes take over owner and mode.
RUN groupadd --gid 10001 wa-ingest \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /handlers --shell /usr/sbin/nologin wa-ingest \
    && install --directory --owner 10001 --group 10001 --mode 0700 /spool /archive
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/venv/bin/python
COPY --from=packages /venv /venv
COPY --from=wheel /wheel/*.whl /wheel/
RUN pip install --quiet --no-deps --no-index /wheel/*.whl

WORKDIR /handlers
USER wa-ingest
EXPOSE 8080
ENTRYPOINT ["wa-ingest"]
CMD ["--help"]

# `make image` gives both; they come last, so that they renew no layer.
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="wa-ingest" \
      org.opencontainers.image.description="Receiver and workers for WhatsApp Business notifications" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim-bookworm"
