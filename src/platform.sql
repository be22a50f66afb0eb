-- src/platform.sql: the SQL composition root. These functions speak for every
-- component, so they stand after all of them, as src/grownext.c does in C. Each
-- component provides _grownext.<component>_setup(issuer, audiences, options) if it has
-- anything to set up, and _grownext.<component>_status().

-- First-time set-up, and again whenever something about it changes: what is there stays.
CREATE OR REPLACE FUNCTION grownext.setup(issuer text, audiences text[], options jsonb DEFAULT '{}') RETURNS SETOF grownext.setup_step
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT * FROM _grownext.core_setup(issuer, audiences, options);
    RETURN QUERY SELECT * FROM _grownext.crypto_setup(issuer, audiences, options);
    RETURN QUERY SELECT * FROM _grownext.jwt_setup(issuer, audiences, options);
    PERFORM _grownext.audit_write('platform.setup', 'database:' || current_database(), NULL, NULL,
        jsonb_build_object('issuer', issuer, 'audiences', audiences, 'options', options));
END
$$;
COMMENT ON FUNCTION grownext.setup(text, text[], jsonb) IS 'Sets this database up: identity, issuer, audiences, first key; arms its workers. Safe to run again.';

CREATE OR REPLACE FUNCTION grownext.status() RETURNS SETOF grownext.status_item
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM _grownext.core_status()
    UNION ALL SELECT * FROM _grownext.crypto_status()
    UNION ALL SELECT * FROM _grownext.queue_status()
    UNION ALL SELECT * FROM _grownext.audit_status()
    UNION ALL SELECT * FROM _grownext.stream_status()
    UNION ALL SELECT * FROM _grownext.schedule_status()
    UNION ALL SELECT * FROM _grownext.jwt_status()
    UNION ALL SELECT * FROM _grownext.tenant_status()
    UNION ALL SELECT * FROM _grownext.entitlement_status()
    UNION ALL SELECT * FROM _grownext.billing_status();
$$;
COMMENT ON FUNCTION grownext.status() IS 'What works, what is degraded and how to mend it; read-only, on a standby too.';

CREATE OR REPLACE FUNCTION grownext.fence(reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.core_fence(reason);
    PERFORM _grownext.audit_write('platform.fenced', 'database:' || current_database(), NULL, NULL, jsonb_build_object('reason', reason));
END
$$;
COMMENT ON FUNCTION grownext.fence(text) IS 'Stops everything that this database does by itself, until unfence().';

CREATE OR REPLACE FUNCTION grownext.unfence(reason text, pending text DEFAULT 'keep') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found CONSTANT text := _grownext.core_identity_state();
BEGIN
    IF pending IS NULL OR pending NOT IN ('keep', 'skip') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('pending must be keep or skip, not "%s"', coalesce(pending, 'NULL'));
    END IF;
    IF pending = 'skip' THEN
        PERFORM _grownext.queue_skip_pending();
        PERFORM _grownext.schedule_skip_pending();
    END IF;
    PERFORM _grownext.core_unfence(reason);
    PERFORM _grownext.audit_write('platform.unfenced', 'database:' || current_database(), NULL,
        jsonb_build_object('state', found), jsonb_build_object('reason', reason, 'pending', pending));
END
$$;
COMMENT ON FUNCTION grownext.unfence(text, text) IS 'Lets this database act again, whatever it was copied or restored from; pending work is kept or skipped.';
