-- The SQL surface, written out by hand so that names, argument names, defaults and comments
-- can be read in one place. Each C function is a wrapper that pgrx makes from src/api.

CREATE FUNCTION cache_refresher.register(
    view             regclass,
    refresh_interval interval DEFAULT NULL,
    schedule         text     DEFAULT NULL,
    time_zone        text     DEFAULT NULL,
    min_interval     interval DEFAULT NULL,
    max_interval     interval DEFAULT NULL,
    method           text     DEFAULT NULL,
    on_change        boolean  DEFAULT NULL,
    debounce         interval DEFAULT NULL,
    max_staleness    interval DEFAULT NULL,
    timeout          interval DEFAULT NULL,
    summary_query    text     DEFAULT NULL
) RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'register_wrapper';
COMMENT ON FUNCTION cache_refresher.register IS 'keep a materialized view fresh from now on; NULL arguments are inherited from the settings';

CREATE FUNCTION cache_refresher.alter(
    view             regclass,
    refresh_interval interval DEFAULT NULL,
    schedule         text     DEFAULT NULL,
    time_zone        text     DEFAULT NULL,
    min_interval     interval DEFAULT NULL,
    max_interval     interval DEFAULT NULL,
    method           text     DEFAULT NULL,
    on_change        boolean  DEFAULT NULL,
    debounce         interval DEFAULT NULL,
    max_staleness    interval DEFAULT NULL,
    timeout          interval DEFAULT NULL,
    summary_query    text     DEFAULT NULL,
    reset            text[]   DEFAULT NULL
) RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'alter_wrapper';
COMMENT ON FUNCTION cache_refresher.alter IS 'change how a registered view is kept fresh; NULL leaves a value as it is, reset names those that go back to inherited';

CREATE FUNCTION cache_refresher.unregister(view text)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'unregister_wrapper';
COMMENT ON FUNCTION cache_refresher.unregister IS 'stop keeping a view fresh; by name, so that a view that is gone can be unregistered too';

CREATE FUNCTION cache_refresher.pause(view regclass)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pause_wrapper';
COMMENT ON FUNCTION cache_refresher.pause IS 'keep the registration, but schedule no refresh until resume';

CREATE FUNCTION cache_refresher.resume(view regclass)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'resume_wrapper';
COMMENT ON FUNCTION cache_refresher.resume IS 'end pause or suspension';

CREATE TYPE cache_refresher.refresh_result AS (
    view          regclass,
    outcome       text,
    method        text,
    reason        text,
    duration_ms   double precision,
    rows_total    bigint,
    rows_inserted bigint,
    rows_updated  bigint,
    rows_deleted  bigint,
    data_as_of    timestamptz
);
COMMENT ON TYPE cache_refresher.refresh_result IS 'what a refresh did';

CREATE FUNCTION cache_refresher.refresh(
    view    regclass,
    method  text     DEFAULT NULL,
    max_age interval DEFAULT NULL,
    cascade boolean  DEFAULT false
) RETURNS SETOF cache_refresher.refresh_result ROWS 1
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refresh_wrapper';
COMMENT ON FUNCTION cache_refresher.refresh IS 'bring a materialized view up to date, registered or not; simultaneous callers share one refresh. With cascade, registered views that read it follow';

CREATE FUNCTION cache_refresher.refresh_all(
    method  text     DEFAULT NULL,
    max_age interval DEFAULT NULL
) RETURNS SETOF cache_refresher.refresh_result
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refresh_all_wrapper';
COMMENT ON FUNCTION cache_refresher.refresh_all IS 'refresh every registered view that the caller may refresh, in dependency order; a view that fails is reported and the others go on';

CREATE FUNCTION cache_refresher.refresh_together(
    views  regclass[],
    method text DEFAULT NULL
) RETURNS SETOF cache_refresher.refresh_result
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refresh_together_wrapper';
COMMENT ON FUNCTION cache_refresher.refresh_together IS 'refresh views in one transaction under one snapshot, so that they agree with each other; all or none';

CREATE FUNCTION cache_refresher.explain(view regclass)
RETURNS TABLE (method text, possible boolean, chosen boolean, reason text, remedy text)
LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 5 AS 'MODULE_PATHNAME', 'explain_wrapper';
COMMENT ON FUNCTION cache_refresher.explain IS 'each method: whether it can be taken, why not, and what to do about it; and which one the next refresh takes';

CREATE FUNCTION _cache_refresher.view_named(name text)
RETURNS regclass LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'view_named_wrapper';
COMMENT ON FUNCTION _cache_refresher.view_named IS 'a view by its bare name, as found on the caller''s search_path';

CREATE FUNCTION @extschema@.refresh_streams_cache()
RETURNS SETOF cache_refresher.refresh_result LANGUAGE sql VOLATILE PARALLEL UNSAFE ROWS 1
BEGIN ATOMIC
    SELECT * FROM cache_refresher.refresh(_cache_refresher.view_named('streams_with_users_cache'));
END;
COMMENT ON FUNCTION @extschema@.refresh_streams_cache() IS 'refresh streams_with_users_cache, as found on the caller''s search_path';

