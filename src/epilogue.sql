-- src/epilogue.sql: who owns what, and every GRANT of the product. Replayed at
-- every upgrade: objects that are new are still owned by the installing superuser;
-- only those are stripped of whatever ALTER DEFAULT PRIVILEGES gave away, so
-- grants that a DBA made since survive.

DO $$
DECLARE
    owner_oid CONSTANT oid := (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = 'grownext_owner');
    object record;
    grantee record;
BEGIN
    FOR object IN
        WITH member AS (
            SELECT d.classid, d.objid
              FROM pg_catalog.pg_depend AS d
              JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'grownext'
             WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e')
        SELECT 'SCHEMA' AS kind, 'SCHEMA' AS owned_as, pg_catalog.quote_ident(n.nspname) AS name, n.nspowner AS owner, n.nspacl AS acl
          FROM member AS m JOIN pg_catalog.pg_namespace AS n ON n.oid = m.objid AND m.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
        UNION ALL
        SELECT CASE WHEN c.relkind = 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
               CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
               c.oid::pg_catalog.regclass::text, c.relowner, c.relacl
          FROM member AS m JOIN pg_catalog.pg_class AS c ON c.oid = m.objid AND m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
         WHERE c.relkind IN ('r', 'v', 'S')
           -- a sequence owned by a column follows its table
           AND NOT (c.relkind = 'S' AND EXISTS (
                SELECT FROM pg_catalog.pg_depend AS s
                 WHERE s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.objid = c.oid
                   AND s.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.deptype IN ('a', 'i')))
        UNION ALL
        SELECT 'ROUTINE', 'ROUTINE', p.oid::pg_catalog.regprocedure::text, p.proowner, p.proacl
          FROM member AS m JOIN pg_catalog.pg_proc AS p ON p.oid = m.objid AND m.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
        UNION ALL
        SELECT 'TYPE', 'TYPE', pg_catalog.format_type(t.oid, NULL), t.typowner, t.typacl
          FROM member AS m JOIN pg_catalog.pg_type AS t ON t.oid = m.objid AND m.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
         WHERE t.typtype IN ('c', 'd', 'e') AND (t.typtype <> 'c' OR EXISTS (
                SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
    LOOP
        CONTINUE WHEN object.owner = owner_oid;
        FOR grantee IN
            SELECT DISTINCT a.grantee FROM pg_catalog.aclexplode(object.acl) AS a WHERE a.grantee <> object.owner
        LOOP
            -- names come from the catalogue, quoted there
            EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM %s', object.kind, object.name,
                CASE grantee.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee.grantee)) END);
        END LOOP;
        EXECUTE pg_catalog.format('ALTER %s %s OWNER TO grownext_owner', object.owned_as, object.name);
        IF object.kind IN ('ROUTINE', 'TYPE') THEN
            EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM PUBLIC', object.kind, object.name);
        END IF;
    END LOOP;
END
$$;

-- Rows of a dump come in any order (pg_restore -j) and start nothing: see src/core/restore.c.
DO $$
DECLARE
    loaded record;
BEGIN
    FOR loaded IN
        SELECT DISTINCT t.tgrelid::pg_catalog.regclass::text AS name
          FROM pg_catalog.pg_trigger AS t
          JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = '_grownext'
         WHERE c.relkind = 'r' AND t.tgenabled = 'O'
    LOOP
        EXECUTE pg_catalog.format('CREATE OR REPLACE TRIGGER core_load_before BEFORE INSERT ON %s FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_load()', loaded.name);
        EXECUTE pg_catalog.format('CREATE OR REPLACE TRIGGER core_load_after AFTER INSERT ON %s FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_load()', loaded.name);
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER core_load_before, ENABLE ALWAYS TRIGGER core_load_after', loaded.name);
    END LOOP;
END
$$;

-- Schemas. Nobody gets _grownext.
GRANT USAGE ON SCHEMA grownext TO grownext_admin, grownext_service, grownext_worker, grownext_auditor, grownext_monitor, grownext_user, grownext_anon;
GRANT USAGE ON SCHEMA grownext_api TO grownext_admin, grownext_service, grownext_user, grownext_anon;
GRANT USAGE ON TYPE grownext.setup_step TO grownext_admin;
GRANT USAGE ON TYPE grownext.status_item, grownext.worker_info TO grownext_admin, grownext_monitor;

