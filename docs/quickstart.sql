-- # Quickstart: a first afternoon
--
-- For an application developer. You have a table. By the evening each tenant sees its own rows, a plan decides who may do what, a quota is counted, an audit trail grows, and a job runs, all in the transactions of your application.
--
-- runs as acme_owner in database acme
-- The page is made from [quickstart.sql](quickstart.sql), a file that psql can run: `psql -d acme -U acme_owner -f quickstart.sql`. What you see below a statement is what it printed; functions that return nothing print nothing here. `docs/check` runs the file with every `make test` and compares.
--
-- Before it, a DBA did what [install](install.md) says, and made four login roles, none of them a superuser:
--
-- | Role | Is |
-- | --- | --- |
-- | `acme_owner` | the owner of the application's tables, who runs its migrations |
-- | `acme_admin` | the operator of the platform |
-- | `acme_service` | the trusted back end: it says on whose behalf it acts |
-- | `acme_app` | serves signed-in users behind a gateway |
--
-- ## 1. Your table
--
-- A column for the tenant is all that the platform asks for. The default saves you from writing it.

\connect - acme_owner
CREATE TABLE app.project (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL DEFAULT grownext.current_tenant(),
    name      text NOT NULL
);
CREATE INDEX project_tenant_id_idx ON app.project (tenant_id);
GRANT SELECT, INSERT, UPDATE, DELETE ON app.project TO acme_service, acme_app;
SELECT * FROM grownext.tenant_isolate('app.project');

-- `tenant_isolate` answers with what you should look at, such as a missing index; here there is nothing. From now on a row is seen and written by its tenant alone. Without a tenant nobody sees anything, you, the owner, included:

SELECT count(*) FROM app.project;

-- ## 2. Two tenants
--
-- Users and tenants are the platform's. The back end makes them; the identifiers are yours to give, or are made for you.

\connect - acme_service
SELECT grownext.user_create('ada@acme.example', 'Ada', id => '5a1f0d0e-0000-4000-8000-00000000ada0');
SELECT grownext.user_create('bob@globex.example', 'Bob', id => '5a1f0d0e-0000-4000-8000-00000000b0b0');
SELECT grownext.tenant_create('acme', 'Acme GmbH', owner_id => '5a1f0d0e-0000-4000-8000-00000000ada0', id => '7d6f3f0e-0000-4000-8000-00000000acee');
SELECT grownext.tenant_create('globex', 'Globex Ltd', owner_id => '5a1f0d0e-0000-4000-8000-00000000b0b0', id => '7d6f3f0e-0000-4000-8000-00000000910b');

-- In a request, the back end says on whose behalf it acts. That holds for one transaction, and is gone after it. A signed-in user behind a gateway brings a token instead, and says nothing: see [context](context.md).

BEGIN;
SELECT grownext.act_as('5a1f0d0e-0000-4000-8000-00000000ada0', '7d6f3f0e-0000-4000-8000-00000000acee');
INSERT INTO app.project (name) VALUES ('Rocket'), ('Anvil');
SELECT id, name FROM app.project ORDER BY id;
COMMIT;

-- Bob sees none of it, and cannot write into another tenant either:

BEGIN;
SELECT grownext.act_as('5a1f0d0e-0000-4000-8000-00000000b0b0', '7d6f3f0e-0000-4000-8000-00000000910b');
SELECT count(*) FROM app.project;
INSERT INTO app.project (tenant_id, name) VALUES ('7d6f3f0e-0000-4000-8000-00000000acee', 'Trojan horse');
ROLLBACK;

-- ## 3. Plans
--
-- A product has features; a bundle is a plan: which features, and how much. The operator defines them, in a migration if you like: each `*_define` may run again.

\connect - acme_admin
SELECT grownext.product_define('projects', 'Projects');
SELECT grownext.feature_define('projects.export', 'projects', 'boolean');
SELECT grownext.feature_define('projects.builds', 'projects', 'metered');
SELECT grownext.bundle_define('team', '{"projects.export": true, "projects.builds": {"quota": 3, "period": "month"}}');

-- Acme buys the plan. Here the back end says so; [billing](billing.md) shows how a payment provider's event does it.

\connect - acme_service
SELECT grownext.entitled('projects.export', '7d6f3f0e-0000-4000-8000-00000000acee');
SELECT grownext.subscription_start('7d6f3f0e-0000-4000-8000-00000000acee', 'team') IS NOT NULL AS started;
SELECT grownext.entitled('projects.export', '7d6f3f0e-0000-4000-8000-00000000acee');

