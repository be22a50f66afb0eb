-- src/entitlement/functions.sql: values, exceptions, questions, metering, invalidation

-- Values --------------------------------------------------------------------

-- A whole number of units, "unlimited" as NULL; anything else raises.
CREATE OR REPLACE FUNCTION _grownext.entitlement_quota(feature text, value jsonb) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF value = '"unlimited"' THEN
        RETURN NULL;
    ELSIF coalesce(jsonb_typeof(value), '') <> 'number' OR value::numeric <> trunc(value::numeric) OR value::numeric < 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" needs a whole number from 0, or "unlimited"', feature);
    ELSIF value::numeric > 9223372036854775807 THEN
        RAISE EXCEPTION USING ERRCODE = 'numeric_value_out_of_range', MESSAGE = format('the number of "%s" is out of range', feature);
    END IF;
    RETURN value::numeric::bigint;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_quota(text, jsonb) IS 'Reads a quota; NULL is unlimited.';

-- What a bundle, a grant or a default may say about a feature:
--   every kind  false
--   boolean     true
--   limit, seats 20, "unlimited", {"quota": 20}
--   config      {"value": anything}
--   metered     1000, "unlimited", {"quota": 1000, "period": "month", "soft": false}
--   credit      1000, "unlimited", {"amount": 1000, "period": "month", "rollover": 0, "priority": 0}
CREATE OR REPLACE FUNCTION _grownext.entitlement_value(definition _grownext.entitlement_feature, value jsonb) RETURNS _grownext.entitlement_setting
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    setting _grownext.entitlement_setting;
    period text;
    keys text[];
BEGIN
    IF value = 'false' THEN
        setting.enabled := false;
        RETURN setting;
    END IF;
    setting.enabled := true;
    IF definition.kind = 'boolean' THEN
        IF value IS DISTINCT FROM 'true' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is of kind boolean: true or false', definition.feature);
        END IF;
        RETURN setting;
    END IF;

    keys := CASE definition.kind WHEN 'config' THEN '{value}'::text[] WHEN 'limit' THEN '{quota}' WHEN 'seats' THEN '{quota}'
        WHEN 'credit' THEN '{amount,period,rollover,priority}' ELSE '{quota,period,soft}' END;
    IF jsonb_typeof(value) = 'object' AND value - keys <> '{}' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('unknown key "%s" for "%s"', (SELECT min(k) FROM jsonb_object_keys(value - keys) AS k), definition.feature),
            HINT = format('A feature of kind %s takes: %s.', definition.kind, array_to_string(keys, ', '));
    END IF;
    IF definition.kind = 'config' THEN
        IF jsonb_typeof(value) IS DISTINCT FROM 'object' OR NOT value ? 'value' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is of kind config: {"value": ...} or false', definition.feature);
        END IF;
        setting.value := value -> 'value';
        RETURN setting;
    END IF;

    setting.quota := _grownext.entitlement_quota(definition.feature, CASE jsonb_typeof(value) WHEN 'object' THEN value -> keys[1] ELSE value END);
    IF definition.kind = 'credit' AND jsonb_typeof(value) = 'object' THEN
        PERFORM _grownext.core_check_options(value, '{"amount":"any","period":"string","rollover":"number","priority":"number"}');
        IF (value -> 'rollover')::numeric <> trunc((value -> 'rollover')::numeric)
           OR (value -> 'rollover')::numeric NOT BETWEEN 0 AND 9223372036854775807
           OR (value -> 'priority')::numeric <> trunc((value -> 'priority')::numeric)
           OR (value -> 'priority')::numeric NOT BETWEEN -2147483648 AND 2147483647 THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('rollover or priority of "%s" is not valid', definition.feature),
                HINT = 'rollover is a whole number from 0, priority one that fits an integer.';
        END IF;
        setting.rollover := (value -> 'rollover')::bigint;
        setting.priority := (value -> 'priority')::int;
    END IF;
    IF definition.kind IN ('metered', 'credit') THEN
        IF definition.kind = 'metered' AND jsonb_typeof(value) = 'object' THEN
            PERFORM _grownext.core_check_options(value, '{"quota":"any","period":"string","soft":"boolean"}');
            setting.soft := coalesce((value ->> 'soft')::boolean, false);
        END IF;
        IF jsonb_typeof(value) = 'object' THEN
            period := value ->> 'period';
        END IF;
        period := coalesce(period, definition.options ->> 'period', 'month');
        IF period <> ALL ('{hour,day,week,month,year,billing,never}') THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('period "%s" of "%s" does not exist', period, definition.feature),
                HINT = 'Use hour, day, week, month, year, billing (a month from the subscription''s anchor) or never.';
        END IF;
        setting.billing_anchor := period = 'billing';
        setting.period := CASE period WHEN 'billing' THEN 'month' ELSE period END;
    END IF;
    RETURN setting;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_value(_grownext.entitlement_feature, jsonb) IS 'Reads what is said about a feature; raises if it does not fit the feature''s kind.';