-- core: whoever an application lets in may ask who is calling
GRANT EXECUTE ON FUNCTION
    grownext.extension_version(),
    grownext.claims(), grownext.claim(text),
    grownext.current_subject(), grownext.current_user_id(), grownext.current_tenant(),
    grownext.current_session(), grownext.current_actor(),
    grownext.has_scope(text), grownext.scope_require(text)
    TO grownext_admin, grownext_service, grownext_worker, grownext_auditor, grownext_monitor, grownext_user, grownext_anon;
GRANT EXECUTE ON FUNCTION grownext.pre_request() TO grownext_service, grownext_user, grownext_anon;
GRANT EXECUTE ON FUNCTION
    grownext.gateway_trust(name), grownext.gateway_distrust(name),
    grownext.event_route(text, text, jsonb), grownext.event_unroute(text, text),
    grownext.capability_grant(text, name), grownext.capability_revoke(text, name),
    grownext.setup(text, text[], jsonb), grownext.fence(text), grownext.unfence(text, text)
    TO grownext_admin;
GRANT EXECUTE ON FUNCTION grownext.status(), grownext.workers() TO grownext_admin, grownext_monitor;

-- queue: enqueue and its like go to other roles by queue_grant()
GRANT USAGE ON TYPE grownext.job TO grownext_admin, grownext_service, grownext_worker, grownext_user;
GRANT USAGE ON TYPE grownext.job_state, grownext.queue_state TO grownext_admin, grownext_service, grownext_worker, grownext_monitor;
GRANT EXECUTE ON FUNCTION grownext.current_job()
    TO grownext_admin, grownext_service, grownext_worker, grownext_user;
GRANT EXECUTE ON FUNCTION
    grownext.enqueue(text, jsonb, timestamptz, int, text, text, int, timestamptz, text, interval, bigint[], bigint, uuid),
    grownext.enqueue_many(text, jsonb[], timestamptz, int, text[], text[]),
    grownext.batch_create(text, jsonb),
    grownext.queue_handle(text, regprocedure, jsonb, name),
    grownext.job_get(bigint), grownext.job_cancel(bigint), grownext.job_redrive(text, bigint[]),
    grownext.job_fetch(text, int, interval, text), grownext.job_complete(bigint, bigint, jsonb),
    grownext.job_complete_many(bigint[], bigint[], jsonb[]), grownext.job_fail(bigint, bigint, text, interval, boolean),
    grownext.job_extend(bigint[], bigint[], interval), grownext.job_snooze(bigint, bigint, interval),
    grownext.job_bind(bigint, bigint)
    TO grownext_admin, grownext_service;
GRANT EXECUTE ON PROCEDURE grownext.job_wait(text, interval, boolean) TO grownext_admin, grownext_service;
GRANT EXECUTE ON FUNCTION grownext.job_progress(bigint, jsonb)
    TO grownext_admin, grownext_service, grownext_worker, grownext_user;
GRANT EXECUTE ON FUNCTION
    grownext.queue_define(text, jsonb),
    grownext.queue_pause(text), grownext.queue_resume(text), grownext.queue_purge(text), grownext.queue_drop(text),
    grownext.queue_grant(text, name, text), grownext.queue_revoke(text, name, text)
    TO grownext_admin;
GRANT USAGE ON TYPE grownext.queue_period TO grownext_admin, grownext_service, grownext_monitor;
GRANT EXECUTE ON FUNCTION grownext.queue_stats(text), grownext.queue_history(text, timestamptz, timestamptz, interval) TO grownext_admin, grownext_service, grownext_monitor;
GRANT SELECT ON grownext.queue TO grownext_admin, grownext_service, grownext_monitor;
GRANT SELECT ON grownext.dead_letter TO grownext_admin, grownext_service;

-- stream: append and read go to other roles by stream_grant()
GRANT USAGE ON TYPE grownext.stream_entry TO grownext_admin, grownext_service;
GRANT EXECUTE ON FUNCTION
    grownext.stream_append(text, jsonb, text), grownext.stream_append_many(text, jsonb[], text[]),
    grownext.stream_read(text, text, int, interval), grownext.stream_ack(text, text, bigint, bigint),
    grownext.stream_extend(text, text, bigint, interval), grownext.stream_seek(text, text, bigint, timestamptz),
    grownext.stream_consumer_drop(text, text)
    TO grownext_admin, grownext_service;
