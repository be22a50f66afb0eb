-- src/entitlement/reservation.sql: units are taken for a while

CREATE OR REPLACE FUNCTION grownext.usage_reserve(feature text, amount bigint, ttl interval DEFAULT '5 minutes', idempotency_key text DEFAULT NULL,
    tenant_id uuid DEFAULT NULL) RETURNS uuid
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_usage_reserve';
COMMENT ON FUNCTION grownext.usage_reserve(text, bigint, interval, text, uuid) IS 'Takes units of a metered or credit feature until they are committed, released or expire; NULL when denied.';

CREATE OR REPLACE FUNCTION grownext.usage_commit(reservation uuid, amount bigint DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_usage_commit';
COMMENT ON FUNCTION grownext.usage_commit(uuid, bigint) IS 'Consumes what was reserved, or the amount that it came to; raises after expiry.';

CREATE OR REPLACE FUNCTION grownext.usage_release(reservation uuid) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_usage_release';
COMMENT ON FUNCTION grownext.usage_release(uuid) IS 'Gives back what was reserved.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_reservation_expire(now timestamptz, most int) RETURNS int
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_entitlement_reservation_expire';
COMMENT ON FUNCTION _grownext.entitlement_reservation_expire(timestamptz, int) IS 'Gives back what expired reservations hold, except where somebody is at work; how many were looked at.';

-- Behind entitlement_tick(). New ones are not announced: a look a minute is enough,
-- because nobody is denied units that an expired one holds.
CREATE OR REPLACE FUNCTION _grownext.entitlement_reservation_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    batch CONSTANT int := 1000;
    removed bigint;
BEGIN
    DELETE FROM _grownext.entitlement_reservation AS r
     WHERE r.id IN (
        SELECT o.id FROM _grownext.entitlement_reservation AS o
         WHERE o.expires_at < now - interval '30 days' AND o.state <> 'open' ORDER BY o.expires_at LIMIT batch FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS removed = ROW_COUNT;
    IF greatest(removed, _grownext.entitlement_reservation_expire(now, batch)) = batch THEN
        RETURN now + interval '1 second';
    END IF;
    RETURN now + interval '1 minute';
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_reservation_tick(timestamptz) IS 'Expires reservations, forgets closed ones after 30 days; returns when to look again.';
