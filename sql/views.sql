-- What users read. The views run with the extension owner's rights on the tables, so each decides for
-- itself which rows the asker may see: those of views that he may read, and all for pg_monitor. Of status the
-- function beneath does so; elsewhere security_barrier keeps functions in the asker's WHERE from seeing the
-- others first. Error texts can hold data: they are shown only to those with the rights of the view's owner.

CREATE VIEW _cache_refresher.bloat AS
SELECT c.oid AS view,
       pg_catalog.round((c.relpages / (c.reltuples / 8152 * (28 + pg_catalog.sum(s.stawidth))))::numeric, 1) AS bloat
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_statistic s ON s.starelid = c.oid
 WHERE c.relkind = 'm' AND c.relpages > 100 AND c.reltuples > 0
 GROUP BY c.oid;
COMMENT ON VIEW _cache_refresher.bloat IS 'how many times as large as their rows need the tables of materialized views are, small ones left out';

CREATE FUNCTION _cache_refresher.may_see(view oid)
RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.pg_has_role('pg_monitor', 'USAGE')
    OR coalesce(pg_catalog.has_table_privilege(view, 'SELECT'), false);
COMMENT ON FUNCTION _cache_refresher.may_see(oid) IS 'may the current user see the status of this view';

CREATE FUNCTION _cache_refresher.may_see(view oid, view_schema text)
RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
RETURN _cache_refresher.may_see(view)
       -- A view that is gone has no owner: those see it who could make it anew.
    OR (view IS NULL AND pg_catalog.has_schema_privilege(
            pg_catalog.to_regnamespace(pg_catalog.quote_ident(view_schema))::oid, 'CREATE'));
COMMENT ON FUNCTION _cache_refresher.may_see(oid, text) IS 'the same of a registered view, which may be missing';

CREATE VIEW cache_refresher.status AS
SELECT view,
       view_schema,
       view_name,
       state,
       method,
       refresh_interval,
       schedule,
       time_zone,
       interval_source,
       next_refresh_at,
       last_refreshed_at,
       data_as_of,
       age,
       staleness,
       stale_since,
       rows,
       last_duration_ms,
       last_error_sqlstate,
       last_error,
       consecutive_failures,
       refreshes,
       failures,
       cancellations,
       registered_at,
       dead_rows,
       on_change,
       skips,
       last_skipped_at,
       bloat
  FROM _cache_refresher.status();
COMMENT ON VIEW cache_refresher.status IS 'one row per registered view: how it is kept fresh, and how fresh it is';
COMMENT ON COLUMN cache_refresher.status.view IS 'the materialized view; NULL while it is missing';
COMMENT ON COLUMN cache_refresher.status.view_schema IS 'its schema, as it is registered';
COMMENT ON COLUMN cache_refresher.status.view_name IS 'its name, as it is registered';
COMMENT ON COLUMN cache_refresher.status.state IS 'scheduled, running, paused, retrying, suspended, or missing: there is no such view';
COMMENT ON COLUMN cache_refresher.status.method IS 'the method that it is registered with';
COMMENT ON COLUMN cache_refresher.status.refresh_interval IS 'the interval that holds for it; NULL with a schedule';
COMMENT ON COLUMN cache_refresher.status.schedule IS 'the cron expression that it is registered with';
COMMENT ON COLUMN cache_refresher.status.time_zone IS 'the time zone of that; NULL is UTC';
COMMENT ON COLUMN cache_refresher.status.last_refreshed_at IS 'end of the last successful refresh';
COMMENT ON COLUMN cache_refresher.status.age IS 'now minus data_as_of';
COMMENT ON COLUMN cache_refresher.status.stale_since IS 'time of the oldest change that the view does not show';
COMMENT ON COLUMN cache_refresher.status.rows IS 'rows in the view after the last refresh';
COMMENT ON COLUMN cache_refresher.status.last_duration_ms IS 'duration of the last successful refresh, in milliseconds';
COMMENT ON COLUMN cache_refresher.status.last_error_sqlstate IS 'SQLSTATE of the last attempt, if that failed';
COMMENT ON COLUMN cache_refresher.status.consecutive_failures IS 'failures since the last success';
COMMENT ON COLUMN cache_refresher.status.refreshes IS 'refreshes that succeeded, since it was registered';
COMMENT ON COLUMN cache_refresher.status.failures IS 'refreshes that failed';
COMMENT ON COLUMN cache_refresher.status.cancellations IS 'refreshes that were cancelled';
COMMENT ON COLUMN cache_refresher.status.registered_at IS 'time of its registration';
COMMENT ON COLUMN cache_refresher.status.on_change IS 'it is refreshed when what it reads has changed';
COMMENT ON COLUMN cache_refresher.status.data_as_of IS 'time whose data the content shows; NULL if not known of a materialized view that it reads';
COMMENT ON COLUMN cache_refresher.status.interval_source IS 'the registry or the setting that the interval comes from, or adaptive with the reason for its last change';
COMMENT ON COLUMN cache_refresher.status.next_refresh_at IS 'by its own schedule; new rows in what it reads can bring a view on earlier';
COMMENT ON COLUMN cache_refresher.status.staleness IS 'fresh: proved to show all that is committed; stale: it does not; unknown: not all changes of what it reads are captured';
COMMENT ON COLUMN cache_refresher.status.skips IS 'refreshes that were not needed: nothing had changed';
COMMENT ON COLUMN cache_refresher.status.last_skipped_at IS 'when a refresh was not needed last';
COMMENT ON COLUMN cache_refresher.status.bloat IS 'how many times as large its table is as its rows need, by the statistics; NULL where it has 100 pages or less';
COMMENT ON COLUMN cache_refresher.status.dead_rows IS 'old versions of rows that VACUUM has not removed yet';
COMMENT ON COLUMN cache_refresher.status.last_error IS 'shown to those with the rights of the view''s owner';

