-- What cache_refresher stores. Configuration (registry, refresh_grant) is dumped by pg_dump and names
-- views by text, so that it survives dump, restore and pg_upgrade. Everything keyed by OID is runtime
-- state: not dumped, and made anew where it is missing.

CREATE TABLE _cache_refresher.registry (
    view_schema      text NOT NULL,
    view_name        text NOT NULL,
    refresh_interval interval,
    schedule         text,
    time_zone        text,
    min_interval     interval,
    max_interval     interval,
    method           text,
    on_change        boolean NOT NULL DEFAULT false,
    debounce         interval,
    max_staleness    interval,
    timeout          interval,
    summary_query    text,
    summary_owner    text,
    paused           boolean NOT NULL DEFAULT false,
    registered_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
    last_owner       text,
    CONSTRAINT registry_pkey PRIMARY KEY (view_schema, view_name),
    CONSTRAINT registry_interval_or_schedule CHECK (refresh_interval IS NULL OR schedule IS NULL),
    CONSTRAINT registry_time_zone_needs_schedule CHECK (time_zone IS NULL OR schedule IS NOT NULL),
    CONSTRAINT registry_intervals_bounded CHECK (
        refresh_interval <= interval '3660 days' AND max_interval <= interval '3660 days'
        AND timeout < interval '500000 years' AND debounce < interval '500000 years'
        AND max_staleness < interval '500000 years'),
    CONSTRAINT registry_texts_bounded CHECK (
        length(schedule) <= 1000 AND length(time_zone) <= 100 AND length(summary_query) <= 100000),
    CONSTRAINT registry_interval_positive CHECK (refresh_interval > interval '0'),
    CONSTRAINT registry_limits_are_two CHECK ((min_interval IS NULL) = (max_interval IS NULL)),
    CONSTRAINT registry_limits_in_order CHECK (interval '0' < min_interval AND min_interval <= max_interval),
    CONSTRAINT registry_limits_or_schedule CHECK (min_interval IS NULL OR schedule IS NULL),
    CONSTRAINT registry_timeout_not_negative CHECK (timeout >= interval '0'),
    CONSTRAINT registry_debounce_not_negative CHECK (debounce >= interval '0'),
    CONSTRAINT registry_max_staleness_not_negative CHECK (max_staleness >= interval '0'),
    CONSTRAINT registry_method_known CHECK (method IN ('auto', 'full', 'concurrent', 'diff', 'delta')),
    CONSTRAINT registry_summary_has_owner CHECK ((summary_query IS NULL) = (summary_owner IS NULL))
);
COMMENT ON TABLE _cache_refresher.registry IS 'one row per registered materialized view; NULL means inherited from the settings';
COMMENT ON COLUMN _cache_refresher.registry.last_owner IS 'who owned the view when it was last seen to be gone: a view of that name that belongs to somebody else is not taken up; NULL where it was never missed';
COMMENT ON COLUMN _cache_refresher.registry.summary_owner IS 'the role that set summary_query: the query runs only while that role owns the view';

CREATE TABLE _cache_refresher.refresh_grant (
    view_schema text NOT NULL,
    view_name   text NOT NULL,
    role_name   text NOT NULL,
    CONSTRAINT refresh_grant_pkey PRIMARY KEY (view_schema, view_name, role_name)
);
-- No foreign key to registry, though each grant is of a row there: a parallel restore may fill this table first.
COMMENT ON TABLE _cache_refresher.refresh_grant IS 'roles that may refresh a view although they neither own nor maintain it';

