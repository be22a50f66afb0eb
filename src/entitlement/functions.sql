-- src/entitlement/functions.sql: catalogue, subscriptions, exceptions, questions, metering

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

-- Subscriptions -------------------------------------------------------------

-- Which phase is in force, or was the last; and the one that is scheduled.
CREATE OR REPLACE VIEW _grownext.entitlement_subscription_now AS
    SELECT s.id, s.tenant_id, v.bundle, v.version, p.quantity, s.addon,
           CASE WHEN s.ended_at <= _grownext.core_now() THEN 'ended' ELSE s.status END AS status,
           s.external_id, s.anchor, s.started_at, s.trial_until, s.paid_through, s.ended_at,
           n.bundle AS next_bundle, n.version AS next_version, n.quantity AS next_quantity, n.valid_from AS next_at, s.updated_at
      FROM _grownext.entitlement_subscription AS s
      LEFT JOIN LATERAL (
            SELECT f.version_id, f.quantity FROM _grownext.entitlement_phase AS f
             WHERE f.subscription_id = s.id AND f.valid_from <= _grownext.core_now() ORDER BY f.valid_from DESC LIMIT 1) AS p ON true
      LEFT JOIN _grownext.entitlement_bundle_version AS v ON v.id = p.version_id
      LEFT JOIN LATERAL (
            SELECT w.bundle, w.version, f.quantity, f.valid_from
              FROM _grownext.entitlement_phase AS f JOIN _grownext.entitlement_bundle_version AS w ON w.id = f.version_id
             WHERE f.subscription_id = s.id AND f.valid_from > _grownext.core_now() ORDER BY f.valid_from LIMIT 1) AS n ON true;
COMMENT ON VIEW _grownext.entitlement_subscription_now IS 'Subscriptions as they are now.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_subscription_json(id uuid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_strip_nulls(to_jsonb(s) - 'updated_at') FROM _grownext.entitlement_subscription_now AS s WHERE s.id = entitlement_subscription_json.id;
$$;
COMMENT ON FUNCTION _grownext.entitlement_subscription_json(uuid) IS 'A subscription as jsonb, for events and audit.';

-- Until when a subscription entitles, if its status does.
CREATE OR REPLACE FUNCTION _grownext.entitlement_live_until(trial_until timestamptz, paid_through timestamptz, grace interval) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT coalesce(greatest(trial_until, paid_through + grace), 'infinity') $$;
COMMENT ON FUNCTION _grownext.entitlement_live_until(timestamptz, timestamptz, interval) IS 'The later of trial_until and paid_through plus grace; infinity with neither.';

-- Locks a subscription that must exist.
CREATE OR REPLACE FUNCTION _grownext.entitlement_subscription_lock(id uuid) RETURNS _grownext.entitlement_subscription
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    subscription _grownext.entitlement_subscription;
BEGIN
    SELECT * INTO subscription FROM _grownext.entitlement_subscription AS s WHERE s.id = entitlement_subscription_lock.id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('subscription "%s" does not exist', coalesce(id::text, 'NULL'));
    END IF;
    RETURN subscription;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_subscription_lock(uuid) IS 'Locks and returns a subscription; raises if there is none.';

