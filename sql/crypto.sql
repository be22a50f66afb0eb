-- The master key, what it seals, and what happens without it. In a database of its
-- own, because the key file belongs to the whole server.
\set SHOW_CONTEXT never
\getenv builddir PG_ABS_BUILDDIR
\set key_file :builddir '/results/crypto_master.key'
\setenv KEY_FILE :key_file
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_crypto;
CREATE DATABASE regress_crypto ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0;
\c regress_crypto
CREATE EXTENSION grownext;

-- what a call is refused with; the file's place and owner are this machine's affair
CREATE FUNCTION refusal(command text, key_file text, OUT code text, OUT message text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    code := 'none';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    message := replace(message, key_file, '/FILE');
    detail := replace(detail, key_file, '/FILE');
    hint := regexp_replace(replace(hint, key_file, '/FILE'), 'chown \d+', 'chown SERVER');
END $$;
CREATE FUNCTION master_key_status(key_file text, OUT state text, OUT detail text, OUT hint text) LANGUAGE sql AS $$
    SELECT state, replace(detail, key_file, '/FILE'), regexp_replace(replace(hint, key_file, '/FILE'), 'chown \d+', 'chown SERVER')
      FROM _grownext.crypto_status() WHERE item = 'master key'
$$;
\pset expanded on

-- only a server's configuration can say where it is: never a session, never a role
SET grownext.master_key_file = '/tmp/mine';
\echo :LAST_ERROR_SQLSTATE
ALTER SYSTEM SET grownext.master_key_file = 'relative/path';
\echo :LAST_ERROR_SQLSTATE

-- a file that is missing, readable for others, or not a key file is refused
ALTER SYSTEM SET grownext.master_key_file = :'key_file';
SELECT pg_reload_conf();
\c
\! rm -f "$KEY_FILE"
SELECT step, replace(state, :'key_file', '/FILE') AS state, hint IS NOT NULL AS has_hint FROM _grownext.crypto_setup(NULL, NULL, NULL);
SELECT state FROM master_key_status(:'key_file');
SELECT * FROM refusal($$SELECT grownext.secret_set('a', 'first')$$, :'key_file');
\! echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=" > "$KEY_FILE"; chmod 640 "$KEY_FILE"
SELECT * FROM refusal($$SELECT grownext.secret_set('a', 'first')$$, :'key_file');
\! chmod 600 "$KEY_FILE"; echo "k1:AAAA" > "$KEY_FILE"
SELECT * FROM refusal($$SELECT grownext.secret_set('a', 'first')$$, :'key_file');
\! (echo "# comments and empty lines are fine"; echo; echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="; echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=") > "$KEY_FILE"
SELECT message, detail FROM refusal($$SELECT grownext.secret_set('a', 'first')$$, :'key_file');
\! echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAF=" > "$KEY_FILE"
SELECT message, detail FROM refusal($$SELECT grownext.secret_set('a', 'first')$$, :'key_file');
\! : > "$KEY_FILE"
SELECT message, detail FROM refusal($$SELECT grownext.secret_set('a', 'first')$$, :'key_file');
\! mv "$KEY_FILE" "$KEY_FILE.d"; mkdir "$KEY_FILE"
SELECT message, detail FROM refusal($$SELECT grownext.secret_set('a', 'first')$$, :'key_file');
\! rmdir "$KEY_FILE"; mv "$KEY_FILE.d" "$KEY_FILE"
SELECT state FROM master_key_status(:'key_file');
\pset expanded off

-- a good one: setup makes it known, twice is once
\! echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=" > "$KEY_FILE"
SELECT * FROM master_key_status(:'key_file');
SELECT * FROM _grownext.crypto_setup(NULL, NULL, NULL);
SELECT * FROM _grownext.crypto_setup(NULL, NULL, NULL);
SELECT * FROM master_key_status(:'key_file');
SELECT id, octet_length(check_value) FROM _grownext.crypto_master_key;

-- secrets: set, set again with the same value, set anew; two live values while rotating
SELECT grownext.secret_set('stripe', 'whsec_first');
SELECT name, previous_until IS NULL AS single FROM grownext.secret;
SELECT grownext.secret_set('stripe', 'whsec_first');
SELECT version, retires_at IS NULL AS current FROM _grownext.crypto_secret ORDER BY version;
SELECT grownext.secret_set('stripe', 'whsec_second');
SELECT version, retires_at IS NULL AS current FROM _grownext.crypto_secret ORDER BY version;
SELECT name, previous_until - set_at AS overlap FROM grownext.secret;
SELECT grownext.secret_set('stripe', 'whsec_third');
SELECT version, retires_at IS NULL AS current FROM _grownext.crypto_secret ORDER BY version;
-- the previous one ends by itself
SELECT count(*) FILTER (WHERE previous_until IS NOT NULL) AS rotating FROM grownext.secret;
SET grownext.test_clock = '2100-01-01 00:00+00';
SELECT count(*) FILTER (WHERE previous_until IS NOT NULL) AS rotating FROM grownext.secret;
RESET grownext.test_clock;
-- what is stored is not the value
SELECT bool_or(position('whsec'::bytea IN sealed) > 0) AS plaintext FROM _grownext.crypto_secret;

-- from a file of the server, for superusers
\! printf 'from a file\n' > "$KEY_FILE.secret"
\set secret_file :key_file '.secret'
SELECT grownext.secret_set('from-file', file => :'secret_file');
SELECT octet_length(sealed) - (2 + octet_length('k1') + 12 + 16) AS bytes FROM _grownext.crypto_secret WHERE name = 'from-file';
SELECT grownext.secret_set('from-file', file => 'relative');
\echo :LAST_ERROR_SQLSTATE

-- refusals; none repeats a value
SELECT grownext.secret_set('a');
SELECT grownext.secret_set('a', 'value', 'file');
SELECT grownext.secret_set(NULL, 'value');
SELECT grownext.secret_set('Upper', 'value');
SELECT grownext.secret_set('a', '');
SELECT grownext.secret_set('a', repeat('x', 65537));
SELECT grownext.secret_drop('nothing');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.secret_drop('from-file');
SELECT name FROM grownext.secret;
-- each change is on record, by name: the same value again is none
SELECT action, target, context, change IS NULL AS without_value FROM grownext.audit_event WHERE action LIKE 'secret.%' ORDER BY id;

-- a value moved to another row does not open there
BEGIN;
UPDATE _grownext.crypto_secret SET sealed = (SELECT sealed FROM _grownext.crypto_secret WHERE version = 2) WHERE version = 3;
SELECT grownext.secret_set('stripe', 'whsec_third');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
-- nor one with a bit changed
BEGIN;
UPDATE _grownext.crypto_secret SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1) WHERE version = 3;
SELECT grownext.secret_set('stripe', 'whsec_third');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- another key under the same id is detected, by status and at every use
\pset expanded on
\! echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=" > "$KEY_FILE"
SELECT * FROM master_key_status(:'key_file');
SELECT * FROM refusal($$SELECT grownext.secret_set('b', 'value')$$, :'key_file');
SELECT * FROM refusal($$SELECT grownext.secret_set('stripe', 'value')$$, :'key_file');
SELECT code FROM refusal($$SELECT * FROM _grownext.crypto_setup(NULL, NULL, NULL)$$, :'key_file');
-- a fresh key in place of a lost one is not taken for a rotation
\! echo "k2:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=" > "$KEY_FILE"
SELECT * FROM master_key_status(:'key_file');
SELECT * FROM refusal($$SELECT grownext.secret_set('b', 'value')$$, :'key_file');
SELECT * FROM refusal($$SELECT grownext.secret_set('stripe', 'value')$$, :'key_file');
\pset expanded off
-- above the known one it is a rotation: new values are sealed under it, old ones still open
\! (echo "k2:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI="; echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=") > "$KEY_FILE"
SELECT * FROM master_key_status(:'key_file');
SELECT grownext.secret_set('b', 'value');
SELECT grownext.secret_set('stripe', 'whsec_third');
SELECT name, version, convert_from(substr(sealed, 3, 2), 'UTF8') AS master_key FROM _grownext.crypto_secret ORDER BY name, version;
SELECT * FROM master_key_status(:'key_file');
-- then the old line is still needed
\! echo "k2:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=" > "$KEY_FILE"
SELECT * FROM master_key_status(:'key_file');

-- a key that lies in the data directory would be in every base backup
SELECT current_setting('data_directory') || '/master.key' AS inside \gset
\setenv INSIDE :inside
\! cp -p "$KEY_FILE" "$INSIDE"
ALTER SYSTEM SET grownext.master_key_file = :'inside';
SELECT pg_reload_conf();
\c
SELECT state, detail FROM _grownext.crypto_status() WHERE item = 'master key place';

ALTER SYSTEM RESET grownext.master_key_file;
SELECT pg_reload_conf();
\! rm -f "$KEY_FILE" "$KEY_FILE.secret" "$INSIDE"
\c contrib_regression
DROP DATABASE regress_crypto;