CREATE VIEW cache_refresher.registrations WITH (security_barrier) AS
SELECT r.view_schema,
       r.view_name,
       r.refresh_interval,
       r.schedule,
       r.time_zone,
       r.min_interval,
       r.max_interval,
       r.method,
       r.on_change,
       r.debounce,
       r.max_staleness,
       r.timeout,
       CASE WHEN pg_catalog.pg_has_role(c.relowner, 'USAGE') THEN r.summary_query END AS summary_query,
       r.paused,
       r.registered_at,
       ARRAY(SELECT g.role_name FROM _cache_refresher.refresh_grant g
              WHERE (g.view_schema, g.view_name) = (r.view_schema, r.view_name) ORDER BY 1) AS granted_to
  FROM _cache_refresher.registry r
  LEFT JOIN _cache_refresher.binding b ON (b.view_schema, b.view_name) = (r.view_schema, r.view_name)
  LEFT JOIN pg_catalog.pg_class c ON c.oid = b.view AND c.relkind = 'm'
 WHERE _cache_refresher.may_see(c.oid, r.view_schema);
COMMENT ON VIEW cache_refresher.registrations IS 'what was given to register and alter; NULL is inherited from the settings';
COMMENT ON COLUMN cache_refresher.registrations.view_schema IS 'schema of the registered view';
COMMENT ON COLUMN cache_refresher.registrations.view_name IS 'name of the registered view';
COMMENT ON COLUMN cache_refresher.registrations.refresh_interval IS 'time from refresh to refresh';
COMMENT ON COLUMN cache_refresher.registrations.schedule IS 'cron expression, in place of an interval';
COMMENT ON COLUMN cache_refresher.registrations.time_zone IS 'time zone of the schedule; NULL is UTC';
COMMENT ON COLUMN cache_refresher.registrations.min_interval IS 'least interval that it adapts to';
COMMENT ON COLUMN cache_refresher.registrations.max_interval IS 'longest interval that it adapts to';
COMMENT ON COLUMN cache_refresher.registrations.method IS 'method to refresh it with; NULL is auto';
COMMENT ON COLUMN cache_refresher.registrations.on_change IS 'it is refreshed when what it reads has changed';
COMMENT ON COLUMN cache_refresher.registrations.debounce IS 'time of quiet after a change before it is refreshed';
COMMENT ON COLUMN cache_refresher.registrations.max_staleness IS 'time after a change until it is refreshed without quiet';
COMMENT ON COLUMN cache_refresher.registrations.timeout IS 'time after which a refresh of it is cancelled';
COMMENT ON COLUMN cache_refresher.registrations.paused IS 'no refresh is scheduled until resume';
COMMENT ON COLUMN cache_refresher.registrations.registered_at IS 'time of its registration';
COMMENT ON COLUMN cache_refresher.registrations.summary_query IS 'shown to those with the rights of the view''s owner';
COMMENT ON COLUMN cache_refresher.registrations.granted_to IS 'roles that may refresh the view by cache_refresher.grant_refresh';

