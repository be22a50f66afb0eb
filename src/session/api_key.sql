-- src/session/api_key.sql: API keys are made, judged, rerolled and revoked

CREATE OR REPLACE FUNCTION _grownext.session_api_key_environment(environment text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_session_api_key_environment';
COMMENT ON FUNCTION _grownext.session_api_key_environment(text) IS 'Whether an API key may name this environment.';

CREATE OR REPLACE FUNCTION _grownext.session_api_key_make(environment text, OUT api_key text, OUT digest bytea, OUT prefix text, OUT last_four text) RETURNS record
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_session_api_key_make';
COMMENT ON FUNCTION _grownext.session_api_key_make(text) IS 'A new random API key, and what is kept of it.';

CREATE OR REPLACE FUNCTION _grownext.session_api_key_uses(OUT key_id uuid, OUT used_at timestamptz) RETURNS SETOF record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_session_api_key_uses';
COMMENT ON FUNCTION _grownext.session_api_key_uses() IS 'Takes the uses of API keys that were noted in shared memory.';

-- All that a backend remembers of a key. A key that acts for a user has that user's role
-- in the tenant, and none once the membership ended.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_find(digest bytea, OUT id uuid, OUT tenant_id uuid, OUT family_id uuid, OUT disabled boolean, OUT tenant_active boolean,
    OUT expires_at timestamptz, OUT scopes text[], OUT addresses cidr[], OUT rate_limit bigint, OUT rate_period interval, OUT claims jsonb, OUT answer jsonb) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.id, k.tenant_id, k.family_id, k.revoked_at IS NOT NULL OR u.disabled_at IS NOT NULL, t.state = 'active',
           k.expires_at, k.scopes, k.addresses, k.rate_limit, k.rate_period,
           jsonb_strip_nulls(jsonb_build_object(
               'sub', coalesce(k.subject, k.user_id::text, 'api_key:' || k.id),
               'tenant_id', k.tenant_id,
               'tenant_role', m.role,
               'scope', array_to_string(k.scopes, ' '),
               'role', coalesce(k.role, 'grownext_user'),
               'api_key_id', k.id)),
           jsonb_strip_nulls(jsonb_build_object(
               'valid', true,
               'code', 'VALID',
               'id', k.id,
               'name', k.name,
               'environment', k.environment,
               'tenant_id', k.tenant_id,
               'user_id', k.user_id,
               'subject', coalesce(k.subject, k.user_id::text, 'api_key:' || k.id),
               'tenant_role', m.role,
               'role', coalesce(k.role, 'grownext_user'),
               'scopes', to_jsonb(k.scopes),
               'expires_at', k.expires_at)) || jsonb_build_object('metadata', k.metadata)
      FROM _grownext.session_api_key AS k
      JOIN _grownext.tenant_tenant AS t ON t.id = k.tenant_id
      LEFT JOIN _grownext.account_user AS u ON u.id = k.user_id
      LEFT JOIN _grownext.tenant_member AS m ON m.tenant_id = k.tenant_id AND m.user_id = k.user_id
     WHERE k.digest = session_api_key_find.digest;
$$;
COMMENT ON FUNCTION _grownext.session_api_key_find(bytea) IS 'What verifying an API key needs to know, by the SHA-256 of its text.';

CREATE OR REPLACE FUNCTION grownext.api_key_verify(api_key text, scope text DEFAULT NULL, address inet DEFAULT NULL) RETURNS jsonb
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_api_key_verify';
COMMENT ON FUNCTION grownext.api_key_verify(text, text, inet) IS 'Whether an API key is good now, for a scope; a bad key is an answer, never an error.';

CREATE OR REPLACE FUNCTION grownext.authenticate_api_key(api_key text, scope text DEFAULT NULL, address inet DEFAULT NULL) RETURNS jsonb
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_authenticate_api_key';
COMMENT ON FUNCTION grownext.authenticate_api_key(text, text, inet) IS 'Verifies an API key and binds its claims to this transaction; raises NX011, NX014, NX023, NX041 or 42501.';

-- Who may change keys of a tenant: services and admins; a member whose role permits it,
-- signed in as a person. A key that makes keys would outlive its own revocation.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_trusted() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin');
$$;
COMMENT ON FUNCTION _grownext.session_api_key_trusted() IS 'Whether the caller may change the API keys of every tenant.';

CREATE OR REPLACE FUNCTION _grownext.session_api_key_manages(tenant_id uuid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(_grownext.session_api_key_trusted()
        OR (session_api_key_manages.tenant_id = grownext.current_tenant() AND grownext.claim('api_key_id') IS NULL
            AND grownext.has_permission('api_keys.manage')), false);
$$;
COMMENT ON FUNCTION _grownext.session_api_key_manages(uuid) IS 'Whether the caller may change the API keys of a tenant.';

-- What a key is, for audit and events.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_json(key _grownext.session_api_key) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('api_key_id', key.id, 'name', key.name, 'environment', key.environment, 'prefix', key.prefix,
        'scopes', key.scopes, 'user_id', key.user_id, 'role', key.role, 'expires_at', key.expires_at, 'replaced_by', key.replaced_by, 'reason', key.revoke_reason));
$$;
COMMENT ON FUNCTION _grownext.session_api_key_json(_grownext.session_api_key) IS 'An API key as audit and events show it.';

CREATE OR REPLACE FUNCTION _grownext.session_api_key_record(action text, key _grownext.session_api_key, before jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.audit_write(action, 'api_key:' || key.id, key.tenant_id, before, _grownext.session_api_key_json(key));
    PERFORM _grownext.core_event_emit(action, key.tenant_id, _grownext.session_api_key_json(key));
END
$$;
COMMENT ON FUNCTION _grownext.session_api_key_record(text, _grownext.session_api_key, jsonb) IS 'One audit event and one platform event about an API key.';

-- Creating ---------------------------------------------------------------------

-- A database role that a gateway may take on for a key: no power of its own.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_check_role(role text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found record;
BEGIN
    SELECT * INTO found FROM pg_roles AS r WHERE r.rolname = role;
    IF found.oid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('role "%s" does not exist', role);
    ELSIF found.rolsuper OR found.rolreplication OR found.rolbypassrls OR found.rolcreaterole OR role ~ '^pg_'
          OR EXISTS (SELECT FROM pg_roles AS r
                      WHERE r.rolname IN ('grownext_owner', 'grownext_admin', 'grownext_service', 'grownext_worker', 'grownext_auditor')
                        AND pg_has_role(found.oid, r.oid, 'MEMBER')) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format('an API key cannot have role "%s"', role),
            HINT = 'Name a role of end users, such as grownext_user.';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.session_api_key_check_role(text) IS 'Raises unless it is a role that an API key may have.';

-- Whoever ends the membership waits for us, and then finds the key that we make.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_hold_member(tenant_id uuid, user_id uuid) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM _grownext.tenant_member AS m
      WHERE m.tenant_id = session_api_key_hold_member.tenant_id AND m.user_id = session_api_key_hold_member.user_id FOR KEY SHARE;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION _grownext.session_api_key_hold_member(uuid, uuid) IS 'Keeps a membership until the end of the transaction; false if there is none.';

-- Fills the row's options in. The caller has checked the right to make a key.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_apply(key _grownext.session_api_key, options jsonb) RETURNS _grownext.session_api_key
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.core_check_options(options,
        '{"user_id": "string", "subject": "string", "role": "string", "addresses": "array", "rate_limit": "object", "metadata": "object"}');
    IF options ?| '{user_id,subject,role}' AND NOT _grownext.session_api_key_trusted() THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'permission denied to say whom an API key speaks for', DETAIL = 'The options user_id, subject and role take grownext_service or grownext_admin.';
    END IF;
    IF options ? 'user_id' THEN
        IF NOT pg_catalog.regexp_like(options ->> 'user_id', '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', 'i')
           OR _grownext.tenant_role_of(key.tenant_id, (options ->> 'user_id')::uuid) IS NULL
           OR NOT _grownext.session_api_key_hold_member(key.tenant_id, (options ->> 'user_id')::uuid) THEN
            RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
                MESSAGE = format('user "%s" is no member of tenant "%s", or the tenant is not active', options ->> 'user_id', key.tenant_id);
        END IF;
        key.user_id := options ->> 'user_id';
    END IF;
    IF options ->> 'subject' = '' OR length(options ->> 'subject') > 255 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "subject" must have 1 to 255 characters';
    ELSIF options ? 'subject' AND options ? 'user_id' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'an API key speaks for a user or for another subject, not for both';
    ELSIF length((options -> 'metadata')::text) > 4096 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "metadata" must not be longer than 4096 characters';
    END IF;
    key.subject := options ->> 'subject';
    key.metadata := coalesce(options -> 'metadata', '{}');
    IF options ? 'role' THEN
        PERFORM _grownext.session_api_key_check_role(options ->> 'role');
        key.role := options ->> 'role';
    END IF;

    IF jsonb_array_length(options -> 'addresses') > 100 OR options -> 'addresses' @? '$[*] ? (@.type() != "string")' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "addresses" must hold up to 100 strings';
    END IF;
    BEGIN
        key.addresses := ARRAY(SELECT a::cidr FROM jsonb_array_elements_text(options -> 'addresses') AS a);
    EXCEPTION WHEN invalid_text_representation THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "addresses" holds what is no network address',
            HINT = 'Such as 203.0.113.0/24, 203.0.113.7 or 2001:db8::/32.';
    END;

    IF options ? 'rate_limit' THEN
        PERFORM _grownext.core_check_options(options -> 'rate_limit', '{"limit": "number", "period": "string"}');
        BEGIN
            key.rate_limit := (options #>> '{rate_limit,limit}')::bigint;
            key.rate_period := (options #>> '{rate_limit,period}')::interval;
            -- raises on terms that no limit can have
            PERFORM _grownext.core_rate_peek('api_key', key.id::text, key.rate_limit, key.rate_period, 0);
        EXCEPTION WHEN invalid_text_representation OR numeric_value_out_of_range OR null_value_not_allowed
                    OR invalid_datetime_format OR datetime_field_overflow OR interval_field_overflow OR invalid_parameter_value THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "rate_limit" must be {"limit": calls, "period": interval}',
                DETAIL = 'The limit is a whole number of at least 1, the period up to 366 days.',
                HINT = 'Such as {"limit": 100, "period": "1 minute"}.';
        END;
    END IF;
    RETURN key;
END
$$;
COMMENT ON FUNCTION _grownext.session_api_key_apply(_grownext.session_api_key, jsonb) IS 'Checks the options of a new API key and fills its row in.';

-- Stores the row under a new text and returns that, this once.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_store(key _grownext.session_api_key) RETURNS grownext.api_key_secret
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made record;
BEGIN
    SELECT * INTO made FROM _grownext.session_api_key_make(key.environment);
    key.digest := made.digest;
    key.prefix := made.prefix;
    key.last_four := made.last_four;
    key.created_at := _grownext.core_now();
    key.created_by := coalesce(grownext.current_actor(), 'role:' || session_user);
    INSERT INTO _grownext.session_api_key SELECT key.* ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('API key "%s" exists in this tenant already', key.name),
            HINT = 'Reroll it with grownext.api_key_reroll(), revoke it, or choose another name.';
    END IF;
    INSERT INTO _grownext.session_api_key_use (key_id) VALUES (key.id);
    RETURN (key.id, made.api_key)::grownext.api_key_secret;
END
$$;
COMMENT ON FUNCTION _grownext.session_api_key_store(_grownext.session_api_key) IS 'Stores a new API key; returns its text, which nobody gets to see again.';

CREATE OR REPLACE FUNCTION grownext.api_key_create(name text, scopes text[] DEFAULT '{}', expires_at timestamptz DEFAULT NULL, environment text DEFAULT 'live', options jsonb DEFAULT '{}', tenant_id uuid DEFAULT NULL) RETURNS grownext.api_key_secret
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    concerned CONSTANT uuid := _grownext.core_caller_tenant(api_key_create.tenant_id);
    key _grownext.session_api_key;
    secret grownext.api_key_secret;
BEGIN
    IF name IS NULL OR scopes IS NULL OR environment IS NULL OR array_position(scopes, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'name, scopes and environment of an API key must not be null';
    ELSIF NOT _grownext.session_api_key_manages(concerned) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'permission denied to create an API key',
            DETAIL = 'It takes the permission api_keys.manage in the tenant, and a caller that is no API key itself.';
    ELSIF btrim(name) = '' OR length(name) > 100 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the name of an API key must have 1 to 100 characters';
    ELSIF NOT _grownext.session_api_key_environment(environment) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the environment of an API key must be up to 16 of a-z and 0-9, a letter first',
            HINT = 'Such as live or test.';
    ELSIF cardinality(scopes) > 100 OR EXISTS (SELECT FROM unnest(scopes) AS s WHERE s !~ '^[\x21\x23-\x5b\x5d-\x7e]{1,128}$') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a scope must be 1 to 128 printable ASCII characters without space, quote and backslash, and there may be 100',
            HINT = 'Such as reports:read.';
    ELSIF api_key_create.expires_at <= _grownext.core_now() OR NOT isfinite(api_key_create.expires_at) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'an API key must expire in the future, or never (NULL)';
    END IF;
    -- a tenant that goes away now would take the key along
    PERFORM FROM _grownext.tenant_tenant AS t WHERE t.id = concerned FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('tenant "%s" does not exist', concerned);
    END IF;

    key.id := gen_random_uuid();
    key.family_id := key.id;
    key.tenant_id := concerned;
    key.name := api_key_create.name;
    key.environment := api_key_create.environment;
    key.scopes := ARRAY(SELECT s FROM unnest(api_key_create.scopes) WITH ORDINALITY AS u (s, n) GROUP BY s ORDER BY min(n));
    key.expires_at := api_key_create.expires_at;
    key := _grownext.session_api_key_apply(key, api_key_create.options);
    PERFORM _grownext.session_api_key_check_reach(key);
    secret := _grownext.session_api_key_store(key);
    SELECT k.* INTO key FROM _grownext.session_api_key AS k WHERE k.id = secret.id;
    PERFORM _grownext.session_api_key_record('api_key.created', key);
    RETURN secret;
END
$$;
COMMENT ON FUNCTION grownext.api_key_create(text, text[], timestamptz, text, jsonb, uuid) IS 'Creates an API key of the named or current tenant; its text is returned this once.';

-- Changing and ending ------------------------------------------------------------

-- Whoever gets the text of a key may do what it may do: an end user gets none that can do
-- more, or speaks for somebody else, than the own credential.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_check_reach(key _grownext.session_api_key) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF _grownext.session_api_key_trusted() THEN
        RETURN;
    ELSIF key.subject IS NOT NULL OR key.role IS NOT NULL OR key.user_id <> grownext.current_user_id() THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'permission denied to hold an API key that speaks for somebody else', DETAIL = 'The options user_id, subject and role take grownext_service or grownext_admin.';
    ELSIF EXISTS (SELECT FROM unnest(key.scopes) AS s WHERE NOT coalesce(grownext.has_scope(s), false)) THEN
        RAISE EXCEPTION USING ERRCODE = 'NX014', MESSAGE = 'an API key cannot have a scope that its creator lacks',
            HINT = 'Let a trusted back end create it.';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.session_api_key_check_reach(_grownext.session_api_key) IS 'Raises unless the caller may get the text of a key with these rights.';

-- The key, locked, if the caller may change it; NULL otherwise, as if there were none.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_lock(id uuid) RETURNS _grownext.session_api_key
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key _grownext.session_api_key;
BEGIN
    SELECT k.* INTO key FROM _grownext.session_api_key AS k WHERE k.id = session_api_key_lock.id;
    IF key.id IS NULL OR NOT (_grownext.session_api_key_manages(key.tenant_id)
                              OR coalesce(key.user_id = grownext.current_user_id() AND grownext.claim('api_key_id') IS NULL, false)) THEN
        RETURN NULL;
    END IF;
    IF key.user_id IS NOT NULL THEN
        -- before the key's row, in the order of whoever ends the membership
        PERFORM _grownext.session_api_key_hold_member(key.tenant_id, key.user_id);
    END IF;
    SELECT k.* INTO key FROM _grownext.session_api_key AS k WHERE k.id = session_api_key_lock.id FOR UPDATE;
    RETURN key;
END
$$;
COMMENT ON FUNCTION _grownext.session_api_key_lock(uuid) IS 'Locks and returns an API key that the caller may change; NULL if there is none.';

-- Revokes keys that still live; the caller has checked the right to do so.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_end(ids uuid[], reason text) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ended _grownext.session_api_key;
    count int := 0;
BEGIN
    FOR ended IN
        UPDATE _grownext.session_api_key AS k SET revoked_at = _grownext.core_now(), revoke_reason = session_api_key_end.reason
         WHERE k.id = ANY (session_api_key_end.ids) AND k.revoked_at IS NULL RETURNING k.*
    LOOP
        PERFORM _grownext.session_api_key_record('api_key.revoked', ended);
        count := count + 1;
    END LOOP;
    RETURN count;
END
$$;
COMMENT ON FUNCTION _grownext.session_api_key_end(uuid[], text) IS 'Revokes API keys; returns how many still lived.';

CREATE OR REPLACE FUNCTION grownext.api_key_revoke(id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (_grownext.session_api_key_lock(api_key_revoke.id)).id IS NULL THEN
        RETURN false;
    END IF;
    RETURN _grownext.session_api_key_end(ARRAY[api_key_revoke.id], 'revoked') = 1;
END
$$;
COMMENT ON FUNCTION grownext.api_key_revoke(uuid) IS 'Ends an API key at once; true if it lived.';

CREATE OR REPLACE FUNCTION grownext.api_key_reroll(id uuid, grace interval DEFAULT '1 day') RETURNS grownext.api_key_secret
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked_at CONSTANT timestamptz := _grownext.core_now();
    present CONSTANT _grownext.session_api_key := _grownext.session_api_key_lock(api_key_reroll.id);
    successor _grownext.session_api_key := present;
    secret grownext.api_key_secret;
BEGIN
    IF present.id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('API key "%s" does not exist', coalesce(api_key_reroll.id::text, 'NULL'));
    ELSIF grace IS NULL OR grace < interval '0' OR grace > interval '90 days' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the grace of a reroll must be between 0 and 90 days';
    ELSIF present.revoked_at IS NOT NULL OR present.expires_at <= asked_at OR present.replaced_by IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('API key "%s" %s', present.name, CASE WHEN present.revoked_at IS NOT NULL THEN 'was revoked'
                WHEN present.replaced_by IS NOT NULL THEN 'was rerolled already' ELSE 'has expired' END),
            HINT = CASE WHEN present.replaced_by IS NOT NULL THEN format('SELECT * FROM grownext.api_key_reroll(%L);', present.replaced_by)
                        ELSE 'Create a new one with grownext.api_key_create().' END;
    END IF;
    PERFORM _grownext.session_api_key_check_reach(present);
    successor.id := gen_random_uuid();
    successor.expires_at := asked_at + (present.expires_at - present.created_at);
    UPDATE _grownext.session_api_key AS k
       SET replaced_by = successor.id,
           expires_at = least(k.expires_at, asked_at + grace),
           revoked_at = CASE WHEN grace = interval '0' THEN asked_at END,
           revoke_reason = CASE WHEN grace = interval '0' THEN 'rerolled' END
     WHERE k.id = present.id;
    secret := _grownext.session_api_key_store(successor);
    SELECT k.* INTO successor FROM _grownext.session_api_key AS k WHERE k.id = present.id;
    PERFORM _grownext.session_api_key_record('api_key.rerolled', successor, _grownext.session_api_key_json(present));
    RETURN secret;
END
$$;
COMMENT ON FUNCTION grownext.api_key_reroll(uuid, interval) IS 'Replaces an API key by a new one of the same rights; the old one is good until the grace ends.';

-- What a key stands on -------------------------------------------------------------

-- A member who leaves takes the keys along that acted for him.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_member_removed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.session_api_key_end(
        ARRAY(SELECT k.id FROM _grownext.session_api_key AS k
               WHERE k.user_id = OLD.user_id AND k.tenant_id = OLD.tenant_id AND k.revoked_at IS NULL),
        'membership ended');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.session_api_key_member_removed() IS 'Trigger: ends the API keys of a member who leaves the tenant.';
CREATE OR REPLACE TRIGGER session_api_key_member_removed AFTER DELETE ON _grownext.tenant_member
    FOR EACH ROW EXECUTE FUNCTION _grownext.session_api_key_member_removed();

-- A key that goes with its tenant or user is revoked, as far as anybody listens.
CREATE OR REPLACE FUNCTION _grownext.session_api_key_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.expires_at IS NULL OR OLD.expires_at > _grownext.core_now() THEN
        OLD.revoke_reason := 'deleted with its user or tenant';
        PERFORM _grownext.session_api_key_record('api_key.revoked', OLD);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.session_api_key_deleted() IS 'Trigger: tells that API keys ended with their user or tenant.';
CREATE OR REPLACE TRIGGER session_api_key_deleted AFTER DELETE ON _grownext.session_api_key
    FOR EACH ROW WHEN (OLD.revoked_at IS NULL) EXECUTE FUNCTION _grownext.session_api_key_deleted();

-- Cache invalidation. ALWAYS: replicated and restored rows count as well. A new key needs
-- none: what is not known is not remembered.
CREATE OR REPLACE TRIGGER session_api_key_invalidate AFTER UPDATE OR DELETE OR TRUNCATE ON _grownext.session_api_key
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('session_marker_api_key');
ALTER TABLE _grownext.session_api_key ENABLE ALWAYS TRIGGER session_api_key_invalidate;
CREATE OR REPLACE TRIGGER session_api_key_tenant_invalidate AFTER UPDATE OF state ON _grownext.tenant_tenant
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('session_marker_api_key');
ALTER TABLE _grownext.tenant_tenant ENABLE ALWAYS TRIGGER session_api_key_tenant_invalidate;
CREATE OR REPLACE TRIGGER session_api_key_user_invalidate AFTER UPDATE OF disabled_at ON _grownext.account_user
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('session_marker_api_key');
ALTER TABLE _grownext.account_user ENABLE ALWAYS TRIGGER session_api_key_user_invalidate;
CREATE OR REPLACE TRIGGER session_api_key_member_invalidate AFTER UPDATE OF role ON _grownext.tenant_member
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('session_marker_api_key');
ALTER TABLE _grownext.tenant_member ENABLE ALWAYS TRIGGER session_api_key_member_invalidate;

-- Reading -----------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.session_api_key_reads() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(grownext.has_permission('api_keys.read'), false);
$$;
COMMENT ON FUNCTION _grownext.session_api_key_reads() IS 'Whether the caller may see the API keys of the current tenant.';

CREATE OR REPLACE VIEW grownext.api_key WITH (security_barrier) AS
SELECT k.id, k.tenant_id, k.user_id, k.name, k.environment, k.prefix, k.last_four,
       CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= _grownext.core_now() THEN 'expired'
            WHEN k.replaced_by IS NOT NULL THEN 'retiring' ELSE 'active' END AS state,
       k.scopes, k.subject, k.role, k.addresses, k.rate_limit, k.rate_period, k.metadata,
       k.created_at, k.created_by, k.expires_at, u.last_used_at, k.replaced_by, k.revoked_at, k.revoke_reason
  FROM _grownext.session_api_key AS k
  LEFT JOIN _grownext.session_api_key_use AS u ON u.key_id = k.id
 WHERE (SELECT _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin') OR _grownext.core_caller_has('auditor'))
    OR (k.tenant_id = (SELECT grownext.current_tenant()) AND (SELECT _grownext.session_api_key_reads()))
    OR k.user_id = (SELECT grownext.current_user_id());
COMMENT ON VIEW grownext.api_key IS 'API keys without their text; members see their tenant''s if their role permits it, and their own.';

-- The scheduler's pass -----------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.session_api_key_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept_since CONSTANT timestamptz := session_api_key_tick.now - interval '30 days';
    forgotten int := 0;
BEGIN
    UPDATE _grownext.session_api_key_use AS u SET last_used_at = n.used_at
      FROM _grownext.session_api_key_uses() AS n
     WHERE u.key_id = n.key_id AND (u.last_used_at IS NULL OR u.last_used_at < n.used_at);
    -- looks first: the trigger that empties every backend's cache fires for no rows, too
    IF EXISTS (SELECT FROM _grownext.session_api_key AS k WHERE least(k.revoked_at, k.expires_at) < kept_since) THEN
        DELETE FROM _grownext.session_api_key AS k
         WHERE k.id IN (SELECT e.id FROM _grownext.session_api_key AS e
                         WHERE least(e.revoked_at, e.expires_at) < kept_since LIMIT 1000 FOR UPDATE SKIP LOCKED);
        GET DIAGNOSTICS forgotten = ROW_COUNT;
    END IF;
    RETURN session_api_key_tick.now + CASE WHEN forgotten = 1000 THEN interval '1 second' ELSE interval '1 minute' END;
END
$$;
COMMENT ON FUNCTION _grownext.session_api_key_tick(timestamptz) IS 'Writes when API keys were last used; forgets those that ended a month ago.';
