-- src/entitlement/subscription.sql: who subscribes to what, from when until when

-- Which phase is in force, or was the last; and the one that is scheduled.
CREATE OR REPLACE VIEW _grownext.entitlement_subscription_now AS
    SELECT s.id, s.tenant_id, v.bundle, v.version, p.quantity, s.addon,
           CASE WHEN s.ended_at <= _grownext.core_now() THEN 'ended'
                -- a trial that is paid for goes on as a subscription like any other
                WHEN s.status = 'trialing' AND s.trial_until <= _grownext.core_now() AND s.paid_through IS NOT NULL THEN 'active'
                ELSE s.status END AS status,
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
             WHERE f.subscription_id = s.id AND f.valid_from > _grownext.core_now() AND (f.version_id, f.quantity) <> (p.version_id, p.quantity)
             ORDER BY f.valid_from LIMIT 1) AS n ON true;
COMMENT ON VIEW _grownext.entitlement_subscription_now IS 'Subscriptions as they are now.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_subscription_json(id uuid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_strip_nulls(to_jsonb(s) - 'updated_at') FROM _grownext.entitlement_subscription_now AS s WHERE s.id = entitlement_subscription_json.id;
$$;
COMMENT ON FUNCTION _grownext.entitlement_subscription_json(uuid) IS 'A subscription as jsonb, for events and audit.';

-- A subscription that must exist.
CREATE OR REPLACE FUNCTION _grownext.entitlement_subscription_get(id uuid) RETURNS _grownext.entitlement_subscription
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    subscription _grownext.entitlement_subscription;
BEGIN
    SELECT * INTO subscription FROM _grownext.entitlement_subscription AS s WHERE s.id = entitlement_subscription_get.id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('subscription "%s" does not exist', coalesce(id::text, 'NULL'));
    END IF;
    RETURN subscription;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_subscription_get(uuid) IS 'A subscription; raises if there is none.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_subscription_lock(id uuid) RETURNS _grownext.entitlement_subscription
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM _grownext.entitlement_subscription AS s WHERE s.id = entitlement_subscription_lock.id FOR NO KEY UPDATE;
    RETURN _grownext.entitlement_subscription_get(id);
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_subscription_lock(uuid) IS 'Locks and returns a subscription; raises if there is none.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_check_running(subscription _grownext.entitlement_subscription) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF subscription.ended_at <= _grownext.core_now() THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('subscription "%s" has ended', subscription.id),
            HINT = 'Start another one: SELECT grownext.subscription_start(tenant_id, bundle);';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_check_running(_grownext.entitlement_subscription) IS 'Raises on a subscription that has ended.';

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
    IF octet_length(options ->> 'external_id') NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'external_id must have 1 to 255 bytes';
    END IF;
    PERFORM _grownext.tenant_lock(tenant_id);
    trial_until := _grownext.entitlement_instant(options, 'trial_until');
    new_id := _grownext.entitlement_subscription_open(tenant_id, options ->> 'external_id', _grownext.entitlement_bundle_latest(bundle),
        CASE WHEN trial_until > _grownext.core_now() THEN 'trialing' ELSE 'active' END, quantity, _grownext.entitlement_instant(options, 'paid_through'),
        trial_until, _grownext.entitlement_instant(options, 'anchor'), NULL, coalesce((options ->> 'addon')::boolean, false));
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
    PERFORM _grownext.entitlement_check_running(subscription);
    before := _grownext.entitlement_subscription_json(id);

    UPDATE _grownext.entitlement_subscription AS s
       SET trial_until = coalesce(_grownext.entitlement_instant(options, 'trial_until'), s.trial_until),
           paid_through = coalesce(_grownext.entitlement_instant(options, 'paid_through'), s.paid_through),
           ended_at = CASE WHEN (options ->> 'resume')::boolean THEN NULL ELSE s.ended_at END,
           updated_at = _grownext.core_now()
     WHERE s.id = subscription.id RETURNING * INTO subscription;
    PERFORM _grownext.entitlement_phase_refresh(subscription);
    effective := _grownext.entitlement_effective_at(subscription, at);
    IF effective >= subscription.ended_at AND (bundle IS NOT NULL OR quantity IS NOT NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('subscription "%s" ends before the change', id),
            HINT = 'Pass {"resume": true} in options to withdraw the end.';
    END IF;
    phase := _grownext.entitlement_phase_at(subscription.id, _grownext.core_now());
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
    phase := _grownext.entitlement_phase_at(subscription.id, now);
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