CREATE VIEW cache_refresher.progress WITH (security_barrier) AS
SELECT c.oid::regclass AS view,
       run.phase,
       run.rows_done,
       run.rows_expected,
       run.started_at,
       pg_catalog.clock_timestamp() - run.started_at AS elapsed,
       run.pid,
       pg_catalog.pg_get_userbyid(run.role) AS role_name
  FROM _cache_refresher.running_views() run
  JOIN pg_catalog.pg_class c ON c.oid = run.view
 WHERE _cache_refresher.may_see(c.oid);
COMMENT ON VIEW cache_refresher.progress IS 'one row per running refresh: how far it is';
COMMENT ON COLUMN cache_refresher.progress.view IS 'the materialized view';
COMMENT ON COLUMN cache_refresher.progress.phase IS 'waiting for locks, running the query, comparing, writing, or finishing';
COMMENT ON COLUMN cache_refresher.progress.started_at IS 'when the refresh began';
COMMENT ON COLUMN cache_refresher.progress.elapsed IS 'time since then';
COMMENT ON COLUMN cache_refresher.progress.pid IS 'process that refreshes';
COMMENT ON COLUMN cache_refresher.progress.role_name IS 'role that asked for it, or the owner of the view';
COMMENT ON COLUMN cache_refresher.progress.rows_done IS 'rows that this phase is through with; 0 where the server does not say';
COMMENT ON COLUMN cache_refresher.progress.rows_expected IS 'rows that this phase has to go through, by estimate while comparing; NULL where that is not known';

CREATE VIEW cache_refresher.dependencies WITH (security_barrier) AS
WITH RECURSIVE reads (view, source, relkind) AS (
    SELECT b.view, b.view, 'v'::"char" FROM _cache_refresher.binding b
     UNION
    SELECT s.view, c.oid, c.relkind
      FROM reads s
      JOIN pg_catalog.pg_rewrite w ON w.ev_class = s.source
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid
                                 AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> s.source
      JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
     WHERE s.relkind = 'v'
)
SELECT r.view::regclass AS view,
       r.source::regclass AS reads,
       CASE r.relkind WHEN 'p' THEN 'partitioned table'
                      WHEN 'm' THEN 'materialized view'
                      WHEN 'f' THEN 'foreign table'
                      ELSE 'table' END AS kind,
       EXISTS (SELECT FROM _cache_refresher.binding b WHERE b.view = r.source) AS registered
  FROM reads r
 WHERE r.relkind <> 'v' AND r.source <> r.view
   AND _cache_refresher.may_see(r.view);
COMMENT ON VIEW cache_refresher.dependencies IS 'what each registered view reads, through plain views too';
COMMENT ON COLUMN cache_refresher.dependencies.view IS 'the registered view';
COMMENT ON COLUMN cache_refresher.dependencies.reads IS 'what its query reads';
COMMENT ON COLUMN cache_refresher.dependencies.kind IS 'table, partitioned table, foreign table, or materialized view';
COMMENT ON COLUMN cache_refresher.dependencies.registered IS 'whether what is read is a registered view itself';

CREATE VIEW cache_refresher.refresh_log WITH (security_barrier) AS
SELECT h.id,
       h.view_schema,
       h.view_name,
       h.outcome,
       h.started_at,
       h.duration_ms,
       h.trigger,
       h.method,
       h.reason,
       h.data_as_of,
       h.rows_total,
       h.rows_inserted,
       h.rows_updated,
       h.rows_deleted,
       CASE WHEN pg_catalog.has_table_privilege(h.view, 'SELECT')
              OR c.oid IS NULL AND pg_catalog.pg_has_role(i.nspowner, 'USAGE') THEN h.summary END AS summary,
       h.attempt,
       h.role_name,
       h.sqlstate,
       CASE WHEN pg_catalog.pg_has_role(coalesce(c.relowner, i.nspowner), 'USAGE') THEN h.message END AS message
  FROM _cache_refresher.history h
 CROSS JOIN (SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname = '_cache_refresher') i
  LEFT JOIN pg_catalog.pg_class c ON c.oid = h.view
 WHERE _cache_refresher.may_see(h.view);
