-- src/entitlement/credit.sql: credit is granted, voided and refunded

CREATE OR REPLACE FUNCTION _grownext.entitlement_credit_json(id uuid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('id', c.id, 'feature', f.feature, 'origin', c.origin, 'amount', c.amount, 'burnt', c.burnt,
                'priority', c.priority, 'expires_at', nullif(c.expires_at, 'infinity'), 'reason', c.reason, 'voided_at', c.voided_at))
      FROM _grownext.entitlement_credit AS c JOIN _grownext.entitlement_feature AS f ON f.id = c.feature_id
     WHERE c.id = entitlement_credit_json.id;
$$;
COMMENT ON FUNCTION _grownext.entitlement_credit_json(uuid) IS 'A grant of credit as jsonb, for events and audit.';

-- The tenant at the top of a tenant's hierarchy.
CREATE OR REPLACE FUNCTION _grownext.entitlement_topmost(tenant_id uuid) RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE above AS (
        SELECT entitlement_topmost.tenant_id AS id, 0 AS level
        UNION ALL
        SELECT p.parent_id, a.level + 1 FROM above AS a JOIN _grownext.tenant_parent AS p ON p.tenant_id = a.id WHERE a.level < 8)
    SELECT a.id FROM above AS a ORDER BY a.level DESC LIMIT 1;
$$;
COMMENT ON FUNCTION _grownext.entitlement_topmost(uuid) IS 'The topmost tenant above a tenant, or itself.';

