-- src/tenant/tables.sql: tenants, their members, their roles, and who reacts to them

-- Marker of what backends remember about the state of tenants (core/cache.h).
CREATE TYPE _grownext.tenant_marker_state AS ();

CREATE TABLE _grownext.tenant_tenant (
    id             uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    slug           text        NOT NULL COLLATE "C",
    name           text        NOT NULL,
    external_id    text,
    state          text        NOT NULL DEFAULT 'active',
    suspended_at   timestamptz,
    suspend_reason text,
    time_zone      text        NOT NULL DEFAULT 'UTC',
    region         text,
    attributes     jsonb       NOT NULL DEFAULT '{}',
    owner_version  bigint      NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    CONSTRAINT tenant_tenant_pkey PRIMARY KEY (id),
    CONSTRAINT tenant_tenant_slug_key UNIQUE (slug),
    CONSTRAINT tenant_tenant_external_id_key UNIQUE (external_id),
    CONSTRAINT tenant_tenant_slug_chk CHECK (slug ~ '^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$' AND slug !~ '^xn--'),
    CONSTRAINT tenant_tenant_name_chk CHECK (name <> ''),
    CONSTRAINT tenant_tenant_external_id_chk CHECK (external_id <> ''),
    CONSTRAINT tenant_tenant_region_chk CHECK (region ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    CONSTRAINT tenant_tenant_attributes_chk CHECK (pg_catalog.jsonb_typeof(attributes) = 'object'),
    CONSTRAINT tenant_tenant_state_chk CHECK (state IN ('active', 'suspended')),
    CONSTRAINT tenant_tenant_suspended_chk CHECK ((state = 'suspended') = (suspended_at IS NOT NULL)
                                              AND (suspended_at IS NULL) = (suspend_reason IS NULL))
);
COMMENT ON TABLE _grownext.tenant_tenant IS 'Tenants: the organisations that the application serves.';
COMMENT ON COLUMN _grownext.tenant_tenant.owner_version IS 'Raised whenever an owner goes, so that two who leave at once meet on this row at every isolation level.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.tenant_tenant', '');

-- A table of its own: a foreign key of tenant_tenant to itself would make every pg_dump
-- of the database warn of circular constraints.
CREATE TABLE _grownext.tenant_parent (
    tenant_id uuid NOT NULL,
    parent_id uuid NOT NULL,
    CONSTRAINT tenant_parent_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT tenant_parent_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    CONSTRAINT tenant_parent_parent_id_fkey FOREIGN KEY (parent_id) REFERENCES _grownext.tenant_tenant (id),
    CONSTRAINT tenant_parent_chk CHECK (parent_id <> tenant_id)
);
CREATE INDEX tenant_parent_parent_id_idx ON _grownext.tenant_parent (parent_id);
COMMENT ON TABLE _grownext.tenant_parent IS 'The hierarchy of tenants: acyclic and at most eight levels deep.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.tenant_parent', '');

-- The roles owner, admin and member need no row (see tenant_role_permissions); a row
-- redefines admin or member, or adds a role, for one tenant or (tenant NULL) for all.
CREATE TABLE _grownext.tenant_role (
    tenant_id   uuid,
    role        text        NOT NULL COLLATE "C",
    permissions text[]      NOT NULL,
    updated_at  timestamptz NOT NULL,
    CONSTRAINT tenant_role_key UNIQUE NULLS NOT DISTINCT (tenant_id, role),
    CONSTRAINT tenant_role_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    CONSTRAINT tenant_role_role_chk CHECK (role ~ '^[a-z][a-z0-9_-]{0,62}$' AND role <> 'owner')
);
COMMENT ON TABLE _grownext.tenant_role IS 'Roles of members beside the built-in ones, and their permissions.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.tenant_role', '');

CREATE TABLE _grownext.tenant_member (
    tenant_id  uuid        NOT NULL,
    user_id    uuid        NOT NULL,
    role       text        NOT NULL COLLATE "C",
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT tenant_member_pkey PRIMARY KEY (tenant_id, user_id),
    CONSTRAINT tenant_member_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    CONSTRAINT tenant_member_user_id_fkey FOREIGN KEY (user_id) REFERENCES _grownext.account_user (id) ON DELETE CASCADE
);
CREATE INDEX tenant_member_user_id_idx ON _grownext.tenant_member (user_id);
COMMENT ON TABLE _grownext.tenant_member IS 'Which users belong to which tenant, and their role there.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.tenant_member', '');

-- What stands to the right and acts when a tenant is created, in the same transaction:
-- a function (event text, tenant_id uuid, options jsonb) in schema _grownext. Not a trigger on
-- the table, because a restore inserts tenants too. Not dumped: functions.sql fills it.
CREATE TABLE _grownext.tenant_reactor (
    component text NOT NULL,
    reaction  name NOT NULL,
    CONSTRAINT tenant_reactor_pkey PRIMARY KEY (component)
);
COMMENT ON TABLE _grownext.tenant_reactor IS 'Functions of other components that take part in provisioning a tenant.';

-- What tenant_isolate() found wanting, with the statement that mends it.
CREATE TYPE grownext.isolation_finding AS (subject text, problem text, remedy text);
