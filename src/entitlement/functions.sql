-- src/entitlement/functions.sql: catalogue, exceptions, questions, metering, invalidation

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
--   limit       20, "unlimited", {"quota": 20}
--   config      {"value": anything}
--   metered     1000, "unlimited", {"quota": 1000, "period": "month", "soft": false}
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

    keys := CASE definition.kind WHEN 'config' THEN '{value}'::text[] WHEN 'limit' THEN '{quota}' ELSE '{quota,period,soft}' END;
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

    setting.quota := _grownext.entitlement_quota(definition.feature, CASE jsonb_typeof(value) WHEN 'object' THEN value -> 'quota' ELSE value END);
    IF definition.kind = 'metered' THEN
        IF jsonb_typeof(value) = 'object' THEN
            PERFORM _grownext.core_check_options(value, '{"quota":"any","period":"string","soft":"boolean"}');
            setting.soft := coalesce((value ->> 'soft')::boolean, false);
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

-- The catalogue -------------------------------------------------------------

CREATE OR REPLACE FUNCTION grownext.product_define(product text, name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old_name text;
BEGIN
    IF product IS NULL OR product !~ '^[a-z0-9][a-z0-9_-]{0,62}$' OR coalesce(name, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('product "%s" is not valid', coalesce(product, 'NULL')),
            HINT = 'A product is called by up to 63 characters of a-z, 0-9, "_" and "-", and has a name that is not empty.';
    END IF;
    SELECT p.name INTO old_name FROM _grownext.entitlement_product AS p WHERE p.product = product_define.product FOR NO KEY UPDATE;
    INSERT INTO _grownext.entitlement_product (product, name, created_at) VALUES (product_define.product, product_define.name, _grownext.core_now())
        ON CONFLICT ON CONSTRAINT entitlement_product_pkey DO UPDATE SET name = EXCLUDED.name;
    IF old_name IS DISTINCT FROM name THEN
        PERFORM _grownext.tenant_record('product.defined', 'product:' || product, NULL,
            CASE WHEN old_name IS NOT NULL THEN jsonb_build_object('product', product, 'name', old_name) END,
            jsonb_build_object('product', product, 'name', name));
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.product_define(text, text) IS 'Defines a product: a group of features.';

CREATE OR REPLACE FUNCTION grownext.feature_define(feature text, product text, kind text, options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old _grownext.entitlement_feature;
    new _grownext.entitlement_feature;
    folds text[];
BEGIN
    PERFORM _grownext.core_check_options(options, '{"default":"any","fold":"string","period":"string","inherit":"string","description":"string"}');
    IF feature IS NULL OR feature !~ '^[a-z0-9_]+(\.[a-z0-9_]+)*$' OR length(feature) > 200 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('feature name "%s" is not valid', coalesce(feature, 'NULL')),
            HINT = 'Write a dotted name of a-z, 0-9 and "_", such as "reports.export".';
    ELSIF kind IN ('credit', 'seats') THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = format('features of kind %s are not supported by this version', kind),
            HINT = 'Use a metered feature with period never, or a limit.';
    ELSIF kind IS NULL OR kind <> ALL ('{boolean,limit,config,metered}') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('kind "%s" does not exist', coalesce(kind, 'NULL')),
            HINT = 'Use boolean, limit, config or metered.';
    ELSIF NOT EXISTS (SELECT FROM _grownext.entitlement_product AS p WHERE p.product = feature_define.product) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('product "%s" does not exist', coalesce(product, 'NULL')),
            HINT = format('SELECT grownext.product_define(%L, name);', coalesce(product, 'product'));
    ELSIF kind <> 'metered' AND options ? 'period' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is of kind %s and has no period', feature, kind);
    END IF;
    -- the first one is the rule if none is named
    folds := CASE kind WHEN 'boolean' THEN '{any}'::text[] WHEN 'config' THEN '{last}' WHEN 'limit' THEN '{max,sum}' ELSE '{sum,max}' END;
    IF options ->> 'fold' <> ALL (folds) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" cannot be folded by "%s"', feature, options ->> 'fold'),
            HINT = format('For kind %s: %s.', kind, array_to_string(folds, ', '));
    END IF;

    IF options ->> 'inherit' <> ALL ('{own,parent,pool}'::text[]) OR options ->> 'inherit' = 'pool' AND kind <> 'metered' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" cannot be inherited by "%s"', feature, options ->> 'inherit'),
            HINT = 'Use own, parent, or, for what is counted, pool.';
    END IF;

    -- ids are dense: one definition at a time
    LOCK TABLE _grownext.entitlement_feature IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO old FROM _grownext.entitlement_feature AS f WHERE f.feature = feature_define.feature;
    IF old.kind <> kind THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is of kind %s, which cannot be changed', feature, old.kind),
            HINT = 'Define a feature of another name.';
    END IF;
    new := old;
    new.feature := feature;
    new.product := product;
    new.kind := kind;
    new.fold := coalesce(options ->> 'fold', folds[1]);
    new.inherit := coalesce(options ->> 'inherit', 'own');
    new.description := options ->> 'description';
    new.options := options;
    new.fallback := NULL;
    IF options ? 'default' THEN
        new.fallback := _grownext.entitlement_value(new, options -> 'default');
    ELSIF kind = 'metered' THEN
        PERFORM _grownext.entitlement_value(new, '0');  -- refuses a period that there is not
    END IF;
    IF old.id IS NULL THEN
        new.id := (SELECT coalesce(max(f.id) + 1, 0) FROM _grownext.entitlement_feature AS f);
        new.created_at := _grownext.core_now();
        new.updated_at := new.created_at;
        INSERT INTO _grownext.entitlement_feature SELECT new.*;
    ELSIF new.product <> old.product OR new.options <> old.options THEN
        UPDATE _grownext.entitlement_feature AS f
           SET product = new.product, fold = new.fold, inherit = new.inherit, description = new.description, fallback = new.fallback, options = new.options,
               updated_at = _grownext.core_now()
         WHERE f.id = old.id;
    ELSE
        RETURN;
    END IF;
    PERFORM _grownext.tenant_record('feature.defined', 'feature:' || feature, NULL,
        CASE WHEN old.id IS NOT NULL THEN jsonb_build_object('feature', feature, 'product', old.product, 'kind', old.kind, 'options', old.options) END,
        jsonb_build_object('feature', feature, 'product', product, 'kind', kind, 'options', options));
END
$$;
COMMENT ON FUNCTION grownext.feature_define(text, text, text, jsonb) IS 'Defines a feature of kind boolean, limit, config or metered.';

CREATE OR REPLACE FUNCTION grownext.bundle_define(bundle text, features jsonb, options jsonb DEFAULT '{}') RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    latest _grownext.entitlement_bundle_version;
    new_id int;
    new_grace interval;
    feature record;
BEGIN
    PERFORM _grownext.core_check_options(options, '{"name":"string","grace":"string"}');
    IF bundle IS NULL OR bundle !~ '^[a-z0-9][a-z0-9_.-]{0,62}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('bundle name "%s" is not valid', coalesce(bundle, 'NULL')),
            HINT = 'A bundle is called by up to 63 characters of a-z, 0-9, "_", "." and "-".';
    ELSIF jsonb_typeof(features) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'features must be a JSON object',
            HINT = 'Such as {"reports.export": true, "api.calls": {"quota": 1000, "period": "month"}}.';
    END IF;
    new_grace := coalesce((options ->> 'grace')::interval, '0');
    IF new_grace < '0' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'grace must not be negative';
    END IF;

    LOCK TABLE _grownext.entitlement_bundle_version IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO _grownext.entitlement_bundle AS b (bundle, name, created_at)
    VALUES (bundle_define.bundle, coalesce(options ->> 'name', bundle_define.bundle), _grownext.core_now())
    ON CONFLICT ON CONSTRAINT entitlement_bundle_pkey DO UPDATE SET name = coalesce(options ->> 'name', b.name);
    SELECT * INTO latest FROM _grownext.entitlement_bundle_version AS v WHERE v.bundle = bundle_define.bundle ORDER BY v.version DESC LIMIT 1;
    IF latest.features = features AND latest.grace = new_grace THEN
        RETURN latest.version;
    END IF;

    new_id := (SELECT coalesce(max(v.id) + 1, 0) FROM _grownext.entitlement_bundle_version AS v);
    INSERT INTO _grownext.entitlement_bundle_version (id, bundle, version, features, grace, created_at)
    VALUES (new_id, bundle_define.bundle, coalesce(latest.version, 0) + 1, bundle_define.features, new_grace, _grownext.core_now());
    FOR feature IN SELECT key, value FROM jsonb_each(features) LOOP
        INSERT INTO _grownext.entitlement_bundle_feature (version_id, feature_id, setting)
        SELECT new_id, f.id, _grownext.entitlement_value(f, feature.value)
          FROM _grownext.entitlement_feature_get(feature.key) AS f;
    END LOOP;
    PERFORM _grownext.tenant_record('bundle.defined', 'bundle:' || bundle, NULL,
        CASE WHEN latest.id IS NOT NULL THEN jsonb_build_object('bundle', bundle, 'version', latest.version, 'features', latest.features, 'grace', latest.grace) END,
        jsonb_build_object('bundle', bundle, 'version', coalesce(latest.version, 0) + 1, 'features', features, 'grace', new_grace));
    RETURN coalesce(latest.version, 0) + 1;
END
$$;
COMMENT ON FUNCTION grownext.bundle_define(text, jsonb, jsonb) IS 'Defines a bundle; changed content is a new version, subscribers keep theirs. Returns the version.';

-- The latest version of a bundle that must exist.
CREATE OR REPLACE FUNCTION _grownext.entitlement_bundle_latest(bundle text) RETURNS int
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    version_id int;
BEGIN
    SELECT v.id INTO version_id FROM _grownext.entitlement_bundle_version AS v
     WHERE v.bundle = entitlement_bundle_latest.bundle ORDER BY v.version DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('bundle "%s" does not exist', coalesce(bundle, 'NULL')),
            HINT = format('SELECT grownext.bundle_define(%L, features);', coalesce(bundle, 'bundle'));
    END IF;
    RETURN version_id;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_bundle_latest(text) IS 'The id of a bundle''s latest version; raises if there is no such bundle.';

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
    is_addition CONSTANT boolean := jsonb_typeof(value) = 'object' AND definition.kind IN ('limit', 'metered') AND value ? 'add';
    new_id uuid;
BEGIN
    IF value IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'value must not be null';
    ELSIF NOT isfinite(starts_at) OR starts_at >= valid_until THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a grant must end after it begins';
    ELSIF is_addition AND (user_id IS NOT NULL OR (SELECT count(*) FROM jsonb_object_keys(value)) > 1) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'an addition is {"add": number}, for a whole tenant';
    ELSIF user_id IS NOT NULL AND definition.kind = 'metered' THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = format('"%s" is metered by tenant and cannot be granted to a user', feature);
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
COMMENT ON FUNCTION grownext.entitlement_revoke(uuid) IS 'Ends a grant or a block.';

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

-- Metering ------------------------------------------------------------------

CREATE OR REPLACE FUNCTION grownext.usage_consume(feature text, amount bigint DEFAULT 1, idempotency_key text DEFAULT NULL, tenant_id uuid DEFAULT NULL) RETURNS grownext.usage_result
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_usage_consume';
COMMENT ON FUNCTION grownext.usage_consume(text, bigint, text, uuid) IS 'Consumes units of a metered feature, all or nothing, in the caller''s transaction.';

CREATE OR REPLACE FUNCTION grownext.usage_require(feature text, amount bigint DEFAULT 1, idempotency_key text DEFAULT NULL, tenant_id uuid DEFAULT NULL) RETURNS grownext.usage_result
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_usage_require';
COMMENT ON FUNCTION grownext.usage_require(text, bigint, text, uuid) IS 'Consumes, and raises NX021 when the quota is used up, NX020 when there is none.';

CREATE OR REPLACE FUNCTION grownext.usage_return(feature text, amount bigint DEFAULT 1, idempotency_key text DEFAULT NULL, tenant_id uuid DEFAULT NULL) RETURNS grownext.usage_result
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_usage_return';
COMMENT ON FUNCTION grownext.usage_return(text, bigint, text, uuid) IS 'Gives consumed units back to the running period.';

-- Background: forgets answers to idempotency keys after 30 days.
CREATE OR REPLACE FUNCTION _grownext.entitlement_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    batch CONSTANT int := 10000;
    removed bigint;
BEGIN
    DELETE FROM _grownext.entitlement_usage_key AS k
     WHERE (k.tenant_id, k.operation, k.idempotency_key) IN (
        SELECT o.tenant_id, o.operation, o.idempotency_key FROM _grownext.entitlement_usage_key AS o
         WHERE o.created_at < now - interval '30 days' ORDER BY o.created_at LIMIT batch FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN now + CASE WHEN removed = batch THEN interval '1 second' ELSE interval '1 hour' END;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_tick(timestamptz) IS 'One pass of background work; returns when the next is due.';

-- Invalidation --------------------------------------------------------------

-- Sends the message of the marker that a row's tenant belongs to.
CREATE OR REPLACE FUNCTION _grownext.entitlement_invalidate() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'gn_entitlement_invalidate';
COMMENT ON FUNCTION _grownext.entitlement_invalidate() IS 'Row trigger: answers about this tenant, which a column names, are asked anew.';

CREATE OR REPLACE TRIGGER entitlement_feature_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.entitlement_feature
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('entitlement_marker_catalogue');
ALTER TABLE _grownext.entitlement_feature ENABLE ALWAYS TRIGGER entitlement_feature_invalidate;
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
                                       'grownext\.entitled\(''([^'']+)''', 'g') AS m (match)
     WHERE NOT EXISTS (SELECT FROM _grownext.entitlement_feature AS f WHERE f.feature = m.match[1])
     ORDER BY 1, 2, 3 LIMIT 1;
    IF asked.feature IS NOT NULL THEN
        RETURN NEXT ROW('entitlement', 'unknown feature', 'degraded',
            format('policy "%s" of "%s" asks for feature "%s", which does not exist', asked.polname, asked.relation, asked.feature),
            format('SELECT grownext.feature_define(%L, product, kind);', asked.feature), NULL)::grownext.status_item;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_status() IS 'Items of grownext.status().';
