-- The API of component billing: its signatures, who may call what, and its refusals.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE gt_admin LOGIN IN ROLE grownext_admin;
CREATE ROLE gt_service LOGIN IN ROLE grownext_service;
CREATE ROLE gt_user LOGIN IN ROLE grownext_user;
CREATE ROLE gt_auditor LOGIN IN ROLE grownext_auditor;
CREATE ROLE gt_anon LOGIN IN ROLE grownext_anon;
CREATE ROLE gt_worker LOGIN IN ROLE grownext_worker;
CREATE ROLE gt_monitor LOGIN IN ROLE grownext_monitor;

-- Signatures are a promise -------------------------------------------------------

SELECT is(pg_get_function_arguments(d.name::regproc) || ' -> ' || pg_get_function_result(d.name::regproc), d.shape, d.name) FROM (VALUES
    ('grownext.billing_provider_define', 'provider text, secret text, options jsonb DEFAULT ''{}''::jsonb -> void'),
    ('grownext.billing_webhook', 'provider text, headers jsonb, body bytea -> jsonb'),
    ('grownext.billing_customer_link', 'provider text, customer_id text, tenant_id uuid -> void'),
    ('grownext.billing_price_map', 'provider text, price_id text, bundle text, options jsonb DEFAULT ''{}''::jsonb -> void'),
    ('grownext.billing_replay', 'provider text, event_id text -> void')) AS d (name, shape);
SELECT columns_are('grownext', 'billing_event', '{provider,event_id,type,state,error,received_at,applied_at,occurred_at,object_id,tenant_id}'::name[]);

-- Who may call what --------------------------------------------------------------

SELECT is(
    ARRAY(SELECT r::text FROM unnest('{gt_admin,gt_service,gt_user,gt_auditor,gt_anon,gt_worker,gt_monitor}'::text[]) AS r
           WHERE has_function_privilege(r, g.name::regproc, 'EXECUTE')),
    g.roles, g.name || ' is for ' || g.roles::text)
  FROM (VALUES
    ('grownext.billing_provider_define', '{gt_admin}'::text[]),
    ('grownext.billing_price_map', '{gt_admin}'),
    ('grownext.billing_customer_link', '{gt_admin,gt_service}'),
    ('grownext.billing_replay', '{gt_admin,gt_service}'),
    ('grownext.billing_webhook', '{gt_service}'),
    ('_grownext.billing_apply', '{}'),
    ('_grownext.billing_act_as', '{}'),
    ('_grownext.billing_stripe_verify', '{}')) AS g (name, roles);
SELECT is(ARRAY(SELECT r::text FROM unnest('{gt_admin,gt_service,gt_user,gt_auditor,gt_anon,gt_worker,gt_monitor}'::text[]) AS r
                 WHERE has_table_privilege(r, 'grownext.billing_event', 'SELECT, INSERT, UPDATE, DELETE')),
          '{gt_admin,gt_service}', 'billing_event is read by these');

-- The internal queue is there, worked by the owner, and closed to callers ---------

SELECT is((SELECT format('%s %s', handler, run_as) FROM _grownext.queue_queue WHERE queue = 'grownext.billing'),
          '_grownext.billing_apply grownext_owner', 'queue grownext.billing is worked by the owner');
SET SESSION AUTHORIZATION gt_service;
SELECT throws_ok($$ SELECT grownext.enqueue('grownext.billing', '{"provider": "stripe", "event_id": "evt_1"}') $$, '42501', NULL, 'nobody enqueues into it by name');
RESET SESSION AUTHORIZATION;

-- Refusals -----------------------------------------------------------------------

SET SESSION AUTHORIZATION gt_service;
SELECT throws_ok($$ SELECT grownext.billing_webhook('stripe', '{}', 'x') $$, 'NX003', NULL, 'no provider is defined yet');
SELECT throws_ok($$ SELECT grownext.billing_customer_link('stripe', 'cus_1', '11111111-1111-4111-8111-111111111111') $$, 'NX003', NULL, 'so no customer is linked');
SELECT throws_ok($$ SELECT grownext.billing_replay('stripe', 'evt_1') $$, '42704', NULL, 'and no event replayed');
SET SESSION AUTHORIZATION gt_admin;
SELECT throws_ok($$ SELECT grownext.billing_provider_define('chargebee', 's') $$, '0A000', NULL, 'chargebee is not there yet');
SELECT throws_ok($$ SELECT grownext.billing_provider_define('hubspot', 's') $$, '0A000', NULL, 'nor hubspot');
SELECT throws_ok($$ SELECT grownext.billing_provider_define('generic', 's') $$, '0A000', NULL, 'nor generic');
SELECT throws_ok($$ SELECT grownext.billing_provider_define('nobody', 's') $$, '22023', NULL, 'others never will');
SELECT throws_ok($$ SELECT grownext.billing_provider_define('stripe', 'whsec_0123') $$, '22023', NULL, 'a secret is named, not given');
SELECT throws_ok($$ SELECT grownext.billing_provider_define('stripe', 's', '{"x": 1}') $$, '22023', NULL, 'unknown options are refused');
SELECT throws_ok($$ SELECT grownext.billing_provider_define('stripe', 's', '{"livemode": "yes"}') $$, '22023', NULL, 'and wrong types');
SELECT throws_ok($$ SELECT grownext.billing_provider_define('stripe', 's', '{"past_due_grace": "soon"}') $$, '22007', NULL, 'and what is no interval');
SELECT lives_ok($$ SELECT grownext.billing_provider_define('stripe', 'stripe-webhook') $$, 'stripe is defined');
SELECT lives_ok($$ SELECT grownext.billing_provider_define('stripe', 'stripe-webhook') $$, 'and may be defined again');
SELECT throws_ok($$ SELECT grownext.billing_price_map('stripe', 'price_1', 'nothing') $$, '42704', NULL, 'a price is mapped to a bundle that exists');
SELECT throws_ok($$ SELECT grownext.billing_price_map('stripe', NULL, NULL) $$, '22004', NULL, 'and has a name');
SELECT lives_ok($$ SELECT grownext.billing_price_map('stripe', 'price_1', NULL) $$, 'or to none at all');
SET SESSION AUTHORIZATION gt_service;
SELECT throws_ok($$ SELECT grownext.billing_customer_link('stripe', 'cus_1', '11111111-1111-4111-8111-111111111111') $$, '42704', NULL, 'a customer is linked to a tenant that exists');
SELECT throws_ok($$ SELECT grownext.billing_webhook('stripe', '{"stripe-signature": "t=1,v1=00"}', 'x') $$, 'NX003', NULL, 'a secret that is not stored is an error of ours, for the provider to retry');
RESET SESSION AUTHORIZATION;
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE action = 'billing.provider_defined'), 1::bigint, 'what was defined twice alike is audited once');
SELECT is((SELECT state FROM _grownext.billing_status() WHERE item = 'stripe'), 'failed', 'status names the secret that is missing');

SELECT * FROM finish();
ROLLBACK;
