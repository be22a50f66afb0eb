-- src/entitlement/migrate.sql: subscribers of a bundle move to another of its versions

-- Subscriptions are locked by id, before anything of them is read that another change
-- could alter, so two migrations and the changes of single ones cannot deadlock.
CREATE OR REPLACE FUNCTION grownext.bundle_migrate(bundle text, to_version int, tenant_id uuid DEFAULT NULL, at text DEFAULT 'period_end') RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    latest CONSTANT int := _grownext.entitlement_bundle_latest(bundle);  -- raises if there is no such bundle
    new_version_id CONSTANT int := (SELECT v.id FROM _grownext.entitlement_bundle_version AS v WHERE v.bundle = bundle_migrate.bundle AND v.version = to_version);
    ids uuid[];
    moved uuid[];
    befores jsonb[];
    subscription record;
BEGIN
    PERFORM _grownext.entitlement_check_at(at);
    IF new_version_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('bundle "%s" has no version %s', bundle, coalesce(to_version::text, 'NULL')),
            HINT = format('Its versions are 1 to %s.', (SELECT v.version FROM _grownext.entitlement_bundle_version AS v WHERE v.id = latest));
    ELSIF tenant_id IS NOT NULL THEN
        PERFORM _grownext.tenant_lock(tenant_id);
    END IF;
    ids := ARRAY(
        SELECT s.id FROM _grownext.entitlement_subscription AS s
         WHERE coalesce(s.ended_at, 'infinity') > _grownext.core_now()
           AND (bundle_migrate.tenant_id IS NULL OR s.tenant_id = bundle_migrate.tenant_id)
           AND EXISTS (SELECT FROM _grownext.entitlement_phase AS p
                         JOIN _grownext.entitlement_bundle_version AS v ON v.id = p.version_id
                        WHERE p.subscription_id = s.id AND v.bundle = bundle_migrate.bundle)
         ORDER BY s.id FOR NO KEY UPDATE OF s);
    befores := ARRAY(SELECT _grownext.entitlement_subscription_json(i.id) FROM unnest(ids) WITH ORDINALITY AS i (id, place) ORDER BY i.place);
    moved := _grownext.entitlement_phase_move(ids, bundle, new_version_id, at);
    UPDATE _grownext.entitlement_subscription AS s SET updated_at = _grownext.core_now() WHERE s.id = ANY (moved);
    FOR subscription IN
        SELECT s.id, s.tenant_id, i.before
          FROM unnest(ids, befores) AS i (id, before) JOIN _grownext.entitlement_subscription AS s ON s.id = i.id
         WHERE s.id = ANY (moved) ORDER BY s.id
    LOOP
        PERFORM _grownext.tenant_record('subscription.changed', 'subscription:' || subscription.id, subscription.tenant_id,
                                        subscription.before, _grownext.entitlement_subscription_json(subscription.id));
    END LOOP;
    RETURN cardinality(moved);
END
$$;
COMMENT ON FUNCTION grownext.bundle_migrate(text, int, uuid, text) IS 'Moves subscribers of a bundle, or one tenant''s, to one of its versions, now or at the end of their period; returns how many were moved.';
