# vigil-backfill, as an ordinary user, without a compiler. docs/docker.md tells how to build and run it.
FROM python:3.12.11-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/vigil
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY vigil vigil
# Parquet and S3 are most of the image's size: --build-arg EXTRAS= leaves them out.
ARG EXTRAS=[parquet,s3]
RUN /opt/vigil/bin/pip install --no-cache-dir --disable-pip-version-check ".${EXTRAS}"

FROM python:3.12.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home --home-dir /data vigil
COPY --from=build /opt/vigil /opt/vigil
COPY --chmod=0755 docker/worker.sh docker/demo.sh /usr/local/bin/
ENV PATH=/opt/vigil/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VIGIL_DATA_DIR=/data
WORKDIR /data
USER 10001
ENTRYPOINT ["vigil-backfill"]
CMD ["--help"]
