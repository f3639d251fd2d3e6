-- Schemas first: everything else lives in them. No IF NOT EXISTS: a schema that is there already
-- may belong to somebody else, and then the installation must fail.

CREATE SCHEMA cache_refresher;
COMMENT ON SCHEMA cache_refresher IS 'cache_refresher: registration, refresh and freshness of materialized views';

CREATE SCHEMA _cache_refresher;
COMMENT ON SCHEMA _cache_refresher IS 'cache_refresher: internals, no interface';

GRANT USAGE ON SCHEMA cache_refresher TO PUBLIC;
