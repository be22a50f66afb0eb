-- src/session/client.sql: OAuth clients, their secrets and how they prove who they are

CREATE OR REPLACE FUNCTION _grownext.session_client_id_make() RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_session_client_id_make';
COMMENT ON FUNCTION _grownext.session_client_id_make() IS 'A fresh client id.';

CREATE OR REPLACE FUNCTION _grownext.session_client_secret_make(OUT secret text, OUT digest bytea) RETURNS record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_session_client_secret_make';
COMMENT ON FUNCTION _grownext.session_client_secret_make() IS 'A fresh client secret and its digest.';

CREATE OR REPLACE FUNCTION _grownext.session_client_secret_matches(secret text, digests bytea[]) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'gn_session_client_secret_matches';
COMMENT ON FUNCTION _grownext.session_client_secret_matches(text, bytea[]) IS 'Whether a secret has one of the digests; the same work for none.';

CREATE OR REPLACE FUNCTION _grownext.session_assertion_claims(assertion text) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'gn_session_assertion_claims';
COMMENT ON FUNCTION _grownext.session_assertion_claims(text) IS 'What a client''s assertion says, unverified; NULL for a malformed one.';

CREATE OR REPLACE TRIGGER session_client_invalidate AFTER UPDATE OR DELETE OR TRUNCATE ON _grownext.session_client
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('session_marker_credential');
ALTER TABLE _grownext.session_client ENABLE ALWAYS TRIGGER session_client_invalidate;

-- Administration -----------------------------------------------------------------

-- The audiences of access tokens; the first is the default.
CREATE OR REPLACE FUNCTION _grownext.session_audiences() RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    audiences text[] := (SELECT p.audiences FROM _grownext.jwt_profile AS p WHERE p.purpose = 'access');
BEGIN
    IF audiences IS NULL THEN
        audiences := (SELECT ARRAY(SELECT jsonb_array_elements_text(o.value)) FROM _grownext.core_option AS o WHERE o.name = 'audiences');
    END IF;
    RETURN coalesce(audiences, '{}');
END
$$;
COMMENT ON FUNCTION _grownext.session_audiences() IS 'The audiences of access tokens.';

-- A gateway does SET ROLE with the role of a token: never a role that is above the rest.
CREATE OR REPLACE FUNCTION _grownext.session_role_allowed(role name) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF role IN ('grownext_user', 'grownext_anon') THEN
        RETURN true;
    END IF;
    RETURN EXISTS (SELECT FROM pg_roles AS r
                    WHERE r.rolname = session_role_allowed.role AND r.rolname !~ '^pg_' AND r.rolname <> 'grownext_owner'
                      AND NOT r.rolsuper AND NOT r.rolreplication AND NOT r.rolbypassrls);
END
$$;
COMMENT ON FUNCTION _grownext.session_role_allowed(name) IS 'Whether a client''s tokens may name a role.';

