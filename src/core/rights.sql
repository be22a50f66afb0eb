-- src/core/rights.sql: who gave a role what, and capabilities
--
-- A role may have the same right for several reasons: two capabilities, a right on a
-- queue, a GRANT by a DBA. Each giver writes down what it gives, so that taking one
-- back leaves what the others give.

-- What a role holds on an object by a GRANT of its own.
CREATE OR REPLACE FUNCTION _grownext.core_right_exists(role_name name, privilege text, kind text, object text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM aclexplode(CASE kind
                   WHEN 'SCHEMA' THEN (SELECT n.nspacl FROM pg_namespace AS n WHERE n.oid = to_regnamespace(object))
                   WHEN 'TABLE' THEN (SELECT c.relacl FROM pg_class AS c WHERE c.oid = to_regclass(object))
                   WHEN 'TYPE' THEN (SELECT t.typacl FROM pg_type AS t WHERE t.oid = to_regtype(object))
                   ELSE (SELECT p.proacl FROM pg_proc AS p WHERE p.oid = to_regprocedure(object)) END) AS a
         WHERE a.grantee = to_regrole(quote_ident(role_name))::oid AND a.privilege_type = core_right_exists.privilege);
$$;
COMMENT ON FUNCTION _grownext.core_right_exists(name, text, text, text) IS 'Whether a role was granted a privilege on an object; false when there is none.';

