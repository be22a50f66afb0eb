-- src/tenant/tables.sql: tenants, their members, roles, invitations and domains, and who
-- reacts to them

-- What the caches of permissions depend on; see src/tenant/permission.c.
CREATE TYPE _grownext.tenant_marker_access AS ();

-- Marker of what backends remember about the state of tenants (core/cache.h).
CREATE TYPE _grownext.tenant_marker_state AS ();

CREATE TABLE _grownext.tenant_tenant (
    id             uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    slug           text        NOT NULL COLLATE "C",
    name           text        NOT NULL,
    external_id    text        COLLATE "C",
    state          text        NOT NULL DEFAULT 'active',
    suspended_at   timestamptz,
    suspend_reason text,
    purge_at       timestamptz,
    purge_retry_at timestamptz,
    purge_error    text,
    time_zone      text        NOT NULL DEFAULT 'UTC',
    region         text,
    attributes     jsonb       NOT NULL DEFAULT '{}',
    member_version bigint      NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    CONSTRAINT tenant_tenant_pkey PRIMARY KEY (id),
    CONSTRAINT tenant_tenant_slug_key UNIQUE (slug),
    CONSTRAINT tenant_tenant_external_id_key UNIQUE (external_id),
    CONSTRAINT tenant_tenant_slug_chk CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) BETWEEN 3 AND 63),
    CONSTRAINT tenant_tenant_name_chk CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT tenant_tenant_external_id_chk CHECK (length(external_id) BETWEEN 1 AND 255),
    CONSTRAINT tenant_tenant_region_chk CHECK (region ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    CONSTRAINT tenant_tenant_attributes_chk CHECK (pg_catalog.jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 16384),
    -- purging is a closing that has begun to delete, and cannot be taken back
    CONSTRAINT tenant_tenant_state_chk CHECK (state IN ('active', 'suspended', 'closing', 'purging')),
    -- a tenant that was suspended when it was deleted, comes back suspended
    CONSTRAINT tenant_tenant_suspended_chk CHECK ((suspended_at IS NULL) = (suspend_reason IS NULL)
                                              AND (state <> 'suspended' OR suspended_at IS NOT NULL)
                                              AND (state <> 'active' OR suspended_at IS NULL)),
    CONSTRAINT tenant_tenant_purge_chk CHECK ((state IN ('closing', 'purging')) = (purge_at IS NOT NULL)
                                          AND (purge_at IS NOT NULL OR purge_retry_at IS NULL)
                                          AND (purge_retry_at IS NULL) = (purge_error IS NULL))
);
CREATE INDEX tenant_tenant_purge_idx ON _grownext.tenant_tenant (purge_at) WHERE purge_at IS NOT NULL;
COMMENT ON TABLE _grownext.tenant_tenant IS 'Tenants: the organisations that the application serves.';
COMMENT ON COLUMN _grownext.tenant_tenant.member_version IS 'Raised whenever an owner goes or a seat is taken, so that two who do it at once meet on this row at every isolation level.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.tenant_tenant', '');

-- Slugs, the current one of each tenant and those that it had: nobody else gets one of
-- them, so an old address leads to whom it always led to.
CREATE TABLE _grownext.tenant_slug (
    slug       text        NOT NULL COLLATE "C",
    tenant_id  uuid        NOT NULL,
    retired_at timestamptz,
    CONSTRAINT tenant_slug_pkey PRIMARY KEY (slug),
    CONSTRAINT tenant_slug_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX tenant_slug_current_key ON _grownext.tenant_slug (tenant_id) WHERE retired_at IS NULL;
CREATE INDEX tenant_slug_tenant_id_idx ON _grownext.tenant_slug (tenant_id, retired_at);
COMMENT ON TABLE _grownext.tenant_slug IS 'Slugs in use and, with the time that they were given up, former ones.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.tenant_slug', '');

