# One static binary, the system's root certificates, two folders. No shell, no package manager, no root.
#
#   docker build -t pullgate .
#   docker run --read-only --cap-drop=ALL --security-opt=no-new-privileges -p 8443:8443 \
#       -v pullgate-data:/data -v pullgate-certs:/certs pullgate
#
# Your own files go over /config (pullgate.toml, policy.toml). Where a policy asks for base images by
# digest, pin the one below with: docker buildx imagetools inspect rust:1.95-alpine3.22

FROM rust:1.95-alpine3.22 AS build
RUN apk add --no-cache build-base ca-certificates cmake linux-headers perl
WORKDIR /build
COPY . .
# Alpine's Rust builds for musl and links statically. jemalloc: musl's own allocator is slow under load.
RUN cargo build --locked --profile dist --features jemalloc --bin pullgate \
    && mkdir -p /own/data /own/certs /root-fs/config /root-fs/etc/ssl/certs \
    && cp target/dist/pullgate /root-fs/pullgate \
    && cp config/*.toml /root-fs/config/ \
    && cp /etc/ssl/certs/ca-certificates.crt /root-fs/etc/ssl/certs/

FROM scratch
LABEL org.opencontainers.image.title="pullgate" \
      org.opencontainers.image.description="An OCI pull gateway" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /root-fs/ /
COPY --from=build --chown=10001:10001 /own/ /
# The files in /config name certs/, data/ and config/ relative to here.
WORKDIR /
USER 10001:10001
# There is no /tmp: SQLite sorts what does not fit in memory beside its databases.
ENV TMPDIR=/data
VOLUME ["/data", "/certs"]
EXPOSE 8443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["/pullgate", "health", "--config", "/config/pullgate.toml"]
ENTRYPOINT ["/pullgate"]
CMD ["serve", "--config", "/config/pullgate.toml"]
