-- The script runs as superuser, with the extension's schema in front: no operator, function or type of
-- anybody else's may be what an expression below stands for.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Names and texts go through Rust, which knows UTF-8 only. A name that is not ASCII would stop what reads it.
DO $$
BEGIN
    IF pg_catalog.getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'cache_refresher needs a database with encoding UTF8'
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = pg_catalog.format('The encoding of this one is %s.', pg_catalog.getdatabaseencoding()),
                  HINT = 'CREATE DATABASE ... ENCODING ''UTF8'' TEMPLATE template0, and move there.';
    END IF;
END $$;

-- Schemas first: everything else lives in them. No IF NOT EXISTS: a schema that is there already
-- may belong to somebody else, and then the installation must fail.

CREATE SCHEMA cache_refresher;
COMMENT ON SCHEMA cache_refresher IS 'cache_refresher: registration, refresh and freshness of materialized views';

CREATE SCHEMA _cache_refresher;
COMMENT ON SCHEMA _cache_refresher IS 'cache_refresher: internals, no interface';

GRANT USAGE ON SCHEMA cache_refresher TO PUBLIC;