CREATE OR REPLACE FUNCTION grownext.credit_grant(tenant_id uuid, feature text, amount bigint, expires_at timestamptz DEFAULT NULL, priority int DEFAULT 0,
    reason text DEFAULT NULL, idempotency_key text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now CONSTANT timestamptz := _grownext.core_now();
    definition _grownext.entitlement_feature := _grownext.entitlement_feature_get(feature);
    earlier _grownext.entitlement_credit;
    new_id uuid;
BEGIN
    IF definition.kind <> 'credit' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is of kind %s, not credit', feature, definition.kind),
            HINT = 'To other kinds entitlement_grant() grants.';
    ELSIF amount IS NULL OR amount <= 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'amount must be greater than zero';
    ELSIF priority IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'priority must not be null';
    ELSIF idempotency_key = '' OR octet_length(idempotency_key) > 255 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'an idempotency key has 1 to 255 bytes';
    END IF;
    PERFORM _grownext.tenant_lock(tenant_id);
    SELECT * INTO earlier FROM _grownext.entitlement_credit AS c
     WHERE c.tenant_id = credit_grant.tenant_id AND c.idempotency_key = credit_grant.idempotency_key;
    IF FOUND THEN
        IF (earlier.feature_id, earlier.amount, earlier.expires_at, earlier.priority, earlier.reason)
           IS DISTINCT FROM (definition.id, amount, coalesce(expires_at, 'infinity'), priority, reason) THEN
            RAISE EXCEPTION USING ERRCODE = 'NX040', MESSAGE = format('idempotency key "%s" was used with other arguments', idempotency_key);
        END IF;
        RETURN earlier.id;
    ELSIF expires_at <= now THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a grant must expire in the future';
    ELSIF definition.inherit = 'pool' AND _grownext.entitlement_topmost(tenant_id) <> tenant_id THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is a pool of the topmost tenant', feature),
            HINT = format('Grant it to tenant %s.', _grownext.entitlement_topmost(tenant_id));
    END IF;
    INSERT INTO _grownext.entitlement_credit (number, tenant_id, feature_id, origin, amount, priority, valid_from, expires_at, reason, idempotency_key, created_at, created_by)
    VALUES (_grownext.core_nextval('_grownext.entitlement_credit_number'), credit_grant.tenant_id, definition.id, 'grant', credit_grant.amount, credit_grant.priority, now, coalesce(credit_grant.expires_at, 'infinity'),
            credit_grant.reason, credit_grant.idempotency_key, now, coalesce(grownext.current_actor(), 'role:' || session_user))
    RETURNING id INTO new_id;
    PERFORM _grownext.tenant_record('credit.granted', 'feature:' || feature, tenant_id, NULL, _grownext.entitlement_credit_json(new_id));
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION grownext.credit_grant(uuid, text, bigint, timestamptz, int, text, text) IS 'Grants units of a credit feature, beside what is subscribed; the same idempotency key gives the same grant.';

-- Behind entitlement_revoke(). Under the balance's lock, as whoever burns.
CREATE OR REPLACE FUNCTION _grownext.entitlement_credit_void(id uuid) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    credit _grownext.entitlement_credit;
    before jsonb;
BEGIN
    SELECT * INTO credit FROM _grownext.entitlement_credit AS c WHERE c.id = entitlement_credit_void.id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO _grownext.entitlement_balance (tenant_id, feature_id) VALUES (credit.tenant_id, credit.feature_id) ON CONFLICT DO NOTHING;
    PERFORM FROM _grownext.entitlement_balance AS b WHERE b.tenant_id = credit.tenant_id AND b.feature_id = credit.feature_id FOR NO KEY UPDATE;
    before := _grownext.entitlement_credit_json(id);
    UPDATE _grownext.entitlement_credit AS c SET voided_at = _grownext.core_now() WHERE c.id = entitlement_credit_void.id AND c.voided_at IS NULL;
    IF FOUND THEN
        PERFORM _grownext.tenant_record('credit.voided', 'feature:' || (before ->> 'feature'), credit.tenant_id,
                                        before, _grownext.entitlement_credit_json(id));
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_credit_void(uuid) IS 'Voids what is left of a grant of credit; false if there is no such grant.';

-- Gives units back to the grants that they were burnt of, the latest first: of one
-- reservation, or, with NULL, of all that is consumed for good. The caller holds the
-- balance's lock and knows that so many were burnt. What had expired or was voided
-- since lapses.
CREATE OR REPLACE FUNCTION _grownext.entitlement_credit_refund(tenant_id uuid, feature_id int, amount bigint, reservation_id uuid, at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lines refcursor;
    line record;
    missing bigint := amount;
    part bigint;
BEGIN
    IF reservation_id IS NULL THEN
        OPEN lines FOR
            SELECT b.id, b.credit_id, b.amount - b.returned AS rest FROM _grownext.entitlement_burn AS b
             WHERE b.tenant_id = entitlement_credit_refund.tenant_id AND b.feature_id = entitlement_credit_refund.feature_id AND b.amount > b.returned
               AND NOT EXISTS (SELECT FROM _grownext.entitlement_reservation AS r WHERE r.id = b.reservation_id AND r.state = 'open')
             ORDER BY b.id DESC;
    ELSE
        OPEN lines FOR
            SELECT b.id, b.credit_id, b.amount - b.returned AS rest FROM _grownext.entitlement_burn AS b
             WHERE b.reservation_id = entitlement_credit_refund.reservation_id AND b.amount > b.returned
             ORDER BY b.id DESC;
    END IF;
    WHILE missing > 0 LOOP
        FETCH lines INTO line;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'data_corrupted', MESSAGE = format('receipts of tenant %s miss %s burnt units', tenant_id, missing);
        END IF;
        part := least(missing, line.rest);
        missing := missing - part;
        UPDATE _grownext.entitlement_burn AS b SET returned = b.returned + part
         WHERE b.tenant_id = entitlement_credit_refund.tenant_id AND b.feature_id = entitlement_credit_refund.feature_id AND b.id = line.id;
        UPDATE _grownext.entitlement_credit AS c SET burnt = c.burnt - part WHERE c.id = line.credit_id;
        INSERT INTO _grownext.entitlement_burn (tenant_id, feature_id, id, credit_id, amount, refund_of, at)
        VALUES (entitlement_credit_refund.tenant_id, entitlement_credit_refund.feature_id, _grownext.core_nextval('_grownext.entitlement_burn_id'),
                line.credit_id, -part, line.id, entitlement_credit_refund.at);
    END LOOP;
    CLOSE lines;
    UPDATE _grownext.entitlement_balance AS b SET burnt = b.burnt - entitlement_credit_refund.amount
     WHERE b.tenant_id = entitlement_credit_refund.tenant_id AND b.feature_id = entitlement_credit_refund.feature_id;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_credit_refund(uuid, int, bigint, uuid, timestamptz) IS 'Gives burnt units back to the grants that they came from.';
