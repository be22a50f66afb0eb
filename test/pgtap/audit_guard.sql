-- What a superuser is refused to do to the audit log, and what he may.
BEGIN;
SELECT plan(39);

DO $$ BEGIN PERFORM _grownext.audit_write('guard.began', NULL, NULL, NULL, NULL); END $$;
CREATE ROLE regress_heir SUPERUSER;
CREATE TABLE public.like_log (LIKE grownext_audit.event);
CREATE TABLE public.parted (LIKE grownext_audit.event) PARTITION BY RANGE (recorded_at);

SELECT throws_ok(command, 'NX050', 'the audit log cannot be changed', command) FROM unnest(ARRAY[
    -- its owner is how the log is known
    'REASSIGN OWNED BY grownext_owner TO regress_heir',
    'REASSIGN OWNED BY regress_heir, grownext_owner TO CURRENT_USER',
    'ALTER TABLE grownext_audit.event OWNER TO regress_heir',
    'ALTER SEQUENCE grownext_audit.event_id_seq OWNER TO regress_heir',
    'ALTER SCHEMA grownext_audit OWNER TO regress_heir',
    'ALTER ROLE grownext_owner RENAME TO regress_other',
    -- rows that are not in it must not look as if they were, nor its own be reached from elsewhere
    'ALTER TABLE grownext_audit.event INHERIT public.like_log',
    'ALTER TABLE public.like_log INHERIT grownext_audit.event',
    'CREATE TABLE public.child () INHERITS (grownext_audit.event)',
    'CREATE TEMP TABLE child () INHERITS (public.like_log, grownext_audit.event)',
    'ALTER TABLE public.parted ATTACH PARTITION grownext_audit.event DEFAULT',
    'ALTER TABLE public.parted ATTACH PARTITION grownext_audit.event FOR VALUES FROM (MINVALUE) TO (MAXVALUE)',
    -- ids go on
    'ALTER SEQUENCE grownext_audit.event_id_seq RESTART',
    'ALTER SEQUENCE grownext_audit.event_id_seq INCREMENT -1',
    'ALTER SEQUENCE grownext_audit.event_id_seq OWNED BY public.like_log.id',
    'ALTER SEQUENCE grownext_audit.event_id_seq RENAME TO other',
    'ALTER TABLE grownext_audit.event_id_seq SET SCHEMA public',
    -- a dump leaves out what members hold
    'ALTER EXTENSION pgtap ADD TABLE grownext_audit.event',
    'ALTER EXTENSION pgtap ADD SEQUENCE grownext_audit.event_id_seq',
    'ALTER EXTENSION grownext ADD SCHEMA grownext_audit',
    -- the triggers do what they did
    'CREATE OR REPLACE FUNCTION _grownext.audit_refuse() RETURNS trigger LANGUAGE plpgsql AS ''BEGIN RETURN NEW; END''',
    'ALTER TABLE grownext_audit.event ENABLE REPLICA TRIGGER event_append_only',
    'ALTER TABLE grownext_audit.event ENABLE ROW LEVEL SECURITY',
    'ALTER TABLE grownext_audit.event SET UNLOGGED']) AS command;

-- a DO block and a function are no way around
SELECT throws_ok($$ DO 'BEGIN EXECUTE ''REASSIGN OWNED BY grownext_owner TO regress_heir''; END' $$, 'NX050', NULL, 'nor does a DO block');

-- PostgreSQL itself refuses these for as long as the extension is there
SELECT throws_ok(command, '2BP01', NULL, command) FROM unnest(ARRAY[
    'DROP OWNED BY grownext_owner CASCADE', 'DROP FUNCTION _grownext.audit_refuse() CASCADE']) AS command;

-- the same commands where the log is not concerned
SELECT lives_ok(command, command) FROM unnest(ARRAY[
    'REASSIGN OWNED BY regress_heir TO CURRENT_USER',
    'CREATE TABLE public.child () INHERITS (public.like_log)',
    'ALTER TABLE public.child NO INHERIT public.like_log',
    'ALTER ROLE regress_heir RENAME TO regress_other',
    'CREATE OR REPLACE FUNCTION public.audit_refuse() RETURNS trigger LANGUAGE plpgsql AS ''BEGIN RETURN NEW; END''']) AS command;

SELECT is((SELECT state FROM _grownext.audit_status() WHERE item = 'log'), 'ok', 'the log is as it was');
SELECT isnt(_grownext.audit_write('guard.ended', NULL, NULL, NULL, NULL), NULL, 'and goes on');

-- the log alone, after its extension: without triggers, and as well guarded
SET LOCAL client_min_messages = warning;
DROP EXTENSION grownext CASCADE;
SELECT throws_ok(command, 'NX050', 'the audit log cannot be changed', 'alone: ' || command) FROM unnest(ARRAY[
    'DROP OWNED BY grownext_owner CASCADE',
    'REASSIGN OWNED BY grownext_owner TO CURRENT_USER',
    'ALTER ROLE grownext_owner RENAME TO regress_third',
    'CREATE TABLE public.other () INHERITS (grownext_audit.event)',
    'UPDATE grownext_audit.event SET action = action']) AS command;

SELECT * FROM finish();
ROLLBACK;