-- A quota is consumed in your transaction. The answer says what is left, and why not:

SELECT allowed, used, remaining, reason FROM grownext.usage_consume('projects.builds', 2, tenant_id => '7d6f3f0e-0000-4000-8000-00000000acee');
SELECT allowed, used, remaining, reason FROM grownext.usage_consume('projects.builds', 2, tenant_id => '7d6f3f0e-0000-4000-8000-00000000acee');

-- Two were used, one is left. The second call asked for two and took none: a consume is all or nothing.
--
-- ## 4. A job
--
-- A handler is a function of yours. It runs as you, the role that registers it, and in the context of whoever enqueued the job: it sees that tenant's rows and no others.

\connect - acme_admin
SELECT grownext.queue_define('build');
SELECT grownext.queue_grant('build', 'acme_owner', 'work');
SELECT grownext.queue_grant('build', 'acme_service', 'enqueue');

\connect - acme_owner
CREATE TABLE app.build (
    project_id bigint NOT NULL,
    tenant_id  uuid NOT NULL DEFAULT grownext.current_tenant(),
    built_for  text NOT NULL DEFAULT grownext.current_actor(),
    built_as   name NOT NULL DEFAULT session_user
);
CREATE INDEX build_tenant_id_idx ON app.build (tenant_id);
SELECT * FROM grownext.tenant_isolate('app.build');
GRANT SELECT ON app.build TO acme_service;
CREATE FUNCTION app.build_project(payload jsonb) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO app.build (project_id) SELECT id FROM app.project WHERE name = payload ->> 'project';
    SELECT grownext.audit_append('project.built', 'project:' || (payload ->> 'project'));
END;
SELECT grownext.queue_handle('build', 'app.build_project(jsonb)');

-- ## 5. All of it, or none
--
-- This is what one database can do and five services cannot. One transaction consumes the quota, writes the audit trail and enqueues the job, beside a change of your own:

\connect - acme_service
BEGIN;
SELECT grownext.act_as('5a1f0d0e-0000-4000-8000-00000000ada0', '7d6f3f0e-0000-4000-8000-00000000acee');
UPDATE app.project SET name = 'Rocket II' WHERE name = 'Rocket';
SELECT used, remaining FROM grownext.usage_require('projects.builds');
SELECT grownext.audit_append('project.build_requested', 'project:Rocket II') IS NOT NULL AS noted;
SELECT grownext.enqueue('build', '{"project": "Rocket II"}') IS NOT NULL AS enqueued;
COMMIT;

-- hidden

DO $$
DECLARE
    deadline CONSTANT timestamptz := clock_timestamp() + interval '60 seconds';
BEGIN
    WHILE (SELECT ready + running + scheduled FROM grownext.queue_stats('build')) > 0 LOOP
        IF clock_timestamp() > deadline THEN
            RAISE EXCEPTION 'the job did not run';
        END IF;
        PERFORM pg_sleep(0.05);
    END LOOP;
END
$$;

-- A moment later a worker has run the job, for Ada, as `acme_owner`:

BEGIN;
SELECT grownext.act_as('5a1f0d0e-0000-4000-8000-00000000ada0', '7d6f3f0e-0000-4000-8000-00000000acee');
SELECT p.name, b.built_for, b.built_as FROM app.build AS b JOIN app.project AS p ON p.id = b.project_id;
SELECT actor, session_role, action, target FROM grownext.audit_event WHERE action LIKE 'project.%' ORDER BY id;
COMMIT;

-- The quota is used up. The same transaction now fails at `usage_require`, and leaves nothing: no new name, no event, no job.

BEGIN;
SELECT grownext.act_as('5a1f0d0e-0000-4000-8000-00000000ada0', '7d6f3f0e-0000-4000-8000-00000000acee');
UPDATE app.project SET name = 'Rocket III' WHERE name = 'Rocket II';
SELECT grownext.enqueue('build', '{"project": "Rocket III"}') IS NOT NULL AS enqueued;
SELECT used, remaining FROM grownext.usage_require('projects.builds');
COMMIT;

BEGIN;
SELECT grownext.act_as('5a1f0d0e-0000-4000-8000-00000000ada0', '7d6f3f0e-0000-4000-8000-00000000acee');
SELECT name FROM app.project ORDER BY id;
COMMIT;

-- ## 6. Where next
--
-- - Tokens for your users, and any JWT library as the judge: [session](session.md), [jwt](jwt.md).
-- - Payment events instead of `subscription_start`: [billing](billing.md).
-- - Retries, priorities, dead letters: [queue](queue.md).
-- - What each error code means: [errors](errors.md).
