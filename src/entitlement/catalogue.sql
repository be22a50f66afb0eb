-- src/entitlement/catalogue.sql: products, features, bundles and their versions

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

-- At which percentages of its quota a counter tells; rising, without repetition.
CREATE OR REPLACE FUNCTION _grownext.entitlement_thresholds(feature text, value jsonb) RETURNS int[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF value IS NULL THEN
        RETURN '{80,100}';
    ELSIF jsonb_array_length(value) > 8
       OR EXISTS (SELECT FROM jsonb_array_elements(value) AS t
                   WHERE CASE jsonb_typeof(t) WHEN 'number' THEN t::numeric <> trunc(t::numeric) OR t::numeric NOT BETWEEN 1 AND 1000 ELSE true END) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('thresholds of "%s" are not valid', feature),
            HINT = 'Up to eight whole percentages from 1 to 1000, such as [80, 100].';
    END IF;
    RETURN ARRAY(SELECT DISTINCT t::int FROM jsonb_array_elements_text(value) AS t ORDER BY 1);
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_thresholds(text, jsonb) IS 'Reads the option thresholds of a feature.';

CREATE OR REPLACE FUNCTION grownext.feature_define(feature text, product text, kind text, options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old _grownext.entitlement_feature;
    new _grownext.entitlement_feature;
    folds text[];
    new_thresholds int[];
BEGIN
    PERFORM _grownext.core_check_options(options, '{"default":"any","fold":"string","period":"string","inherit":"string","description":"string","tier":"string","shards":"number","thresholds":"array"}');
    IF feature IS NULL OR feature !~ '^[a-z0-9_]+(\.[a-z0-9_]+)*$' OR length(feature) > 200 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('feature name "%s" is not valid', coalesce(feature, 'NULL')),
            HINT = 'Write a dotted name of a-z, 0-9 and "_", such as "reports.export".';
    ELSIF kind IS NULL OR kind <> ALL ('{boolean,limit,config,metered,credit,seats}') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('kind "%s" does not exist', coalesce(kind, 'NULL')),
            HINT = 'Use boolean, limit, config, metered, credit or seats.';
    ELSIF NOT EXISTS (SELECT FROM _grownext.entitlement_product AS p WHERE p.product = feature_define.product) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('product "%s" does not exist', coalesce(product, 'NULL')),
            HINT = format('SELECT grownext.product_define(%L, name);', coalesce(product, 'product'));
    ELSIF kind NOT IN ('metered', 'credit') AND options ? 'period' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is of kind %s and has no period', feature, kind);
    END IF;
    IF kind <> 'metered' AND options ?| '{tier,shards}' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is of kind %s and has no tier', feature, kind);
    END IF;
    new_thresholds := _grownext.entitlement_thresholds(feature, options -> 'thresholds');
    IF options ->> 'tier' <> ALL ('{strict,escrow,soft}'::text[]) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('tier "%s" of "%s" does not exist', options ->> 'tier', feature),
            HINT = 'Use strict, escrow or soft.';
    ELSIF (options ->> 'shards')::numeric NOT BETWEEN 2 AND 256 OR (options ->> 'shards')::numeric <> trunc((options ->> 'shards')::numeric) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('a counter of "%s" cannot have %s shards', feature, options ->> 'shards'),
            HINT = 'Between 2 and 256.';
    END IF;
    -- the first one is the rule if none is named
    folds := CASE kind WHEN 'boolean' THEN '{any}'::text[] WHEN 'config' THEN '{last}' WHEN 'limit' THEN '{max,sum}'
        WHEN 'credit' THEN '{sum}' ELSE '{sum,max}' END;
    IF options ->> 'fold' <> ALL (folds) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" cannot be folded by "%s"', feature, options ->> 'fold'),
            HINT = format('For kind %s: %s.', kind, array_to_string(folds, ', '));
    END IF;

    IF options ->> 'inherit' <> ALL ('{own,parent,pool}'::text[]) OR options ->> 'inherit' = 'pool' AND kind NOT IN ('metered', 'credit') THEN
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
    new.tier := coalesce(options ->> 'tier', 'strict');
    new.shards := coalesce((options ->> 'shards')::int, 16);
    new.thresholds := new_thresholds;
    new.fallback := NULL;
    IF options ? 'default' THEN
        new.fallback := _grownext.entitlement_value(new, options -> 'default');
    ELSIF kind IN ('metered', 'credit') THEN
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
               tier = new.tier, shards = new.shards, thresholds = new.thresholds,
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
COMMENT ON FUNCTION grownext.feature_define(text, text, text, jsonb) IS 'Defines a feature of kind boolean, limit, config, metered or credit.';

-- The version that is free now, or NULL.
CREATE OR REPLACE FUNCTION _grownext.entitlement_free_version() RETURNS int
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.version_id FROM _grownext.entitlement_free_bundle AS f
     WHERE f.valid_from <= _grownext.core_now() AND f.valid_until > _grownext.core_now();
$$;
COMMENT ON FUNCTION _grownext.entitlement_free_version() IS 'The id of the version of the default bundle that is in force; NULL: there is no default bundle.';

-- From now on this version is the free one; NULL: none is.
CREATE OR REPLACE FUNCTION _grownext.entitlement_free_bundle_put(version_id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now CONSTANT timestamptz := _grownext.core_now();
BEGIN
    DELETE FROM _grownext.entitlement_free_bundle AS f WHERE f.valid_from >= now;
    UPDATE _grownext.entitlement_free_bundle AS f SET valid_until = now WHERE f.valid_until > now;
    INSERT INTO _grownext.entitlement_free_bundle (valid_from, version_id)
    SELECT now, entitlement_free_bundle_put.version_id WHERE entitlement_free_bundle_put.version_id IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_free_bundle_put(int) IS 'Makes a version of a bundle the free one from now on, or none.';

-- Its latest version; NULL for a bundle that there is not.
CREATE OR REPLACE FUNCTION _grownext.entitlement_bundle_json(bundle text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('bundle', v.bundle, 'name', b.name, 'version', v.version, 'features', v.features, 'grace', v.grace,
                              'default', v.id IS NOT DISTINCT FROM _grownext.entitlement_free_version())
      FROM _grownext.entitlement_bundle_version AS v JOIN _grownext.entitlement_bundle AS b ON b.bundle = v.bundle
     WHERE v.bundle = entitlement_bundle_json.bundle
     ORDER BY v.version DESC LIMIT 1;
$$;
COMMENT ON FUNCTION _grownext.entitlement_bundle_json(text) IS 'A bundle as jsonb, for events and audit.';

-- The next version of a bundle; all of it or, when a feature or value is refused, nothing.
CREATE OR REPLACE FUNCTION _grownext.entitlement_bundle_version_add(bundle text, version int, features jsonb, grace interval) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_id CONSTANT int := (SELECT coalesce(max(v.id) + 1, 0) FROM _grownext.entitlement_bundle_version AS v);
    unknown CONSTANT text := (SELECT min(e.key COLLATE "C") FROM jsonb_object_keys(features) AS e (key)
                               WHERE NOT EXISTS (SELECT FROM _grownext.entitlement_feature AS f WHERE f.feature = e.key));
BEGIN
    PERFORM _grownext.entitlement_feature_get(unknown) WHERE unknown IS NOT NULL;  -- raises
    INSERT INTO _grownext.entitlement_bundle_version (id, bundle, version, features, grace, created_at)
    VALUES (new_id, entitlement_bundle_version_add.bundle, entitlement_bundle_version_add.version,
            entitlement_bundle_version_add.features, entitlement_bundle_version_add.grace, _grownext.core_now());
    INSERT INTO _grownext.entitlement_bundle_feature (version_id, feature_id, setting)
    SELECT new_id, f.id, _grownext.entitlement_value(f, e.value)
      FROM jsonb_each(features) AS e JOIN _grownext.entitlement_feature AS f ON f.feature = e.key;
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_bundle_version_add(text, int, jsonb, interval) IS 'Writes a version of a bundle; returns its id.';

CREATE OR REPLACE FUNCTION grownext.bundle_define(bundle text, features jsonb, options jsonb DEFAULT '{}') RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_grace interval;
    latest _grownext.entitlement_bundle_version;
    version_id int;
    free_id int;
    free_name text;
    is_free boolean;
    before jsonb;
    free_before jsonb;
    after jsonb;
BEGIN
    PERFORM _grownext.core_check_options(options, '{"name":"string","grace":"string","default":"boolean"}');
    IF bundle IS NULL OR bundle !~ '^[a-z0-9][a-z0-9_.-]{0,62}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('bundle name "%s" is not valid', coalesce(bundle, 'NULL')),
            HINT = 'A bundle is called by up to 63 characters of a-z, 0-9, "_", "." and "-".';
    ELSIF jsonb_typeof(features) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'features must be a JSON object',
            HINT = 'Such as {"reports.export": true, "api.calls": {"quota": 1000, "period": "month"}}.';
    END IF;
    -- an audit event holds the old and the new ones
    IF octet_length(features::text) > 500000 THEN
        RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded', MESSAGE = format('the features of bundle "%s" are larger than 500000 bytes', bundle),
            HINT = 'Sell the rest as another bundle, an add-on.';
    ELSIF options ->> 'name' = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('the name of bundle "%s" must not be empty', bundle);
    END IF;
    new_grace := coalesce(_grownext.jwt_interval_option(options, 'grace'), '0');
    IF new_grace NOT BETWEEN '0' AND '100 years' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'grace must be 0 to 100 years';
    END IF;

    -- one definition at a time: versions have no gap, and one bundle is the default
    LOCK TABLE _grownext.entitlement_bundle_version IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO latest FROM _grownext.entitlement_bundle_version AS v WHERE v.bundle = bundle_define.bundle ORDER BY v.version DESC LIMIT 1;
    free_id := _grownext.entitlement_free_version();
    free_name := (SELECT v.bundle FROM _grownext.entitlement_bundle_version AS v WHERE v.id = free_id);
    before := _grownext.entitlement_bundle_json(bundle);
    free_before := _grownext.entitlement_bundle_json(free_name);

    INSERT INTO _grownext.entitlement_bundle AS b (bundle, name, created_at)
    VALUES (bundle_define.bundle, coalesce(options ->> 'name', bundle_define.bundle), _grownext.core_now())
    ON CONFLICT ON CONSTRAINT entitlement_bundle_pkey DO UPDATE SET name = options ->> 'name' WHERE b.name <> options ->> 'name';
    IF latest.features = features AND latest.grace = new_grace THEN
        version_id := latest.id;
    ELSE
        version_id := _grownext.entitlement_bundle_version_add(bundle, coalesce(latest.version, 0) + 1, features, new_grace);
    END IF;
    is_free := coalesce((options ->> 'default')::boolean, free_name = bundle, false);
    IF is_free AND free_id IS DISTINCT FROM version_id OR NOT is_free AND free_name = bundle THEN
        PERFORM _grownext.entitlement_free_bundle_put(CASE WHEN is_free THEN version_id END);
    END IF;

    after := _grownext.entitlement_bundle_json(bundle);
    IF is_free AND free_name <> bundle THEN
        PERFORM _grownext.tenant_record('bundle.defined', 'bundle:' || free_name, NULL, free_before, _grownext.entitlement_bundle_json(free_name));
    END IF;
    IF after IS DISTINCT FROM before THEN
        PERFORM _grownext.tenant_record('bundle.defined', 'bundle:' || bundle, NULL, before, after);
    END IF;
    RETURN (after ->> 'version')::int;
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