-- A table of its own: a foreign key of tenant_tenant to itself would make every pg_dump
-- of the database warn of circular constraints.
CREATE TABLE _grownext.tenant_parent (
    tenant_id uuid NOT NULL,
    parent_id uuid NOT NULL,
    CONSTRAINT tenant_parent_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT tenant_parent_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    CONSTRAINT tenant_parent_parent_id_fkey FOREIGN KEY (parent_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    CONSTRAINT tenant_parent_chk CHECK (parent_id <> tenant_id)
);
CREATE INDEX tenant_parent_parent_id_idx ON _grownext.tenant_parent (parent_id);
COMMENT ON TABLE _grownext.tenant_parent IS 'The hierarchy of tenants: acyclic and at most eight levels deep.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.tenant_parent', '');

-- The roles owner, admin and member need no row (see tenant_builtin_permissions); a row
-- redefines admin or member, or adds a role, for one tenant or (tenant NULL) for all.
CREATE TABLE _grownext.tenant_role (
    tenant_id   uuid,
    role        text        NOT NULL COLLATE "C",
    permissions text[]      NOT NULL,
    updated_at  timestamptz NOT NULL,
    CONSTRAINT tenant_role_key UNIQUE NULLS NOT DISTINCT (tenant_id, role),
    CONSTRAINT tenant_role_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    CONSTRAINT tenant_role_role_chk CHECK (role ~ '^[a-z][a-z0-9_-]{0,62}$' AND role <> 'owner'),
    CONSTRAINT tenant_role_permissions_chk CHECK (cardinality(permissions) <= 200)
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

-- One open offer a tenant: a newer one takes the place of the older.
CREATE TABLE _grownext.tenant_ownership_offer (
    id         uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    tenant_id  uuid        NOT NULL,
    user_id    uuid        NOT NULL,
    from_user  uuid,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT tenant_ownership_offer_pkey PRIMARY KEY (id),
    CONSTRAINT tenant_ownership_offer_tenant_id_key UNIQUE (tenant_id),
    -- to a member, from a member: whoever leaves, takes the offer along
    CONSTRAINT tenant_ownership_offer_user_id_fkey FOREIGN KEY (tenant_id, user_id)
        REFERENCES _grownext.tenant_member (tenant_id, user_id) ON DELETE CASCADE,
    CONSTRAINT tenant_ownership_offer_from_user_fkey FOREIGN KEY (tenant_id, from_user)
        REFERENCES _grownext.tenant_member (tenant_id, user_id) ON DELETE CASCADE,
    CONSTRAINT tenant_ownership_offer_chk CHECK (user_id <> from_user)
);
CREATE INDEX tenant_ownership_offer_user_idx ON _grownext.tenant_ownership_offer (tenant_id, user_id);
CREATE INDEX tenant_ownership_offer_from_idx ON _grownext.tenant_ownership_offer (tenant_id, from_user);
CREATE INDEX tenant_ownership_offer_expires_idx ON _grownext.tenant_ownership_offer (expires_at);
COMMENT ON TABLE _grownext.tenant_ownership_offer IS 'Offers of ownership that nobody has accepted yet.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.tenant_ownership_offer', '');

