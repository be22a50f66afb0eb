-- Whoever stores or drops a secret is on record, with its name and nothing of its value.
BEGIN;
SELECT plan(11);

-- what secret_set() and secret_drop() do to the table, as sealing needs a master key
CREATE FUNCTION pg_temp.store(name text, version int) RETURNS void LANGUAGE sql AS $$
    DELETE FROM _grownext.crypto_secret AS s WHERE s.name = store.name AND s.version < store.version - 1;
    UPDATE _grownext.crypto_secret AS s SET retires_at = now() WHERE s.name = store.name AND s.retires_at IS NULL;
    INSERT INTO _grownext.crypto_secret (name, version, sealed, created_at) VALUES (store.name, store.version, 'ciphertext', now());
$$;
DO $$ BEGIN PERFORM _grownext.audit_write('test.began', NULL, NULL, NULL, NULL); END $$;
CREATE VIEW pg_temp.trail AS
SELECT action, target, context, change, category, session_role FROM grownext_audit.event WHERE action LIKE 'secret.%' ORDER BY id;

SELECT pg_temp.store('mail', 1);
SELECT is((SELECT count(*) FROM pg_temp.trail), 1::bigint, 'storing a secret is one event');
SELECT is((SELECT action || ' ' || target FROM pg_temp.trail), 'secret.set secret:mail', 'that names it');
SELECT is((SELECT context::text || coalesce(change::text, '') FROM pg_temp.trail), '{}', 'and says no more');
SELECT is((SELECT category || ' ' || session_role FROM pg_temp.trail), 'platform ' || session_user, 'of the platform, by whoever it was');
SELECT pg_temp.store('mail', 2);
SELECT pg_temp.store('mail', 3);
SELECT is((SELECT string_agg(action, ' ') FROM pg_temp.trail), 'secret.set secret.set secret.set', 'a value that replaces another is set, nothing is dropped');
DELETE FROM _grownext.crypto_secret WHERE name = 'none';
SELECT is((SELECT count(*) FROM pg_temp.trail), 3::bigint, 'dropping nothing is no event');
DELETE FROM _grownext.crypto_secret WHERE name = 'mail';
SELECT is((SELECT string_agg(action || ' ' || target, ', ') FROM pg_temp.trail WHERE action = 'secret.dropped'),
    'secret.dropped secret:mail', 'dropping all its values is one event');
SELECT is((SELECT count(*) FROM grownext_audit.event AS e WHERE e::text LIKE '%' || encode('ciphertext', 'hex') || '%' OR e::text LIKE '%ciphertext%'), 0::bigint, 'no value is in the log');

-- the functions themselves, where there is a master key or not
SELECT throws_ok($$ SELECT grownext.secret_drop('mail') $$, '42704', NULL, 'what is not there cannot be dropped');
SELECT is((SELECT count(*) FROM pg_temp.trail), 4::bigint, 'and leaves no event');
SAVEPOINT s;
SELECT pg_temp.store('other', 1);
ROLLBACK TO s;
SELECT is((SELECT count(*) FROM pg_temp.trail), 4::bigint, 'what is rolled back leaves none either');

SELECT * FROM finish();
ROLLBACK;