CREATE OR REPLACE FUNCTION _grownext.session_client_missing(client_id text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object',
        MESSAGE = format('client "%s" does not exist', coalesce(left(client_id, 64), 'NULL'));
END
$$;
COMMENT ON FUNCTION _grownext.session_client_missing(text) IS 'Raises that a client does not exist.';

-- An array option of non-empty strings.
CREATE OR REPLACE FUNCTION _grownext.session_client_texts(name text, value jsonb) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF value @? '$[*] ? (@.type() != "string" || @ == "")' OR jsonb_array_length(value) > 100 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "%s" must be an array of at most 100 strings, none of them empty', name);
    END IF;
    RETURN ARRAY(SELECT DISTINCT e FROM jsonb_array_elements_text(value) AS e ORDER BY e);
END
$$;
COMMENT ON FUNCTION _grownext.session_client_texts(text, jsonb) IS 'An option that is an array of strings.';

-- The client with the options applied; what is wrong with them raises 22023, 42501 or 42704.
CREATE OR REPLACE FUNCTION _grownext.session_client_apply(client _grownext.session_client, options jsonb) RETURNS _grownext.session_client
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- who is logged in or SET; the current user of a definer function is the owner
    caller CONSTANT name := coalesce(nullif(current_setting('role'), 'none'), session_user);
    other text;
BEGIN
    IF options ? 'grants' THEN
        client.grants := _grownext.session_client_texts('grants', options -> 'grants');
        SELECT g INTO other FROM unnest(client.grants) AS g
         WHERE g NOT IN ('client_credentials', 'refresh_token', 'urn:ietf:params:oauth:grant-type:token-exchange');
        IF other IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('unknown grant "%s"', left(other, 100)),
                HINT = 'Grants: client_credentials, refresh_token, urn:ietf:params:oauth:grant-type:token-exchange.';
        END IF;
    END IF;
    IF options ? 'audiences' THEN
        client.audiences := _grownext.session_client_texts('audiences', options -> 'audiences');
        SELECT a INTO other FROM unnest(client.audiences) AS a WHERE a <> ALL (_grownext.session_audiences());
        IF other IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('audience "%s" is not allowed here', left(other, 100)),
                HINT = 'Allowed are the audiences that setup() was given, or those of the profile of access tokens.';
        END IF;
    END IF;
    IF options ? 'ttl' THEN
        client.ttl := (options ->> 'ttl')::interval;
        IF client.ttl NOT BETWEEN '1 second' AND '24 hours' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = 'option "ttl" must be between 1 second and 24 hours';
        END IF;
    END IF;
    IF options ? 'jwks' THEN
        -- raises unless it is a public JWK or a set of them
        PERFORM grownext.jws_verify(NULL, options -> 'jwks');
        client.jwks := options -> 'jwks';
    END IF;
    IF options ? 'role' THEN
        client.role := options ->> 'role';
        IF client.role::text <> options ->> 'role' OR NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = client.role) THEN
            RAISE EXCEPTION USING ERRCODE = 'undefined_object',
                MESSAGE = format('role "%s" does not exist', left(options ->> 'role', 100));
        ELSIF NOT _grownext.session_role_allowed(client.role)
              OR client.role NOT IN ('grownext_user', 'grownext_anon') AND NOT pg_has_role(caller, client.role, 'MEMBER') THEN
            RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
                MESSAGE = format('a client may not have role "%s"', client.role),
                DETAIL = 'It must be a role of the caller, and not a privileged one.';
        END IF;
    END IF;
    RETURN client;
END
$$;
COMMENT ON FUNCTION _grownext.session_client_apply(_grownext.session_client, jsonb) IS 'Checks options of a client and applies them.';

