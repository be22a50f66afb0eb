-- src/entitlement/preview.sql: what a change of a subscription would mean

CREATE OR REPLACE FUNCTION _grownext.entitlement_effects(tenant_id uuid, subscription_id uuid, version_id int, quantity int) RETURNS SETOF grownext.subscription_effect
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'gn_entitlement_effects';
COMMENT ON FUNCTION _grownext.entitlement_effects(uuid, uuid, int, int) IS 'The features that a change of a subscription would change.';

-- Locks nothing and writes nothing, so a standby answers it, too.
CREATE OR REPLACE FUNCTION grownext.subscription_preview(id uuid, bundle text, quantity int DEFAULT NULL) RETURNS SETOF grownext.subscription_effect
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    subscription CONSTANT _grownext.entitlement_subscription := _grownext.entitlement_subscription_get(id);
    phase _grownext.entitlement_phase;
    new_version_id int;
    new_quantity int;
BEGIN
    IF quantity IS NOT NULL THEN
        PERFORM _grownext.entitlement_check_quantity(quantity);
    END IF;
    PERFORM _grownext.entitlement_check_running(subscription);
    phase := _grownext.entitlement_phase_at(id, _grownext.core_now());
    new_version_id := CASE WHEN bundle IS NULL THEN phase.version_id ELSE _grownext.entitlement_bundle_latest(bundle) END;
    new_quantity := coalesce(quantity, phase.quantity);
    IF new_version_id <> phase.version_id OR new_quantity <> phase.quantity THEN
        RETURN QUERY SELECT e.* FROM _grownext.entitlement_effects(subscription.tenant_id, id, new_version_id, new_quantity) AS e
                      ORDER BY e.feature COLLATE "C";
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.subscription_preview(uuid, text, int) IS 'The features that would change if a subscription were moved now to the latest version of a bundle, or to another quantity.';