-- An instant of an options object; NULL when it is not there. In these years no sum with
-- a grace or a period overflows.
CREATE OR REPLACE FUNCTION _grownext.entitlement_instant(options jsonb, option text) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    instant timestamptz;
BEGIN
    instant := (options ->> option)::timestamptz;
    IF instant < '0001-01-01' OR instant >= '10000-01-01' THEN
        RAISE datetime_field_overflow;
    END IF;
    RETURN instant;
EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow OR invalid_parameter_value THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('option "%s" must be a timestamp', option),
        HINT = 'Write it as ''2030-01-31 00:00:00+00'', in the years 1 to 9999.';
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_instant(jsonb, text) IS 'An option as an instant; raises 22023 when it is none.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_period(period text, anchor timestamptz, time_zone text, at timestamptz) RETURNS timestamptz[]
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_entitlement_period';
COMMENT ON FUNCTION _grownext.entitlement_period(text, timestamptz, text, timestamptz) IS 'Start and end of the period that contains an instant; a NULL anchor means the calendar.';

-- A feature that must exist.
CREATE OR REPLACE FUNCTION _grownext.entitlement_feature_get(feature text) RETURNS _grownext.entitlement_feature
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    definition _grownext.entitlement_feature;
BEGIN
    SELECT * INTO definition FROM _grownext.entitlement_feature AS f WHERE f.feature = entitlement_feature_get.feature;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('feature "%s" does not exist', coalesce(feature, 'NULL')),
            HINT = format('SELECT grownext.feature_define(%L, product, kind);', coalesce(feature, 'name'));
    END IF;
    RETURN definition;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_feature_get(text) IS 'A feature by name; raises if there is none.';

-- Grants and blocks ---------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.entitlement_override_json(id uuid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('id', o.id, 'feature', f.feature, 'user_id', o.user_id, 'effect', o.effect, 'value', o.value,
                'valid_from', o.valid_from, 'valid_until', nullif(o.valid_until, 'infinity'), 'reason', o.reason, 'revoked_at', o.revoked_at))
      FROM _grownext.entitlement_override AS o JOIN _grownext.entitlement_feature AS f ON f.id = o.feature_id
     WHERE o.id = entitlement_override_json.id;
$$;
COMMENT ON FUNCTION _grownext.entitlement_override_json(uuid) IS 'A grant or block as jsonb, for events and audit.';

