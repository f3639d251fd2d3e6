# PostgreSQL with cache_refresher loaded: the official image plus three kinds of
# files. Built by the same scripts as everywhere else.
ARG PG_MAJOR=17

FROM rust:1.95-bookworm AS rust

FROM postgres:${PG_MAJOR}-bookworm AS build
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup
ENV PATH=/usr/local/cargo/bin:$PATH
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
WORKDIR /build
# The tools first: they change less often than the sources.
COPY scripts scripts
RUN scripts/setup.sh "/usr/lib/postgresql/$PG_MAJOR/bin/pg_config"
COPY . .
RUN make install PG_CONFIG="/usr/lib/postgresql/$PG_MAJOR/bin/pg_config"

FROM postgres:${PG_MAJOR}-bookworm
ARG PG_MAJOR
COPY --from=build /usr/lib/postgresql/${PG_MAJOR}/lib/cache_refresher.so /usr/lib/postgresql/${PG_MAJOR}/lib/
COPY --from=build /usr/share/postgresql/${PG_MAJOR}/extension/cache_refresher* /usr/share/postgresql/${PG_MAJOR}/extension/
COPY docker/initdb.d/ /docker-entrypoint-initdb.d/
COPY docker/entrypoint.sh /usr/local/bin/cache-refresher-entrypoint
COPY docker/healthcheck.sh /usr/local/bin/cache-refresher-healthcheck
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 CMD ["cache-refresher-healthcheck"]
ENTRYPOINT ["cache-refresher-entrypoint"]
CMD ["postgres"]
