-- What CREATE EXTENSION makes, where it makes it, and what DROP EXTENSION leaves.
\set SHOW_CONTEXT never
CREATE SCHEMA chosen;
CREATE EXTENSION cache_refresher SCHEMA chosen;

-- Members of the extension. Left out is what others stand for: row types, array types, and the
-- sequence behind an identity column.
CREATE VIEW member AS
SELECT d.classid, d.objid, o.type, o.schema, o.identity
  FROM pg_depend d
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'cache_refresher'
 CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) o
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND o.type <> 'sequence'
   AND NOT (d.classid = 'pg_type'::regclass AND EXISTS (
           SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
            WHERE t.oid = d.objid AND (t.typelem <> 0 OR c.relkind <> 'c')));

SELECT type, identity FROM member WHERE type <> 'function' ORDER BY type, identity COLLATE "C";

SELECT p.oid::regprocedure::text COLLATE "C" AS function,
       left(pg_get_function_result(p.oid), 130) AS result,
       CASE p.provolatile WHEN 'v' THEN 'volatile' WHEN 's' THEN 'stable' ELSE 'immutable' END AS volatility
  FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
 ORDER BY 1;

-- Every object says what it is.
SELECT type, identity FROM member WHERE obj_description(objid, classid::regclass::text) IS NULL ORDER BY 1, 2;

-- In the schema that the user chose there are the two functions of existing callers, and nothing else.
SELECT type, identity FROM member WHERE schema = 'chosen' ORDER BY 1, 2;
SELECT count(*) AS members_elsewhere
  FROM member
 WHERE schema NOT IN ('cache_refresher', '_cache_refresher', 'chosen') OR schema IS NULL AND type NOT IN ('schema', 'event trigger');

-- Arguments have names, and all that can be left out can be left out.
SELECT proname AS function, pg_get_function_arguments(oid) AS arguments
  FROM pg_proc WHERE pronamespace = 'cache_refresher'::regnamespace AND prokind = 'f'
 ORDER BY proname COLLATE "C", pronargs;

-- NULL means 'inherit' or is refused with a message: no function of the interface is STRICT, and none
-- lends its owner's rights.
SELECT proname FROM pg_proc WHERE pronamespace = 'cache_refresher'::regnamespace AND proisstrict;
SELECT m.identity FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid WHERE p.prosecdef;

-- The interface is open to everybody, the internals are closed.
SELECT nspname, has_schema_privilege('public', oid, 'USAGE') AS usage, has_schema_privilege('public', oid, 'CREATE') AS "create"
  FROM pg_namespace WHERE nspname IN ('cache_refresher', '_cache_refresher') ORDER BY nspname COLLATE "C" DESC;
SELECT c.oid::regclass AS relation, a.privilege_type
  FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
 WHERE c.relnamespace IN ('cache_refresher'::regnamespace, '_cache_refresher'::regnamespace) AND a.grantee = 0
 ORDER BY c.relname COLLATE "C";

-- Registrations and grants are dumped, runtime state is not.
SELECT config::regclass, condition
  FROM pg_extension, unnest(extconfig, extcondition) AS u (config, condition)
 WHERE extname = 'cache_refresher' ORDER BY 1::text;

-- Constraints have names that were chosen. (From PostgreSQL 18 on, NOT NULL is one too.)
SELECT conrelid::regclass AS "table", conname
  FROM pg_constraint
 WHERE connamespace = '_cache_refresher'::regnamespace AND contype <> 'n'
 ORDER BY conrelid::regclass::text COLLATE "C", conname COLLATE "C";

-- It cannot be moved: names in it are fixed.
ALTER EXTENSION cache_refresher SET SCHEMA public;

-- DROP EXTENSION needs no CASCADE, and leaves nothing.
DROP VIEW member;
CREATE TABLE source (id int PRIMARY KEY);
CREATE MATERIALIZED VIEW v AS SELECT * FROM source;
CREATE UNIQUE INDEX ON v (id);
SELECT cache_refresher.register('v');
SELECT outcome FROM cache_refresher.refresh('v');
DROP EXTENSION cache_refresher;
SELECT nspname FROM pg_namespace WHERE nspname LIKE '%cache\_refresher';
SELECT count(*) AS in_chosen_schema FROM pg_proc WHERE pronamespace = 'chosen'::regnamespace;
DROP SCHEMA chosen;

-- The same session goes on with a new installation, which knows nothing of the old one.
CREATE EXTENSION cache_refresher;
SELECT view FROM cache_refresher.status;
SELECT cache_refresher.register('v');
SELECT outcome, rows_total FROM cache_refresher.refresh('v');
SELECT 'refresh_streams_cache'::regproc, 'refresh_videos_cache'::regproc;
DROP EXTENSION cache_refresher;
DROP MATERIALIZED VIEW v;
DROP TABLE source;

-- Somebody who makes one of the objects first does not get the others to build on it: the
-- installation fails.
CREATE SCHEMA cache_refresher;
CREATE EXTENSION cache_refresher;
DROP SCHEMA cache_refresher;
CREATE SCHEMA _cache_refresher;
CREATE EXTENSION cache_refresher;
DROP SCHEMA _cache_refresher;
CREATE FUNCTION refresh_streams_cache() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE EXTENSION cache_refresher;
DROP FUNCTION refresh_streams_cache();
CREATE FUNCTION refresh_videos_cache() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE EXTENSION cache_refresher;
DROP FUNCTION refresh_videos_cache();
SELECT nspname FROM pg_namespace WHERE nspname LIKE '%cache\_refresher';

-- Nor does the script take over or replace what it finds.
SELECT regexp_matches(
           regexp_replace(pg_read_file(c.setting || '/extension/cache_refresher--' || e.default_version || '.sql'), '--[^\n]*', '', 'g'),
           'OR\s+REPLACE|IF\s+NOT\s+EXISTS', 'gi') AS trap
  FROM pg_config() c, pg_available_extensions e
 WHERE c.name = 'SHAREDIR' AND e.name = 'cache_refresher';

-- It takes a superuser.
CREATE ROLE regress_cr_user;
GRANT CREATE ON SCHEMA public TO regress_cr_user;
SET ROLE regress_cr_user;
CREATE EXTENSION cache_refresher;
RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM regress_cr_user;
DROP ROLE regress_cr_user;
