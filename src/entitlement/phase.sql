-- src/entitlement/phase.sql: what a subscription means, from when until when

-- Until when a subscription entitles, if its status does.
CREATE OR REPLACE FUNCTION _grownext.entitlement_live_until(trial_until timestamptz, paid_through timestamptz, grace interval) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT coalesce(greatest(trial_until, paid_through + grace), 'infinity') $$;
COMMENT ON FUNCTION _grownext.entitlement_live_until(timestamptz, timestamptz, interval) IS 'The later of trial_until and paid_through plus grace; infinity with neither.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_check_at(at text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF at IS NULL OR at <> ALL ('{now,period_end}') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"at" cannot be "%s"', coalesce(at, 'NULL')),
            HINT = 'Use now or period_end.';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_check_at(text) IS 'Raises unless it is now or period_end.';

-- now, or the end of what is paid: paid_through, the trial, else the month from the anchor.
CREATE OR REPLACE FUNCTION _grownext.entitlement_effective_at(subscription _grownext.entitlement_subscription, at text) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now CONSTANT timestamptz := _grownext.core_now();
BEGIN
    PERFORM _grownext.entitlement_check_at(at);
    IF at = 'now' THEN
        RETURN now;
    ELSIF subscription.paid_through IS NOT NULL OR subscription.trial_until IS NOT NULL THEN
        RETURN greatest(now, subscription.paid_through, subscription.trial_until);
    END IF;
    RETURN (_grownext.entitlement_period('month', subscription.anchor,
        (SELECT t.time_zone FROM _grownext.tenant_tenant AS t WHERE t.id = subscription.tenant_id), now))[2];
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_effective_at(_grownext.entitlement_subscription, text) IS 'The instant that now or period_end means for a subscription.';

-- A phase of a subscription from an instant to its end.
CREATE OR REPLACE FUNCTION _grownext.entitlement_phase_of(subscription _grownext.entitlement_subscription, at timestamptz,
    version _grownext.entitlement_bundle_version, quantity int) RETURNS _grownext.entitlement_phase
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT subscription.id, subscription.tenant_id, at, coalesce(subscription.ended_at, 'infinity'), version.id, quantity, subscription.live,
           _grownext.entitlement_live_until(subscription.trial_until, subscription.paid_through, version.grace),
           subscription.anchor, subscription.addon;
$$;
COMMENT ON FUNCTION _grownext.entitlement_phase_of(_grownext.entitlement_subscription, timestamptz, _grownext.entitlement_bundle_version, int) IS 'The phase that a subscription begins at an instant with a version of a bundle.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_phase_at(id uuid, at timestamptz) RETURNS _grownext.entitlement_phase
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.* FROM _grownext.entitlement_phase AS p
     WHERE p.subscription_id = entitlement_phase_at.id AND p.valid_from <= entitlement_phase_at.at AND p.valid_until > entitlement_phase_at.at;
$$;
COMMENT ON FUNCTION _grownext.entitlement_phase_at(uuid, timestamptz) IS 'The phase of a subscription that an instant falls into.';

-- From an instant on, now or later, the subscription means this version in this quantity;
-- what was scheduled is withdrawn.
CREATE OR REPLACE FUNCTION _grownext.entitlement_phase_put(subscription _grownext.entitlement_subscription, at timestamptz, version_id int, quantity int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM _grownext.entitlement_phase AS p WHERE p.subscription_id = subscription.id AND (p.valid_from >= at OR p.valid_from > _grownext.core_now());
    UPDATE _grownext.entitlement_phase AS p SET valid_until = at WHERE p.subscription_id = subscription.id AND p.valid_until > least(at, _grownext.core_now());
    INSERT INTO _grownext.entitlement_phase
    SELECT p.*
      FROM _grownext.entitlement_bundle_version AS v
     CROSS JOIN LATERAL _grownext.entitlement_phase_of(subscription, at, v, entitlement_phase_put.quantity) AS p
     WHERE v.id = entitlement_phase_put.version_id AND p.valid_from < p.valid_until;
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

-- From an instant of each subscription on, wherever it means the bundle it means that
-- version. What is scheduled stays: another quantity, another bundle, an end.
CREATE OR REPLACE FUNCTION _grownext.entitlement_phase_move(ids uuid[], bundle text, version_id int, at text) RETURNS uuid[]
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH subscriber AS MATERIALIZED (
        SELECT s.id, _grownext.entitlement_effective_at(s, at) AS effective,
               _grownext.entitlement_live_until(s.trial_until, s.paid_through, n.grace) AS live_until
          FROM _grownext.entitlement_subscription AS s
          JOIN _grownext.entitlement_bundle_version AS n ON n.id = entitlement_phase_move.version_id
         WHERE s.id = ANY (ids)),
    old AS MATERIALIZED (
        SELECT p.*, s.effective, s.live_until AS new_live_until
          FROM subscriber AS s
          JOIN _grownext.entitlement_phase AS p ON p.subscription_id = s.id AND p.valid_until > s.effective
          JOIN _grownext.entitlement_bundle_version AS v ON v.id = p.version_id
         WHERE v.bundle = entitlement_phase_move.bundle AND p.version_id <> entitlement_phase_move.version_id),
    shortened AS (
        UPDATE _grownext.entitlement_phase AS p SET valid_until = o.effective
          FROM old AS o
         WHERE p.subscription_id = o.subscription_id AND p.valid_from = o.valid_from AND o.valid_from < o.effective),
    moved AS (
        UPDATE _grownext.entitlement_phase AS p SET version_id = entitlement_phase_move.version_id, live_until = o.new_live_until
          FROM old AS o
         WHERE p.subscription_id = o.subscription_id AND p.valid_from = o.valid_from AND o.valid_from >= o.effective),
    added AS (
        INSERT INTO _grownext.entitlement_phase (subscription_id, tenant_id, valid_from, valid_until, version_id, quantity, live, live_until, anchor, addon)
        SELECT o.subscription_id, o.tenant_id, o.effective, o.valid_until, entitlement_phase_move.version_id, o.quantity, o.live, o.new_live_until, o.anchor, o.addon
          FROM old AS o WHERE o.valid_from < o.effective)
    SELECT coalesce(array_agg(DISTINCT o.subscription_id), '{}') FROM old AS o;
$$;
COMMENT ON FUNCTION _grownext.entitlement_phase_move(uuid[], text, int, text) IS 'Moves subscriptions that are locked to a version of a bundle; returns those that were on another.';

-- A tenant's phases as if one subscription had been changed at that instant.
CREATE OR REPLACE FUNCTION _grownext.entitlement_phase_if(tenant_id uuid, at timestamptz, subscription_id uuid, version_id int, quantity int) RETURNS SETOF _grownext.entitlement_phase
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.* FROM _grownext.entitlement_phase AS p
     WHERE p.tenant_id = entitlement_phase_if.tenant_id AND p.subscription_id <> entitlement_phase_if.subscription_id
    UNION ALL
    SELECT p.*
      FROM _grownext.entitlement_subscription AS s
      JOIN _grownext.entitlement_bundle_version AS v ON v.id = entitlement_phase_if.version_id
     CROSS JOIN LATERAL _grownext.entitlement_phase_of(s, at, v, quantity) AS p
     WHERE s.id = entitlement_phase_if.subscription_id;
$$;
COMMENT ON FUNCTION _grownext.entitlement_phase_if(uuid, timestamptz, uuid, int, int) IS 'The phases of a tenant''s subscriptions, one of them changed.';
