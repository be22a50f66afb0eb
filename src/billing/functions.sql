-- src/billing/functions.sql: from a signed event to a subscription
--
-- billing_webhook() verifies and stores, a job applies. What is applied is a fold over
-- all events of one subscription that have come so far, so their order does not matter.

CREATE OR REPLACE FUNCTION _grownext.billing_stripe_verify(header text, body bytea, secret text) RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_billing_stripe_verify';
COMMENT ON FUNCTION _grownext.billing_stripe_verify(text, bytea, text) IS 'Checks a Stripe-Signature under a stored secret, named; NULL: valid, else what is wrong.';

CREATE OR REPLACE FUNCTION _grownext.billing_act_as(claims jsonb) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_billing_act_as';
COMMENT ON FUNCTION _grownext.billing_act_as(jsonb) IS 'Makes a provider the caller for the rest of the transaction, so that audit names it.';

-- Administration ---------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.billing_provider_require(provider text) RETURNS _grownext.billing_provider
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_provider _grownext.billing_provider;
BEGIN
    SELECT * INTO found_provider FROM _grownext.billing_provider AS p WHERE p.provider = billing_provider_require.provider;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'NX003',
            MESSAGE = format('billing provider "%s" is not defined', coalesce(provider, 'NULL')),
            HINT = format('SELECT grownext.billing_provider_define(%L, ''name of the stored secret'');', coalesce(nullif(provider, ''), 'stripe'));
    END IF;
    RETURN found_provider;
END
$$;
COMMENT ON FUNCTION _grownext.billing_provider_require(text) IS 'A defined provider; raises NX003 if there is none of that name.';