-- The OID under which a registered view was last seen: how a rename is told from a drop.
CREATE TABLE _cache_refresher.binding (
    view        oid NOT NULL,
    view_schema text NOT NULL,
    view_name   text NOT NULL,
    owner       oid NOT NULL,
    owner_name  text NOT NULL,
    CONSTRAINT binding_pkey PRIMARY KEY (view),
    CONSTRAINT binding_name_key UNIQUE (view_schema, view_name),
    CONSTRAINT binding_registry_fkey FOREIGN KEY (view_schema, view_name)
        REFERENCES _cache_refresher.registry ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON TABLE _cache_refresher.binding IS 'registered name and the OID that it stands for in this database';

-- What a view shows now. Written in the refresh's own transaction, under the view's own lock.
-- No foreign key to registry: views that are not registered can be refreshed too.
CREATE TABLE _cache_refresher.content (
    view         oid NOT NULL,
    snapshot_at  timestamptz NOT NULL,
    data_as_of   timestamptz,
    refreshed_at timestamptz NOT NULL,
    duration_ms  double precision NOT NULL,
    method       text NOT NULL,
    rows_total   bigint,
    summary      jsonb,
    shown        pg_snapshot NOT NULL,
    fingerprint  text,
    CONSTRAINT content_pkey PRIMARY KEY (view),
    CONSTRAINT content_duration_not_negative CHECK (duration_ms >= double precision '0'),
    CONSTRAINT content_rows_not_negative CHECK (rows_total >= 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE _cache_refresher.content IS 'the last successful refresh of each view: what its content shows';
COMMENT ON COLUMN _cache_refresher.content.snapshot_at IS 'time of the snapshot under which the view was refreshed';
COMMENT ON COLUMN _cache_refresher.content.data_as_of IS 'time whose data the content shows: snapshot_at, or less where the view reads materialized views; NULL if not known of one of them';

COMMENT ON COLUMN _cache_refresher.content.shown IS 'the transactions that the content shows';
COMMENT ON COLUMN _cache_refresher.content.fingerprint IS 'stands for all that the content depends on beside rows; NULL where changes are not all captured';

-- What is captured for whom. A log of the changes of each source, changes_<OID>, is made when the first
-- view needs it. No foreign keys: it is all derived from the registry, and put right by tidying.
CREATE TABLE _cache_refresher.capture (
    view   oid NOT NULL,
    source oid NOT NULL,
    CONSTRAINT capture_pkey PRIMARY KEY (view, source)
);
CREATE INDEX capture_source_idx ON _cache_refresher.capture (source);
COMMENT ON TABLE _cache_refresher.capture IS 'which views need the changes of which tables';

-- A log of its own: somebody said that a view does not show everything.
CREATE TABLE _cache_refresher.invalidation (
    view oid NOT NULL,
    xid  xid8 NOT NULL,
    at   timestamptz NOT NULL
);
CREATE INDEX invalidation_view_idx ON _cache_refresher.invalidation (view);
-- Where a publication is FOR ALL TABLES, rows of a table without this cannot be deleted.
ALTER TABLE _cache_refresher.invalidation REPLICA IDENTITY FULL;
COMMENT ON TABLE _cache_refresher.invalidation IS 'calls of cache_refresher.invalidate that no refresh has shown yet';

-- How refreshing goes: the input of the next scheduling decision. Also without foreign key.
CREATE TABLE _cache_refresher.attempts (
    view                 oid NOT NULL,
    last_started_at      timestamptz,
    last_finished_at     timestamptz,
    retry_at             timestamptz,
    attempt              integer NOT NULL DEFAULT 0,
    failed_rounds        integer NOT NULL DEFAULT 0,
    consecutive_failures integer NOT NULL DEFAULT 0,
    failing_since        timestamptz,
    changed_at           timestamptz,
    suspended            boolean NOT NULL DEFAULT false,
    refreshes            bigint NOT NULL DEFAULT 0,
    skips                bigint NOT NULL DEFAULT 0,
    skipped_at           timestamptz,
    failures             bigint NOT NULL DEFAULT 0,
    cancellations        bigint NOT NULL DEFAULT 0,
    error_sqlstate       text,
    error_message        text,
    pace                 interval,
    pace_reason          text,
    CONSTRAINT attempts_pkey PRIMARY KEY (view),
    CONSTRAINT attempts_counts_not_negative CHECK (
        attempt >= 0 AND failed_rounds >= 0 AND consecutive_failures >= 0
        AND refreshes >= 0 AND skips >= 0 AND failures >= 0 AND cancellations >= 0),
    CONSTRAINT attempts_error_is_whole CHECK ((error_sqlstate IS NULL) = (error_message IS NULL))
) WITH (fillfactor = 50);
COMMENT ON TABLE _cache_refresher.attempts IS 'outcome of the latest attempts of each view, and totals';
COMMENT ON COLUMN _cache_refresher.attempts.changed_at IS 'end of the last refresh that brought new rows, or cannot tell: views that follow this one are due from then on';
COMMENT ON COLUMN _cache_refresher.attempts.pace IS 'the interval to which a view has adapted that is registered with min_interval and max_interval';
COMMENT ON COLUMN _cache_refresher.attempts.skips IS 'refreshes that were not needed: nothing had changed';
COMMENT ON COLUMN _cache_refresher.attempts.attempt IS 'retries used in the current round';

-- No foreign key: history outlives registrations and views, until retention takes it.
CREATE TABLE _cache_refresher.history (
    id            bigint GENERATED ALWAYS AS IDENTITY,
    view          oid NOT NULL,
    view_schema   text NOT NULL,
    view_name     text NOT NULL,
    outcome       text NOT NULL,
    started_at    timestamptz NOT NULL,
    duration_ms   double precision NOT NULL,
    trigger       text NOT NULL,
    method        text,
    reason        text,
    data_as_of    timestamptz,
    rows_total    bigint,
    rows_inserted bigint,
    rows_updated  bigint,
    rows_deleted  bigint,
    summary       jsonb,
    attempt       integer NOT NULL,
    role_name     text NOT NULL,
    sqlstate      text,
    message       text,
    CONSTRAINT history_pkey PRIMARY KEY (id),
    CONSTRAINT history_outcome_known CHECK (outcome IN ('refreshed', 'failed', 'cancelled')),
    CONSTRAINT history_trigger_known CHECK (trigger IN ('never populated', 'interval', 'schedule', 'parent', 'change', 'retry', 'manual')),
    CONSTRAINT history_error_when_not_done CHECK ((outcome IN ('failed', 'cancelled')) = (sqlstate IS NOT NULL))
);
CREATE INDEX history_view_idx ON _cache_refresher.history (view, id);
CREATE INDEX history_started_at_idx ON _cache_refresher.history (started_at);
COMMENT ON TABLE _cache_refresher.history IS 'one row per refresh that ran, failed ones too; bounded by cache_refresher.log_retention and log_max_rows';
COMMENT ON COLUMN _cache_refresher.history.trigger IS 'why the refresh ran';
COMMENT ON COLUMN _cache_refresher.history.reason IS 'why this method was taken';

SELECT pg_catalog.pg_extension_config_dump('_cache_refresher.registry', '');
SELECT pg_catalog.pg_extension_config_dump('_cache_refresher.refresh_grant', '');
