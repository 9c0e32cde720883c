# Where the build checks the sources: Rust with its lints, and what scripts/setup.sh installs. Its context is scripts/.
FROM docker.io/library/rust:1.95.0-slim-bookworm
#checkov:skip=CKV_DOCKER_2:It runs one command at a time
#checkov:skip=CKV_DOCKER_3:It lives as long as the build, and the workspace is root's
RUN rustup component add rustfmt clippy
COPY setup.sh /setup.sh
RUN /setup.sh && rm -rf /target /var/lib/apt/lists/*