COMMENT ON VIEW cache_refresher.refresh_log IS 'one row per refresh, failed ones too';
COMMENT ON COLUMN cache_refresher.refresh_log.id IS 'number in the order of writing';
COMMENT ON COLUMN cache_refresher.refresh_log.view_schema IS 'schema of the view, as it was';
COMMENT ON COLUMN cache_refresher.refresh_log.view_name IS 'name of the view, as it was';
COMMENT ON COLUMN cache_refresher.refresh_log.outcome IS 'refreshed, failed, or cancelled';
COMMENT ON COLUMN cache_refresher.refresh_log.started_at IS 'when the refresh began';
COMMENT ON COLUMN cache_refresher.refresh_log.duration_ms IS 'how long it took, in milliseconds';
COMMENT ON COLUMN cache_refresher.refresh_log.method IS 'the method that was taken; NULL where it failed before that was known';
COMMENT ON COLUMN cache_refresher.refresh_log.data_as_of IS 'time whose data the content shows since';
COMMENT ON COLUMN cache_refresher.refresh_log.rows_total IS 'rows in the view after it';
COMMENT ON COLUMN cache_refresher.refresh_log.rows_inserted IS 'rows that came; NULL where the method does not tell';
COMMENT ON COLUMN cache_refresher.refresh_log.rows_updated IS 'rows that changed';
COMMENT ON COLUMN cache_refresher.refresh_log.rows_deleted IS 'rows that went';
COMMENT ON COLUMN cache_refresher.refresh_log.attempt IS '1, or which retry of a round it was';
COMMENT ON COLUMN cache_refresher.refresh_log.role_name IS 'role that it was run for';
COMMENT ON COLUMN cache_refresher.refresh_log.sqlstate IS 'SQLSTATE of the error';
COMMENT ON COLUMN cache_refresher.refresh_log.trigger IS 'why the refresh ran';
COMMENT ON COLUMN cache_refresher.refresh_log.reason IS 'why this method was taken';
COMMENT ON COLUMN cache_refresher.refresh_log.summary IS 'what the summary query returned; shown to those who may read the view';
COMMENT ON COLUMN cache_refresher.refresh_log.message IS 'shown to those with the rights of the view''s owner';

CREATE VIEW cache_refresher.materialized_view_refresh_log WITH (security_barrier) AS
SELECT CASE WHEN count(*) OVER (PARTITION BY c.relname) = 1
            THEN c.relname::text
            ELSE pg_catalog.format('%I.%I', n.nspname, c.relname) END AS view_name,
       k.refreshed_at AS last_refreshed_at,
       pg_catalog.round(k.duration_ms)::integer AS refresh_duration_ms,
       k.rows_total AS total_rows,
       CASE WHEN pg_catalog.has_table_privilege(k.view, 'SELECT') THEN k.summary END AS summary
  FROM _cache_refresher.content k
  JOIN pg_catalog.pg_class c ON c.oid = k.view AND c.relkind = 'm'
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE _cache_refresher.may_see(c.oid);
COMMENT ON VIEW cache_refresher.materialized_view_refresh_log IS 'when each view was last refreshed, how long it took, and its summary';
COMMENT ON COLUMN cache_refresher.materialized_view_refresh_log.view_name IS 'name of the view, with its schema where it is not the only one';
COMMENT ON COLUMN cache_refresher.materialized_view_refresh_log.last_refreshed_at IS 'end of the last successful refresh';
COMMENT ON COLUMN cache_refresher.materialized_view_refresh_log.refresh_duration_ms IS 'how long that took, in milliseconds';
COMMENT ON COLUMN cache_refresher.materialized_view_refresh_log.total_rows IS 'rows in the view after it';
COMMENT ON COLUMN cache_refresher.materialized_view_refresh_log.summary IS 'what the summary query returned; shown to those who may read the view';

