-- src/audit/secrets.sql: stored secrets come and go on record; crypto stands left of
-- audit, so the reaction is audit's. The log gets the name, never a value.

CREATE OR REPLACE FUNCTION _grownext.audit_secret_set() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.audit_write('secret.set', 'secret:' || NEW.name, NULL, NULL, NULL);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.audit_secret_set() IS 'Trigger: a stored secret has a new value.';
CREATE OR REPLACE TRIGGER audit_secret_set AFTER INSERT ON _grownext.crypto_secret
    FOR EACH ROW EXECUTE FUNCTION _grownext.audit_secret_set();

-- A new value deletes what is older than the previous one; a secret is dropped when
-- nothing of it is current any more.
CREATE OR REPLACE FUNCTION _grownext.audit_secret_dropped() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.audit_write('secret.dropped', 'secret:' || g.name, NULL, NULL, NULL)
       FROM (SELECT DISTINCT name FROM gone) AS g
      WHERE NOT EXISTS (SELECT FROM _grownext.crypto_secret AS s WHERE s.name = g.name AND s.retires_at IS NULL);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.audit_secret_dropped() IS 'Trigger: a stored secret is no more.';
CREATE OR REPLACE TRIGGER audit_secret_dropped AFTER DELETE ON _grownext.crypto_secret
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION _grownext.audit_secret_dropped();