GRANT EXECUTE ON PROCEDURE grownext.stream_wait(text, text, interval, boolean) TO grownext_admin, grownext_service;
GRANT EXECUTE ON FUNCTION
    grownext.stream_define(text, jsonb), grownext.stream_drop(text),
    grownext.stream_grant(text, name, text), grownext.stream_revoke(text, name, text)
    TO grownext_admin;
GRANT USAGE ON TYPE grownext.stream_state TO grownext_admin, grownext_service, grownext_monitor;
GRANT EXECUTE ON FUNCTION grownext.stream_stats(text) TO grownext_admin, grownext_service, grownext_monitor;
GRANT SELECT ON grownext.stream TO grownext_admin, grownext_service, grownext_monitor;

-- schedule: whoever defines one, chooses the tenant that its jobs act for
GRANT EXECUTE ON FUNCTION grownext.cron_next(text, timestamptz, text, int)
    TO grownext_admin, grownext_service, grownext_worker, grownext_auditor, grownext_monitor, grownext_user;
GRANT EXECUTE ON FUNCTION
    grownext.schedule_define(text, text, text, jsonb, text, jsonb),
    grownext.schedule_pause(text), grownext.schedule_resume(text), grownext.schedule_drop(text),
    grownext.schedule_run(text), grownext.schedule_backfill(text, timestamptz, timestamptz)
    TO grownext_admin, grownext_service;
GRANT SELECT ON grownext.schedule, grownext.schedule_fire TO grownext_admin, grownext_service, grownext_monitor;
-- called in the view, with the reader's rights
GRANT EXECUTE ON FUNCTION _grownext.core_caller_has(text) TO grownext_monitor;

-- tenant: what members may do is judged by their role
GRANT EXECUTE ON FUNCTION grownext.has_permission(text)
    TO grownext_admin, grownext_service, grownext_worker, grownext_user, grownext_anon;
GRANT EXECUTE ON FUNCTION
    grownext.tenant_create(text, text, uuid, jsonb, uuid, text, uuid, text, text, text), grownext.slug_resolve(text),
    grownext.tenant_suspend(uuid, text), grownext.tenant_resume(uuid), grownext.tenant_restore(uuid),
    grownext.member_add(uuid, uuid, text), grownext.invitation_message(uuid),
    grownext.domain_verify(uuid, text), grownext.domain_match(uuid), grownext.domain_join(uuid, uuid)
    TO grownext_admin, grownext_service;
GRANT EXECUTE ON FUNCTION
    grownext.tenant_update(uuid, jsonb), grownext.tenant_delete(uuid, interval),
    grownext.role_define(text, text[], uuid), grownext.role_drop(text, uuid),
    grownext.member_set_role(uuid, uuid, text), grownext.member_remove(uuid, uuid),
    grownext.ownership_offer(uuid, uuid), grownext.ownership_accept(uuid), grownext.ownership_withdraw(uuid),
    grownext.invitation_create(uuid, text, text, interval), grownext.invitation_accept(text, uuid),
    grownext.invitation_resend(uuid), grownext.invitation_revoke(uuid),
    grownext.domain_claim(uuid, text), grownext.domain_update(uuid, text, jsonb), grownext.domain_release(uuid, text)
    TO grownext_admin, grownext_service, grownext_user;
-- they act on tables that the caller owns, with the caller's rights
GRANT EXECUTE ON FUNCTION grownext.tenant_isolate(regclass, name, jsonb), grownext.tenant_unisolate(regclass)
    TO grownext_admin, grownext_service, grownext_user;
GRANT USAGE ON TYPE grownext.isolation_finding, grownext.invitation_secret TO grownext_admin, grownext_service, grownext_user;
GRANT USAGE ON TYPE grownext.slug_target, grownext.invitation_message, grownext.domain_match TO grownext_admin, grownext_service;
GRANT SELECT ON grownext.tenant, grownext.member, grownext.role, grownext.ownership_offer, grownext.invitation, grownext.domain
    TO grownext_admin, grownext_service, grownext_auditor, grownext_user;
