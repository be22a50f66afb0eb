-- src/account/functions.sql: users come, change and go; what time takes away

CREATE OR REPLACE FUNCTION _grownext.account_email_key(email text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_account_email_key';
COMMENT ON FUNCTION _grownext.account_email_key(text) IS 'What is equal for spellings of one email address; NULL for what is no address.';

CREATE OR REPLACE FUNCTION _grownext.account_user_key() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.email_key := _grownext.account_email_key(NEW.email);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _grownext.account_user_key() IS 'Trigger: keeps the key of the email address.';
CREATE OR REPLACE TRIGGER account_user_key BEFORE INSERT OR UPDATE ON _grownext.account_user
    FOR EACH ROW EXECUTE FUNCTION _grownext.account_user_key();

-- Checked before the table does, whose error would repeat the row. NULL: not given.
CREATE OR REPLACE FUNCTION _grownext.account_check_user(email text, name text, external_id text, attributes jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    problem text;
BEGIN
    IF email IS NOT NULL AND _grownext.account_email_key(email) IS NULL THEN
        problem := 'that is not an email address';
    ELSIF length(name) > 200 THEN
        problem := 'a name has at most 200 characters';
    ELSIF external_id = '' THEN
        problem := 'external_id must not be empty';
    ELSIF length(external_id) > 255 THEN
        problem := 'an external id has at most 255 characters';
    ELSIF jsonb_typeof(attributes) <> 'object' THEN
        problem := 'attributes must be a JSON object';
    ELSIF octet_length(attributes::text) > 65536 THEN
        problem := 'attributes take at most 65536 bytes';
    ELSE
        RETURN;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = problem;
END
$$;
COMMENT ON FUNCTION _grownext.account_check_user(text, text, text, jsonb) IS 'Raises unless a user may have these.';

-- Every change: one audit event, one platform event of the same name.
CREATE OR REPLACE FUNCTION _grownext.account_record(action text, target text, before jsonb, after jsonb, data jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.audit_write(action, target, NULL, before, after);
    PERFORM _grownext.core_event_emit(action, NULL, data);
END
$$;
COMMENT ON FUNCTION _grownext.account_record(text, text, jsonb, jsonb, jsonb) IS 'Writes the audit event of a change and sends it to whoever routed it.';

-- An application that has users already keeps their ids (id) or names (external_id);
-- to say the same again is no error and changes nothing, so imports may be repeated.
CREATE OR REPLACE FUNCTION grownext.user_create(email text, name text DEFAULT NULL, id uuid DEFAULT NULL, external_id text DEFAULT NULL, attributes jsonb DEFAULT '{}') RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made_at CONSTANT timestamptz := _grownext.core_now();
    made uuid;
    found record;
BEGIN
    IF email IS NULL AND id IS NULL AND external_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'a user needs an email address, an id or an external id';
    END IF;
    PERFORM _grownext.account_check_user(user_create.email, user_create.name, user_create.external_id, user_create.attributes);
    INSERT INTO _grownext.account_user (id, email, name, external_id, attributes, created_at, updated_at)
    VALUES (coalesce(user_create.id, gen_random_uuid()), user_create.email, user_create.name, user_create.external_id,
            coalesce(user_create.attributes, '{}'), made_at, made_at)
    ON CONFLICT DO NOTHING RETURNING account_user.id INTO made;
    IF made IS NOT NULL THEN
        PERFORM _grownext.account_record('user.created', 'user:' || made, NULL,
            jsonb_strip_nulls(jsonb_build_object('external_id', user_create.external_id)),
            jsonb_build_object('user_id', made, 'external_id', user_create.external_id));
        RETURN made;
    END IF;

    -- the same user again, if what was given as identity is that user's
    SELECT u.id, u.external_id, u.email_key INTO found FROM _grownext.account_user AS u
     WHERE u.external_id = user_create.external_id OR u.id = user_create.id
     ORDER BY u.external_id = user_create.external_id DESC NULLS LAST LIMIT 1;
    IF found.id IS NOT NULL
       AND (user_create.id IS NULL OR user_create.id = found.id)
       AND (user_create.external_id IS NULL OR user_create.external_id = found.external_id)
       -- with nothing but an id, the address tells whether it is the same user
       AND (user_create.external_id IS NOT NULL OR _grownext.account_email_key(user_create.email) IS NOT DISTINCT FROM found.email_key) THEN
        RETURN found.id;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
        MESSAGE = 'a user with that email address, id or external id exists',
        HINT = 'Look it up in grownext.user_account, or change it with grownext.user_update().';
END
$$;
COMMENT ON FUNCTION grownext.user_create(text, text, uuid, text, jsonb) IS 'Creates a user, or returns the one that has this external id or id already.';

CREATE OR REPLACE FUNCTION grownext.user_update(id uuid, changes jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed text[];
    old_key text;
    new_key text;
BEGIN
    PERFORM _grownext.core_check_options(changes, '{"email": "any", "name": "any", "external_id": "any", "attributes": "object"}');
    IF EXISTS (SELECT FROM jsonb_each(changes) AS c WHERE c.key <> 'attributes' AND jsonb_typeof(c.value) NOT IN ('string', 'null')) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'email, name and external_id must be strings or null';
    END IF;
    PERFORM _grownext.account_check_user(changes ->> 'email', changes ->> 'name', changes ->> 'external_id', changes -> 'attributes');
    SELECT u.email_key INTO old_key FROM _grownext.account_user AS u WHERE u.id = user_update.id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM _grownext.account_user_missing(user_update.id);
    END IF;
    BEGIN
        UPDATE _grownext.account_user AS u
           SET email = CASE WHEN changes ? 'email' THEN changes ->> 'email' ELSE u.email END,
               name = CASE WHEN changes ? 'name' THEN changes ->> 'name' ELSE u.name END,
               external_id = CASE WHEN changes ? 'external_id' THEN changes ->> 'external_id' ELSE u.external_id END,
               attributes = CASE WHEN changes ? 'attributes' THEN changes -> 'attributes' ELSE u.attributes END,
               updated_at = _grownext.core_now()
         WHERE u.id = user_update.id RETURNING u.email_key INTO new_key;
    EXCEPTION WHEN unique_violation THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = 'another user has that email address or external id';
    END;
    IF new_key IS DISTINCT FROM old_key THEN
        -- a mailbox that is no longer the user's opens nothing
        DELETE FROM _grownext.account_login_link AS l WHERE l.user_id = user_update.id;
    END IF;
    -- Which fields, not what was in them: the log outlives a person's right to be forgotten.
    SELECT array_agg(k ORDER BY k) INTO changed FROM jsonb_object_keys(changes) AS k;
    PERFORM _grownext.account_record('user.updated', 'user:' || user_update.id, NULL,
        jsonb_build_object('changed', coalesce(to_jsonb(changed), '[]')),
        jsonb_build_object('user_id', user_update.id, 'changed', coalesce(to_jsonb(changed), '[]')));
END
$$;
COMMENT ON FUNCTION grownext.user_update(uuid, jsonb) IS 'Changes email, name, external_id or attributes of a user.';

CREATE OR REPLACE FUNCTION _grownext.account_user_missing(id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object',
        MESSAGE = format('user "%s" does not exist', coalesce(id::text, 'NULL'));
END
$$;
COMMENT ON FUNCTION _grownext.account_user_missing(uuid) IS 'Raises that a user does not exist.';

CREATE OR REPLACE FUNCTION grownext.user_disable(id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    disabled boolean;
BEGIN
    SELECT u.disabled_at IS NOT NULL INTO disabled FROM _grownext.account_user AS u WHERE u.id = user_disable.id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM _grownext.account_user_missing(user_disable.id);
    ELSIF disabled THEN
        RETURN;
    END IF;
    UPDATE _grownext.account_user AS u SET disabled_at = _grownext.core_now(), updated_at = _grownext.core_now() WHERE u.id = user_disable.id;
    DELETE FROM _grownext.account_login_link AS l WHERE l.user_id = user_disable.id;
    PERFORM _grownext.account_record('user.disabled', 'user:' || user_disable.id, '{"disabled": false}', '{"disabled": true}',
        jsonb_build_object('user_id', user_disable.id));
END
$$;
COMMENT ON FUNCTION grownext.user_disable(uuid) IS 'Locks a user out: no new session, and the open ones end.';

CREATE OR REPLACE FUNCTION grownext.user_enable(id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    disabled boolean;
BEGIN
    SELECT u.disabled_at IS NOT NULL INTO disabled FROM _grownext.account_user AS u WHERE u.id = user_enable.id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM _grownext.account_user_missing(user_enable.id);
    ELSIF NOT disabled THEN
        RETURN;
    END IF;
    UPDATE _grownext.account_user AS u SET disabled_at = NULL, updated_at = _grownext.core_now() WHERE u.id = user_enable.id;
    PERFORM _grownext.account_record('user.enabled', 'user:' || user_enable.id, '{"disabled": true}', '{"disabled": false}',
        jsonb_build_object('user_id', user_enable.id));
END
$$;
COMMENT ON FUNCTION grownext.user_enable(uuid) IS 'Lets a disabled user in again.';

CREATE OR REPLACE FUNCTION grownext.user_delete(id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM _grownext.account_user AS u WHERE u.id = user_delete.id;
    IF NOT FOUND THEN
        PERFORM _grownext.account_user_missing(user_delete.id);
    END IF;
    PERFORM _grownext.account_record('user.deleted', 'user:' || user_delete.id, NULL, NULL, jsonb_build_object('user_id', user_delete.id));
END
$$;
COMMENT ON FUNCTION grownext.user_delete(uuid) IS 'Deletes a user with every session, membership, login link and factor; the audit log stays.';

CREATE OR REPLACE VIEW grownext.user_account WITH (security_barrier) AS
SELECT u.id, u.email, u.name, u.external_id, u.attributes, u.created_at, u.updated_at, u.disabled_at
  FROM _grownext.account_user AS u
 WHERE (SELECT _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin') OR _grownext.core_caller_has('auditor'))
    OR u.id = (SELECT grownext.current_user_id());
COMMENT ON VIEW grownext.user_account IS 'Users; an end user sees only the own row.';

-- Forgets links that are past their time, and factors whose secret was shown and that
-- nobody confirmed within a day, a thousand at a pass.
CREATE OR REPLACE FUNCTION _grownext.account_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    links int;
    factors int;
BEGIN
    DELETE FROM _grownext.account_login_link AS l
     WHERE l.id IN (SELECT e.id FROM _grownext.account_login_link AS e
                     WHERE e.expires_at <= account_tick.now ORDER BY e.expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS links = ROW_COUNT;
    DELETE FROM _grownext.account_totp AS f
     WHERE f.id IN (SELECT e.id FROM _grownext.account_totp AS e
                     WHERE e.activated_at IS NULL AND e.created_at <= account_tick.now - interval '1 day'
                     ORDER BY e.created_at LIMIT 1000 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS factors = ROW_COUNT;
    RETURN account_tick.now + CASE WHEN greatest(links, factors) = 1000 THEN interval '1 second' ELSE interval '5 minutes' END;
END
$$;
COMMENT ON FUNCTION _grownext.account_tick(timestamptz) IS 'Forgets login links past their time and factors that were never confirmed.';