-- The token itself is nowhere: it is derived from nonce under a sealed key when it is
-- sent, and recognised by its hash. A dump alone redeems nothing.
CREATE TABLE _grownext.tenant_invitation (
    id          uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    tenant_id   uuid        NOT NULL,
    email       text,
    email_key   text COLLATE "C", -- what tells addresses apart: account_email_key(email)
    domains     text[],
    role        text        NOT NULL COLLATE "C",
    state       text        NOT NULL DEFAULT 'pending',
    nonce       bytea       NOT NULL,
    token_hash  bytea       NOT NULL,
    ttl         interval    NOT NULL,
    invited_by  uuid,
    accepted_by uuid,
    created_at  timestamptz NOT NULL,
    sent_at     timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    settled_at  timestamptz,
    CONSTRAINT tenant_invitation_pkey PRIMARY KEY (id),
    CONSTRAINT tenant_invitation_token_hash_key UNIQUE (token_hash),
    CONSTRAINT tenant_invitation_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    -- NULL is an invitation of the platform itself: one of a user goes with the user
    CONSTRAINT tenant_invitation_invited_by_fkey FOREIGN KEY (invited_by) REFERENCES _grownext.account_user (id) ON DELETE CASCADE,
    CONSTRAINT tenant_invitation_accepted_by_fkey FOREIGN KEY (accepted_by) REFERENCES _grownext.account_user (id) ON DELETE SET NULL,
    CONSTRAINT tenant_invitation_state_chk CHECK (state IN ('pending', 'accepted', 'revoked', 'expired') AND (state = 'pending') = (settled_at IS NULL)),
    CONSTRAINT tenant_invitation_bound_chk CHECK ((email IS NULL) <> (domains IS NULL) AND (email IS NULL) = (email_key IS NULL)),
    CONSTRAINT tenant_invitation_token_chk CHECK (octet_length(nonce) = 32 AND octet_length(token_hash) = 32)
);
CREATE UNIQUE INDEX tenant_invitation_email_key ON _grownext.tenant_invitation (tenant_id, email_key) WHERE state = 'pending';
CREATE INDEX tenant_invitation_tenant_id_idx ON _grownext.tenant_invitation (tenant_id, state);
CREATE INDEX tenant_invitation_expires_idx ON _grownext.tenant_invitation (expires_at) WHERE state = 'pending';
CREATE INDEX tenant_invitation_settled_idx ON _grownext.tenant_invitation (settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX tenant_invitation_invited_by_idx ON _grownext.tenant_invitation (invited_by);
CREATE INDEX tenant_invitation_accepted_by_idx ON _grownext.tenant_invitation (accepted_by);
COMMENT ON TABLE _grownext.tenant_invitation IS 'Invitations into tenants; settled ones are kept for ninety days.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.tenant_invitation', '');

-- Anybody may claim, one tenant verifies.
CREATE TABLE _grownext.tenant_domain (
    tenant_id   uuid        NOT NULL,
    domain      text        NOT NULL COLLATE "C",
    token       text        NOT NULL,
    capture     text        NOT NULL DEFAULT 'manual',
    role        text        NOT NULL DEFAULT 'member' COLLATE "C",
    created_at  timestamptz NOT NULL,
    verified_at timestamptz,
    CONSTRAINT tenant_domain_pkey PRIMARY KEY (tenant_id, domain),
    CONSTRAINT tenant_domain_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    CONSTRAINT tenant_domain_capture_chk CHECK (capture IN ('manual', 'automatic_invitation', 'automatic_suggestion'))
);
CREATE UNIQUE INDEX tenant_domain_verified_key ON _grownext.tenant_domain (domain) WHERE verified_at IS NOT NULL;
COMMENT ON TABLE _grownext.tenant_domain IS 'Domains that tenants claim, and whose they are.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.tenant_domain', '');

-- What stands to the right and acts when something happens to a tenant, in the same
-- transaction: a function (event text, tenant_id uuid, options jsonb) in schema _grownext,
-- called with the tenant's row locked. Raising refuses the change. docs/tenant.md lists the
-- events. Not a trigger on the tables, because a restore inserts rows too. Not dumped:
-- functions.sql fills it.
CREATE TABLE _grownext.tenant_reactor (
    component text NOT NULL,
    reaction  name NOT NULL,
    CONSTRAINT tenant_reactor_pkey PRIMARY KEY (component)
);
COMMENT ON TABLE _grownext.tenant_reactor IS 'Functions of other components that take part in what happens to a tenant.';

-- What tenant_isolate() found wanting, with the statement that mends it.
CREATE TYPE grownext.isolation_finding AS (subject text, problem text, remedy text);
CREATE TYPE grownext.slug_target AS (tenant_id uuid, slug text, moved boolean);
COMMENT ON TYPE grownext.slug_target IS 'Whose a slug is, and whether the tenant has another one by now.';
CREATE TYPE grownext.invitation_secret AS (id uuid, token text);
COMMENT ON TYPE grownext.invitation_secret IS 'An invitation and the token that redeems it, shown once.';
CREATE TYPE grownext.invitation_message AS (email text, token text, tenant_id uuid, tenant_name text, role text, invited_by uuid, expires_at timestamptz);
COMMENT ON TYPE grownext.invitation_message IS 'What goes into the message with an invitation.';
CREATE TYPE grownext.domain_match AS (tenant_id uuid, tenant_name text, domain text, capture text, role text);
COMMENT ON TYPE grownext.domain_match IS 'A tenant that captured the domain of a user''s email address.';
