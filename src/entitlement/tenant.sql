-- src/entitlement/tenant.sql: how entitlement takes part in what happens to a tenant

-- Whether the seats that are taken now fit, the tenant being locked. The first seat is
-- free, so that every tenant can have its owner. A seats feature that nothing gives the
-- tenant has no say as long as another one gives it seats: a product that it has not
-- must not close the others.
CREATE OR REPLACE FUNCTION _grownext.entitlement_check_seats(tenant_id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    used CONSTANT bigint := _grownext.tenant_seats(tenant_id);
    short record;
BEGIN
    IF used <= 1 OR NOT EXISTS (SELECT FROM _grownext.entitlement_feature AS f WHERE f.kind = 'seats') THEN
        RETURN;
    END IF;
    SELECT s.feature, s.reason, s.seats INTO short
      FROM (SELECT e.feature, e.reason, CASE WHEN e.allowed THEN e.quota ELSE 0 END AS seats, e.reason IS NOT DISTINCT FROM 'not_included' AS missing
              FROM _grownext.entitlement_feature AS f
             CROSS JOIN LATERAL grownext.entitlement(f.feature, entitlement_check_seats.tenant_id) AS e
             WHERE f.kind = 'seats'
             ORDER BY missing, seats, e.feature LIMIT 1) AS s
     WHERE s.seats < used;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'NX022', MESSAGE = format('no seat is left in tenant "%s"', tenant_id),
            DETAIL = format('%s of %s seats of "%s" are in use%s.', used - 1, short.seats, short.feature, '; reason: ' || short.reason),
            HINT = 'Remove a member or revoke an invitation, or buy seats: SELECT grownext.subscription_change(id, quantity => n);';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_check_seats(uuid) IS 'Raises NX022 if a tenant has more members and pending invitations than seats.';

-- What a new tenant subscribes to, who finds a seat, and what a purged one leaves.
CREATE OR REPLACE FUNCTION _grownext.entitlement_tenant_reaction(event text, tenant_id uuid, options jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF event = 'tenant.created' AND options ->> 'bundle' IS NOT NULL THEN
        PERFORM grownext.subscription_start(tenant_id, options ->> 'bundle');
    ELSIF event = 'seats.grow' THEN
        PERFORM _grownext.entitlement_check_seats(tenant_id);
    ELSIF event = 'tenant.purged' THEN
        DELETE FROM _grownext.entitlement_usage_key AS k WHERE k.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_reservation AS r
         WHERE entitlement_tenant_reaction.tenant_id IN (r.tenant_id, r.holder_id);
        DELETE FROM _grownext.entitlement_burn AS b WHERE b.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_credit AS c WHERE c.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_balance AS b WHERE b.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_usage_event AS e WHERE e.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_usage_slot AS s WHERE s.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_usage_hot AS h WHERE h.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_usage AS u WHERE u.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_override AS o WHERE o.tenant_id = entitlement_tenant_reaction.tenant_id;
        DELETE FROM _grownext.entitlement_subscription AS s WHERE s.tenant_id = entitlement_tenant_reaction.tenant_id;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_tenant_reaction(text, uuid, jsonb) IS 'Takes part in what happens to a tenant: its first subscription, its seats, its last rows.';
INSERT INTO _grownext.tenant_reactor (component, reaction) VALUES ('entitlement', 'entitlement_tenant_reaction')
    ON CONFLICT ON CONSTRAINT tenant_reactor_pkey DO UPDATE SET reaction = EXCLUDED.reaction;
