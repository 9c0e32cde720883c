# The service's image: the binary, the plugins of GStreamer that it uses, what these need, and nothing else beyond Debian's
# smallest. For any builder: `make image`.
ARG DEBIAN=docker.io/library/debian:12.12-slim
ARG RUST=docker.io/library/rust:1.95.0-slim-bookworm

# The binary. What it depends on is a layer of its own, which stays while Cargo.lock does.
#checkov:skip=CKV_DOCKER_7:The version is in the ARG
FROM ${RUST} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Debian's archive has the newest of a version and no other; what has to be which is in deploy/image/versions.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential pkg-config \
        libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests \
    && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && sed -n '/^\[\[test\]\]/,/^name/s/^name = "\(.*\)"/tests\/\1.rs/p' Cargo.toml | xargs touch \
    && cargo build --release --locked \
    && rm -rf src tests target/release/deps/*segmill* target/release/segmill*
COPY src src
COPY deploy/alerts/rules.yaml deploy/alerts/
RUN mkdir tests && sed -n '/^\[\[test\]\]/,/^name/s/^name = "\(.*\)"/tests\/\1.rs/p' Cargo.toml | xargs touch \
    && cargo build --release --locked --bin segmill && strip --strip-debug target/release/segmill

# GStreamer's plugins, and FFmpeg's libraries with what is used of them.
FROM ${DEBIAN} AS media
RUN find / -xdev -type f -o -type l > /base-files
COPY deploy/image /image
# hadolint ignore=DL3008
RUN sed -i 's/^Types: deb$/Types: deb deb-src/' /etc/apt/sources.list.d/*.sources && apt-get update \
    && apt-get install -y --no-install-recommends build-essential dpkg-dev nasm tini ca-certificates \
        gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly \
        gstreamer1.0-libav
RUN /image/ffmpeg.sh /ffmpeg
COPY --from=build /build/target/release/segmill /root/usr/bin/segmill
RUN /image/collect.sh /root /root/usr/bin/segmill /ffmpeg /base-files \
    && install -D /usr/bin/tini-static /root/usr/bin/tini \
    && install -D -m 644 -t /root/etc/ssl/certs /etc/ssl/certs/ca-certificates.crt \
    && install -D -m 644 -t /root/usr/share/doc/ca-certificates /usr/share/doc/ca-certificates/copyright \
    && install -D -m 644 /image/versions /root/usr/share/segmill/versions

FROM ${DEBIAN}
COPY --from=media /root /
# The registry of plugins is made here: afterwards nothing has to be written to find them. It is examined as a service on
# Cloud Run would be, which asks an API over https.
ENV GST_REGISTRY_1_0=/usr/share/segmill/registry \
    SEGMILL_OPS_LISTEN=0.0.0.0:9090 \
    PORT=8080
RUN ldconfig && useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin segmill \
    && segmill doctor --versions /usr/share/segmill/versions --sandbox best-effort \
        --run-service projects/any/locations/any/services/any --run-revision any \
    && chmod 644 "$GST_REGISTRY_1_0"
ENV GST_REGISTRY_UPDATE=no
USER 10001
RUN test -r "$GST_REGISTRY_1_0"
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=5s CMD ["segmill", "health"]
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/bin/segmill"]
CMD ["serve"]
