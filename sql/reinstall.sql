-- DROP EXTENSION and CREATE EXTENSION under a session that stays: its caches belong to
-- the extension that is gone, and the new one's changes must reach it all the same.
\set SHOW_CONTEXT never
\getenv builddir PG_ABS_BUILDDIR
\set key_file :builddir '/results/reinstall_master.key'
\setenv KEY_FILE :key_file
\! (umask 077; echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=" > "$KEY_FILE")
ALTER SYSTEM SET grownext.master_key_file = :'key_file';
SELECT pg_reload_conf();
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_reinstall;
CREATE DATABASE regress_reinstall ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0;
\c regress_reinstall
CREATE EXTENSION grownext;
SELECT step, state FROM grownext.setup('https://auth.example.com', ARRAY['my-api']) WHERE step = 'signing key';
SELECT grownext.jwt_verify(grownext.jwt_mint('ann')) ->> 'sub' AS subject;

DROP EXTENSION grownext CASCADE;
CREATE EXTENSION grownext;

-- the issuer and the keys of the first extension are forgotten
SELECT grownext.jwt_mint('ann');
\echo :LAST_ERROR_SQLSTATE
SELECT step, state FROM grownext.setup('https://auth.example.com', ARRAY['my-api']) WHERE step = 'signing key';
SELECT grownext.jwt_mint('ann') AS token \gset
SELECT grownext.jwt_verify(:'token') ->> 'sub' AS subject;

-- and a key of the second is refused as soon as it is revoked
SELECT grownext.key_revoke(kid, 'lost') FROM grownext.signing_key;
SELECT active, error FROM grownext.jwt_inspect(:'token');
\c postgres
DROP DATABASE regress_reinstall;
