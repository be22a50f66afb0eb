-- src/tenant/ownership.sql: an owner hands a tenant over, in two steps
--
-- The offer says who gives and who gets; nothing changes until the one who gets accepts.
-- Every step locks the tenant, so offers, acceptances and changes of members come one by one.

CREATE OR REPLACE FUNCTION _grownext.tenant_offer_json(offer _grownext.tenant_ownership_offer) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('offer', offer.id, 'user_id', offer.user_id, 'from_user', offer.from_user, 'expires_at', offer.expires_at);
$$;
COMMENT ON FUNCTION _grownext.tenant_offer_json(_grownext.tenant_ownership_offer) IS 'An offer of ownership as jsonb, for events and audit.';

-- Who gives: the caller, where a user is bound; else the only owner. NULL: nobody is one.
CREATE OR REPLACE FUNCTION _grownext.tenant_offer_giver(tenant_id uuid) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owners CONSTANT uuid[] := ARRAY(SELECT m.user_id FROM _grownext.tenant_member AS m
                                     WHERE m.tenant_id = tenant_offer_giver.tenant_id AND m.role = 'owner');
BEGIN
    IF grownext.current_user_id() = ANY (owners) THEN
        RETURN grownext.current_user_id();
    ELSIF NOT _grownext.tenant_serves_all() THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'permission denied: only an owner offers ownership';
    ELSIF cardinality(owners) > 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('tenant "%s" has several owners', tenant_id),
            HINT = 'Act for the one who gives: SELECT grownext.act_as(user_id, tenant_id);';
    END IF;
    RETURN owners[1];
END
$$;
COMMENT ON FUNCTION _grownext.tenant_offer_giver(uuid) IS 'The owner who gives in an offer that the caller makes.';