CREATE OR REPLACE FUNCTION grownext.billing_provider_define(provider text, secret text, options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before jsonb;
BEGIN
    IF provider IS NULL OR secret IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'provider and secret must not be null';
    ELSIF provider IN ('chargebee', 'hubspot', 'generic') THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = format('billing provider "%s" is not supported yet', provider);
    ELSIF provider <> 'stripe' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('unknown billing provider "%s"', provider),
            HINT = 'Providers: stripe.';
    ELSIF secret = '' OR starts_with(secret, 'whsec_') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'secret must be the name of a stored secret, not the secret itself',
            HINT = 'SELECT grownext.secret_set(''stripe-webhook'', ...); then name ''stripe-webhook'' here.';
    END IF;
    PERFORM _grownext.core_check_options(options, '{"livemode": "boolean", "past_due_grace": "string"}');
    IF (options ->> 'past_due_grace')::interval < '0' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "past_due_grace" must not be negative';
    END IF;
    SELECT to_jsonb(p) - 'updated_at' INTO before FROM _grownext.billing_provider AS p
     WHERE p.provider = billing_provider_define.provider FOR UPDATE;
    IF before = jsonb_build_object('provider', provider, 'secret', secret, 'options', options) THEN
        RETURN;
    END IF;
    INSERT INTO _grownext.billing_provider (provider, secret, options, updated_at)
    VALUES (provider, secret, options, _grownext.core_now())
    ON CONFLICT ON CONSTRAINT billing_provider_pkey DO UPDATE
       SET secret = EXCLUDED.secret, options = EXCLUDED.options, updated_at = EXCLUDED.updated_at;
    PERFORM _grownext.audit_write('billing.provider_defined', 'billing_provider:' || provider, NULL, before,
                                  jsonb_build_object('provider', provider, 'secret', secret, 'options', options));
END
$$;
COMMENT ON FUNCTION grownext.billing_provider_define(text, text, jsonb) IS 'Accepts webhooks of a provider that are signed with a stored secret, named.';

-- Puts parked events that wait for something back to work.
CREATE OR REPLACE FUNCTION _grownext.billing_unpark(provider text, waits_for text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    event record;
BEGIN
    FOR event IN
        UPDATE _grownext.billing_event AS e SET state = 'pending', waits_for = NULL, error = NULL
         WHERE e.provider = billing_unpark.provider AND e.state = 'parked' AND e.waits_for = billing_unpark.waits_for
        RETURNING e.event_id
    LOOP
        PERFORM _grownext.queue_put_internal('grownext.billing', jsonb_build_object('provider', provider, 'event_id', event.event_id));
    END LOOP;
END
$$;
COMMENT ON FUNCTION _grownext.billing_unpark(text, text) IS 'Enqueues the parked events that wait for a customer or a price.';

CREATE OR REPLACE FUNCTION grownext.billing_customer_link(provider text, customer_id text, tenant_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before uuid;
BEGIN
    PERFORM _grownext.billing_provider_require(provider);
    IF coalesce(customer_id, '') = '' OR tenant_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'customer_id and tenant_id must not be null or empty';
    ELSIF NOT EXISTS (SELECT FROM grownext.tenant AS t WHERE t.id = billing_customer_link.tenant_id) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('tenant "%s" does not exist', tenant_id);
    END IF;
    INSERT INTO _grownext.billing_customer AS c (provider, customer_id, tenant_id, linked_at)
    VALUES (billing_customer_link.provider, billing_customer_link.customer_id, billing_customer_link.tenant_id, _grownext.core_now())
    ON CONFLICT ON CONSTRAINT billing_customer_pkey DO NOTHING;
    IF NOT FOUND THEN
        SELECT c.tenant_id INTO before FROM _grownext.billing_customer AS c
         WHERE c.provider = billing_customer_link.provider AND c.customer_id = billing_customer_link.customer_id FOR UPDATE;
        IF before = tenant_id THEN
            RETURN;
        END IF;
        -- what was sold to one tenant does not move to another behind its back
        IF EXISTS (SELECT FROM _grownext.billing_object AS o JOIN _grownext.billing_event AS e USING (provider, event_id)
                    WHERE o.provider = billing_customer_link.provider AND o.tenant_id = before
                      AND _grownext.billing_event_object(e.body) ->> 'customer' = billing_customer_link.customer_id) THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('customer "%s" has subscriptions of tenant "%s"', customer_id, before),
                HINT = 'Make another customer for the other tenant.';
        END IF;
        UPDATE _grownext.billing_customer AS c SET tenant_id = billing_customer_link.tenant_id, linked_at = _grownext.core_now()
         WHERE c.provider = billing_customer_link.provider AND c.customer_id = billing_customer_link.customer_id;
    END IF;
    PERFORM _grownext.audit_write('billing.customer_linked', 'billing_customer:' || provider || '/' || customer_id, tenant_id,
                                  CASE WHEN before IS NOT NULL THEN jsonb_build_object('tenant_id', before) END,
                                  jsonb_build_object('tenant_id', tenant_id));
    PERFORM _grownext.billing_unpark(provider, 'customer:' || customer_id);
END
$$;
COMMENT ON FUNCTION grownext.billing_customer_link(text, text, uuid) IS 'Says which tenant a provider''s customer is, and applies the events that waited for it.';

CREATE OR REPLACE FUNCTION grownext.billing_price_map(provider text, price_id text, bundle text, options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before jsonb;
    after jsonb := jsonb_build_object('bundle', bundle, 'options', options);
BEGIN
    PERFORM _grownext.billing_provider_require(provider);
    IF coalesce(price_id, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'price_id must not be null or empty';
    END IF;
    PERFORM _grownext.core_check_options(options, '{"addon": "boolean"}');
    SELECT jsonb_build_object('bundle', p.bundle, 'options', p.options) INTO before FROM _grownext.billing_price AS p
     WHERE p.provider = billing_price_map.provider AND p.price_id = billing_price_map.price_id FOR UPDATE;
    IF before = after THEN
        RETURN;
    END IF;
    BEGIN
        INSERT INTO _grownext.billing_price (provider, price_id, bundle, options, updated_at)
        VALUES (provider, price_id, bundle, options, _grownext.core_now())
        ON CONFLICT ON CONSTRAINT billing_price_pkey DO UPDATE
           SET bundle = EXCLUDED.bundle, options = EXCLUDED.options, updated_at = EXCLUDED.updated_at;
    EXCEPTION WHEN foreign_key_violation THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('bundle "%s" does not exist', bundle),
            HINT = format('SELECT grownext.bundle_define(%L, features);', bundle);
    END;
    PERFORM _grownext.audit_write('billing.price_mapped', 'billing_price:' || provider || '/' || price_id, NULL, before, after);
    PERFORM _grownext.billing_unpark(provider, 'price:' || price_id);
END
$$;
COMMENT ON FUNCTION grownext.billing_price_map(text, text, text, jsonb) IS 'Says which bundle a provider''s price buys (NULL: nothing), and applies the events that waited for it.';

-- Inbox ------------------------------------------------------------------------

-- A body as JSON; NULL when it is none.
CREATE OR REPLACE FUNCTION _grownext.billing_parse(body bytea) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN convert_from(body, 'UTF8')::jsonb;
EXCEPTION WHEN data_exception OR statement_too_complex THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.billing_parse(bytea) IS 'Bytes as jsonb; NULL when they are none.';

CREATE OR REPLACE FUNCTION _grownext.billing_event_object(body bytea) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.billing_parse(body) -> 'data' -> 'object';
$$;
COMMENT ON FUNCTION _grownext.billing_event_object(bytea) IS 'The object that an event carries.';

-- What is refused leaves an audit event that says so, and nothing of its content.
CREATE OR REPLACE FUNCTION _grownext.billing_refuse(provider text, error text, body bytea) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.audit_write('billing.webhook_refused', 'billing_provider:' || provider, NULL, NULL,
        jsonb_build_object('error', error, 'bytes', length(body), 'sha256', encode(sha256(body), 'hex')));
    RETURN jsonb_build_object('error', error);
END
$$;
COMMENT ON FUNCTION _grownext.billing_refuse(text, text, bytea) IS 'Records that a webhook was refused; the answer to it.';

-- Why a verified body is not an event that we keep; NULL when it is.
CREATE OR REPLACE FUNCTION _grownext.billing_stripe_problem(event jsonb, livemode boolean) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN event IS NULL THEN 'not_json'
        WHEN event ->> 'object' IS DISTINCT FROM 'event'
             OR event ->> 'id' IS NULL OR event ->> 'id' !~ '^[A-Za-z0-9_]{1,255}$'
             OR event ->> 'type' IS NULL OR event ->> 'type' !~ '^[a-z0-9_.]{1,255}$'
             OR jsonb_typeof(event -> 'created') IS DISTINCT FROM 'number' OR event ->> 'created' !~ '^[0-9]{1,11}$'
             OR jsonb_typeof(event -> 'data' -> 'object') IS DISTINCT FROM 'object'
            THEN 'not_an_event'
        WHEN event -> 'livemode' IS DISTINCT FROM to_jsonb(livemode) AND livemode IS NOT NULL THEN 'wrong_mode'
    END;
$$;
COMMENT ON FUNCTION _grownext.billing_stripe_problem(jsonb, boolean) IS 'What is wrong with a Stripe event; NULL: nothing.';

CREATE OR REPLACE FUNCTION grownext.billing_webhook(provider text, headers jsonb, body bytea) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    max_body CONSTANT int := 1048576;
    defined _grownext.billing_provider;
    signatures text[];
    event jsonb;
    object jsonb;
    problem text;
BEGIN
    IF headers IS NULL OR body IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'headers and body must not be null';
    ELSIF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'headers must be a JSON object';
    END IF;
    defined := _grownext.billing_provider_require(provider);
    IF length(body) > max_body THEN
        RETURN _grownext.billing_refuse(provider, 'too_large', body);
    END IF;
    SELECT array_agg(h.value) INTO signatures FROM jsonb_each_text(headers) AS h WHERE lower(h.key) = 'stripe-signature';
    problem := CASE WHEN cardinality(signatures) > 1 THEN 'bad_header'
                    ELSE _grownext.billing_stripe_verify(signatures[1], body, defined.secret) END;
    IF problem IS NULL THEN
        event := _grownext.billing_parse(body);
        problem := _grownext.billing_stripe_problem(event, (defined.options ->> 'livemode')::boolean);
    END IF;
    IF problem IS NOT NULL THEN
        RETURN _grownext.billing_refuse(provider, problem, body);
    END IF;

    object := CASE WHEN event ->> 'type' LIKE 'customer.subscription.%' AND event -> 'data' -> 'object' ->> 'object' = 'subscription'
                    AND event -> 'data' -> 'object' ->> 'id' IS NOT NULL THEN event -> 'data' -> 'object' END;
    INSERT INTO _grownext.billing_event (provider, event_id, type, occurred_at, object_id, terminal, body, signature, received_at, state, error)
    VALUES (defined.provider, event ->> 'id', event ->> 'type', to_timestamp((event ->> 'created')::bigint), object ->> 'id',
            coalesce(event ->> 'type' = 'customer.subscription.deleted' OR object ->> 'status' IN ('canceled', 'incomplete_expired'), false),
            body, signatures[1], _grownext.core_now(),
            CASE WHEN object IS NULL THEN 'ignored' ELSE 'pending' END,
            CASE WHEN object IS NULL THEN format('events of type %s have no effect', event ->> 'type') END)
    ON CONFLICT ON CONSTRAINT billing_event_pkey DO NOTHING;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('received', true, 'event_id', event ->> 'id', 'duplicate', true);
    END IF;
    IF object IS NOT NULL THEN
        PERFORM _grownext.queue_put_internal('grownext.billing', jsonb_build_object('provider', provider, 'event_id', event ->> 'id'));
    END IF;
    RETURN jsonb_build_object('received', true, 'event_id', event ->> 'id', 'duplicate', false);
END
$$;
COMMENT ON FUNCTION grownext.billing_webhook(text, jsonb, bytea) IS 'Takes a provider''s webhook: verifies the signature over the raw bytes, stores the event once, and leaves a job to apply it.';

-- Fold -------------------------------------------------------------------------

-- Whether an object has the values that an update says were there before it. What is
-- null there may be absent here.
CREATE OR REPLACE FUNCTION _grownext.billing_had(object jsonb, previous jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attribute record;
BEGIN
    FOR attribute IN SELECT p.key, p.value, object -> p.key AS held FROM jsonb_each(previous) AS p LOOP
        IF NOT coalesce(CASE jsonb_typeof(attribute.value)
                WHEN 'null' THEN coalesce(attribute.held, 'null') = 'null'
                WHEN 'object' THEN jsonb_typeof(attribute.held) = 'object' AND _grownext.billing_had(attribute.held, attribute.value)
                ELSE attribute.held = attribute.value END, false) THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END
$$;
COMMENT ON FUNCTION _grownext.billing_had(jsonb, jsonb) IS 'Whether an object has the values of previous_attributes.';

-- Of all events of a subscription that have come, the one that counts. An end is for
-- good, whatever its time; else the later one; within a second (Stripe's clock has no
-- finer) created, then updated. Of several updates in one second, one that no other
-- follows: a follower's previous_attributes are the other's values. If that leaves
-- several, any, but always the same.
CREATE OR REPLACE FUNCTION _grownext.billing_stripe_winner(provider text, object_id text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH ranked AS (
        SELECT e.event_id, e.body,
               rank() OVER (ORDER BY e.terminal DESC, e.occurred_at DESC,
                            CASE e.type WHEN 'customer.subscription.deleted' THEN 2 WHEN 'customer.subscription.created' THEN 0 ELSE 1 END DESC) AS place
          FROM _grownext.billing_event AS e
         WHERE e.provider = billing_stripe_winner.provider AND e.object_id = billing_stripe_winner.object_id),
    first AS MATERIALIZED (
        SELECT r.event_id, parsed.event -> 'data' -> 'object' AS object,
               coalesce(parsed.event -> 'data' -> 'previous_attributes', '{}') AS previous
          FROM ranked AS r, LATERAL (SELECT _grownext.billing_parse(r.body)) AS parsed (event)
         WHERE r.place = 1)
    SELECT f.event_id FROM first AS f
     ORDER BY EXISTS (SELECT FROM first AS g
                       WHERE g.event_id <> f.event_id
                         AND g.previous <> '{}' AND _grownext.billing_had(f.object, g.previous)
                         AND NOT (f.previous <> '{}' AND _grownext.billing_had(g.object, f.previous))),
              f.event_id DESC
     LIMIT 1;
$$;
COMMENT ON FUNCTION _grownext.billing_stripe_winner(text, text) IS 'The event that decides what a Stripe subscription is.';

CREATE OR REPLACE FUNCTION _grownext.billing_time(epoch text) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_timestamp(epoch::double precision);
$$;
COMMENT ON FUNCTION _grownext.billing_time(text) IS 'Seconds since 1970 as a time.';

-- What a Stripe subscription says of ours, by external id: one of ours per item. What an
-- item says of its period counts before what the subscription says (2025-03-31 moved it).
-- Active is for as long as Stripe says so: an outage of the webhook must not lock out
-- who pays. What ends by itself is bounded: a trial (plus the three days for which Stripe
-- retries a webhook), a subscription to be cancelled, and one whose payment is overdue.
CREATE OR REPLACE FUNCTION _grownext.billing_stripe_subscriptions(provider text, object jsonb, OUT subscriptions jsonb, OUT unmapped text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH item AS (
        SELECT i ->> 'id' AS id,
               coalesce(i -> 'price' ->> 'id', i -> 'plan' ->> 'id') AS price_id,
               coalesce((i ->> 'quantity')::int, 1) AS quantity,
               _grownext.billing_time(coalesce(i ->> 'current_period_start', object ->> 'current_period_start')) AS period_start,
               _grownext.billing_time(coalesce(i ->> 'current_period_end', object ->> 'current_period_end')) AS period_end
          FROM jsonb_array_elements(object -> 'items' -> 'data') AS i),
    mapped AS (
        SELECT i.*, p.price_id IS NULL AS is_unmapped, p.bundle, coalesce((p.options ->> 'addon')::boolean, false) AS addon
          FROM item AS i
          LEFT JOIN _grownext.billing_price AS p ON p.provider = billing_stripe_subscriptions.provider AND p.price_id = i.price_id)
    SELECT coalesce(jsonb_object_agg(object ->> 'id' || '/' || m.id, jsonb_build_object(
               'bundle', m.bundle,
               'status', object ->> 'status',
               'quantity', m.quantity,
               'addon', m.addon,
               'anchor', _grownext.billing_time(object ->> 'billing_cycle_anchor'),
               'trial_until', CASE object ->> 'status' WHEN 'trialing' THEN _grownext.billing_time(object ->> 'trial_end') END,
               'paid_through', CASE
                    WHEN object ->> 'cancel_at' IS NOT NULL THEN _grownext.billing_time(object ->> 'cancel_at')
                    WHEN (object ->> 'cancel_at_period_end')::boolean THEN m.period_end
                    WHEN object ->> 'status' = 'trialing' THEN _grownext.billing_time(object ->> 'trial_end') + interval '3 days'
                    WHEN object ->> 'status' = 'past_due' THEN m.period_start + coalesce((
                        SELECT (p.options ->> 'past_due_grace')::interval FROM _grownext.billing_provider AS p
                         WHERE p.provider = billing_stripe_subscriptions.provider), interval '14 days')
               END)), '{}'),
           min(m.price_id) FILTER (WHERE m.is_unmapped)
      FROM mapped AS m;
$$;
COMMENT ON FUNCTION _grownext.billing_stripe_subscriptions(text, jsonb) IS 'A Stripe subscription as ours, by external id; unmapped: a price that nobody mapped.';

-- Brings our subscriptions from one state of the fold to the next.
CREATE OR REPLACE FUNCTION _grownext.billing_put(tenant_id uuid, before jsonb, after jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    change record;
    bundle text;
    buys boolean;
BEGIN
    FOR change IN
        SELECT coalesce(b.key, a.key) AS external_id, b.value AS old, a.value AS new
          FROM jsonb_each(before) AS b FULL JOIN jsonb_each(after) AS a ON a.key = b.key
         WHERE b.value IS DISTINCT FROM a.value
         ORDER BY 1
    LOOP
        -- a price that buys nothing, or none of it: what it bought before rests, but may come back
        buys := coalesce(change.new ->> 'bundle' IS NOT NULL AND (change.new ->> 'quantity')::int > 0, false);
        bundle := coalesce(change.new ->> 'bundle', change.old ->> 'bundle');
        CONTINUE WHEN bundle IS NULL;
        PERFORM _grownext.entitlement_subscription_apply(tenant_id, change.external_id, bundle,
            status => CASE WHEN change.new IS NULL THEN 'canceled' WHEN buys THEN change.new ->> 'status' ELSE 'paused' END,
            quantity => greatest((change.new ->> 'quantity')::int, 1),
            paid_through => (change.new ->> 'paid_through')::timestamptz,
            trial_until => (change.new ->> 'trial_until')::timestamptz,
            anchor => (change.new ->> 'anchor')::timestamptz,
            addon => coalesce((change.new ->> 'addon')::boolean, false));
    END LOOP;
END
$$;
COMMENT ON FUNCTION _grownext.billing_put(uuid, jsonb, jsonb) IS 'Starts, changes and ends subscriptions of a tenant.';

CREATE OR REPLACE FUNCTION _grownext.billing_settle(provider text, event_id text, state text, error text DEFAULT NULL, waits_for text DEFAULT NULL) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE _grownext.billing_event AS e
       SET state = billing_settle.state, error = billing_settle.error, waits_for = billing_settle.waits_for,
           applied_at = CASE billing_settle.state WHEN 'applied' THEN _grownext.core_now() END
     WHERE e.provider = billing_settle.provider AND e.event_id = billing_settle.event_id;
$$;
COMMENT ON FUNCTION _grownext.billing_settle(text, text, text, text, text) IS 'Notes what became of an event.';

-- The tenant of a subscription: the one it has been given once, else whose customer it
-- is, else what its metadata says, if there is such a tenant.
CREATE OR REPLACE FUNCTION _grownext.billing_stripe_tenant(provider text, object jsonb) RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(
        (SELECT o.tenant_id FROM _grownext.billing_object AS o
          WHERE o.provider = billing_stripe_tenant.provider AND o.object_id = object ->> 'id'),
        (SELECT c.tenant_id FROM _grownext.billing_customer AS c
          WHERE c.provider = billing_stripe_tenant.provider AND c.customer_id = object ->> 'customer'),
        (SELECT t.id FROM grownext.tenant AS t WHERE t.id::text = object -> 'metadata' ->> 'tenant_id'));
$$;
COMMENT ON FUNCTION _grownext.billing_stripe_tenant(text, jsonb) IS 'Whose subscription it is; NULL when nobody said.';

-- Applies an event that is open. Locks the object, so of two appliers one waits.
CREATE OR REPLACE FUNCTION _grownext.billing_stripe_apply(provider text, event_id text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    event _grownext.billing_event;
    current _grownext.billing_object;
    winner text;
    object jsonb;
    tenant uuid;
    wanted record;
BEGIN
    SELECT * INTO event FROM _grownext.billing_event AS e
     WHERE e.provider = billing_stripe_apply.provider AND e.event_id = billing_stripe_apply.event_id;
    INSERT INTO _grownext.billing_object (provider, object_id, updated_at)
    VALUES (provider, event.object_id, _grownext.core_now()) ON CONFLICT DO NOTHING;
    SELECT * INTO current FROM _grownext.billing_object AS o
     WHERE o.provider = billing_stripe_apply.provider AND o.object_id = event.object_id FOR UPDATE;
    -- read again under the lock: another applier may have settled it
    SELECT * INTO event FROM _grownext.billing_event AS e
     WHERE e.provider = billing_stripe_apply.provider AND e.event_id = billing_stripe_apply.event_id;
    IF NOT FOUND OR event.state NOT IN ('pending', 'parked', 'failed') THEN
        RETURN;
    END IF;

    winner := _grownext.billing_stripe_winner(provider, event.object_id);
    IF winner <> event_id THEN
        PERFORM _grownext.billing_settle(provider, event_id, 'ignored', format('overtaken by event %s', winner));
        RETURN;
    END IF;
    object := _grownext.billing_event_object(event.body);
    tenant := _grownext.billing_stripe_tenant(provider, object);
    IF event.terminal THEN
        SELECT '{}'::jsonb AS subscriptions, NULL::text AS unmapped INTO wanted;
    ELSIF tenant IS NULL THEN
        PERFORM _grownext.billing_settle(provider, event_id, 'parked', format('customer "%s" is linked to no tenant', object ->> 'customer'),
                                         'customer:' || (object ->> 'customer'));
        RETURN;
    ELSIF (object -> 'items' ->> 'has_more')::boolean THEN
        PERFORM _grownext.billing_settle(provider, event_id, 'failed', 'the subscription has more items than the event carries');
        RETURN;
    ELSE
        SELECT * INTO wanted FROM _grownext.billing_stripe_subscriptions(provider, object);
        IF wanted.unmapped IS NOT NULL THEN
            PERFORM _grownext.billing_settle(provider, event_id, 'parked', format('price "%s" is mapped to no bundle', wanted.unmapped),
                                             'price:' || wanted.unmapped);
            RETURN;
        END IF;
    END IF;
    IF wanted.subscriptions <> current.subscriptions THEN
        PERFORM _grownext.billing_act_as(jsonb_build_object('sub', 'provider:' || provider, 'tenant_id', tenant, 'request_id', event_id));
        PERFORM _grownext.billing_put(tenant, current.subscriptions, wanted.subscriptions);
    END IF;
    UPDATE _grownext.billing_object AS o
       SET tenant_id = tenant, event_id = billing_stripe_apply.event_id, subscriptions = wanted.subscriptions, updated_at = _grownext.core_now()
     WHERE o.provider = billing_stripe_apply.provider AND o.object_id = event.object_id;
    PERFORM _grownext.billing_settle(provider, event_id, 'applied');
END
$$;
COMMENT ON FUNCTION _grownext.billing_stripe_apply(text, text) IS 'Applies a Stripe event, unless another one counts.';

-- The job of queue grownext.billing. What passes by itself (a deadlock, a full disk) is
-- raised, so that the queue tries again; the rest is noted at the event, for people.
CREATE OR REPLACE FUNCTION _grownext.billing_apply(payload jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.billing_stripe_apply(payload ->> 'provider', payload ->> 'event_id');
EXCEPTION WHEN OTHERS THEN
    IF left(SQLSTATE, 2) IN ('08', '25', '40', '53', '55', '57', '58', 'XX') THEN
        RAISE;
    END IF;
    PERFORM _grownext.billing_settle(payload ->> 'provider', payload ->> 'event_id', 'failed', format('%s: %s', SQLSTATE, SQLERRM));
END
$$;
COMMENT ON FUNCTION _grownext.billing_apply(jsonb) IS 'Job: applies the event that the payload names.';

SELECT _grownext.queue_define_internal('grownext.billing', '_grownext.billing_apply');

CREATE OR REPLACE FUNCTION grownext.billing_replay(provider text, event_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    event _grownext.billing_event;
BEGIN
    SELECT * INTO event FROM _grownext.billing_event AS e
     WHERE e.provider = billing_replay.provider AND e.event_id = billing_replay.event_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('event "%s" of provider "%s" does not exist', coalesce(event_id, 'NULL'), coalesce(provider, 'NULL'));
    ELSIF event.state NOT IN ('pending', 'parked', 'failed') THEN
        RETURN;
    END IF;
    UPDATE _grownext.billing_event AS e SET state = 'pending', waits_for = NULL, error = NULL
     WHERE e.provider = event.provider AND e.event_id = event.event_id;
    PERFORM _grownext.audit_write('billing.event_replayed', 'billing_event:' || provider || '/' || event_id, NULL,
                                  jsonb_build_object('state', event.state, 'error', event.error), NULL);
    PERFORM _grownext.queue_put_internal('grownext.billing', jsonb_build_object('provider', provider, 'event_id', event_id));
END
$$;
COMMENT ON FUNCTION grownext.billing_replay(text, text) IS 'Tries a parked or failed event again; what was applied stays applied once.';

CREATE OR REPLACE VIEW grownext.billing_event WITH (security_barrier) AS
SELECT e.provider, e.event_id, e.type, e.state, e.error, e.received_at, e.applied_at, e.occurred_at, e.object_id, o.tenant_id
  FROM _grownext.billing_event AS e
  LEFT JOIN _grownext.billing_object AS o USING (provider, object_id);
COMMENT ON VIEW grownext.billing_event IS 'Events of billing providers and what became of them; state is pending, applied, ignored, parked or failed.';

-- Status -----------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.billing_status() RETURNS SETOF grownext.status_item
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    defined record;
    open record;
BEGIN
    FOR defined IN
        SELECT p.provider, p.secret, EXISTS (SELECT FROM grownext.secret AS s WHERE s.name = p.secret) AS has_secret
          FROM _grownext.billing_provider AS p ORDER BY p.provider
    LOOP
        RETURN NEXT CASE WHEN defined.has_secret
            THEN ('billing', defined.provider, 'ok', 'webhooks are verified with secret "' || defined.secret || '"', NULL, NULL)::grownext.status_item
            ELSE ('billing', defined.provider, 'failed', 'secret "' || defined.secret || '" is not stored',
                  format('SELECT grownext.secret_set(%L, ''whsec_...'');', defined.secret), NULL)::grownext.status_item END;
        -- the oldest of each kind, and how many; an index holds only what is open
        FOR open IN
            SELECT DISTINCT ON (e.state) e.*, count(*) OVER (PARTITION BY e.state) AS events
              FROM _grownext.billing_event AS e
             WHERE e.provider = defined.provider AND e.state IN ('parked', 'failed', 'pending')
               AND (e.state <> 'pending' OR e.received_at < _grownext.core_now() - interval '5 minutes')
             ORDER BY e.state, e.received_at
        LOOP
            RETURN NEXT ('billing', defined.provider || ' events ' || open.state, 'degraded',
                format('%s, such as "%s": %s', open.events, open.event_id, coalesce(open.error, 'no executor has applied it')),
                CASE WHEN open.state = 'pending' THEN 'SELECT * FROM grownext.workers();'
                     WHEN open.waits_for LIKE 'customer:%' THEN format('SELECT grownext.billing_customer_link(%L, %L, tenant_id);', defined.provider, substr(open.waits_for, 10))
                     WHEN open.waits_for LIKE 'price:%' THEN format('SELECT grownext.billing_price_map(%L, %L, bundle);', defined.provider, substr(open.waits_for, 7))
                     ELSE format('SELECT grownext.billing_replay(%L, %L);', defined.provider, open.event_id) END, open.received_at)::grownext.status_item;
        END LOOP;
    END LOOP;
    IF NOT FOUND THEN
        RETURN NEXT ('billing', 'provider', 'off', 'no provider is defined',
                     'SELECT grownext.billing_provider_define(''stripe'', ''name of the stored secret'');', NULL)::grownext.status_item;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.billing_status() IS 'State of billing: providers, and events that wait for somebody.';
