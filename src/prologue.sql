\echo Use "CREATE EXTENSION grownext" to load this file. \quit

-- Text is compared, signed and hashed byte by byte: UTF8 or nothing.
DO $$
BEGIN
    IF pg_catalog.getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = pg_catalog.format('grownext needs a UTF8 database, this one is %s', pg_catalog.getdatabaseencoding()),
            HINT = 'CREATE DATABASE ... ENCODING ''UTF8'' TEMPLATE template0.';
    END IF;
END
$$;

-- Roles are cluster-wide: made if missing and marked by a comment. A role of that
-- name which is not ours is refused, not adopted.
DO $$
DECLARE
    wanted record;
    found record;
    mark CONSTANT text := 'grownext role: ';
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('grownext_owner',   'owns the tables and definer functions'),
            ('grownext_admin',   'administers the platform'),
            ('grownext_service', 'trusted back ends'),
            ('grownext_worker',  'external job workers'),
            ('grownext_auditor', 'reads the audit log'),
            ('grownext_monitor', 'reads status and statistics'),
            ('grownext_user',    'signed-in end users behind a gateway'),
            ('grownext_anon',    'anonymous end users behind a gateway')) AS r (name, meaning)
    LOOP
        SELECT a.oid, a.rolcanlogin, a.rolsuper, pg_catalog.shobj_description(a.oid, 'pg_authid') AS remark
          INTO found FROM pg_catalog.pg_roles AS a WHERE a.rolname = wanted.name;
        IF found.oid IS NULL THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted.name);
            EXECUTE pg_catalog.format('COMMENT ON ROLE %I IS %L', wanted.name, mark || wanted.meaning);
        ELSIF found.rolcanlogin OR found.rolsuper
              OR NOT coalesce(pg_catalog.starts_with(found.remark, mark), false) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'duplicate_object',
                MESSAGE = pg_catalog.format('role "%s" exists and was not made by grownext', wanted.name),
                HINT = pg_catalog.format('Rename it, or, if it may serve grownext: ALTER ROLE %I NOLOGIN NOSUPERUSER; COMMENT ON ROLE %I IS %L;',
                              wanted.name, wanted.name, mark || wanted.meaning);
        END IF;
    END LOOP;
END
$$;

-- A schema that somebody made beforehand makes this fail, and should.
CREATE SCHEMA grownext;
CREATE SCHEMA _grownext;
CREATE SCHEMA grownext_api;
COMMENT ON SCHEMA grownext IS 'The SQL API of the platform.';
COMMENT ON SCHEMA _grownext IS 'Tables and internals of grownext; nobody but its owner has rights here.';
COMMENT ON SCHEMA grownext_api IS 'What a gateway may expose to end users.';
