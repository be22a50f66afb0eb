-- src/tenant/status.sql: what status() says about tenants

CREATE OR REPLACE FUNCTION _grownext.tenant_status() RETURNS SETOF grownext.status_item
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    isolated int;
    open_part record;
    stuck record;
BEGIN
    SELECT count(*) INTO isolated FROM pg_policy AS p WHERE p.polname = 'grownext_tenant';
    SELECT i.inhparent::regclass AS parent, i.inhrelid::regclass AS part INTO open_part
      FROM pg_policy AS p JOIN pg_inherits AS i ON i.inhparent = p.polrelid
     WHERE p.polname = 'grownext_tenant'
       AND NOT EXISTS (SELECT FROM pg_policy AS q WHERE q.polrelid = i.inhrelid AND q.polname = 'grownext_tenant')
     ORDER BY 1, 2 LIMIT 1;
    IF open_part.part IS NOT NULL THEN
        RETURN NEXT ROW('tenant', 'isolation', 'degraded', format('partition "%s" of "%s" is not isolated when it is named directly', open_part.part, open_part.parent),
                     format('SELECT * FROM grownext.tenant_isolate(%L);', open_part.parent), NULL)::grownext.status_item;
    ELSIF isolated = 0 THEN
        RETURN NEXT ROW('tenant', 'isolation', 'off', 'no table is isolated by tenant', 'SELECT * FROM grownext.tenant_isolate(''your_table'');', NULL)::grownext.status_item;
    ELSE
        RETURN NEXT ROW('tenant', 'isolation', 'ok', format('%s tables are isolated by tenant', isolated), NULL, NULL)::grownext.status_item;
    END IF;
    SELECT count(*) AS tenants, min(t.purge_at) AS since, (array_agg(t.purge_error ORDER BY t.purge_at))[1] AS problem INTO stuck
      FROM _grownext.tenant_tenant AS t WHERE t.purge_error IS NOT NULL;
    IF stuck.tenants > 0 THEN
        RETURN NEXT ROW('tenant', 'purge', 'degraded', format('%s tenants cannot be purged: %s', stuck.tenants, stuck.problem),
                     'Mend what is in the way: it is tried again every ten minutes.', stuck.since)::grownext.status_item;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_status() IS 'Items of grownext.status().';
