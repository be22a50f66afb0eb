-- Billing: Stripe's signed events become subscriptions, in whatever order they come.
\set SHOW_CONTEXT never
\getenv builddir PG_ABS_BUILDDIR
\set key_file :builddir '/results/billing_master.key'
\setenv KEY_FILE :key_file
\! (umask 077; echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=" > "$KEY_FILE")
ALTER SYSTEM SET grownext.master_key_file = :'key_file';
SELECT pg_reload_conf();
SET client_min_messages = warning;
CREATE DATABASE regress_billing TEMPLATE template0 ENCODING 'UTF8';
\c regress_billing
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE EXTENSION grownext;
CREATE ROLE regress_billing_admin IN ROLE grownext_admin;
CREATE ROLE regress_billing_service IN ROLE grownext_service;
CREATE ROLE regress_billing_app IN ROLE grownext_user;
RESET client_min_messages;
\set acme '''0b9e2c52-8a55-4f0e-9a36-6d1d1c9f0a02'''
\getenv abs_srcdir PG_ABS_SRCDIR
\set created `cat :abs_srcdir/test/fixtures/stripe/customer.subscription.created.json`
\set deleted `cat :abs_srcdir/test/fixtures/stripe/customer.subscription.deleted.json`

-- The other end: HMAC-SHA256 (RFC 2104) as Stripe signs with it, and events made from the real one.
CREATE SCHEMA stripe;
GRANT USAGE ON SCHEMA stripe TO regress_billing_service;
CREATE FUNCTION stripe.hmac(key bytea, data bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    i bytea := key || decode(repeat('00', 64 - length(key)), 'hex');
    o bytea := i;
BEGIN
    FOR n IN 0 .. 63 LOOP
        i := set_byte(i, n, get_byte(i, n) # 54);
        o := set_byte(o, n, get_byte(o, n) # 92);
    END LOOP;
    RETURN sha256(o || sha256(i || data));
END $$;
CREATE FUNCTION stripe.signature(body bytea, secret text DEFAULT 'whsec_regress', age int DEFAULT 0) RETURNS text LANGUAGE sql AS $$
    SELECT format('t=%s,v1=%s', t, encode(stripe.hmac(secret::bytea, convert_to(t || '.', 'UTF8') || body), 'hex'))
      FROM (SELECT floor(extract(epoch FROM now()))::bigint - age) AS s (t)
$$;
CREATE FUNCTION stripe.deliver(body text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT grownext.billing_webhook('stripe', jsonb_build_object('Stripe-Signature', stripe.signature(convert_to(body, 'UTF8'))), convert_to(body, 'UTF8'))
$$;
-- what the executors do as the owner, here in order
CREATE PROCEDURE stripe.apply() LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    job record;
BEGIN
    FOR job IN SELECT id, payload FROM _grownext.queue_job WHERE queue = 'grownext.billing' ORDER BY id LOOP
        PERFORM _grownext.billing_apply(job.payload);
        DELETE FROM _grownext.queue_job WHERE id = job.id;
    END LOOP;
END $$;
ALTER PROCEDURE stripe.apply() OWNER TO grownext_owner;
CREATE FUNCTION stripe.event(base text, id text, type text, created int, object jsonb DEFAULT '{}', previous jsonb DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT jsonb_pretty(base::jsonb || jsonb_build_object('id', id, 'type', type, 'created', created,
           'data', CASE WHEN previous IS NULL THEN '{}' ELSE jsonb_build_object('previous_attributes', previous) END || jsonb_build_object('object', base::jsonb -> 'data' -> 'object' || object)))
$$;

-- a provider that nobody defined is not configured, and the call that mends it is named
SELECT grownext.billing_webhook('stripe', '{}', 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT component, item, state, hint FROM _grownext.billing_status();
SET ROLE regress_billing_admin;
SELECT grownext.billing_provider_define('chargebee', 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.billing_provider_define('paypal', 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.billing_provider_define('stripe', 'whsec_the_secret_itself');
SELECT grownext.billing_provider_define('stripe', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.billing_provider_define('stripe', 'stripe-webhook', '{"colour": "red"}');
SELECT grownext.billing_provider_define('stripe', 'stripe-webhook', '{"past_due_grace": "-1 day"}');
SELECT grownext.billing_provider_define('stripe', 'stripe-webhook');
SELECT component, item, state, detail, hint FROM _grownext.billing_status();
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SELECT component, item, state, detail, hint FROM _grownext.billing_status();
SELECT stripe.deliver(:'created');
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_billing_admin;
SELECT grownext.secret_set('stripe-webhook', 'whsec_regress');
RESET ROLE;

-- a catalogue, and a tenant
SET ROLE regress_billing_admin;
SELECT grownext.product_define('reports', 'Reports');
SELECT grownext.feature_define('reports.export', 'reports', 'boolean');
SELECT grownext.feature_define('seats', 'reports', 'limit', '{"fold": "sum"}');
SELECT grownext.bundle_define('pro', '{"reports.export": true, "seats": 5}');
SELECT grownext.bundle_define('extra', '{"seats": 1}');
RESET ROLE;
SET ROLE regress_billing_service;
SELECT grownext.tenant_create('acme', 'Acme', id => :acme) = :acme AS created;

-- what is not signed for us leaves an audit event, and nothing else
SELECT grownext.billing_webhook('stripe', '{}', convert_to(:'created', 'UTF8'));
SELECT grownext.billing_webhook('stripe', '{"Stripe-Signature": "t=1"}', convert_to(:'created', 'UTF8'));
SELECT grownext.billing_webhook('stripe', '{"Stripe-Signature": "v1=00"}', convert_to(:'created', 'UTF8'));
SELECT grownext.billing_webhook('stripe', jsonb_build_object('Stripe-Signature', s, 'stripe-signature', s), b)
  FROM convert_to(:'created', 'UTF8') AS b, stripe.signature(b) AS s;
SELECT grownext.billing_webhook('stripe', jsonb_build_object('Stripe-Signature', stripe.signature(b, 'whsec_another')), b) FROM convert_to(:'created', 'UTF8') AS b;
SELECT grownext.billing_webhook('stripe', jsonb_build_object('Stripe-Signature', stripe.signature(b)), b || '\x20') FROM convert_to(:'created', 'UTF8') AS b;
SELECT grownext.billing_webhook('stripe', jsonb_build_object('Stripe-Signature', stripe.signature(b, age => 400)), b) FROM convert_to(:'created', 'UTF8') AS b;
SELECT grownext.billing_webhook('stripe', jsonb_build_object('Stripe-Signature', stripe.signature(b, age => -400)), b) FROM convert_to(:'created', 'UTF8') AS b;
-- signed, and still no event
SELECT stripe.deliver('');
SELECT stripe.deliver('{"object": "event"');
SELECT stripe.deliver('[]');
SELECT stripe.deliver('{"object": "customer", "id": "evt_1", "type": "a", "created": 1, "data": {"object": {}}}');
SELECT stripe.deliver('{"object": "event", "id": "evt_1", "type": "a", "created": "1", "data": {"object": {}}}');
SELECT stripe.deliver('{"object": "event", "id": "evt 1", "type": "a", "created": 1, "data": {"object": {}}}');
SELECT stripe.deliver('{"object": "event", "id": "evt_1", "type": "a", "created": 1, "data": {}}');
SELECT stripe.deliver('{"object": "event", "id": "evt_\u0000", "type": "a", "created": 1, "data": {"object": {}}}');
SELECT grownext.billing_webhook('stripe', jsonb_build_object('Stripe-Signature', stripe.signature(b)), b) FROM (VALUES ('\xff'::bytea)) AS v (b);
SELECT grownext.billing_webhook('stripe', '{}', convert_to(repeat(' ', 1048577), 'UTF8'));
SELECT grownext.billing_webhook('stripe', '[]', 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.billing_webhook('stripe', NULL, 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.billing_webhook('stripe', '{}', NULL);
SELECT count(*) FROM grownext.billing_event;
SELECT change -> 'after' ->> 'error' AS error, count(*), bool_and(change -> 'after' ? 'sha256' AND change::text !~ 'cus_demo') AS without_payload
  FROM grownext.audit_event WHERE action = 'billing.webhook_refused' GROUP BY 1 ORDER BY 1;
RESET ROLE;
-- the mode of the provider decides what is let in
SET ROLE regress_billing_admin;
SELECT grownext.billing_provider_define('stripe', 'stripe-webhook', '{"livemode": true}');
RESET ROLE;
SELECT stripe.deliver(:'created');
SET ROLE regress_billing_admin;
SELECT grownext.billing_provider_define('stripe', 'stripe-webhook', '{"livemode": false}');
RESET ROLE;

-- accepted once, however often it comes and however the header is spelled; kept byte for byte
SET ROLE regress_billing_service;
SELECT stripe.deliver(:'created');
SELECT stripe.deliver(:'created');
SELECT grownext.billing_webhook('stripe', jsonb_build_object('STRIPE-SIGNATURE', stripe.signature(b)), b) FROM convert_to(:'created', 'UTF8') AS b;
RESET ROLE;
SELECT body = convert_to(:'created', 'UTF8') AS bytes_kept, signature ~ '^t=[0-9]+,v1=[0-9a-f]{64}$' AS signature_kept FROM _grownext.billing_event;
SELECT payload FROM _grownext.queue_job WHERE queue = 'grownext.billing';

-- an unknown customer parks it, a link brings it on; an unmapped price parks it again, a mapping applies it
CALL stripe.apply();
SELECT event_id, type, state, error, occurred_at, object_id FROM grownext.billing_event;
SELECT item, state, detail, hint FROM _grownext.billing_status();
SET ROLE regress_billing_service;
SELECT grownext.billing_customer_link('stripe', 'cus_demo', '0b9e2c52-8a55-4f0e-9a36-6d1d1c9f0aff');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.billing_customer_link('stripe', '', :acme);
SELECT grownext.billing_customer_link('stripe', 'cus_demo', :acme);
SELECT grownext.billing_customer_link('stripe', 'cus_demo', :acme);
RESET ROLE;
CALL stripe.apply();
SELECT state, error FROM grownext.billing_event;
SELECT item, state, detail, hint FROM _grownext.billing_status();
SET ROLE regress_billing_admin;
SELECT grownext.billing_price_map('stripe', 'price_1RgPro000000000000000000', 'enterprise');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.billing_price_map('stripe', 'price_1RgPro000000000000000000', 'pro', '{"colour": "red"}');
SELECT grownext.billing_price_map('stripe', 'price_1RgPro000000000000000000', 'pro');
RESET ROLE;
SELECT grownext.entitled('reports.export', :acme) AS before;
CALL stripe.apply();
SELECT state, error, applied_at IS NOT NULL AS applied, tenant_id FROM grownext.billing_event;
SELECT bundle, quantity, status, external_id, anchor, trial_until, paid_through FROM grownext.subscription;
SELECT grownext.entitled('reports.export', :acme) AS after;

-- applied once: neither a replay nor the job again does anything
SELECT count(*) AS audit FROM grownext.audit_event \gset
SET ROLE regress_billing_service;
SELECT grownext.billing_replay('stripe', 'evt_1RgDemo0000000000000001');
SELECT grownext.billing_replay('stripe', 'evt_nothing');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SELECT _grownext.billing_apply('{"provider": "stripe", "event_id": "evt_1RgDemo0000000000000001"}');
SELECT _grownext.billing_apply('{"provider": "stripe", "event_id": "evt_nothing"}');
SELECT count(*) - :audit AS more_audit, (SELECT count(*) FROM _grownext.queue_job WHERE queue = 'grownext.billing') AS jobs FROM grownext.audit_event;
-- the trail names the provider, and the event as the request
SELECT actor, action, request_id FROM grownext.audit_event WHERE tenant_id = :acme AND action LIKE 'subscription.%';
-- a customer with subscriptions stays whose it is
SET ROLE regress_billing_service;
SELECT grownext.tenant_create('other', 'Other', id => '0b9e2c52-8a55-4f0e-9a36-6d1d1c9f0a03') IS NOT NULL AS created;
SELECT grownext.billing_customer_link('stripe', 'cus_demo', '0b9e2c52-8a55-4f0e-9a36-6d1d1c9f0a03');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- what Stripe says of access becomes ours
CREATE FUNCTION stripe.told(id text, created int, object jsonb) RETURNS TABLE (status text, quantity int, trial_until timestamptz, paid_through timestamptz, entitled boolean) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM stripe.deliver(stripe.event(current_setting('stripe.created'), id, 'customer.subscription.updated', created, object));
    CALL stripe.apply();
    RETURN QUERY SELECT s.status, s.quantity, s.trial_until, s.paid_through, grownext.entitled('reports.export', s.tenant_id) FROM grownext.subscription AS s WHERE s.ended_at IS NULL;
END $$;
SELECT set_config('stripe.created', :'created', false) IS NOT NULL AS set;
SELECT * FROM stripe.told('evt_s01', 1751330001, '{"status": "paused"}');
SELECT * FROM stripe.told('evt_s02', 1751330002, '{"status": "active"}');
SELECT * FROM stripe.told('evt_s03', 1751330003, '{"status": "past_due"}');
SELECT * FROM stripe.told('evt_s04', 1751330004, '{"status": "unpaid"}');
SELECT * FROM stripe.told('evt_s05', 1751330005, '{"status": "incomplete"}');
SELECT * FROM stripe.told('evt_s06', 1751330006, '{"status": "trialing", "trial_end": 4102444800}');
SELECT * FROM stripe.told('evt_s07', 1751330007, '{"status": "active", "cancel_at_period_end": true}');
SELECT * FROM stripe.told('evt_s08', 1751330008, '{"status": "active", "cancel_at": 4102444800}');
SELECT * FROM stripe.told('evt_s09', 1751330009, '{"status": "active"}');
SELECT * FROM stripe.told('evt_s10', 1751330010, '{"status": "something_new"}');
SELECT event_id, state, error FROM grownext.billing_event WHERE state = 'failed';
SELECT item, state, detail, hint FROM _grownext.billing_status();
-- the period of an API before 2025-03-31 stands at the subscription
SELECT * FROM stripe.told('evt_s11', 1751330011, jsonb_build_object('status', 'past_due', 'current_period_start', 4102444800,
    'items', jsonb_set(:'created'::jsonb #> '{data,object,items}', '{data,0}', (:'created'::jsonb #> '{data,object,items,data,0}') - 'current_period_start' - 'current_period_end')));
-- quantities, add-ons, and a price that buys nothing
SELECT grownext.billing_price_map('stripe', 'price_seat', 'extra', '{"addon": true}');
SELECT grownext.billing_price_map('stripe', 'price_support', NULL);
CREATE FUNCTION stripe.items(VARIADIC prices text[]) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('items', jsonb_build_object('object', 'list', 'has_more', false, 'data',
        jsonb_agg(jsonb_build_object('id', 'si_' || split_part(p, ':', 1), 'price', jsonb_build_object('id', 'price_' || split_part(p, ':', 1)), 'quantity', nullif(split_part(p, ':', 2), '')::int))))
      FROM unnest(prices) AS p
$$;
SELECT count(*) FROM stripe.told('evt_s12', 1751330012, stripe.items('1RgPro000000000000000000:1', 'seat:3', 'support'));
SELECT bundle, quantity, addon, status, external_id FROM grownext.subscription WHERE ended_at IS NULL ORDER BY external_id;
SELECT quota FROM grownext.entitlement('seats', :acme);
-- none of it rests, and comes back; gone is gone
SELECT count(*) FROM stripe.told('evt_s13', 1751330013, stripe.items('1RgPro000000000000000000:1', 'seat:0'));
SELECT quota FROM grownext.entitlement('seats', :acme);
SELECT count(*) FROM stripe.told('evt_s14', 1751330014, stripe.items('1RgPro000000000000000000:1', 'seat:2'));
SELECT quota FROM grownext.entitlement('seats', :acme);
SELECT count(*) FROM stripe.told('evt_s15', 1751330015, stripe.items('1RgPro000000000000000000:1'));
SELECT quota FROM grownext.entitlement('seats', :acme);
SELECT bundle, status, ended_at IS NOT NULL AS ended FROM grownext.subscription ORDER BY external_id;
-- more items than the event carries is for people
SELECT count(*) FROM stripe.told('evt_s16', 1751330016, '{"items": {"object": "list", "has_more": true, "data": []}}');
SELECT event_id, state, error FROM grownext.billing_event WHERE event_id = 'evt_s16';

-- other events are kept, without effect
SELECT stripe.deliver('{"object": "event", "id": "evt_invoice", "type": "invoice.paid", "created": 1751330020, "livemode": false, "data": {"object": {"id": "in_1", "object": "invoice"}}}');
SELECT event_id, state, error FROM grownext.billing_event WHERE event_id = 'evt_invoice';

-- the subscription is deleted: at once, and for good, whatever comes late
SET ROLE regress_billing_service;
SELECT stripe.deliver(:'deleted');
RESET ROLE;
CALL stripe.apply();
SELECT grownext.entitled('reports.export', :acme);
SELECT * FROM stripe.told('evt_s99', 1852192001, '{"status": "active"}');
SELECT event_id, state, error FROM grownext.billing_event WHERE event_id IN ('evt_1RgDemo0000000000000002', 'evt_s99') ORDER BY 1;
SELECT grownext.entitled('reports.export', :acme);

-- metadata decides for a customer whom nobody linked
SELECT stripe.deliver(replace(replace(replace(replace(:'created', 'sub_1RgDemo', 'sub_meta'), 'cus_demo', 'cus_meta'), 'evt_1RgDemo', 'evt_meta'), '0b9e2c52-8a55-4f0e-9a36-6d1d1c9f0a01', '0b9e2c52-8a55-4f0e-9a36-6d1d1c9f0a03'));
CALL stripe.apply();
SELECT state, tenant_id FROM grownext.billing_event WHERE event_id LIKE 'evt_meta%';
SELECT grownext.entitled('reports.export', '0b9e2c52-8a55-4f0e-9a36-6d1d1c9f0a03');

-- The fold: whatever the order, however often, the end is the same. Five events: created,
-- three updates of which two fall into one second (the later one knows the earlier one's
-- values), and in the second round a deletion that bears the oldest time of all.
CREATE FUNCTION stripe.permutations(n int) RETURNS SETOF int[] LANGUAGE sql AS $$
    WITH RECURSIVE p (path) AS (
        SELECT ARRAY[i] FROM generate_series(1, n) AS i
        UNION ALL
        SELECT p.path || i FROM p, generate_series(1, n) AS i WHERE i <> ALL (p.path))
    SELECT path FROM p WHERE cardinality(path) = n
$$;
CREATE FUNCTION stripe.play(base text, round text, deletion boolean) RETURNS TABLE (orders bigint, ends text) LANGUAGE plpgsql AS $$
DECLARE
    orders int[];
    n int := 0;
    tag text;
    events text[];
    bodies text[];
BEGIN
    SET LOCAL client_min_messages = warning;
    FOR orders IN SELECT * FROM stripe.permutations(CASE WHEN deletion THEN 5 ELSE 4 END) LOOP
        n := n + 1;
        tag := format('%s%s', round, n);
        -- event ids against the grain: they decide nothing here
        bodies := ARRAY[
            stripe.event(base, format('evt_%s_d', tag), 'customer.subscription.created', 1751330000, '{"status": "incomplete"}'),
            stripe.event(base, format('evt_%s_c', tag), 'customer.subscription.updated', 1751330000, '{"status": "active"}', '{"status": "incomplete"}'),
            stripe.event(base, format('evt_%s_b', tag), 'customer.subscription.updated', 1751330060, jsonb_build_object('status', 'active', 'metadata', '{"seats": "2"}'::jsonb), '{"metadata": {"seats": null}}'),
            stripe.event(base, format('evt_%s_a', tag), 'customer.subscription.updated', 1751330060, jsonb_build_object('status', 'past_due', 'metadata', '{"seats": "3"}'::jsonb), '{"metadata": {"seats": "2"}}'),
            stripe.event(base, format('evt_%s_e', tag), 'customer.subscription.deleted', 1751329000, '{"status": "canceled"}')];
        FOR place IN 1 .. cardinality(orders) LOOP
            PERFORM stripe.deliver(replace(replace(bodies[orders[place]], 'sub_1RgDemo', 'sub_' || tag), 'si_SbDemo', 'si_' || tag));
            CALL stripe.apply();
            -- once more, and a job that runs twice
            PERFORM stripe.deliver(replace(replace(bodies[orders[place]], 'sub_1RgDemo', 'sub_' || tag), 'si_SbDemo', 'si_' || tag));
            PERFORM _grownext.billing_apply(jsonb_build_object('provider', 'stripe', 'event_id', bodies[orders[place]]::jsonb ->> 'id'));
        END LOOP;
    END LOOP;
    RETURN QUERY
    SELECT count(*), string_agg(DISTINCT format('%s, %s, live subscriptions %s', right(o.event_id, 1), coalesce(v.value ->> 'status', 'none'), (
               SELECT coalesce(string_agg(s.status || ' ' || s.quantity, ','), 'none') FROM grownext.subscription AS s
                WHERE s.external_id LIKE o.object_id || '/%' AND s.ended_at IS NULL)), '; ')
      FROM _grownext.billing_object AS o LEFT JOIN LATERAL jsonb_each(o.subscriptions) AS v ON true
     WHERE o.object_id LIKE 'sub\_' || round || '%';
END $$;
SELECT * FROM stripe.play(:'created', 'live', false);
SELECT * FROM stripe.play(:'created', 'dead', true);
-- no event is left open, and each subscription ended once
SELECT state, count(*) FROM grownext.billing_event WHERE event_id ~ '^evt_(live|dead)' GROUP BY 1 ORDER BY 1;
SELECT bool_and(n = 1) AS ended_once FROM (SELECT count(*) AS n FROM grownext.audit_event WHERE action = 'subscription.ended' GROUP BY target) AS e;

-- end users have no part in it
SET ROLE regress_billing_app;
SELECT * FROM grownext.billing_event;
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.billing_webhook('stripe', '{}', 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.billing_customer_link('stripe', 'cus_x', :acme);
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
ALTER SYSTEM RESET grownext.master_key_file;
SELECT pg_reload_conf();
\! rm -f "$KEY_FILE"
\c postgres
DROP DATABASE regress_billing;
DROP ROLE regress_billing_admin, regress_billing_service, regress_billing_app;