-- From an instant on the subscription means this version in this quantity; what was
-- scheduled for later is withdrawn.
CREATE OR REPLACE FUNCTION _grownext.entitlement_phase_put(subscription _grownext.entitlement_subscription, at timestamptz, version_id int, quantity int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM _grownext.entitlement_phase AS p WHERE p.subscription_id = subscription.id AND p.valid_from >= at;
    UPDATE _grownext.entitlement_phase AS p SET valid_until = at WHERE p.subscription_id = subscription.id AND p.valid_until > at;
    INSERT INTO _grownext.entitlement_phase (subscription_id, tenant_id, valid_from, valid_until, version_id, quantity, live, live_until, anchor, addon)
    SELECT subscription.id, subscription.tenant_id, at, coalesce(subscription.ended_at, 'infinity'), v.id, entitlement_phase_put.quantity,
           subscription.live,
           _grownext.entitlement_live_until(subscription.trial_until, subscription.paid_through, v.grace),
           subscription.anchor, subscription.addon
      FROM _grownext.entitlement_bundle_version AS v
     WHERE v.id = entitlement_phase_put.version_id AND at < coalesce(subscription.ended_at, 'infinity');
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_phase_put(_grownext.entitlement_subscription, timestamptz, int, int) IS 'Begins a phase of a subscription at an instant.';

-- Brings the phases that are not over in line with status, dates and end of the
-- subscription. A status that begins or stops to entitle begins a phase.
CREATE OR REPLACE FUNCTION _grownext.entitlement_phase_refresh(subscription _grownext.entitlement_subscription) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at CONSTANT timestamptz := _grownext.core_now();
    ends_at CONSTANT timestamptz := coalesce(subscription.ended_at, 'infinity');
    last_phase _grownext.entitlement_phase;
BEGIN
    DELETE FROM _grownext.entitlement_phase AS p WHERE p.subscription_id = subscription.id AND p.valid_from >= ends_at;
    SELECT * INTO last_phase FROM _grownext.entitlement_phase AS p WHERE p.subscription_id = subscription.id ORDER BY p.valid_from DESC LIMIT 1;
    UPDATE _grownext.entitlement_phase AS p SET valid_until = ends_at
     WHERE p.subscription_id = subscription.id AND p.valid_from = last_phase.valid_from AND p.valid_until > at AND p.valid_until <> ends_at;
    WITH over AS (
        UPDATE _grownext.entitlement_phase AS p SET valid_until = at
         WHERE p.subscription_id = subscription.id AND p.valid_from < at AND p.valid_until > at AND p.live <> subscription.live
        RETURNING p.*)
    INSERT INTO _grownext.entitlement_phase (subscription_id, tenant_id, valid_from, valid_until, version_id, quantity, live, live_until, anchor, addon)
    SELECT o.subscription_id, o.tenant_id, at, least((SELECT min(n.valid_from) FROM _grownext.entitlement_phase AS n
                                                       WHERE n.subscription_id = o.subscription_id AND n.valid_from > at), ends_at),
           o.version_id, o.quantity, subscription.live, o.live_until, o.anchor, o.addon
      FROM over AS o;
    UPDATE _grownext.entitlement_phase AS p
       SET live = subscription.live, anchor = subscription.anchor,
           live_until = _grownext.entitlement_live_until(subscription.trial_until, subscription.paid_through, v.grace)
      FROM _grownext.entitlement_bundle_version AS v
     WHERE v.id = p.version_id AND p.subscription_id = subscription.id AND p.valid_until > at
       AND (p.live, p.anchor, p.live_until) IS DISTINCT FROM
           (subscription.live, subscription.anchor, _grownext.entitlement_live_until(subscription.trial_until, subscription.paid_through, v.grace));
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_phase_refresh(_grownext.entitlement_subscription) IS 'Brings a subscription''s phases in line with its status, dates and end.';

-- now, or the end of what is paid: paid_through, the trial, else the month from the anchor.
CREATE OR REPLACE FUNCTION _grownext.entitlement_effective_at(subscription _grownext.entitlement_subscription, at text) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now CONSTANT timestamptz := _grownext.core_now();
BEGIN
    IF at = 'now' THEN
        RETURN now;
    ELSIF at IS DISTINCT FROM 'period_end' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"at" cannot be "%s"', coalesce(at, 'NULL')),
            HINT = 'Use now or period_end.';
    ELSIF subscription.paid_through IS NOT NULL OR subscription.trial_until IS NOT NULL THEN
        RETURN greatest(now, subscription.paid_through, subscription.trial_until);
    END IF;
    RETURN (_grownext.entitlement_period('month', subscription.anchor,
        (SELECT t.time_zone FROM _grownext.tenant_tenant AS t WHERE t.id = subscription.tenant_id), now))[2];
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_effective_at(_grownext.entitlement_subscription, text) IS 'The instant that now or period_end means for a subscription.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_check_quantity(quantity int) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF quantity IS NULL OR quantity <= 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'quantity must be greater than zero';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_check_quantity(int) IS 'Raises on quantities that no subscription has.';

-- NULL: the external id is taken.
CREATE OR REPLACE FUNCTION _grownext.entitlement_subscription_open(tenant_id uuid, external_id text, version_id int, status text, quantity int,
    paid_through timestamptz, trial_until timestamptz, anchor timestamptz, ends_at timestamptz, addon boolean) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now CONSTANT timestamptz := _grownext.core_now();
    subscription _grownext.entitlement_subscription;
BEGIN
    INSERT INTO _grownext.entitlement_subscription AS s (tenant_id, external_id, addon, status, anchor, started_at, trial_until, paid_through, ended_at, updated_at)
    VALUES (entitlement_subscription_open.tenant_id, entitlement_subscription_open.external_id, entitlement_subscription_open.addon,
            entitlement_subscription_open.status, coalesce(entitlement_subscription_open.anchor, now), now,
            entitlement_subscription_open.trial_until, entitlement_subscription_open.paid_through, entitlement_subscription_open.ends_at, now)
    ON CONFLICT DO NOTHING RETURNING s.* INTO subscription;
    IF subscription.id IS NOT NULL THEN
        PERFORM _grownext.entitlement_phase_put(subscription, now, version_id, quantity);
        PERFORM _grownext.tenant_record('subscription.started', 'subscription:' || subscription.id, tenant_id,
                                        NULL, _grownext.entitlement_subscription_json(subscription.id));
    END IF;
    RETURN subscription.id;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_subscription_open(uuid, text, int, text, int, timestamptz, timestamptz, timestamptz, timestamptz, boolean) IS 'Begins a subscription; NULL if its external id is taken.';

CREATE OR REPLACE FUNCTION grownext.subscription_start(tenant_id uuid, bundle text, quantity int DEFAULT 1, options jsonb DEFAULT '{}') RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trial_until timestamptz;
    new_id uuid;
    holder uuid;
BEGIN
    PERFORM _grownext.core_check_options(options, '{"trial_until":"string","paid_through":"string","anchor":"string","external_id":"string","addon":"boolean"}');
    PERFORM _grownext.entitlement_check_quantity(quantity);
    IF options ->> 'external_id' = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'external_id must not be empty';
    END IF;
    PERFORM _grownext.tenant_lock(tenant_id);
    trial_until := (options ->> 'trial_until')::timestamptz;
    new_id := _grownext.entitlement_subscription_open(tenant_id, options ->> 'external_id', _grownext.entitlement_bundle_latest(bundle),
        CASE WHEN trial_until > _grownext.core_now() THEN 'trialing' ELSE 'active' END, quantity, (options ->> 'paid_through')::timestamptz,
        trial_until, (options ->> 'anchor')::timestamptz, NULL, coalesce((options ->> 'addon')::boolean, false));
    IF new_id IS NULL THEN
        SELECT s.id, s.tenant_id INTO new_id, holder FROM _grownext.entitlement_subscription AS s WHERE s.external_id = options ->> 'external_id';
        IF holder IS DISTINCT FROM tenant_id THEN
            RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
                MESSAGE = format('external id "%s" belongs to a subscription of another tenant', options ->> 'external_id');
        END IF;
    END IF;
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION grownext.subscription_start(uuid, text, int, jsonb) IS 'Subscribes a tenant to the latest version of a bundle; the same external_id gives the same subscription.';

CREATE OR REPLACE FUNCTION grownext.subscription_change(id uuid, bundle text DEFAULT NULL, quantity int DEFAULT NULL, at text DEFAULT 'now', options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    subscription _grownext.entitlement_subscription;
    phase _grownext.entitlement_phase;
    effective timestamptz;
    version_id int;
    before jsonb;
    after jsonb;
BEGIN
    PERFORM _grownext.core_check_options(options, '{"trial_until":"string","paid_through":"string","resume":"boolean"}');
    IF quantity IS NOT NULL THEN
        PERFORM _grownext.entitlement_check_quantity(quantity);
    END IF;
    IF bundle IS NOT NULL THEN
        version_id := _grownext.entitlement_bundle_latest(bundle);
    END IF;
    subscription := _grownext.entitlement_subscription_lock(id);
    IF subscription.ended_at <= _grownext.core_now() THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('subscription "%s" has ended', id),
            HINT = 'Start another one: SELECT grownext.subscription_start(tenant_id, bundle);';
    END IF;
    before := _grownext.entitlement_subscription_json(id);

    UPDATE _grownext.entitlement_subscription AS s
       SET trial_until = coalesce((options ->> 'trial_until')::timestamptz, s.trial_until),
           paid_through = coalesce((options ->> 'paid_through')::timestamptz, s.paid_through),
           ended_at = CASE WHEN (options ->> 'resume')::boolean THEN NULL ELSE s.ended_at END,
           updated_at = _grownext.core_now()
     WHERE s.id = subscription.id RETURNING * INTO subscription;
    PERFORM _grownext.entitlement_phase_refresh(subscription);
    effective := _grownext.entitlement_effective_at(subscription, at);
    IF effective >= subscription.ended_at AND (bundle IS NOT NULL OR quantity IS NOT NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('subscription "%s" ends before the change', id),
            HINT = 'Pass {"resume": true} in options to withdraw the end.';
    END IF;
    SELECT * INTO phase FROM _grownext.entitlement_phase AS p
     WHERE p.subscription_id = subscription.id AND p.valid_from <= _grownext.core_now() AND p.valid_until > _grownext.core_now();
    IF coalesce(version_id, phase.version_id) <> phase.version_id OR coalesce(quantity, phase.quantity) <> phase.quantity THEN
        PERFORM _grownext.entitlement_phase_put(subscription, effective, coalesce(version_id, phase.version_id), coalesce(quantity, phase.quantity));
    ELSIF bundle IS NOT NULL OR quantity IS NOT NULL THEN
        -- back to what is in force already: whatever was scheduled is withdrawn
        DELETE FROM _grownext.entitlement_phase AS p WHERE p.subscription_id = subscription.id AND p.valid_from > _grownext.core_now();
        PERFORM _grownext.entitlement_phase_refresh(subscription);
    END IF;
    after := _grownext.entitlement_subscription_json(id);
    IF after <> before THEN
        PERFORM _grownext.tenant_record('subscription.changed', 'subscription:' || id, subscription.tenant_id, before, after);
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.subscription_change(uuid, text, int, text, jsonb) IS 'Moves a subscription to the latest version of a bundle, another quantity or other dates, now or at the period''s end.';

CREATE OR REPLACE FUNCTION grownext.subscription_end(id uuid, at text DEFAULT 'period_end') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    subscription _grownext.entitlement_subscription := _grownext.entitlement_subscription_lock(id);
    ends_at CONSTANT timestamptz := _grownext.entitlement_effective_at(subscription, at);
    before CONSTANT jsonb := _grownext.entitlement_subscription_json(id);
BEGIN
    -- over already, or to end no later than asked
    IF subscription.ended_at <= ends_at THEN
        RETURN;
    END IF;
    UPDATE _grownext.entitlement_subscription AS s SET ended_at = ends_at, updated_at = _grownext.core_now()
     WHERE s.id = subscription.id RETURNING * INTO subscription;
    PERFORM _grownext.entitlement_phase_refresh(subscription);
    PERFORM _grownext.tenant_record(CASE WHEN ends_at > _grownext.core_now() THEN 'subscription.end_scheduled' ELSE 'subscription.ended' END,
                                    'subscription:' || id, subscription.tenant_id, before, _grownext.entitlement_subscription_json(id));
END
$$;
COMMENT ON FUNCTION grownext.subscription_end(uuid, text) IS 'Ends a subscription at the end of what is paid, or now.';

-- For billing: a provider's view of a subscription, applied as a whole; the same view
-- twice changes nothing. Ended is final: no later event brings it back.
CREATE OR REPLACE FUNCTION _grownext.entitlement_subscription_apply(tenant_id uuid, external_id text, bundle text, status text, quantity int DEFAULT 1,
    paid_through timestamptz DEFAULT NULL, trial_until timestamptz DEFAULT NULL, anchor timestamptz DEFAULT NULL, ends_at timestamptz DEFAULT NULL,
    addon boolean DEFAULT false) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now CONSTANT timestamptz := _grownext.core_now();
    is_over CONSTANT boolean := status IN ('canceled', 'incomplete_expired', 'ended');
    subscription _grownext.entitlement_subscription;
    phase _grownext.entitlement_phase;
    before jsonb;
    after jsonb;
BEGIN
    PERFORM _grownext.entitlement_check_quantity(quantity);
    IF external_id IS NULL OR status IS NULL OR NOT is_over AND status <> ALL ('{active,trialing,past_due,paused,unpaid,incomplete}') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('subscription status "%s" does not exist', coalesce(status, 'NULL'));
    END IF;
    PERFORM _grownext.tenant_lock(tenant_id);
    SELECT * INTO subscription FROM _grownext.entitlement_subscription AS s
     WHERE s.external_id = entitlement_subscription_apply.external_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        IF is_over THEN
            RETURN NULL;
        END IF;
        RETURN _grownext.entitlement_subscription_open(tenant_id, external_id, _grownext.entitlement_bundle_latest(bundle), status, quantity,
                                                       paid_through, trial_until, anchor, ends_at, addon);
    ELSIF subscription.tenant_id <> tenant_id THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = format('external id "%s" belongs to a subscription of another tenant', external_id);
    ELSIF is_over OR subscription.ended_at <= now THEN
        PERFORM grownext.subscription_end(subscription.id, 'now');
        RETURN subscription.id;
    END IF;

    before := _grownext.entitlement_subscription_json(subscription.id);
    UPDATE _grownext.entitlement_subscription AS s
       SET status = entitlement_subscription_apply.status, paid_through = entitlement_subscription_apply.paid_through,
           trial_until = entitlement_subscription_apply.trial_until, anchor = coalesce(entitlement_subscription_apply.anchor, s.anchor),
           ended_at = entitlement_subscription_apply.ends_at, updated_at = now
     WHERE s.id = subscription.id RETURNING * INTO subscription;
    PERFORM _grownext.entitlement_phase_refresh(subscription);
    SELECT * INTO phase FROM _grownext.entitlement_phase AS p
     WHERE p.subscription_id = subscription.id AND p.valid_from <= now AND p.valid_until > now;
    IF phase.quantity <> quantity
       OR bundle IS DISTINCT FROM (SELECT v.bundle FROM _grownext.entitlement_bundle_version AS v WHERE v.id = phase.version_id) THEN
        PERFORM _grownext.entitlement_phase_put(subscription, now,
            CASE WHEN bundle = (SELECT v.bundle FROM _grownext.entitlement_bundle_version AS v WHERE v.id = phase.version_id) THEN phase.version_id
                 ELSE _grownext.entitlement_bundle_latest(bundle) END, quantity);
    END IF;
    after := _grownext.entitlement_subscription_json(subscription.id);
    IF after <> before THEN
        PERFORM _grownext.tenant_record('subscription.changed', 'subscription:' || subscription.id, tenant_id, before, after);
    END IF;
    RETURN subscription.id;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_subscription_apply(uuid, text, text, text, int, timestamptz, timestamptz, timestamptz, timestamptz, boolean) IS 'Applies a provider''s view of a subscription; the id, or NULL for one that was over before it was known.';

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

-- Views ---------------------------------------------------------------------
CREATE OR REPLACE VIEW grownext.product WITH (security_barrier) AS
    SELECT p.product, p.name, p.created_at FROM _grownext.entitlement_product AS p;
COMMENT ON VIEW grownext.product IS 'Products.';
CREATE OR REPLACE VIEW grownext.feature WITH (security_barrier) AS
    SELECT f.feature, f.product, f.kind, f.fold, f.inherit, f.options -> 'default' AS "default",
           CASE f.kind WHEN 'metered' THEN coalesce(f.options ->> 'period', 'month') END AS period,
           f.description, f.created_at, f.updated_at
      FROM _grownext.entitlement_feature AS f;
COMMENT ON VIEW grownext.feature IS 'Features.';
CREATE OR REPLACE VIEW grownext.bundle WITH (security_barrier) AS
    SELECT v.bundle, b.name, v.version, v.features, v.grace, v.created_at,
           v.version = max(v.version) OVER (PARTITION BY v.bundle) AS latest
      FROM _grownext.entitlement_bundle_version AS v
      JOIN _grownext.entitlement_bundle AS b ON b.bundle = v.bundle;
COMMENT ON VIEW grownext.bundle IS 'All versions of all bundles.';
CREATE OR REPLACE VIEW grownext.subscription WITH (security_barrier) AS
    SELECT s.* FROM _grownext.entitlement_subscription_now AS s
     WHERE s.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.subscription IS 'Subscriptions as they are now, with what is scheduled; without the rights of a service, the own tenant''s.';
CREATE OR REPLACE VIEW grownext.entitlement_override WITH (security_barrier) AS
    SELECT o.id, o.tenant_id, f.feature, o.user_id, o.effect, o.value, o.valid_from, nullif(o.valid_until, 'infinity') AS valid_until,
           o.reason, o.created_at, o.created_by, o.revoked_at
      FROM _grownext.entitlement_override AS o
      JOIN _grownext.entitlement_feature AS f ON f.id = o.feature_id
     WHERE o.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.entitlement_override IS 'Grants and blocks, past ones too; without the rights of a service, the own tenant''s.';
CREATE OR REPLACE VIEW grownext.usage_period WITH (security_barrier) AS
    SELECT u.tenant_id, f.feature, u.period, nullif(u.period_start, '-infinity') AS period_start, nullif(u.period_end, 'infinity') AS period_end,
           u.used, u.quota, greatest(u.quota - u.used, 0) AS remaining
      FROM _grownext.entitlement_usage AS u
      JOIN _grownext.entitlement_feature AS f ON f.id = u.feature_id
     WHERE u.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.usage_period IS 'Usage by period, past ones too; without the rights of a service, the own tenant''s.';
CREATE OR REPLACE VIEW grownext.product_entitlement WITH (security_barrier) AS
    SELECT t.id AS tenant_id, f.product, e.feature, e.kind, e.value, e.used, e.quota, e.remaining, e.resets_at, e.source
      FROM _grownext.tenant_tenant AS t
     CROSS JOIN LATERAL grownext.entitlements(t.id) AS e
      JOIN _grownext.entitlement_feature AS f ON f.feature = e.feature
     WHERE (t.id = grownext.current_tenant() OR (SELECT _grownext.tenant_serves_all())) AND e.allowed;
COMMENT ON VIEW grownext.product_entitlement IS 'One row per tenant, product and feature that is in force now.';

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