CREATE OR REPLACE FUNCTION grownext.ownership_offer(tenant_id uuid, user_id uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lifetime CONSTANT interval := interval '7 days';
    from_user uuid;
    before jsonb;
    offer _grownext.tenant_ownership_offer;
BEGIN
    PERFORM _grownext.tenant_enter(tenant_id, 'tenant.transfer');
    PERFORM _grownext.tenant_require_active(_grownext.tenant_lock(tenant_id));
    from_user := _grownext.tenant_offer_giver(tenant_id);
    IF _grownext.tenant_member_role(tenant_id, user_id) = 'owner' THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = format('user "%s" is an owner of tenant "%s" already', user_id, tenant_id);
    END IF;
    PERFORM _grownext.tenant_check_user(user_id);
    DELETE FROM _grownext.tenant_ownership_offer AS o WHERE o.tenant_id = ownership_offer.tenant_id RETURNING o.* INTO offer;
    before := CASE WHEN offer.id IS NOT NULL THEN _grownext.tenant_offer_json(offer) END;
    INSERT INTO _grownext.tenant_ownership_offer AS o (tenant_id, user_id, from_user, created_at, expires_at)
    VALUES (ownership_offer.tenant_id, ownership_offer.user_id, from_user, _grownext.core_now(), _grownext.core_now() + lifetime)
    RETURNING o.* INTO offer;
    PERFORM _grownext.tenant_record('ownership.offered', 'tenant:' || tenant_id, tenant_id, before, _grownext.tenant_offer_json(offer));
    RETURN offer.id;
END
$$;
COMMENT ON FUNCTION grownext.ownership_offer(uuid, uuid) IS 'Offers a member the ownership of a tenant; a new offer replaces the one before.';

-- The offer with its tenant locked. Whoever has no business with it learns nothing of it.
CREATE OR REPLACE FUNCTION _grownext.tenant_offer_lock(offer uuid) RETURNS _grownext.tenant_ownership_offer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    concerned CONSTANT uuid := (SELECT o.tenant_id FROM _grownext.tenant_ownership_offer AS o WHERE o.id = offer);
    locked _grownext.tenant_ownership_offer;
BEGIN
    IF concerned IS NOT NULL AND (_grownext.tenant_serves_all() OR concerned = grownext.current_tenant()) THEN
        PERFORM _grownext.tenant_lock(concerned);
        SELECT * INTO locked FROM _grownext.tenant_ownership_offer AS o WHERE o.id = offer FOR UPDATE;
    END IF;
    IF locked.id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('offer "%s" does not exist', coalesce(offer::text, 'NULL')),
            DETAIL = 'It was accepted, withdrawn, replaced by a newer one, or never made.';
    END IF;
    RETURN locked;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_offer_lock(uuid) IS 'Locks and returns an offer that the caller may know of; raises if there is none.';

CREATE OR REPLACE FUNCTION grownext.ownership_accept(offer uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    accepted CONSTANT _grownext.tenant_ownership_offer := _grownext.tenant_offer_lock(offer);
BEGIN
    -- a service may speak for the user whom it authenticated itself, not for one user as another
    IF accepted.user_id IS DISTINCT FROM coalesce(grownext.current_user_id(), CASE WHEN _grownext.tenant_serves_all() THEN accepted.user_id END) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'permission denied: the offer is made to another user';
    ELSIF accepted.expires_at <= _grownext.core_now() THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('offer "%s" has expired', offer),
            HINT = format('SELECT grownext.ownership_offer(%L, %L);', accepted.tenant_id, accepted.user_id);
    END IF;
    PERFORM _grownext.tenant_require_active(_grownext.tenant_lock(accepted.tenant_id));
    PERFORM _grownext.tenant_check_user(accepted.user_id);
    IF accepted.from_user IS NOT NULL AND NOT EXISTS (
        SELECT FROM _grownext.tenant_member AS m
         WHERE m.tenant_id = accepted.tenant_id AND m.user_id = accepted.from_user AND m.role = 'owner') THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('user "%s" is no owner any more and has nothing to give', accepted.from_user);
    END IF;
    DELETE FROM _grownext.tenant_ownership_offer AS o WHERE o.id = offer;
    -- first there are two, so that there is never none
    PERFORM _grownext.tenant_member_put_role(accepted.tenant_id, accepted.user_id, 'owner');
    IF accepted.from_user IS NOT NULL THEN
        PERFORM _grownext.tenant_member_put_role(accepted.tenant_id, accepted.from_user, 'admin');
    END IF;
    PERFORM _grownext.tenant_record('ownership.transferred', 'tenant:' || accepted.tenant_id, accepted.tenant_id,
                                    _grownext.tenant_offer_json(accepted), jsonb_build_object('owner', accepted.user_id, 'former_owner', accepted.from_user));
END
$$;
COMMENT ON FUNCTION grownext.ownership_accept(uuid) IS 'Makes the one whom it was offered an owner, and the one who offered it an admin.';

CREATE OR REPLACE FUNCTION grownext.ownership_withdraw(offer uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    withdrawn CONSTANT _grownext.tenant_ownership_offer := _grownext.tenant_offer_lock(offer);
BEGIN
    -- the one who got it may decline; everybody else is an owner
    IF NOT _grownext.tenant_serves_all() AND withdrawn.user_id IS DISTINCT FROM grownext.current_user_id() THEN
        PERFORM _grownext.tenant_enter(withdrawn.tenant_id, 'tenant.transfer');
    END IF;
    DELETE FROM _grownext.tenant_ownership_offer AS o WHERE o.id = offer;
    PERFORM _grownext.tenant_record('ownership.withdrawn', 'tenant:' || withdrawn.tenant_id, withdrawn.tenant_id, _grownext.tenant_offer_json(withdrawn), NULL);
END
$$;
COMMENT ON FUNCTION grownext.ownership_withdraw(uuid) IS 'Takes an offer of ownership back, or declines it.';

CREATE OR REPLACE VIEW grownext.ownership_offer WITH (security_barrier) AS
    SELECT o.id, o.tenant_id, o.user_id, o.from_user, o.created_at, o.expires_at
      FROM _grownext.tenant_ownership_offer AS o
     WHERE o.expires_at > _grownext.core_now()
       AND ((SELECT _grownext.tenant_sees_all())
         OR o.tenant_id = grownext.current_tenant()
            AND (o.user_id = grownext.current_user_id() OR (SELECT _grownext.tenant_caller_may('tenant.transfer'))));
COMMENT ON VIEW grownext.ownership_offer IS 'Offers of ownership that can be accepted; without the rights of a service, the own tenant''s for its owners and the one who got it.';
