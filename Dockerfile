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
FROM python:3.13-slim-bookworm AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
# In a venv, because a distribution's own Python refuses pip outside one.
RUN python -m venv /venv
COPY pyproject.toml requirements.lock README.md LICENSE wa_ingest.py ./
COPY ingest ingest
COPY workers workers
COPY docs/troubleshooting.md docs/
RUN PIP_BUILD_CONSTRAINT=/source/requirements.lock /venv/bin/pip wheel --quiet --no-deps --wheel-dir /wheel .


FROM python:3.13-slim-bookworm
# A fixed uid, so that the owner of a mounted folder can be told. New volumes take over owner and mode.
RUN groupadd --gid 10001 wa-ingest \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /handlers --shell /usr/sbin/nologin wa-ingest \
    && install --directory --owner 10001 --group 10001 --mode 0700 /spool /archive
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# What the package needs, on its own: the layer that holds it stays the same until the lock file changes. With the extra for
# traces, which costs nothing until they are asked for, and without the server that `wa-ingest up` brings along.
COPY requirements.image.lock /wheel/
# Wheels only: nothing is compiled here, so no compiler is needed. The lock file has their hashes, so pip checks them.
RUN python -m venv /venv \
    && pip install --quiet --only-binary :all: --requirement /wheel/requirements.image.lock
COPY --from=wheel /wheel/*.whl /wheel/
RUN pip install --quiet --no-deps --no-index /wheel/*.whl

WORKDIR /handlers
USER wa-ingest
EXPOSE 8080
ENTRYPOINT ["wa-ingest"]
CMD ["--help"]
