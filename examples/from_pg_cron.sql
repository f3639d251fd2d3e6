-- Writes the statements that move refreshes of materialized views from pg_cron to cache_refresher.
-- Run it in the database that holds pg_cron's jobs, read what it prints, and run that:
--
--     psql -XAt -d postgres -f examples/from_pg_cron.sql > move.sql
--     psql -X -v ON_ERROR_STOP=1 -f move.sql
--
-- Jobs that do more than one REFRESH are left alone. With or without CONCURRENTLY, and with or without
-- a unique index, the view is refreshed by the method auto from then on, beside its readers. Where most
-- of its rows change each time, a plain REFRESH may be cheaper: add method => 'full' then.

WITH job AS (
    SELECT jobid, schedule, database,
           regexp_match(command,
               '^\s*refresh\s+materialized\s+view\s+(?:concurrently\s+)?([^\s;]+)\s*;?\s*$', 'i') AS words
      FROM cron.job
     WHERE active
)
SELECT format(E'\\connect %I\n', database)
    || 'CREATE EXTENSION IF NOT EXISTS cache_refresher;' || E'\n'
    || format('SELECT cache_refresher.register(%L, %s);', words[1],
              CASE WHEN schedule ~ 'second' THEN format('refresh_interval => %L', schedule)
                   ELSE format('schedule => %L, time_zone => %L',
                               replace(schedule, '$', 'L'),
                               coalesce(current_setting('cron.timezone', true), 'GMT')) END)
    || format(E'\n\\connect %I\nSELECT cron.unschedule(%s);\n', current_database(), jobid)
  FROM job
 WHERE words IS NOT NULL
 ORDER BY database, jobid;