-- called in views, with the reader's rights
GRANT EXECUTE ON FUNCTION
    _grownext.tenant_serves_all(), _grownext.tenant_sees_all(), _grownext.tenant_caller_may(text), _grownext.tenant_builtin_permissions(text)
    TO grownext_admin, grownext_service, grownext_auditor, grownext_user;

-- entitlement
GRANT EXECUTE ON FUNCTION grownext.entitled(text, uuid), grownext.entitled_tenant(text)
    TO grownext_admin, grownext_service, grownext_worker, grownext_user, grownext_anon;
GRANT EXECUTE ON FUNCTION
    grownext.entitlement(text, uuid, timestamptz, uuid), grownext.entitlement_require(text, uuid),
    grownext.entitlements(uuid, timestamptz), grownext.entitlement_explain(text, uuid, timestamptz),
    grownext.entitlement_claims(uuid, uuid), grownext.entitlement_claims_check(jsonb), grownext.entitlement_catalogue(),
    grownext.usage_consume(text, bigint, text, uuid), grownext.usage_require(text, bigint, text, uuid),
    grownext.usage_reserve(text, bigint, interval, text, uuid), grownext.usage_commit(uuid, bigint), grownext.usage_release(uuid)
    TO grownext_admin, grownext_service, grownext_user;
-- who may give units back or change what is granted, could grant himself anything
GRANT EXECUTE ON FUNCTION
    grownext.product_define(text, text), grownext.feature_define(text, text, text, jsonb), grownext.bundle_define(text, jsonb, jsonb),
    grownext.bundle_migrate(text, int, uuid, text), grownext.subscription_preview(uuid, text, int),
    grownext.subscription_start(uuid, text, int, jsonb), grownext.subscription_change(uuid, text, int, text, jsonb), grownext.subscription_end(uuid, text),
    grownext.entitlement_grant(uuid, text, jsonb, timestamptz, timestamptz, text, uuid), grownext.entitlement_revoke(uuid),
    grownext.entitlement_block(uuid, text, text), grownext.usage_return(text, bigint, text, uuid),
    grownext.credit_grant(uuid, text, bigint, timestamptz, int, text, text),
    grownext.usage_record(text, bigint, text, timestamptz, uuid), grownext.usage_set(text, bigint, uuid)
    TO grownext_admin, grownext_service;
GRANT EXECUTE ON FUNCTION
    grownext.entitlement_protect(regclass, text, name), grownext.entitlement_unprotect(regclass, text)
    TO grownext_admin, grownext_service, grownext_user;
-- they act on tables that the caller owns; who may protect a table could give units back
GRANT EXECUTE ON FUNCTION
    grownext.limit_protect(regclass, text, name), grownext.limit_unprotect(regclass, text), grownext.limit_recount(text), grownext.limit_count()
    TO grownext_admin, grownext_service;
GRANT EXECUTE ON FUNCTION grownext.policy_lint() TO grownext_admin, grownext_service, grownext_auditor, grownext_monitor;
GRANT EXECUTE ON FUNCTION grownext.usage_report(timestamptz, timestamptz, uuid, text, text) TO grownext_admin, grownext_service, grownext_auditor, grownext_user;
GRANT USAGE ON TYPE grownext.usage_bucket TO grownext_admin, grownext_service, grownext_auditor, grownext_user;
GRANT USAGE ON TYPE grownext.policy_problem TO grownext_admin, grownext_service, grownext_auditor, grownext_monitor;
GRANT USAGE ON TYPE grownext.subscription_effect TO grownext_admin, grownext_service;
GRANT USAGE ON TYPE grownext.entitlement_state, grownext.usage_result, grownext.entitlement_claims_state TO grownext_admin, grownext_service, grownext_user;
GRANT SELECT ON grownext.product, grownext.feature, grownext.bundle, grownext.subscription, grownext.entitlement_override, grownext.usage_period,
    grownext.credit, grownext.reservation
    TO grownext_admin, grownext_service, grownext_auditor, grownext_user;
GRANT SELECT ON grownext.product_entitlement TO grownext_admin, grownext_service, grownext_user;
-- called in views, with the reader's rights
GRANT EXECUTE ON FUNCTION _grownext.core_now() TO grownext_admin, grownext_service, grownext_auditor, grownext_user;

