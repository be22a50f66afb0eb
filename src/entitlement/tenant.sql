-- src/entitlement/tenant.sql: how entitlement takes part in what happens to a tenant

-- What a new tenant subscribes to, and what a purged one leaves.
CREATE OR REPLACE FUNCTION _grownext.entitlement_tenant_reaction(event text, tenant_id uuid, options jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF event = 'tenant.created' AND options ->> 'bundle' IS NOT NULL THEN
        PERFORM grownext.subscription_start(tenant_id, options ->> 'bundle');
    ELSIF event = 'tenant.purged' THEN
        DELETE FROM _grownext.entitlement_usage_key AS k WHERE k.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_reservation AS r
         WHERE entitlement_tenant_reaction.tenant_id IN (r.tenant_id, r.holder_id);
        DELETE FROM _grownext.entitlement_burn AS b WHERE b.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_credit AS c WHERE c.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_balance AS b WHERE b.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_usage_event AS e WHERE e.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_ledger AS l WHERE l.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_usage_slot AS s WHERE s.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_usage_hot AS h WHERE h.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_usage AS u WHERE u.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_override AS o WHERE o.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_subscription AS s WHERE s.tenant_id = entitlement_tenant_reaction.tenant_id;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_tenant_reaction(text, uuid, jsonb) IS 'Takes part in provisioning and purging a tenant: its first subscription, its last rows.';
INSERT INTO _grownext.tenant_reactor (component, reaction) VALUES ('entitlement', 'entitlement_tenant_reaction')
    ON CONFLICT ON CONSTRAINT tenant_reactor_pkey DO UPDATE SET reaction = EXCLUDED.reaction;