CREATE FUNCTION cache_refresher.health()
RETURNS TABLE ("check" text, status text, detail text, hint text)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED
BEGIN ATOMIC
    WITH view AS MATERIALIZED (
        SELECT s.*,
               s.state = 'missing'
               AND EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                            WHERE (n.nspname, c.relname) = (s.view_schema, s.view_name)) AS name_is_taken
          FROM cache_refresher.status s)
    SELECT s."check", s.status, s.detail, s.hint FROM _cache_refresher.server_checks() s
    UNION ALL
    (SELECT 'view ' || pg_catalog.format('%I.%I', v.view_schema, v.view_name),
            'warning',
            CASE v.state
                WHEN 'missing' THEN CASE
                    WHEN NOT v.name_is_taken THEN 'the view does not exist'
                    ELSE 'the view is gone, and what has its name now is no view of its owner''s, or was not looked at yet' END
                WHEN 'suspended' THEN pg_catalog.format('suspended, failed %s times in a row', v.consecutive_failures)
                ELSE pg_catalog.format('failed %s times in a row', v.consecutive_failures) END
                || coalesce(' (SQLSTATE ' || v.last_error_sqlstate || ')', '')
                || coalesce(': ' || v.last_error, ''),
            CASE v.state
                WHEN 'missing' THEN CASE
                    WHEN NOT v.name_is_taken
                    THEN 'Create it again as its owner, or call cache_refresher.unregister.'
                    ELSE 'If it is a view of the same owner, call cache_refresher.refresh; if not, cache_refresher.unregister.' END
                WHEN 'suspended' THEN 'Mend the cause, then call cache_refresher.resume or refresh.'
                WHEN 'paused' THEN 'It is paused: mend the cause, then call cache_refresher.resume.'
                ELSE 'It is retried by itself. See cache_refresher.refresh_log.' END
       FROM view v
      WHERE v.state IN ('missing', 'suspended') OR v.consecutive_failures > 0
      ORDER BY v.view_schema, v.view_name)
    UNION ALL
    (SELECT 'view ' || pg_catalog.format('%I.%I', v.view_schema, v.view_name) || ' locked',
            'warning',
            pg_catalog.format('due since %s, but %s has refreshed it and goes on', v.next_refresh_at,
                              coalesce('the transaction of process ' || l.pid, 'a prepared transaction')),
            'Its refresh lock is held to the end of that transaction: COMMIT or ROLLBACK there'
                || CASE WHEN l.pid IS NULL THEN ' PREPARED; see pg_prepared_xacts.' ELSE '.' END
       FROM view v
       JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
       JOIN pg_catalog.pg_locks l ON l.locktype = 'object' AND l.database = d.oid AND l.granted
                                 AND l.classid = '_cache_refresher.registry'::pg_catalog.regclass AND l.objid = v.view
      WHERE v.state <> 'running' AND v.next_refresh_at < pg_catalog.clock_timestamp() - interval '10 s'
      ORDER BY v.view_schema, v.view_name)
    UNION ALL
    (SELECT 'view ' || pg_catalog.format('%I.%I', v.view_schema, v.view_name) || ' dead rows',
            'warning',
            pg_catalog.format('%s dead rows beside %s live ones: VACUUM cannot keep up', v.dead_rows, v.rows),
            'Look for transactions that stay open, or let autovacuum work harder on this view: ALTER '
                || 'MATERIALIZED VIEW ... SET (autovacuum_vacuum_scale_factor = 0.05, fillfactor = 90).'
       FROM view v
      WHERE v.dead_rows >= 10000 AND v.dead_rows > v.rows
      ORDER BY v.view_schema, v.view_name)
    UNION ALL
    (SELECT 'publication ' || pg_catalog.quote_ident(p.pubname),
            'warning',
            'it publishes all tables, those of cache_refresher among them',
            'Subscribers stop at tables that they do not have: publish tables by name, or schemas.'
       FROM pg_catalog.pg_publication p WHERE p.puballtables ORDER BY p.pubname)
    UNION ALL
    -- auto_full goes by the same.
    (SELECT 'view ' || pg_catalog.format('%I.%I', v.view_schema, v.view_name) || ' bloat',
            'warning',
            pg_catalog.format('its table is %s times as large as its rows need', v.bloat),
            'VACUUM keeps the room for new rows. If it is not needed: refresh it once with method => ''full'' when '
                || 'readers can wait, or set cache_refresher.auto_full.'
       FROM view v
      WHERE v.bloat > 4
      ORDER BY v.view_schema, v.view_name);
END;
COMMENT ON FUNCTION cache_refresher.health IS 'what works and what does not: ok, warning or critical, with the remedy';