-- crypto
GRANT EXECUTE ON FUNCTION grownext.secret_set(text, text, text), grownext.secret_drop(text) TO grownext_admin;
GRANT SELECT ON grownext.secret TO grownext_admin, grownext_service;
-- a view's functions are called with its reader's rights
GRANT EXECUTE ON FUNCTION _grownext.core_now() TO grownext_admin, grownext_service;

-- jwt: keys are administered, tokens are minted by trusted back ends, public keys are public
GRANT EXECUTE ON FUNCTION
    grownext.key_create(text, text, text, jsonb), grownext.key_rotate(text, boolean), grownext.key_revoke(text, text),
    grownext.key_import(text, text), grownext.key_rewrap(int),
    grownext.key_policy_define(text, jsonb), grownext.token_profile_define(text, jsonb)
    TO grownext_admin;
GRANT SELECT ON grownext.signing_key, grownext.key_policy, grownext.token_profile
    TO grownext_admin, grownext_service, grownext_auditor, grownext_monitor;
GRANT EXECUTE ON FUNCTION
    grownext.jwt_mint(text, jsonb, text, interval, text), grownext.jws_sign(bytea, jsonb, jsonb),
    grownext.act_as(text, uuid, jsonb, text)
    TO grownext_admin, grownext_service;
GRANT EXECUTE ON FUNCTION
    grownext.jwt_verify(text, text, text, text), grownext.jwt_inspect(text, text, text, text),
    grownext.jws_verify(text, jsonb), grownext.jwk_thumbprint(jsonb),
    grownext.authenticate(text, text)
    TO grownext_admin, grownext_service, grownext_worker, grownext_user, grownext_anon;
GRANT USAGE ON TYPE grownext.token_info, grownext.jws_result
    TO grownext_admin, grownext_service, grownext_worker, grownext_user, grownext_anon;
GRANT EXECUTE ON FUNCTION grownext.jwks(text), grownext.discovery()
    TO grownext_admin, grownext_service, grownext_worker, grownext_auditor, grownext_monitor, grownext_user, grownext_anon;

-- account
GRANT EXECUTE ON FUNCTION
    grownext.user_create(text, text, uuid, text, jsonb), grownext.user_update(uuid, jsonb),
    grownext.user_disable(uuid), grownext.user_enable(uuid), grownext.user_delete(uuid)
    TO grownext_admin, grownext_service;
GRANT SELECT ON grownext.user_account, grownext.totp_factor TO grownext_admin, grownext_service, grownext_auditor, grownext_user;
-- who makes a link or delivers one, holds what signs its user in
GRANT EXECUTE ON FUNCTION grownext.login_link_create(text, interval, inet), grownext.login_link_deliver(uuid)
    TO grownext_admin, grownext_service;
GRANT USAGE ON TYPE grownext.login_link_message TO grownext_admin, grownext_service;
-- an end user for the own account
GRANT EXECUTE ON FUNCTION
    grownext.totp_enroll(uuid, jsonb), grownext.totp_verify(uuid, text),
    grownext.totp_recovery_codes(uuid), grownext.totp_disable(uuid)
    TO grownext_admin, grownext_service, grownext_user;
GRANT EXECUTE ON FUNCTION grownext.has_step_up(text, interval), grownext.require_step_up(text, interval)
    TO grownext_admin, grownext_service, grownext_worker, grownext_auditor, grownext_monitor, grownext_user, grownext_anon;
-- a view's functions are called with its reader's rights
GRANT EXECUTE ON FUNCTION _grownext.core_caller_has(text) TO grownext_admin, grownext_service, grownext_auditor, grownext_user;

-- session
GRANT EXECUTE ON FUNCTION grownext.session_create(uuid, uuid, jsonb) TO grownext_admin, grownext_service;
GRANT EXECUTE ON FUNCTION grownext.session_refresh(text) TO grownext_service, grownext_user, grownext_anon;
GRANT EXECUTE ON FUNCTION
    grownext.session_switch_tenant(uuid, uuid),
    grownext.session_revoke(uuid, text), grownext.session_revoke_all(uuid, uuid, uuid, text)
    TO grownext_admin, grownext_service, grownext_user;