CREATE OR REPLACE FUNCTION grownext.entitlement_grant(tenant_id uuid, feature text, value jsonb, valid_from timestamptz DEFAULT NULL,
    valid_until timestamptz DEFAULT NULL, reason text DEFAULT NULL, user_id uuid DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    starts_at CONSTANT timestamptz := coalesce(valid_from, _grownext.core_now());
    definition _grownext.entitlement_feature := _grownext.entitlement_feature_get(feature);
    is_addition CONSTANT boolean := jsonb_typeof(value) = 'object' AND definition.kind IN ('limit', 'metered', 'seats') AND value ? 'add';
    new_id uuid;
BEGIN
    IF value IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'value must not be null';
    ELSIF NOT isfinite(starts_at) OR starts_at >= valid_until THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a grant must end after it begins';
    ELSIF is_addition AND (user_id IS NOT NULL OR (SELECT count(*) FROM jsonb_object_keys(value)) > 1) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'an addition is {"add": number}, for a whole tenant';
    ELSIF user_id IS NOT NULL AND definition.kind IN ('metered', 'credit', 'seats') THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = format('"%s" is counted by tenant and cannot be granted to a user', feature);
    END IF;
    PERFORM _grownext.tenant_lock(tenant_id);
    IF user_id IS NOT NULL AND NOT EXISTS (SELECT FROM _grownext.account_user AS u WHERE u.id = entitlement_grant.user_id) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('user "%s" does not exist', user_id);
    END IF;
    INSERT INTO _grownext.entitlement_override (tenant_id, feature_id, user_id, effect, setting, value, valid_from, valid_until, reason, created_at, created_by)
    VALUES (entitlement_grant.tenant_id, definition.id, entitlement_grant.user_id, CASE WHEN is_addition THEN 'add' ELSE 'set' END,
            _grownext.entitlement_value(definition, CASE WHEN is_addition THEN value -> 'add' ELSE value END), entitlement_grant.value,
            starts_at, coalesce(entitlement_grant.valid_until, 'infinity'), entitlement_grant.reason, _grownext.core_now(),
            coalesce(grownext.current_actor(), 'role:' || session_user))
    RETURNING id INTO new_id;
    PERFORM _grownext.tenant_record('entitlement.granted', 'feature:' || feature, tenant_id, NULL, _grownext.entitlement_override_json(new_id));
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION grownext.entitlement_grant(uuid, text, jsonb, timestamptz, timestamptz, text, uuid) IS 'Sets, takes away (false) or adds to ({"add": n}) a feature of one tenant or user, beside what is subscribed.';

CREATE OR REPLACE FUNCTION grownext.entitlement_block(tenant_id uuid, feature text, reason text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    definition _grownext.entitlement_feature := _grownext.entitlement_feature_get(feature);
    new_id uuid;
BEGIN
    IF coalesce(reason, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a block needs a reason';
    END IF;
    PERFORM _grownext.tenant_lock(tenant_id);
    INSERT INTO _grownext.entitlement_override (tenant_id, feature_id, effect, valid_from, reason, created_at, created_by)
    VALUES (entitlement_block.tenant_id, definition.id, 'block', _grownext.core_now(), entitlement_block.reason, _grownext.core_now(),
            coalesce(grownext.current_actor(), 'role:' || session_user))
    RETURNING id INTO new_id;
    PERFORM _grownext.tenant_record('entitlement.blocked', 'feature:' || feature, tenant_id, NULL, _grownext.entitlement_override_json(new_id));
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION grownext.entitlement_block(uuid, text, text) IS 'Denies a tenant a feature, whatever is granted or subscribed, until it is revoked.';

CREATE OR REPLACE FUNCTION grownext.entitlement_revoke(id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    override _grownext.entitlement_override;
    before jsonb;
BEGIN
    SELECT * INTO override FROM _grownext.entitlement_override AS o WHERE o.id = entitlement_revoke.id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        IF _grownext.entitlement_credit_void(id) THEN
            RETURN;
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('grant "%s" does not exist', coalesce(id::text, 'NULL'));
    ELSIF override.revoked_at IS NOT NULL THEN
        RETURN;
    END IF;
    before := _grownext.entitlement_override_json(id);
    UPDATE _grownext.entitlement_override AS o
       SET revoked_at = _grownext.core_now(), valid_until = least(o.valid_until, greatest(o.valid_from, _grownext.core_now()))
     WHERE o.id = entitlement_revoke.id;
    PERFORM _grownext.tenant_record('entitlement.revoked', 'feature:' || (before ->> 'feature'), override.tenant_id,
                                    before, _grownext.entitlement_override_json(id));
END
$$;
COMMENT ON FUNCTION grownext.entitlement_revoke(uuid) IS 'Ends a grant or a block; of a grant of credit, voids what is left.';

-- Questions -----------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.entitlement_support(internal) RETURNS internal
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_entitlement_support';
COMMENT ON FUNCTION _grownext.entitlement_support(internal) IS 'Planner support: entitled() with constant arguments is asked once per statement.';

CREATE OR REPLACE FUNCTION grownext.entitled(feature text, tenant_id uuid DEFAULT NULL) RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE COST 10 SUPPORT _grownext.entitlement_support AS 'MODULE_PATHNAME', 'gn_entitled';
COMMENT ON FUNCTION grownext.entitled(text, uuid) IS 'Whether a tenant may use a feature now; false, never an error, for whatever is unknown.';

CREATE OR REPLACE FUNCTION grownext.entitled_tenant(feature text) RETURNS uuid
LANGUAGE c STABLE PARALLEL SAFE COST 10 SUPPORT _grownext.entitlement_support AS 'MODULE_PATHNAME', 'gn_entitled_tenant';
COMMENT ON FUNCTION grownext.entitled_tenant(text) IS 'The current tenant if it is entitled to the feature, else NULL: for policies that then read nothing.';

CREATE OR REPLACE FUNCTION grownext.entitlement(feature text, tenant_id uuid DEFAULT NULL, at timestamptz DEFAULT NULL, user_id uuid DEFAULT NULL) RETURNS grownext.entitlement_state
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_entitlement';
COMMENT ON FUNCTION grownext.entitlement(text, uuid, timestamptz, uuid) IS 'What a tenant is entitled to of a feature, now or at another instant, and why.';

CREATE OR REPLACE FUNCTION grownext.entitlement_require(feature text, tenant_id uuid DEFAULT NULL) RETURNS void
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_entitlement_require';
COMMENT ON FUNCTION grownext.entitlement_require(text, uuid) IS 'Raises NX020 unless the tenant is entitled to the feature.';

CREATE OR REPLACE FUNCTION grownext.entitlements(tenant_id uuid DEFAULT NULL, at timestamptz DEFAULT NULL) RETURNS SETOF grownext.entitlement_state
LANGUAGE c STABLE PARALLEL SAFE ROWS 50 AS 'MODULE_PATHNAME', 'gn_entitlements';
COMMENT ON FUNCTION grownext.entitlements(uuid, timestamptz) IS 'What a tenant is entitled to of every feature.';

CREATE OR REPLACE FUNCTION grownext.entitlement_explain(feature text, tenant_id uuid DEFAULT NULL, at timestamptz DEFAULT NULL) RETURNS jsonb
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_entitlement_explain';
COMMENT ON FUNCTION grownext.entitlement_explain(text, uuid, timestamptz) IS 'Every rule that was looked at, what had a say and which one decided.';

-- In tokens -----------------------------------------------------------------

CREATE OR REPLACE FUNCTION grownext.entitlement_claims(tenant_id uuid DEFAULT NULL, user_id uuid DEFAULT NULL) RETURNS jsonb
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_entitlement_claims';
COMMENT ON FUNCTION grownext.entitlement_claims(uuid, uuid) IS 'What a token says of a tenant''s entitlements: ent (a bitset), entc and entv (versions).';

CREATE OR REPLACE FUNCTION grownext.entitlement_claims_check(claims jsonb DEFAULT NULL) RETURNS grownext.entitlement_claims_state
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_entitlement_claims_check';
COMMENT ON FUNCTION grownext.entitlement_claims_check(jsonb) IS 'Whether the entitlements in a token are what its tenant has now, and which features they name.';

CREATE OR REPLACE FUNCTION grownext.entitlement_catalogue() RETURNS jsonb
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_entitlement_catalogue';
COMMENT ON FUNCTION grownext.entitlement_catalogue() IS 'The catalogue''s version, entc, and the features by their place in the bitset.';

-- Invalidation --------------------------------------------------------------

-- Sends the message of the marker that a row's tenant belongs to.
CREATE OR REPLACE FUNCTION _grownext.entitlement_invalidate() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'gn_entitlement_invalidate';
COMMENT ON FUNCTION _grownext.entitlement_invalidate() IS 'Row trigger: answers about this tenant, which a column names, are asked anew.';

CREATE OR REPLACE TRIGGER entitlement_feature_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.entitlement_feature
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('entitlement_marker_catalogue');
ALTER TABLE _grownext.entitlement_feature ENABLE ALWAYS TRIGGER entitlement_feature_invalidate;
CREATE OR REPLACE TRIGGER entitlement_free_bundle_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.entitlement_free_bundle
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('entitlement_marker_catalogue');
ALTER TABLE _grownext.entitlement_free_bundle ENABLE ALWAYS TRIGGER entitlement_free_bundle_invalidate;
CREATE OR REPLACE TRIGGER entitlement_tenant_invalidate AFTER INSERT OR UPDATE OR DELETE ON _grownext.tenant_tenant
    FOR EACH ROW EXECUTE FUNCTION _grownext.entitlement_invalidate('id');
ALTER TABLE _grownext.tenant_tenant ENABLE ALWAYS TRIGGER entitlement_tenant_invalidate;
CREATE OR REPLACE TRIGGER entitlement_parent_invalidate AFTER INSERT OR UPDATE OR DELETE ON _grownext.tenant_parent
    FOR EACH ROW EXECUTE FUNCTION _grownext.entitlement_invalidate('tenant_id');
ALTER TABLE _grownext.tenant_parent ENABLE ALWAYS TRIGGER entitlement_parent_invalidate;
CREATE OR REPLACE TRIGGER entitlement_phase_invalidate AFTER INSERT OR UPDATE OR DELETE ON _grownext.entitlement_phase
    FOR EACH ROW EXECUTE FUNCTION _grownext.entitlement_invalidate('tenant_id');
ALTER TABLE _grownext.entitlement_phase ENABLE ALWAYS TRIGGER entitlement_phase_invalidate;
CREATE OR REPLACE TRIGGER entitlement_override_invalidate AFTER INSERT OR UPDATE OR DELETE ON _grownext.entitlement_override
    FOR EACH ROW EXECUTE FUNCTION _grownext.entitlement_invalidate('tenant_id');
ALTER TABLE _grownext.entitlement_override ENABLE ALWAYS TRIGGER entitlement_override_invalidate;

-- Whoever empties a table changes it for all.
CREATE OR REPLACE TRIGGER entitlement_tenant_emptied AFTER TRUNCATE ON _grownext.tenant_tenant
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('entitlement_marker_catalogue');
ALTER TABLE _grownext.tenant_tenant ENABLE ALWAYS TRIGGER entitlement_tenant_emptied;
CREATE OR REPLACE TRIGGER entitlement_parent_emptied AFTER TRUNCATE ON _grownext.tenant_parent
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('entitlement_marker_catalogue');
ALTER TABLE _grownext.tenant_parent ENABLE ALWAYS TRIGGER entitlement_parent_emptied;
CREATE OR REPLACE TRIGGER entitlement_phase_emptied AFTER TRUNCATE ON _grownext.entitlement_phase
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('entitlement_marker_catalogue');
ALTER TABLE _grownext.entitlement_phase ENABLE ALWAYS TRIGGER entitlement_phase_emptied;
CREATE OR REPLACE TRIGGER entitlement_override_emptied AFTER TRUNCATE ON _grownext.entitlement_override
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('entitlement_marker_catalogue');
ALTER TABLE _grownext.entitlement_override ENABLE ALWAYS TRIGGER entitlement_override_emptied;

-- Status --------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.entitlement_status() RETURNS SETOF grownext.status_item
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    features bigint := (SELECT count(*) FROM _grownext.entitlement_feature);
    asked record;
BEGIN
    IF features = 0 THEN
        RETURN NEXT ROW('entitlement', 'catalogue', 'off', 'no feature is defined: every check answers no',
            'SELECT grownext.product_define(''app'', ''App''); SELECT grownext.feature_define(''reports.export'', ''app'', ''boolean'');', NULL)::grownext.status_item;
    ELSE
        RETURN NEXT ROW('entitlement', 'catalogue', 'ok', format('%s features, %s bundles', features, (SELECT count(*) FROM _grownext.entitlement_bundle)),
            NULL, NULL)::grownext.status_item;
    END IF;
    -- policies that ask for a feature that there is not deny for ever, without an error
    SELECT p.polrelid::regclass AS relation, p.polname, m.match[1] AS feature INTO asked
      FROM pg_policy AS p
     CROSS JOIN LATERAL regexp_matches(concat_ws(' ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)),
                                       'grownext\.entitled(?:_tenant)?\(''([^'']+)''', 'g') AS m (match)
     WHERE NOT EXISTS (SELECT FROM _grownext.entitlement_feature AS f WHERE f.feature = m.match[1])
     ORDER BY 1, 2, 3 LIMIT 1;
    IF asked.feature IS NOT NULL THEN
        RETURN NEXT ROW('entitlement', 'unknown feature', 'degraded',
            format('policy "%s" of "%s" asks for feature "%s", which does not exist', asked.polname, asked.relation, asked.feature),
            format('SELECT grownext.feature_define(%L, product, kind);', asked.feature), NULL)::grownext.status_item;
    END IF;
    RETURN QUERY SELECT * FROM _grownext.entitlement_limit_status();
    RETURN QUERY
    SELECT 'entitlement', 'hot counter', 'degraded',
           format('sessions of tenant "%s" wait for each other to consume "%s"', h.tenant_id, f.feature),
           format('Consume late in transactions, or use the escrow tier: SELECT grownext.feature_define(%L, %L, %L, %L);',
                  f.feature, f.product, f.kind, f.options || '{"tier": "escrow"}'), h.hot_at
      FROM _grownext.entitlement_usage_hot AS h
      JOIN _grownext.entitlement_feature AS f ON f.id = h.feature_id AND f.tier = 'strict'
     WHERE h.hot_at > _grownext.core_now() - interval '1 hour'
     ORDER BY h.hot_at DESC LIMIT 10;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_status() IS 'Items of grownext.status().';