CREATE FUNCTION @extschema@.refresh_videos_cache()
RETURNS SETOF cache_refresher.refresh_result LANGUAGE sql VOLATILE PARALLEL UNSAFE ROWS 1
BEGIN ATOMIC
    SELECT * FROM cache_refresher.refresh(_cache_refresher.view_named('videos_with_users_cache'));
END;
COMMENT ON FUNCTION @extschema@.refresh_videos_cache() IS 'refresh videos_with_users_cache, as found on the caller''s search_path';

CREATE FUNCTION cache_refresher.cancel(view regclass)
RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cancel_wrapper';
COMMENT ON FUNCTION cache_refresher.cancel IS 'cancel the running refresh of a view; false if none is running';

CREATE FUNCTION cache_refresher.grant_refresh(view regclass, role regrole)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'grant_refresh_wrapper';
COMMENT ON FUNCTION cache_refresher.grant_refresh IS 'let a role refresh, invalidate and cancel a registered view that it does not own';

CREATE FUNCTION cache_refresher.revoke_refresh(view regclass, role regrole)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'revoke_refresh_wrapper';
COMMENT ON FUNCTION cache_refresher.revoke_refresh IS 'take back what grant_refresh gave';

CREATE FUNCTION cache_refresher.invalidate(view regclass)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'invalidate_wrapper';
COMMENT ON FUNCTION cache_refresher.invalidate(regclass) IS 'say that a view does not show everything, for sources whose changes nobody here can see; it is refreshed soon after the commit if it is registered with on_change';

CREATE FUNCTION cache_refresher.invalidate(view regclass, keys anyarray)
RETURNS SETOF cache_refresher.refresh_result ROWS 1
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'invalidate_keys_wrapper';
COMMENT ON FUNCTION cache_refresher.invalidate(regclass, anyarray) IS 'refresh the rows with these keys at once, and nothing else: values of the first column of the unique index, or rows of its columns';

CREATE FUNCTION cache_refresher.freshness(view regclass)
RETURNS jsonb LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'freshness_wrapper';
COMMENT ON FUNCTION cache_refresher.freshness IS 'how fresh a view is, as one JSON document for an API to pass on';

CREATE FUNCTION cache_refresher.age(view regclass)
RETURNS interval LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'age_wrapper';
COMMENT ON FUNCTION cache_refresher.age IS 'now minus data_as_of; NULL if no refresh is known';

CREATE FUNCTION cache_refresher.stale_since(view regclass)
RETURNS timestamptz LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'stale_since_wrapper';
COMMENT ON FUNCTION cache_refresher.stale_since IS 'time of the oldest change that the view does not show; NULL unless known to be stale';

CREATE FUNCTION cache_refresher.is_stale(view regclass, max_age interval DEFAULT NULL)
RETURNS boolean LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'is_stale_wrapper';
COMMENT ON FUNCTION cache_refresher.is_stale IS 'true if older than max_age; without max_age NULL where staleness is unknown';

CREATE FUNCTION cache_refresher.assert_fresh(view regclass, max_age interval DEFAULT NULL)
RETURNS void LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'assert_fresh_wrapper';
COMMENT ON FUNCTION cache_refresher.assert_fresh IS 'raise an error unless the view is fresh enough, for scripts that look at the exit code';

CREATE FUNCTION cache_refresher.healthy()
RETURNS boolean LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'healthy_wrapper';
COMMENT ON FUNCTION cache_refresher.healthy IS 'whether refreshing works at all, for a health check; a view that fails for a reason of its own does not count';

CREATE FUNCTION cache_refresher.metrics()
RETURNS TABLE (name text, kind text, help text, labels jsonb, value double precision)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1000 AS 'MODULE_PATHNAME', 'metrics_wrapper';
COMMENT ON FUNCTION cache_refresher.metrics IS 'figures for monitoring, one row each';

CREATE FUNCTION cache_refresher.metrics_text()
RETURNS text LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'metrics_text_wrapper';
COMMENT ON FUNCTION cache_refresher.metrics_text IS 'the same in the text format that Prometheus scrapes';

-- Internals that the views and functions of this extension call.

CREATE FUNCTION _cache_refresher.status()
RETURNS TABLE (view regclass, view_schema text, view_name text, state text, method text,
               refresh_interval interval, schedule text, time_zone text, interval_source text,
               next_refresh_at timestamptz, last_refreshed_at timestamptz, data_as_of timestamptz,
               age interval, staleness text, stale_since timestamptz, rows bigint,
               last_duration_ms double precision, last_error_sqlstate text, last_error text,
               consecutive_failures integer, refreshes bigint, failures bigint, cancellations bigint,
               registered_at timestamptz, dead_rows bigint, on_change boolean, skips bigint,
               last_skipped_at timestamptz, bloat numeric)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 100 AS 'MODULE_PATHNAME', 'status_wrapper';
COMMENT ON FUNCTION _cache_refresher.status IS 'the registered views that the current user may see: what is stored of them, how stale they are, and when they are due by the code that schedules them';

CREATE FUNCTION _cache_refresher.capture_change()
RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'capture_change';
COMMENT ON FUNCTION _cache_refresher.capture_change IS 'notes changes of a captured table in its log';