CREATE OR REPLACE FUNCTION _grownext.session_client_scopes(scopes text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    words CONSTANT text[] := _grownext.session_scope_words(array_to_string(scopes, ' '));
BEGIN
    IF scopes IS NULL OR words IS NULL OR EXISTS (SELECT FROM unnest(scopes) AS s WHERE s IS NULL OR s = '' OR s ~ ' ') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'scopes must be an array of words of visible ASCII characters, 4096 together';
    END IF;
    RETURN words;
END
$$;
COMMENT ON FUNCTION _grownext.session_client_scopes(text[]) IS 'The scopes of a client, each once; raises on anything that is none.';

-- What the log and events say of a client; there is no secret in it.
CREATE OR REPLACE FUNCTION _grownext.session_client_facts(client _grownext.session_client) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('name', client.name, 'scopes', to_jsonb(client.scopes), 'grants', to_jsonb(client.grants),
        'audiences', to_jsonb(client.audiences), 'ttl', client.ttl, 'role', client.role,
        'auth_method', CASE WHEN client.jwks IS NULL THEN 'client_secret_post' ELSE 'private_key_jwt' END);
$$;
COMMENT ON FUNCTION _grownext.session_client_facts(_grownext.session_client) IS 'What may be told of a client.';

CREATE OR REPLACE FUNCTION _grownext.session_client_record(action text, client _grownext.session_client, before jsonb, after jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.audit_write(session_client_record.action, 'client:' || client.id, client.tenant_id, before, after);
    PERFORM _grownext.core_event_emit(session_client_record.action, client.tenant_id,
        jsonb_build_object('client_id', client.id, 'name', client.name));
END
$$;
COMMENT ON FUNCTION _grownext.session_client_record(text, _grownext.session_client, jsonb, jsonb) IS 'Writes what happened to a client into the log and tells who listens.';

CREATE OR REPLACE FUNCTION grownext.client_create(name text, scopes text[], options jsonb DEFAULT '{}') RETURNS grownext.client_credentials
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made_at CONSTANT timestamptz := _grownext.core_now();
    made _grownext.session_client;
    fresh record;
    credentials grownext.client_credentials;
BEGIN
    PERFORM _grownext.core_check_options(options,
        '{"grants": "array", "audiences": "array", "ttl": "string", "jwks": "object", "tenant_id": "string", "role": "string"}');
    IF nullif(btrim(name), '') IS NULL OR length(name) > 200 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a client''s name must be of 1 to 200 characters';
    END IF;
    made.id := _grownext.session_client_id_make();
    made.name := client_create.name;
    made.scopes := _grownext.session_client_scopes(client_create.scopes);
    made.grants := '{client_credentials}';
    made.audiences := '{}';
    made.ttl := '15 minutes';
    made.role := 'grownext_user';
    made.tenant_id := (options ->> 'tenant_id')::uuid;
    made.created_at := made_at;
    made.updated_at := made_at;
    made.valid_from := date_trunc('second', made_at);
    made := _grownext.session_client_apply(made, options);
    IF made.tenant_id IS NOT NULL AND NOT EXISTS (SELECT FROM _grownext.tenant_tenant AS t WHERE t.id = made.tenant_id) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('tenant "%s" does not exist', made.tenant_id);
    END IF;
    INSERT INTO _grownext.session_client SELECT made.* ON CONFLICT ON CONSTRAINT session_client_name_key DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = format('a client named "%s" exists', name);
    END IF;
    credentials.client_id := made.id;
    IF made.jwks IS NULL THEN
        SELECT * INTO fresh FROM _grownext.session_client_secret_make();
        credentials.client_secret := fresh.secret;
        INSERT INTO _grownext.session_client_secret (client_id, digest, created_at) VALUES (made.id, fresh.digest, made_at);
    END IF;
    PERFORM _grownext.session_client_record('client.created', made, NULL, _grownext.session_client_facts(made));
    RETURN credentials;
END
$$;
COMMENT ON FUNCTION grownext.client_create(text, text[], jsonb) IS 'Registers an OAuth client; its secret is shown this once, a client with jwks has none.';

CREATE OR REPLACE FUNCTION grownext.client_update(client_id text, changes jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old _grownext.session_client;
    new _grownext.session_client;
BEGIN
    PERFORM _grownext.core_check_options(changes,
        '{"name": "string", "scopes": "array", "grants": "array", "audiences": "array", "ttl": "string", "jwks": "object", "role": "string"}');
    SELECT c.* INTO old FROM _grownext.session_client AS c WHERE c.id = client_update.client_id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM _grownext.session_client_missing(client_update.client_id);
    ELSIF changes ? 'jwks' AND old.jwks IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('client "%s" authenticates by its secret', old.id),
            HINT = 'Create a client with jwks, and delete this one.';
    ELSIF changes ? 'name' AND (btrim(changes ->> 'name') = '' OR length(changes ->> 'name') > 200) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a client''s name must be of 1 to 200 characters';
    ELSIF EXISTS (SELECT FROM _grownext.session_client AS c
                   WHERE c.name = changes ->> 'name' AND c.tenant_id IS NOT DISTINCT FROM old.tenant_id AND c.id <> old.id) THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = format('a client named "%s" exists', changes ->> 'name');
    END IF;
    new := _grownext.session_client_apply(old, changes);
    new.name := coalesce(changes ->> 'name', old.name);
    IF changes ? 'scopes' THEN
        new.scopes := _grownext.session_client_scopes(_grownext.session_client_texts('scopes', changes -> 'scopes'));
    END IF;
    UPDATE _grownext.session_client AS c
       SET name = new.name, scopes = new.scopes, grants = new.grants, audiences = new.audiences, ttl = new.ttl,
           jwks = new.jwks, role = new.role, updated_at = _grownext.core_now()
     WHERE c.id = old.id;
    PERFORM _grownext.session_client_record('client.updated', new, _grownext.session_client_facts(old), _grownext.session_client_facts(new));
END
$$;
COMMENT ON FUNCTION grownext.client_update(text, jsonb) IS 'Changes name, scopes or options of a client; tokens that it has keep what they say.';

-- Tokens say when they were issued in whole seconds: those of this second go, too.
CREATE OR REPLACE FUNCTION _grownext.session_client_switch(client_id text, disable boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    switched_at CONSTANT timestamptz := _grownext.core_now();
    client _grownext.session_client;
BEGIN
    SELECT c.* INTO client FROM _grownext.session_client AS c WHERE c.id = session_client_switch.client_id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM _grownext.session_client_missing(session_client_switch.client_id);
    ELSIF (client.disabled_at IS NOT NULL) = disable THEN
        RETURN;
    END IF;
    UPDATE _grownext.session_client AS c
       SET disabled_at = CASE WHEN disable THEN switched_at END, updated_at = switched_at,
           valid_from = date_trunc('second', switched_at) + interval '1 second'
     WHERE c.id = client.id;
    PERFORM _grownext.session_client_record(CASE WHEN disable THEN 'client.disabled' ELSE 'client.enabled' END, client,
        jsonb_build_object('disabled', NOT disable), jsonb_build_object('disabled', disable));
END
$$;
COMMENT ON FUNCTION _grownext.session_client_switch(text, boolean) IS 'Disables or enables a client.';

CREATE OR REPLACE FUNCTION grownext.client_disable(client_id text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.session_client_switch(client_disable.client_id, true);
$$;
COMMENT ON FUNCTION grownext.client_disable(text) IS 'Locks a client out, and revokes every token that it has.';

CREATE OR REPLACE FUNCTION grownext.client_enable(client_id text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.session_client_switch(client_enable.client_id, false);
$$;
COMMENT ON FUNCTION grownext.client_enable(text) IS 'Lets a disabled client in again; its old tokens stay revoked.';

CREATE OR REPLACE FUNCTION grownext.client_rotate_secret(client_id text, overlap interval DEFAULT '1 day') RETURNS grownext.client_credentials
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rotated_at CONSTANT timestamptz := _grownext.core_now();
    client _grownext.session_client;
    fresh record;
    credentials grownext.client_credentials;
BEGIN
    IF overlap IS NULL OR overlap NOT BETWEEN '0' AND '30 days' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the overlap must be between 0 and 30 days';
    END IF;
    -- one rotation at a time; whoever authenticates does not wait
    SELECT c.* INTO client FROM _grownext.session_client AS c WHERE c.id = client_rotate_secret.client_id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM _grownext.session_client_missing(client_rotate_secret.client_id);
    ELSIF client.jwks IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('client "%s" has no secret', client.id),
            HINT = format('SELECT grownext.client_update(%L, ''{"jwks": {"keys": [...]}}''); with its new keys beside the old ones.', client.id);
    END IF;
    -- two at most: what an earlier rotation left goes now
    DELETE FROM _grownext.session_client_secret AS x WHERE x.client_id = client.id AND x.expires_at IS NOT NULL;
    UPDATE _grownext.session_client_secret AS x SET expires_at = rotated_at + overlap WHERE x.client_id = client.id;
    SELECT * INTO fresh FROM _grownext.session_client_secret_make();
    INSERT INTO _grownext.session_client_secret (client_id, digest, created_at) VALUES (client.id, fresh.digest, rotated_at);
    PERFORM _grownext.session_client_record('client.secret_rotated', client, NULL, jsonb_build_object('previous_until', rotated_at + overlap));
    credentials.client_id := client.id;
    credentials.client_secret := fresh.secret;
    RETURN credentials;
END
$$;
COMMENT ON FUNCTION grownext.client_rotate_secret(text, interval) IS 'A new secret for a client, shown this once; the one before is good for the overlap.';

CREATE OR REPLACE FUNCTION grownext.client_delete(client_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone _grownext.session_client;
BEGIN
    DELETE FROM _grownext.session_client AS c WHERE c.id = client_delete.client_id RETURNING c.* INTO gone;
    IF NOT FOUND THEN
        PERFORM _grownext.session_client_missing(client_delete.client_id);
    END IF;
    DELETE FROM _grownext.session_client_failure AS f WHERE f.client_id = gone.id;
    PERFORM _grownext.session_end(
        ARRAY(SELECT s.id FROM _grownext.session_session AS s WHERE s.client_id = gone.id AND s.revoked_at IS NULL),
        'client deleted', 'session.revoked');
    PERFORM _grownext.session_client_record('client.deleted', gone, _grownext.session_client_facts(gone), NULL);
END
$$;
COMMENT ON FUNCTION grownext.client_delete(text) IS 'Deletes a client; its tokens and sessions end.';

CREATE OR REPLACE VIEW grownext.client WITH (security_barrier) AS
SELECT c.id AS client_id, c.name, c.scopes, c.grants, c.audiences, c.ttl,
       CASE WHEN c.jwks IS NULL THEN 'client_secret_post' ELSE 'private_key_jwt' END AS auth_method, c.jwks,
       c.tenant_id, c.role, c.created_at, c.updated_at, c.disabled_at,
       s.created_at AS secret_created_at, p.expires_at AS previous_secret_until,
       coalesce(f.failures, 0) AS failures, f.last_at AS last_failure_at
  FROM _grownext.session_client AS c
  LEFT JOIN _grownext.session_client_secret AS s ON s.client_id = c.id AND s.expires_at IS NULL
  LEFT JOIN _grownext.session_client_secret AS p ON p.client_id = c.id AND p.expires_at > _grownext.core_now()
  LEFT JOIN _grownext.session_client_failure AS f ON f.client_id = c.id;
COMMENT ON VIEW grownext.client IS 'OAuth clients; of secrets only when they were made and end.';

-- Authentication -------------------------------------------------------------------

-- Remembers that a client, or nobody that exists (NULL), failed to authenticate: the same
-- work for both, a row each, and at most one event a minute in the log.
CREATE OR REPLACE FUNCTION _grownext.session_client_failed(client_id text, tenant_id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    failed_at CONSTANT timestamptz := _grownext.core_now();
    failures bigint;
    to_audit boolean;
BEGIN
    INSERT INTO _grownext.session_client_failure AS f (client_id, failures, last_at, audited_at, audited_failures)
    VALUES (coalesce(session_client_failed.client_id, ''), 1, failed_at, failed_at, 1)
    ON CONFLICT ON CONSTRAINT session_client_failure_pkey DO UPDATE SET
        failures = f.failures + 1, last_at = failed_at,
        audited_at = CASE WHEN f.audited_at <= failed_at - interval '1 minute' THEN failed_at ELSE f.audited_at END,
        audited_failures = CASE WHEN f.audited_at <= failed_at - interval '1 minute' THEN f.failures + 1 ELSE f.audited_failures END
    RETURNING f.failures, f.failures = f.audited_failures INTO failures, to_audit;
    IF to_audit THEN
        PERFORM _grownext.audit_write_for('client.authentication_failed', 'client:' || coalesce(session_client_failed.client_id, 'unknown'),
            session_client_failed.tenant_id, NULL, jsonb_build_object('failures', failures), NULL, NULL);
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.session_client_failed(text, uuid) IS 'Remembers a failed authentication of a client.';

-- Whether an assertion (RFC 7523) proves the client that it names: signed by its key, made
-- for us, by itself, for a short time, and not used before. For a client without keys
-- there is a signature to verify all the same, which then counts for nothing.
CREATE OR REPLACE FUNCTION _grownext.session_assertion_proves(assertion text, claims jsonb, client _grownext.session_client) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    any_key CONSTANT jsonb := '{"kty": "EC", "crv": "P-256", "alg": "ES256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}';
    now_s CONSTANT numeric := extract(epoch FROM _grownext.core_now());
    leeway CONSTANT int := 30;
    longest CONSTANT int := 300;
    here CONSTANT jsonb := grownext.discovery();
    verified record;
    expires_s numeric;
BEGIN
    verified := grownext.jws_verify(assertion, coalesce(client.jwks, any_key));
    IF NOT verified.valid OR client.jwks IS NULL
       OR lower(coalesce(verified.header ->> 'typ', 'jwt')) NOT IN ('jwt', 'client-authentication+jwt')
       OR claims ->> 'iss' IS DISTINCT FROM client.id OR claims ->> 'sub' IS DISTINCT FROM client.id
       OR NOT coalesce(claims -> 'aud' ?| ARRAY[here ->> 'issuer', coalesce(here ->> 'token_endpoint', rtrim(here ->> 'issuer', '/') || '/token')], false)
       OR jsonb_typeof(claims -> 'aud') NOT IN ('string', 'array')
       OR jsonb_typeof(claims -> 'exp') IS DISTINCT FROM 'number'
       OR jsonb_typeof(claims -> 'jti') IS DISTINCT FROM 'string' OR claims ->> 'jti' = ''
       OR claims ? 'iat' AND jsonb_typeof(claims -> 'iat') <> 'number'
       OR claims ? 'nbf' AND jsonb_typeof(claims -> 'nbf') <> 'number' THEN
        RETURN false;
    END IF;
    expires_s := (claims ->> 'exp')::numeric;
    IF now_s >= expires_s + leeway OR expires_s > now_s + longest + leeway
       OR (claims ->> 'iat')::numeric > now_s + leeway OR (claims ->> 'nbf')::numeric > now_s + leeway THEN
        RETURN false;
    END IF;
    -- of two at once the second waits, and then is a replay
    INSERT INTO _grownext.session_assertion (client_id, digest, expires_at)
    VALUES (client.id, sha256(convert_to(claims ->> 'jti', 'UTF8')), to_timestamp(expires_s::float8) + make_interval(secs => leeway))
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION _grownext.session_assertion_proves(text, jsonb, _grownext.session_client) IS 'Whether an assertion authenticates a client; using it up.';

-- The client that has authenticated, or why not. Whether it is unknown, disabled, or has
-- the secret wrong, the work and the words are the same.
CREATE OR REPLACE FUNCTION _grownext.session_client_authenticate(client_id text, client_secret text, client_assertion_type text, client_assertion text, OUT client _grownext.session_client, OUT error jsonb) RETURNS record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    claims CONSTANT jsonb := _grownext.session_assertion_claims(client_assertion);
    named CONSTANT text := coalesce(session_client_authenticate.client_id, claims ->> 'sub');
    found _grownext.session_client;
    digests bytea[];
    proven boolean;
BEGIN
    IF client_secret IS NOT NULL AND client_assertion IS NOT NULL THEN
        error := _grownext.session_error('invalid_request', 'a client must use one method of authentication');
        RETURN;
    ELSIF (client_assertion IS NOT NULL OR client_assertion_type IS NOT NULL)
          AND (client_assertion IS NULL OR client_assertion_type IS DISTINCT FROM 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer') THEN
        error := _grownext.session_error('invalid_request',
            'client_assertion and client_assertion_type urn:ietf:params:oauth:client-assertion-type:jwt-bearer go together');
        RETURN;
    END IF;
    SELECT c.* INTO found FROM _grownext.session_client AS c WHERE c.id = named;
    IF client_assertion IS NOT NULL THEN
        proven := _grownext.session_assertion_proves(client_assertion, coalesce(claims, '{}'), found);
    ELSE
        digests := ARRAY(SELECT x.digest FROM _grownext.session_client_secret AS x
                          WHERE x.client_id = named AND (x.expires_at IS NULL OR x.expires_at > _grownext.core_now()));
        proven := _grownext.session_client_secret_matches(coalesce(client_secret, ''), digests);
    END IF;
    IF proven AND found.disabled_at IS NULL THEN
        client := found;
    ELSE
        PERFORM _grownext.session_client_failed(found.id, found.tenant_id);
        error := _grownext.session_error('invalid_client', 'client authentication failed');
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.session_client_authenticate(text, text, text, text) IS 'The client that its secret or assertion proves, or an error of RFC 6749.';