GRANT EXECUTE ON FUNCTION grownext.login_link_redeem(text, jsonb) TO grownext_admin, grownext_service, grownext_user, grownext_anon;
GRANT EXECUTE ON FUNCTION grownext.session_step_up(text, uuid) TO grownext_admin, grownext_service, grownext_user;
GRANT EXECUTE ON FUNCTION grownext.session_elevate(uuid, text, text[]) TO grownext_admin, grownext_service;
GRANT SELECT ON grownext.session TO grownext_admin, grownext_service, grownext_auditor, grownext_user;
-- a credential is presented, and decides
GRANT EXECUTE ON FUNCTION
    grownext.token(text, text, text, text, text, text, text, text, text, text, text, text, text, text, text, text, text)
    TO grownext_service, grownext_user, grownext_anon;
GRANT EXECUTE ON FUNCTION
    grownext.token_introspect(text, text, text, text, text, text), grownext.token_revoke(text, text)
    TO grownext_admin, grownext_service, grownext_user, grownext_anon;
GRANT EXECUTE ON FUNCTION
    grownext.client_create(text, text[], jsonb), grownext.client_update(text, jsonb),
    grownext.client_disable(text), grownext.client_enable(text),
    grownext.client_rotate_secret(text, interval), grownext.client_delete(text)
    TO grownext_admin;
GRANT USAGE ON TYPE grownext.client_credentials TO grownext_admin;
GRANT SELECT ON grownext.client TO grownext_admin, grownext_service, grownext_auditor;
-- a view's functions are called with its reader's rights
GRANT EXECUTE ON FUNCTION _grownext.core_now() TO grownext_auditor;

-- API keys: end users make and end keys as far as their role in the tenant permits
GRANT EXECUTE ON FUNCTION grownext.api_key_verify(text, text, inet), grownext.authenticate_api_key(text, text, inet)
    TO grownext_admin, grownext_service, grownext_worker, grownext_user, grownext_anon;
GRANT EXECUTE ON FUNCTION
    grownext.api_key_create(text, text[], timestamptz, text, jsonb, uuid),
    grownext.api_key_reroll(uuid, interval), grownext.api_key_revoke(uuid)
    TO grownext_admin, grownext_service, grownext_user;
GRANT USAGE ON TYPE grownext.api_key_secret TO grownext_admin, grownext_service, grownext_user;
GRANT SELECT ON grownext.api_key TO grownext_admin, grownext_service, grownext_auditor, grownext_user;
-- called in the view, with the reader's rights
GRANT EXECUTE ON FUNCTION _grownext.session_api_key_reads() TO grownext_admin, grownext_service, grownext_auditor, grownext_user;

-- audit
GRANT EXECUTE ON FUNCTION
    grownext.audit_append(text, text, jsonb, uuid, text, timestamptz, text, text, jsonb, boolean),
    grownext.audit_append_many(jsonb)
    TO grownext_admin, grownext_service, grownext_worker, grownext_auditor, grownext_user;
-- a view's functions are called with its reader's rights
GRANT SELECT ON grownext.audit_event TO grownext_admin, grownext_service, grownext_auditor, grownext_user;
GRANT EXECUTE ON FUNCTION
    _grownext.audit_visible(),
    grownext.audit_search(jsonb, timestamptz, timestamptz, text, int, uuid)
    TO grownext_admin, grownext_service, grownext_auditor, grownext_user;

-- billing
GRANT EXECUTE ON FUNCTION
    grownext.billing_provider_define(text, text, jsonb),
    grownext.billing_price_map(text, text, text, jsonb)
    TO grownext_admin;
GRANT EXECUTE ON FUNCTION
    grownext.billing_customer_link(text, text, uuid),
    grownext.billing_replay(text, text)
    TO grownext_admin, grownext_service;
GRANT EXECUTE ON FUNCTION grownext.billing_webhook(text, jsonb, bytea) TO grownext_service;
GRANT SELECT ON grownext.billing_event TO grownext_admin, grownext_service;

-- Last: roles that hold a capability get what is new, and every backend looks at
-- the version of the SQL again.
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN SELECT c.* FROM _grownext.core_capability AS c JOIN pg_catalog.pg_roles AS r ON r.rolname = c.role_name LOOP
        PERFORM _grownext.core_capability_apply(held.capability, held.role_name);
    END LOOP;
END
$$;
SELECT _grownext.core_touch('core_marker_extension');