CREATE FUNCTION _cache_refresher.content_replaced()
RETURNS event_trigger LANGUAGE c AS 'MODULE_PATHNAME', 'content_replaced_wrapper';
COMMENT ON FUNCTION _cache_refresher.content_replaced IS 'notes that somebody has run REFRESH MATERIALIZED VIEW';

CREATE EVENT TRIGGER cache_refresher_content_replaced ON ddl_command_end
WHEN TAG IN ('REFRESH MATERIALIZED VIEW') EXECUTE FUNCTION _cache_refresher.content_replaced();
-- Also where session_replication_role says that triggers are not to fire.
ALTER EVENT TRIGGER cache_refresher_content_replaced ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cache_refresher_content_replaced IS 'notes that somebody has run REFRESH MATERIALIZED VIEW';

CREATE FUNCTION _cache_refresher.running_views()
RETURNS TABLE (view oid, phase text, rows_done bigint, rows_expected bigint,
               started_at timestamptz, pid integer, role oid)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 2 AS 'MODULE_PATHNAME', 'running_views_wrapper';
COMMENT ON FUNCTION _cache_refresher.running_views IS 'refreshes that run in this database now, from shared memory';

CREATE FUNCTION _cache_refresher.server_checks()
RETURNS TABLE ("check" text, status text, detail text, hint text)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 7 AS 'MODULE_PATHNAME', 'server_checks_wrapper';
COMMENT ON FUNCTION _cache_refresher.server_checks IS 'health of launcher, scheduler and workers, from shared memory';

CREATE FUNCTION _cache_refresher.registry_changed()
RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'registry_changed_wrapper';
COMMENT ON FUNCTION _cache_refresher.registry_changed IS 'tells the scheduler that the registry has changed';

CREATE TRIGGER registry_changed AFTER INSERT OR UPDATE OR DELETE ON _cache_refresher.registry
FOR EACH ROW EXECUTE FUNCTION _cache_refresher.registry_changed();
-- Also where session_replication_role says that triggers are not to fire.
ALTER TABLE _cache_refresher.registry ENABLE ALWAYS TRIGGER registry_changed;

CREATE FUNCTION _cache_refresher.ignore_replicated()
RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'ignore_replicated_wrapper';
COMMENT ON FUNCTION _cache_refresher.ignore_replicated IS 'keeps out what logical replication brings from the tables of cache_refresher elsewhere';

CREATE TRIGGER ignore_replicated BEFORE INSERT OR UPDATE OR DELETE ON _cache_refresher.registry
FOR EACH ROW EXECUTE FUNCTION _cache_refresher.ignore_replicated();
ALTER TABLE _cache_refresher.registry ENABLE REPLICA TRIGGER ignore_replicated;
CREATE TRIGGER ignore_replicated BEFORE INSERT OR UPDATE OR DELETE ON _cache_refresher.refresh_grant
FOR EACH ROW EXECUTE FUNCTION _cache_refresher.ignore_replicated();
ALTER TABLE _cache_refresher.refresh_grant ENABLE REPLICA TRIGGER ignore_replicated;
CREATE TRIGGER ignore_replicated BEFORE INSERT OR UPDATE OR DELETE ON _cache_refresher.binding
FOR EACH ROW EXECUTE FUNCTION _cache_refresher.ignore_replicated();
ALTER TABLE _cache_refresher.binding ENABLE REPLICA TRIGGER ignore_replicated;
CREATE TRIGGER ignore_replicated BEFORE INSERT OR UPDATE OR DELETE ON _cache_refresher.content
FOR EACH ROW EXECUTE FUNCTION _cache_refresher.ignore_replicated();
ALTER TABLE _cache_refresher.content ENABLE REPLICA TRIGGER ignore_replicated;
CREATE TRIGGER ignore_replicated BEFORE INSERT OR UPDATE OR DELETE ON _cache_refresher.capture
FOR EACH ROW EXECUTE FUNCTION _cache_refresher.ignore_replicated();
ALTER TABLE _cache_refresher.capture ENABLE REPLICA TRIGGER ignore_replicated;
CREATE TRIGGER ignore_replicated BEFORE INSERT OR UPDATE OR DELETE ON _cache_refresher.invalidation
FOR EACH ROW EXECUTE FUNCTION _cache_refresher.ignore_replicated();
ALTER TABLE _cache_refresher.invalidation ENABLE REPLICA TRIGGER ignore_replicated;
CREATE TRIGGER ignore_replicated BEFORE INSERT OR UPDATE OR DELETE ON _cache_refresher.attempts
FOR EACH ROW EXECUTE FUNCTION _cache_refresher.ignore_replicated();
ALTER TABLE _cache_refresher.attempts ENABLE REPLICA TRIGGER ignore_replicated;
CREATE TRIGGER ignore_replicated BEFORE INSERT OR UPDATE OR DELETE ON _cache_refresher.history
FOR EACH ROW EXECUTE FUNCTION _cache_refresher.ignore_replicated();
ALTER TABLE _cache_refresher.history ENABLE REPLICA TRIGGER ignore_replicated;
