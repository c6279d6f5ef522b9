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
#
# It has no apt. When they need packages of Debian, too, begin with these lines instead of the first two:
#
#     FROM python:3.13-slim-bookworm
#     RUN apt-get update && apt-get install -y --no-install-recommends ffmpeg
#     RUN useradd -u 10001 -d /handlers wa-ingest && install -d -o 10001 -m 0700 /spool /archive
#     COPY --from=wa-ingest /venv /venv
#     ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PIP_PYTHON=/venv/bin/python
#     WORKDIR /handlers
#     ENTRYPOINT ["wa-ingest"]

# The Python of the image is the one that CI runs every test on: .ci/run reads it here.
FROM python:3.13-slim-bookworm AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/venv/bin/python
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils
# It sees the pip that the base image has, so it needs none of its own.
RUN python -m venv --without-pip --system-site-packages /venv
# What the package needs, on its own: this stage stays the same until the lock file changes. With the extras for traces and
# PostgreSQL, which cost nothing until they are asked for, and without the server that `wa-ingest up` brings along.
COPY requirements.image.lock /
# Wheels only: nothing is compiled here, so no compiler is needed. The lock file has their hashes, so pip checks them. More
# than half of their size is debug information; what is for compilers, type checkers and their own tests goes, too.
RUN pip install --quiet --no-compile --only-binary :all: --requirement /requirements.image.lock \
    && find /venv -name '*.so*' -type f -exec strip --strip-unneeded {} + \
    && find /venv -regex '.*\.\(c\|h\|pyx\|pxd\|pxi\|pyi\)' -delete \
    && find /venv -type d -name tests -prune -exec rm -r {} +


FROM packages AS ours
WORKDIR /source
COPY pyproject.toml requirements.lock README.md LICENSE wa_ingest.py ./
COPY ingest ingest
COPY workers workers
COPY docs/troubleshooting.md docs/
RUN PIP_BUILD_CONSTRAINT=/source/requirements.lock pip wheel --quiet --no-deps --wheel-dir /wheel . \
    && pip install --quiet --no-deps --no-index --no-warn-script-location --root /ours /wheel/*.whl


FROM python:3.13-slim-bookworm AS pruned
# A fixed uid, so that the owner of a mounted folder can be told. New volumes take over owner and mode.
RUN groupadd --gid 10001 wa-ingest \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /handlers --shell /usr/sbin/nologin wa-ingest \
    && install --directory --owner 10001 --group 10001 --mode 0700 /spool /archive
# Without apt, Perl, what mounts and formats disks, and what only they need. dpkg stays, and knows what is left, so that
# scanners do. The packages' own scripts are in Perl, so that goes last.
RUN purge='dpkg --purge --force-depends --force-remove-essential' \
    && { $purge adduser apt bsdutils debian-archive-keyring e2fsprogs gpgv libapt-pkg6.0 libblkid1 libdb5.3 libext2fs2 \
        libgcrypt20 libgnutls30 libgpg-error0 libhogweed6 libidn2-0 libmount1 libnettle8 libp11-kit0 libsmartcols1 libss2 \
        libsystemd0 libtasn1-6 libudev1 libunistring2 logsave mount openssl util-linux util-linux-extra \
    && $purge debconf perl-base; } >/dpkg.log 2>&1 || { cat /dpkg.log; exit 1; }
# Without character sets of the C library (Python has its own), headers, and Python's own tools and tests. pip stays.
RUN rm -rf /dpkg.log /usr/lib/*/gconv /usr/local/include /usr/share/zoneinfo/posix /usr/share/zoneinfo/right /var/cache/debconf \
    && cd /usr/local/lib/python3.* \
    && rm -rf ensurepip idlelib pydoc_data tkinter turtledemo lib-dynload/_test* lib-dynload/_tkinter*
COPY --from=packages /venv /venv
# Python keeps what it compiles. So there is byte code for what ours import, and none for the rest, which is most.
RUN /venv/bin/python -c "import aiohttp.web, asyncpg, click, cryptography.x509, cryptography.hazmat.primitives.serialization, \
difflib, encodings.idna, google_crc32c, opentelemetry.exporter.otlp.proto.http.trace_exporter, orjson, \
opentelemetry.trace.propagation.tracecontext, prometheus_client.core, prometheus_client.multiprocess, pydantic_settings, \
pydantic.functional_serializers, redis.asyncio, rich.live, rich.progress, rq, structlog, tomllib, urllib.request, uvloop, \
zstandard; redis.Redis()"


# In one layer, because a layer on top of the base image would not make it smaller.
FROM scratch
ENV PATH=/venv/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/venv/bin/python INGEST_IMAGE=1
COPY --from=pruned / /
COPY --from=ours /ours/venv /venv

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