-- From now on the giver gives the role these rights and no others. What the role has
-- already and nobody wrote down was given by somebody else, and stays.
CREATE OR REPLACE FUNCTION _grownext.core_rights_declare(giver text, role_name name, rights _grownext.core_right_on[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    entry record;
BEGIN
    -- or two who take back the last two reasons leave the right, each for the other's sake
    LOCK TABLE _grownext.core_right IN SHARE ROW EXCLUSIVE MODE;
    FOR entry IN SELECT DISTINCT * FROM unnest(rights) ORDER BY kind, object, privilege LOOP
        IF NOT EXISTS (SELECT FROM _grownext.core_right AS r
                        WHERE (r.role_name, r.privilege, r.kind, r.object)
                              = (core_rights_declare.role_name, entry.privilege, entry.kind, entry.object))
           AND _grownext.core_right_exists(core_rights_declare.role_name, entry.privilege, entry.kind, entry.object) THEN
            INSERT INTO _grownext.core_right (role_name, privilege, kind, object, giver)
            VALUES (core_rights_declare.role_name, entry.privilege, entry.kind, entry.object, 'grant');
        END IF;
        INSERT INTO _grownext.core_right (role_name, privilege, kind, object, giver)
        VALUES (core_rights_declare.role_name, entry.privilege, entry.kind, entry.object, core_rights_declare.giver)
        ON CONFLICT DO NOTHING;
        -- kinds are literals of ours, objects are quoted by the catalogue's own output functions
        EXECUTE format('GRANT %s ON %s %s TO %I', entry.privilege, entry.kind, entry.object, core_rights_declare.role_name);
    END LOOP;
    FOR entry IN
        DELETE FROM _grownext.core_right AS r
         WHERE r.giver = core_rights_declare.giver AND r.role_name = core_rights_declare.role_name
           AND NOT (r.privilege, r.kind, r.object)::_grownext.core_right_on = ANY (rights)
        RETURNING r.privilege, r.kind, r.object
    LOOP
        IF NOT EXISTS (SELECT FROM _grownext.core_right AS r
                        WHERE (r.role_name, r.privilege, r.kind, r.object)
                              = (core_rights_declare.role_name, entry.privilege, entry.kind, entry.object))
           AND _grownext.core_right_exists(core_rights_declare.role_name, entry.privilege, entry.kind, entry.object) THEN
            EXECUTE format('REVOKE %s ON %s %s FROM %I', entry.privilege, entry.kind, entry.object, core_rights_declare.role_name);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _grownext.core_rights_declare(text, name, _grownext.core_right_on[]) IS 'Grants a role what a giver gives it, and revokes what neither this giver gives any more nor another.';

-- Capabilities -----------------------------------------------------------------

-- What the epilogue gave grownext_<capability>: for clusters whose databases must not
-- share the cluster-wide roles' members.
CREATE OR REPLACE FUNCTION _grownext.core_capability_rights(capability text) RETURNS _grownext.core_right_on[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH model AS (
        SELECT r.oid FROM pg_roles AS r WHERE r.rolname = 'grownext_' || core_capability_rights.capability),
    member AS (
        SELECT d.classid, d.objid FROM pg_depend AS d
          JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'grownext'
         WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'),
    object (acl, kind, name) AS (
        SELECT p.proacl, CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, p.oid::regprocedure::text
          FROM member AS m JOIN pg_proc AS p ON p.oid = m.objid AND m.classid = 'pg_proc'::regclass
        UNION ALL
        SELECT c.relacl, 'TABLE', c.oid::regclass::text
          FROM member AS m JOIN pg_class AS c ON c.oid = m.objid AND m.classid = 'pg_class'::regclass WHERE c.relkind IN ('r', 'v')
        UNION ALL
        SELECT n.nspacl, 'SCHEMA', quote_ident(n.nspname)
          FROM member AS m JOIN pg_namespace AS n ON n.oid = m.objid AND m.classid = 'pg_namespace'::regclass
        UNION ALL
        SELECT t.typacl, 'TYPE', format_type(t.oid, NULL)
          FROM member AS m JOIN pg_type AS t ON t.oid = m.objid AND m.classid = 'pg_type'::regclass)
    SELECT coalesce(array_agg((a.privilege_type, o.kind, o.name)::_grownext.core_right_on), '{}')
      FROM object AS o, aclexplode(o.acl) AS a WHERE a.grantee = (SELECT m.oid FROM model AS m);
$$;
COMMENT ON FUNCTION _grownext.core_capability_rights(text) IS 'The rights of a grownext_* role, as the epilogue granted them.';

-- Makes the grants of a role match its capability, which it holds or not.
CREATE OR REPLACE FUNCTION _grownext.core_capability_apply(capability text, role_name name) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.core_rights_declare('capability ' || core_capability_apply.capability, core_capability_apply.role_name,
        CASE WHEN EXISTS (SELECT FROM _grownext.core_capability AS c
                           WHERE (c.capability, c.role_name) = (core_capability_apply.capability, core_capability_apply.role_name))
             THEN _grownext.core_capability_rights(core_capability_apply.capability) ELSE '{}' END);
$$;
COMMENT ON FUNCTION _grownext.core_capability_apply(text, name) IS 'Grants a role what its capability gives, or takes it back.';

CREATE OR REPLACE FUNCTION grownext.capability_grant(capability text, to_role name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF capability IS NULL OR capability NOT IN ('admin', 'service', 'worker', 'auditor', 'monitor', 'user', 'anon') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('unknown capability "%s"', coalesce(capability, 'NULL')),
            HINT = 'Capabilities: admin, service, worker, auditor, monitor, user, anon.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = to_role) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', coalesce(to_role, 'NULL'));
    END IF;
    INSERT INTO _grownext.core_capability (capability, role_name)
    VALUES (capability_grant.capability, capability_grant.to_role) ON CONFLICT DO NOTHING;
    PERFORM _grownext.core_capability_apply(capability_grant.capability, capability_grant.to_role);
END
$$;
COMMENT ON FUNCTION grownext.capability_grant(text, name) IS 'Gives a role the rights of a grownext_* role in this database only.';

CREATE OR REPLACE FUNCTION grownext.capability_revoke(capability text, from_role name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM _grownext.core_capability AS c
     WHERE c.capability = capability_revoke.capability AND c.role_name = capability_revoke.from_role;
    IF NOT FOUND THEN
        RETURN;
    ELSIF EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = from_role) THEN
        PERFORM _grownext.core_capability_apply(capability_revoke.capability, from_role);
    ELSE
        DELETE FROM _grownext.core_right AS r WHERE r.role_name = from_role;
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.capability_revoke(text, name) IS 'Takes back what capability_grant() gave, and nothing that the role has for another reason.';
