-- The settings: defaults, where they can be set, what they accept, and how they refuse.
LOAD 'cache_refresher';

SELECT name, boot_val AS "default", vartype AS type, context, min_val, max_val
  FROM pg_settings WHERE name LIKE 'cache_refresher.%' ORDER BY name COLLATE "C";
-- Each says what it is for. (enabled is off on the server of these tests.)
SELECT name FROM pg_settings WHERE name LIKE 'cache_refresher.%' AND (coalesce(short_desc, '') = '' OR coalesce(extra_desc, '') = '');
SELECT name, setting FROM pg_settings WHERE name LIKE 'cache_refresher.%' AND setting IS DISTINCT FROM boot_val;
SHOW cache_refresher.default_interval;

-- Both habits, PostgreSQL's and Go's, and the value is kept as it was written.
CREATE EXTENSION cache_refresher;
CREATE MATERIALIZED VIEW v AS SELECT 1 AS id;
SELECT cache_refresher.register('v');
CREATE FUNCTION means(value text) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('cache_refresher.default_interval', value, true);
    RETURN (SELECT refresh_interval FROM cache_refresher.status);
END $$;
SELECT value, means(value)
  FROM unnest(ARRAY['5min', '5 min', '30s', '30 seconds', '1h', '2d', '100ms', '1500ms', '250000us', '5m', '1h30m', '1h30m15s', '500ms', '1.5h', '90m', ' 10s ']) AS value;
SET cache_refresher.default_interval = '1h30m';
SHOW cache_refresher.default_interval;
RESET cache_refresher.default_interval;

-- Durations that are none, or not precise enough, or not possible.
SET cache_refresher.default_interval = 'soon';
SET cache_refresher.default_interval = '';
SET cache_refresher.default_interval = '300';
SET cache_refresher.default_interval = 300;
SET cache_refresher.default_interval = '-5m';
SET cache_refresher.default_interval = '1 month';
SET cache_refresher.default_interval = '1 year';
SET cache_refresher.default_interval = '5m and a bit';
SET cache_refresher.default_interval = '0';
SET cache_refresher.default_interval = '99ms';
SET cache_refresher.default_interval = '3661d';
SET cache_refresher.streams_refresh_interval = '0';
SET cache_refresher.videos_refresh_interval = '1';
SET cache_refresher.lock_timeout = '-1s';
SET cache_refresher.timeout = 'never';
SET cache_refresher.worker_linger = '10';
SET cache_refresher.retry_base_delay = 'x';
SET cache_refresher.retry_max_delay = 'x';
SET cache_refresher.suspend_after = '1';
SET cache_refresher.log_retention = '1w2';
SET cache_refresher.log_min_duration = '-2';
SHOW cache_refresher.default_interval;

-- Zero means something where it is said to, and -1 in one place.
SET cache_refresher.lock_timeout = 0;
SET cache_refresher.timeout = '0';
SET cache_refresher.suspend_after = '0';
SET cache_refresher.log_retention = '0s';
SET cache_refresher.log_min_duration = -1;
SET cache_refresher.log_min_duration = '1s';

-- Lists.
SET cache_refresher.intervals = 'v=5m, app.v=1h30m, "Odd, name"=10s';
SHOW cache_refresher.intervals;
SET cache_refresher.intervals = '';
SET cache_refresher.intervals = 'v=1m, public.v=2m';
SELECT refresh_interval, interval_source FROM cache_refresher.status;
SET cache_refresher.intervals = 'v=1m';
SELECT refresh_interval, interval_source FROM cache_refresher.status;
SET cache_refresher.intervals = 'v';
SET cache_refresher.intervals = 'v=';
SET cache_refresher.intervals = 'v=soon';
SET cache_refresher.intervals = 'v=1ms';
SET cache_refresher.intervals = '=5m';
SET cache_refresher.intervals = 'a.b.c=5m';
SET cache_refresher.intervals = 'v=5m, v=6m';
SET cache_refresher.intervals = '"v=5m';
SHOW cache_refresher.intervals;
RESET cache_refresher.intervals;

-- Numbers and switches.
SET cache_refresher.max_retries = 0;
SET cache_refresher.max_retries = -1;
SET cache_refresher.max_retries = 1001;
SET cache_refresher.log_max_rows = -1;
SET cache_refresher.log_max_rows = 'many';
SET cache_refresher.notify = maybe;
SET cache_refresher.notify = off;

-- Of the whole server: in postgresql.conf only.
SET cache_refresher.enabled = on;
SET cache_refresher.databases = 'regression';
SET cache_refresher.max_workers = 3;
ALTER DATABASE regression SET cache_refresher.enabled = on;
ALTER SYSTEM SET cache_refresher.max_workers = 0;
ALTER SYSTEM SET cache_refresher.max_workers = 100000;
ALTER SYSTEM SET cache_refresher.databases = '';
ALTER SYSTEM SET cache_refresher.databases = 'one two';
ALTER SYSTEM SET cache_refresher.databases = 'one, "Two three"';
ALTER SYSTEM RESET cache_refresher.databases;
ALTER SYSTEM SET cache_refresher.default_interval = 'often';

-- The others of a database and of a role too, checked when they are set.
ALTER DATABASE regression SET cache_refresher.default_interval = '7m';
ALTER DATABASE regression SET cache_refresher.default_interval = 'often';
ALTER DATABASE regression RESET cache_refresher.default_interval;
CREATE ROLE regress_cr_app;
ALTER ROLE regress_cr_app SET cache_refresher.lock_timeout = '5s';
ALTER ROLE regress_cr_app SET cache_refresher.lock_timeout = '5';

-- By those who may.
SET ROLE regress_cr_app;
SHOW cache_refresher.timeout;
SET cache_refresher.timeout = '1s';
SET cache_refresher.notify = on;
RESET ROLE;

-- A typing error is not taken for a setting of somebody else's.
SET cache_refresher.default_intervall = '5m';
SHOW cache_refresher.default_intervall;

DROP FUNCTION means;
DROP EXTENSION cache_refresher;
DROP MATERIALIZED VIEW v;
DROP ROLE regress_cr_app;
