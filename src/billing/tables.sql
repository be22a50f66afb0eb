-- src/billing/tables.sql: providers, their events, customers and prices, and what was made of them

CREATE TABLE _grownext.billing_provider (
    provider   text        NOT NULL,
    secret     text        NOT NULL,
    options    jsonb       NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL,
    CONSTRAINT billing_provider_pkey PRIMARY KEY (provider),
    CONSTRAINT billing_provider_provider_chk CHECK (provider IN ('stripe'))
);
COMMENT ON TABLE _grownext.billing_provider IS 'Billing providers whose webhooks are accepted; secret is the name of a stored secret.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.billing_provider', '');

-- The inbox: every event that was accepted, as it came. object_id is the subscription that
-- it is about; events of other kinds have none and are kept without effect.
CREATE TABLE _grownext.billing_event (
    provider    text        NOT NULL,
    event_id    text        NOT NULL COLLATE "C",
    type        text        NOT NULL,
    occurred_at timestamptz NOT NULL,
    object_id   text        COLLATE "C",
    terminal    boolean     NOT NULL DEFAULT false,
    body        bytea       NOT NULL,
    signature   text        NOT NULL,
    received_at timestamptz NOT NULL,
    state       text        NOT NULL,
    waits_for   text,
    error       text,
    applied_at  timestamptz,
    CONSTRAINT billing_event_pkey PRIMARY KEY (provider, event_id),
    CONSTRAINT billing_event_provider_fkey FOREIGN KEY (provider) REFERENCES _grownext.billing_provider (provider),
    CONSTRAINT billing_event_state_chk CHECK (state IN ('pending', 'applied', 'ignored', 'parked', 'failed')),
    CONSTRAINT billing_event_error_chk CHECK ((error IS NULL) = (state IN ('pending', 'applied'))),
    CONSTRAINT billing_event_applied_at_chk CHECK ((applied_at IS NULL) = (state <> 'applied')),
    CONSTRAINT billing_event_waits_for_chk CHECK (waits_for IS NULL OR state = 'parked')
);
CREATE INDEX billing_event_object_idx ON _grownext.billing_event (provider, object_id) WHERE object_id IS NOT NULL;
CREATE INDEX billing_event_open_idx ON _grownext.billing_event (provider, state, waits_for) WHERE state IN ('pending', 'parked', 'failed');
COMMENT ON TABLE _grownext.billing_event IS 'Events of billing providers, byte for byte, and what became of each.';
COMMENT ON COLUMN _grownext.billing_event.terminal IS 'Whether the event ends its object for good.';
COMMENT ON COLUMN _grownext.billing_event.waits_for IS 'What unparks the event: "customer:<id>" or "price:<id>".';
COMMENT ON COLUMN _grownext.billing_event.error IS 'Why an event is parked, failed or ignored.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.billing_event', '');

CREATE TABLE _grownext.billing_customer (
    provider    text        NOT NULL,
    customer_id text        NOT NULL,
    tenant_id   uuid        NOT NULL,
    linked_at   timestamptz NOT NULL,
    CONSTRAINT billing_customer_pkey PRIMARY KEY (provider, customer_id),
    CONSTRAINT billing_customer_provider_fkey FOREIGN KEY (provider) REFERENCES _grownext.billing_provider (provider),
    CONSTRAINT billing_customer_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    CONSTRAINT billing_customer_customer_id_chk CHECK (customer_id <> '')
);
CREATE INDEX billing_customer_tenant_id_idx ON _grownext.billing_customer (tenant_id);
COMMENT ON TABLE _grownext.billing_customer IS 'Which tenant a provider''s customer is.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.billing_customer', '');

CREATE TABLE _grownext.billing_price (
    provider   text        NOT NULL,
    price_id   text        NOT NULL,
    bundle     text        COLLATE "C",
    options    jsonb       NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL,
    CONSTRAINT billing_price_pkey PRIMARY KEY (provider, price_id),
    CONSTRAINT billing_price_provider_fkey FOREIGN KEY (provider) REFERENCES _grownext.billing_provider (provider),
    CONSTRAINT billing_price_bundle_fkey FOREIGN KEY (bundle) REFERENCES _grownext.entitlement_bundle (bundle),
    CONSTRAINT billing_price_price_id_chk CHECK (price_id <> '')
);
COMMENT ON TABLE _grownext.billing_price IS 'Which bundle a provider''s price buys; without a bundle it buys nothing.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.billing_price', '');

-- The fold's result. Its row lock makes appliers of one subscription take turns.
CREATE TABLE _grownext.billing_object (
    provider      text        NOT NULL,
    object_id     text        NOT NULL COLLATE "C",
    tenant_id     uuid,
    event_id      text        COLLATE "C",
    subscriptions jsonb       NOT NULL DEFAULT '{}',
    updated_at    timestamptz NOT NULL,
    CONSTRAINT billing_object_pkey PRIMARY KEY (provider, object_id),
    CONSTRAINT billing_object_provider_fkey FOREIGN KEY (provider) REFERENCES _grownext.billing_provider (provider),
    CONSTRAINT billing_object_event_id_fkey FOREIGN KEY (provider, event_id) REFERENCES _grownext.billing_event (provider, event_id),
    CONSTRAINT billing_object_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE SET NULL
);
COMMENT ON TABLE _grownext.billing_object IS 'Subscriptions of providers: the event that counts, and what it says of ours by external id.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.billing_object', '');
