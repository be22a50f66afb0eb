-- src/entitlement/tables.sql: the catalogue, who subscribes to what, exceptions, counters

-- What cached answers depend on: the catalogue, and tenants, spread over 64 markers so
-- that a change of one leaves most others' answers alone.
CREATE TYPE _grownext.entitlement_marker_catalogue AS ();
DO $$
BEGIN
    FOR i IN 0 .. 63 LOOP
        EXECUTE format('CREATE TYPE _grownext.%I AS ()', 'entitlement_marker_tenant_' || lpad(i::text, 2, '0'));
    END LOOP;
END
$$;

CREATE TYPE grownext.entitlement_state AS (
    feature   text,
    kind      text,
    allowed   boolean,
    value     jsonb,
    used      bigint,
    quota     bigint,
    remaining bigint,
    resets_at timestamptz,
    source    text,
    reason    text);
CREATE TYPE grownext.usage_result AS (
    allowed   boolean,
    used      bigint,
    quota     bigint,
    remaining bigint,
    resets_at timestamptz,
    reason    text);

CREATE TYPE grownext.entitlement_claims_state AS (current boolean, features text[]);
COMMENT ON TYPE grownext.entitlement_claims_state IS 'What the entitlements in a token say, and whether they still hold.';

CREATE TYPE grownext.policy_problem AS (relation text, policy text, problem text, hint text);
COMMENT ON TYPE grownext.policy_problem IS 'What policy_lint() found, and what mends it.';

CREATE TYPE grownext.subscription_effect AS (
    feature    text,
    before     jsonb,
    after      jsonb,
    over_limit boolean);
COMMENT ON TYPE grownext.subscription_effect IS 'What a change of a subscription changes of a feature, as a bundle would say it.';

-- What a catalogue, a bundle or a grant says about a feature, in the form the resolver
-- reads. quota NULL with enabled: unlimited. Built by entitlement_value() alone.
CREATE TYPE _grownext.entitlement_setting AS (
    enabled        boolean,  -- false: takes the feature away
    quota          bigint,   -- limit, metered and seats; credit: what each period grants
    period         text,     -- metered and credit: hour | day | week | month | year | never
    billing_anchor boolean,  -- metered and credit: periods count from the subscription's anchor, not the calendar
    soft           boolean,  -- metered: counts beyond the quota instead of denying
    value          jsonb,    -- config
    rollover       bigint,   -- credit: the most of a period's rest that the next one keeps
    priority       int);     -- credit: lower is burnt first

-- The catalogue -------------------------------------------------------------

CREATE TABLE _grownext.entitlement_product (
    product    text        NOT NULL COLLATE "C",
    name       text        NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT entitlement_product_pkey PRIMARY KEY (product),
    CONSTRAINT entitlement_product_product_chk CHECK (product ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    CONSTRAINT entitlement_product_name_chk CHECK (name <> '')
);
COMMENT ON TABLE _grownext.entitlement_product IS 'Products: groups of features that are sold together.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_product', '');

-- Ids are dense from 0, given under the table's lock, for bitsets; so no sequence.
CREATE TABLE _grownext.entitlement_feature (
    id          int         NOT NULL,
    feature     text        NOT NULL COLLATE "C",
    product     text        NOT NULL COLLATE "C",
    kind        text        NOT NULL,
    fold        text        NOT NULL,
    inherit     text        NOT NULL DEFAULT 'own',
    description text,
    fallback    _grownext.entitlement_setting,
    options     jsonb       NOT NULL DEFAULT '{}',
    tier        text        NOT NULL DEFAULT 'strict',
    shards      int         NOT NULL DEFAULT 16,
    thresholds  int[]       NOT NULL DEFAULT '{80,100}',
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    CONSTRAINT entitlement_feature_pkey PRIMARY KEY (id),
    CONSTRAINT entitlement_feature_feature_key UNIQUE (feature),
    CONSTRAINT entitlement_feature_product_fkey FOREIGN KEY (product) REFERENCES _grownext.entitlement_product (product),
    CONSTRAINT entitlement_feature_id_chk CHECK (id >= 0),
    CONSTRAINT entitlement_feature_feature_chk CHECK (feature ~ '^[a-z0-9_]+(\.[a-z0-9_]+)*$' AND length(feature) <= 200),
    CONSTRAINT entitlement_feature_kind_chk CHECK (kind IN ('boolean', 'limit', 'config', 'metered', 'credit', 'seats')),
    CONSTRAINT entitlement_feature_inherit_chk CHECK (inherit IN ('own', 'parent', 'pool')),
    CONSTRAINT entitlement_feature_tier_chk CHECK (tier IN ('strict', 'escrow', 'soft')),
    CONSTRAINT entitlement_feature_shards_chk CHECK (shards BETWEEN 2 AND 256),
    CONSTRAINT entitlement_feature_thresholds_chk CHECK (cardinality(thresholds) <= 8),
    CONSTRAINT entitlement_feature_fold_chk CHECK (fold = ANY (CASE kind
        WHEN 'boolean' THEN '{any}'::text[] WHEN 'config' THEN '{last}' WHEN 'credit' THEN '{sum}' ELSE '{max,sum}' END))
);
CREATE INDEX entitlement_feature_product_idx ON _grownext.entitlement_feature (product);
COMMENT ON TABLE _grownext.entitlement_feature IS 'Features, of which the application asks.';
COMMENT ON COLUMN _grownext.entitlement_feature.inherit IS 'What a tenant below another has of its parent: nothing, its setting, or its setting and counter.';
COMMENT ON COLUMN _grownext.entitlement_feature.fallback IS 'What holds if nothing else decides; NULL: denied.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_feature', '');

CREATE TABLE _grownext.entitlement_bundle (
    bundle     text        NOT NULL COLLATE "C",
    name       text        NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT entitlement_bundle_pkey PRIMARY KEY (bundle),
    CONSTRAINT entitlement_bundle_bundle_chk CHECK (bundle ~ '^[a-z0-9][a-z0-9_.-]{0,62}$')
);
COMMENT ON TABLE _grownext.entitlement_bundle IS 'Bundles (plans, add-ons), of which a tenant subscribes to a version.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_bundle', '');

-- Immutable: changed content is a new version.
CREATE TABLE _grownext.entitlement_bundle_version (
    id         int         NOT NULL,
    bundle     text        NOT NULL COLLATE "C",
    version    int         NOT NULL,
    features   jsonb       NOT NULL,
    grace      interval    NOT NULL DEFAULT '0',
    created_at timestamptz NOT NULL,
    CONSTRAINT entitlement_bundle_version_pkey PRIMARY KEY (id),
    CONSTRAINT entitlement_bundle_version_key UNIQUE (bundle, version),
    CONSTRAINT entitlement_bundle_version_bundle_fkey FOREIGN KEY (bundle) REFERENCES _grownext.entitlement_bundle (bundle)
);
COMMENT ON TABLE _grownext.entitlement_bundle_version IS 'Versions of bundles; features as they were defined.';
COMMENT ON COLUMN _grownext.entitlement_bundle_version.grace IS 'How long a subscription stays live after it is paid through.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_bundle_version', '');

CREATE TABLE _grownext.entitlement_bundle_feature (
    version_id int NOT NULL,
    feature_id int NOT NULL,
    setting    _grownext.entitlement_setting NOT NULL,
    CONSTRAINT entitlement_bundle_feature_pkey PRIMARY KEY (version_id, feature_id),
    CONSTRAINT entitlement_bundle_feature_version_id_fkey FOREIGN KEY (version_id) REFERENCES _grownext.entitlement_bundle_version (id),
    CONSTRAINT entitlement_bundle_feature_feature_id_fkey FOREIGN KEY (feature_id) REFERENCES _grownext.entitlement_feature (id)
);
COMMENT ON TABLE _grownext.entitlement_bundle_feature IS 'What a version of a bundle says about each of its features.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_bundle_feature', '');

-- Valid time: which version of which bundle is free is told of the past, too.
CREATE TABLE _grownext.entitlement_free_bundle (
    valid_from  timestamptz NOT NULL,
    valid_until timestamptz NOT NULL DEFAULT 'infinity',
    version_id  int         NOT NULL,
    CONSTRAINT entitlement_free_bundle_pkey PRIMARY KEY (valid_from),
    CONSTRAINT entitlement_free_bundle_version_id_fkey FOREIGN KEY (version_id) REFERENCES _grownext.entitlement_bundle_version (id),
    CONSTRAINT entitlement_free_bundle_valid_chk CHECK (valid_from < valid_until)
);
COMMENT ON TABLE _grownext.entitlement_free_bundle IS 'What tenants without a live subscription have, from when until when: the default bundle.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_free_bundle', '');

-- Subscriptions -------------------------------------------------------------

CREATE TABLE _grownext.entitlement_subscription (
    id           uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    tenant_id    uuid        NOT NULL,
    external_id  text,
    addon        boolean     NOT NULL DEFAULT false,
    status       text        NOT NULL,
    live         boolean     NOT NULL GENERATED ALWAYS AS (status IN ('active', 'trialing', 'past_due')) STORED,
    anchor       timestamptz NOT NULL,
    started_at   timestamptz NOT NULL,
    trial_until  timestamptz,
    paid_through timestamptz,
    ended_at     timestamptz,
    updated_at   timestamptz NOT NULL,
    CONSTRAINT entitlement_subscription_pkey PRIMARY KEY (id),
    CONSTRAINT entitlement_subscription_external_id_key UNIQUE (external_id),
    CONSTRAINT entitlement_subscription_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id),
    CONSTRAINT entitlement_subscription_external_id_chk CHECK (external_id <> ''),
    CONSTRAINT entitlement_subscription_status_chk CHECK (status IN ('active', 'trialing', 'past_due', 'paused', 'unpaid', 'incomplete'))
);
CREATE INDEX entitlement_subscription_tenant_id_idx ON _grownext.entitlement_subscription (tenant_id);
COMMENT ON TABLE _grownext.entitlement_subscription IS 'Subscriptions of tenants to bundles.';
COMMENT ON COLUMN _grownext.entitlement_subscription.live IS 'Whether the status entitles; past due does, until its grace is over.';
COMMENT ON COLUMN _grownext.entitlement_subscription.ended_at IS 'May lie ahead: the subscription ends then. Final once it has passed.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_subscription', '');

-- Valid time: a change is a new phase, now or at a period's end, so what was in force at
-- any instant can be told and a scheduled change needs no job. tenant_id, anchor and
-- live_until repeat or derive from the subscription: a check reads this table alone.
CREATE TABLE _grownext.entitlement_phase (
    subscription_id uuid        NOT NULL,
    tenant_id       uuid        NOT NULL,
    valid_from      timestamptz NOT NULL,
    valid_until     timestamptz NOT NULL DEFAULT 'infinity',
    version_id      int         NOT NULL,
    quantity        int         NOT NULL,
    live            boolean     NOT NULL,
    live_until      timestamptz NOT NULL,
    anchor          timestamptz NOT NULL,
    addon           boolean     NOT NULL,
    CONSTRAINT entitlement_phase_pkey PRIMARY KEY (subscription_id, valid_from),
    CONSTRAINT entitlement_phase_subscription_id_fkey FOREIGN KEY (subscription_id) REFERENCES _grownext.entitlement_subscription (id) ON DELETE CASCADE,
    CONSTRAINT entitlement_phase_version_id_fkey FOREIGN KEY (version_id) REFERENCES _grownext.entitlement_bundle_version (id),
    CONSTRAINT entitlement_phase_quantity_chk CHECK (quantity > 0),
    CONSTRAINT entitlement_phase_valid_chk CHECK (valid_from < valid_until)
);
CREATE INDEX entitlement_phase_tenant_id_idx ON _grownext.entitlement_phase (tenant_id);
COMMENT ON TABLE _grownext.entitlement_phase IS 'Which version of a bundle a subscription means, in which quantity, from when until when.';
COMMENT ON COLUMN _grownext.entitlement_phase.live IS 'Whether the status that the subscription has in this phase entitles.';
COMMENT ON COLUMN _grownext.entitlement_phase.live_until IS 'The later of trial_until and paid_through plus grace; infinity with neither.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_phase', '');

-- Exceptions ----------------------------------------------------------------

CREATE TABLE _grownext.entitlement_override (
    id          uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    tenant_id   uuid        NOT NULL,
    feature_id  int         NOT NULL,
    user_id     uuid,
    effect      text        NOT NULL,
    setting     _grownext.entitlement_setting,
    value       jsonb,
    valid_from  timestamptz NOT NULL,
    valid_until timestamptz NOT NULL DEFAULT 'infinity',
    reason      text,
    created_at  timestamptz NOT NULL,
    created_by  text,
    revoked_at  timestamptz,
    CONSTRAINT entitlement_override_pkey PRIMARY KEY (id),
    CONSTRAINT entitlement_override_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id),
    CONSTRAINT entitlement_override_feature_id_fkey FOREIGN KEY (feature_id) REFERENCES _grownext.entitlement_feature (id),
    CONSTRAINT entitlement_override_user_id_fkey FOREIGN KEY (user_id) REFERENCES _grownext.account_user (id) ON DELETE CASCADE,
    CONSTRAINT entitlement_override_effect_chk CHECK (effect IN ('set', 'add', 'block')),
    CONSTRAINT entitlement_override_setting_chk CHECK ((effect = 'block') = (setting IS NULL)),
    CONSTRAINT entitlement_override_user_id_chk CHECK (user_id IS NULL OR effect = 'set'),
    CONSTRAINT entitlement_override_valid_chk CHECK (valid_from <= valid_until)
);
CREATE INDEX entitlement_override_tenant_id_idx ON _grownext.entitlement_override (tenant_id, feature_id);
CREATE INDEX entitlement_override_user_id_idx ON _grownext.entitlement_override (user_id) WHERE user_id IS NOT NULL;
COMMENT ON TABLE _grownext.entitlement_override IS 'Grants to single tenants or users, and blocks. A revoked one stays, ended.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_override', '');

-- Metering ------------------------------------------------------------------

-- A counter is what a tenant uses of a feature in one period; a reset is a new counter,
-- and the old ones are the history. A strict counter is its row 0. An escrow counter also
-- has rows 1 to shards, whose allowances sum to what may be used without a look at all of
-- them. What a counter says is the sum of its rows and of the events of the soft tier that
-- are not folded yet. Half-full pages and no index on what changes keep each consume a
-- heap-only update; what every consume changes stands together, which keeps its WAL short.
CREATE TABLE _grownext.entitlement_usage (
    tenant_id    uuid        NOT NULL,
    feature_id   int         NOT NULL,
    period       text        NOT NULL COLLATE "C",
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL,
    shard        smallint    NOT NULL DEFAULT 0,
    used         bigint      NOT NULL,
    slot_used    bigint      NOT NULL DEFAULT 0,
    slot_start   timestamptz NOT NULL DEFAULT '-infinity',
    quota        bigint,
    allowance    bigint      NOT NULL DEFAULT 0,
    fired        smallint    NOT NULL DEFAULT 0,
    shards       smallint    NOT NULL DEFAULT 0,
    has_events   boolean     NOT NULL DEFAULT false,
    waits        int         NOT NULL DEFAULT 0,
    waits_since  timestamptz,
    CONSTRAINT entitlement_usage_pkey PRIMARY KEY (tenant_id, feature_id, period_start, period, shard),
    CONSTRAINT entitlement_usage_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id),
    CONSTRAINT entitlement_usage_feature_id_fkey FOREIGN KEY (feature_id) REFERENCES _grownext.entitlement_feature (id),
    CONSTRAINT entitlement_usage_shard_chk CHECK (shard >= 0),
    CONSTRAINT entitlement_usage_used_chk CHECK (used >= 0),
    CONSTRAINT entitlement_usage_allowance_chk CHECK (shard = 0 OR used <= allowance)
) WITH (fillfactor = 50);
COMMENT ON TABLE _grownext.entitlement_usage IS 'Counters: what a tenant used of a feature in a period.';
COMMENT ON COLUMN _grownext.entitlement_usage.slot_used IS 'What was used in the quarter of an hour from slot_start on; not in entitlement_usage_slot yet.';
COMMENT ON COLUMN _grownext.entitlement_usage.quota IS 'The quota that the last consume, or the allowances, went by; NULL: unlimited.';
COMMENT ON COLUMN _grownext.entitlement_usage.allowance IS 'Of a shard: how far it may be used.';
COMMENT ON COLUMN _grownext.entitlement_usage.fired IS 'The highest threshold that was reached in this period, in percent; row 0 tells.';
COMMENT ON COLUMN _grownext.entitlement_usage.has_events IS 'Events of the soft tier may wait for being folded; row 0 tells.';
COMMENT ON COLUMN _grownext.entitlement_usage.waits IS 'How often somebody waited for this row in the minute from waits_since on.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_usage', '');

-- Limits that tables count. The counter is a row of entitlement_usage with period never.
-- The row is locked by whoever counts anew or forgets the counters.
CREATE TABLE _grownext.entitlement_gauge (
    feature_id int         NOT NULL,
    counted_at timestamptz NOT NULL,
    CONSTRAINT entitlement_gauge_pkey PRIMARY KEY (feature_id),
    CONSTRAINT entitlement_gauge_feature_id_fkey FOREIGN KEY (feature_id) REFERENCES _grownext.entitlement_feature (id)
);
COMMENT ON TABLE _grownext.entitlement_gauge IS 'Limits whose units are rows of tables that limit_protect() watches, and when they were counted last.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_gauge', '');

-- The soft tier's consumes until they are counted: no row that two of them share.
CREATE TABLE _grownext.entitlement_usage_event (
    tenant_id    uuid        NOT NULL,
    feature_id   int         NOT NULL,
    period       text        NOT NULL COLLATE "C",
    period_start timestamptz NOT NULL,
    at           timestamptz NOT NULL,
    amount       bigint      NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
ALTER TABLE _grownext.entitlement_usage_event REPLICA IDENTITY FULL;
CREATE INDEX entitlement_usage_event_idx ON _grownext.entitlement_usage_event (tenant_id, feature_id, period_start, period) INCLUDE (amount);
COMMENT ON TABLE _grownext.entitlement_usage_event IS 'Usage of the soft tier that no counter holds yet.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_usage_event', '');

-- The ledger: finished slots. With those that the counters' rows hold they always equal
-- what the counters say. Quarters of an hour, because every time zone begins its hours and
-- days at one. A row of a counter has its own, written under its lock.
CREATE TABLE _grownext.entitlement_usage_slot (
    tenant_id    uuid        NOT NULL,
    feature_id   int         NOT NULL,
    period       text        NOT NULL COLLATE "C",
    period_start timestamptz NOT NULL,
    slot_start   timestamptz NOT NULL,
    shard        smallint    NOT NULL DEFAULT 0,
    amount       numeric     NOT NULL,
    CONSTRAINT entitlement_usage_slot_pkey PRIMARY KEY (tenant_id, feature_id, period_start, period, slot_start, shard)
);
COMMENT ON TABLE _grownext.entitlement_usage_slot IS 'What of a counter was used in which quarter of an hour, but for the slots that its rows hold.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_usage_slot', '');

CREATE TABLE _grownext.entitlement_usage_hot (
    tenant_id  uuid        NOT NULL,
    feature_id int         NOT NULL,
    hot_at     timestamptz NOT NULL,
    CONSTRAINT entitlement_usage_hot_pkey PRIMARY KEY (tenant_id, feature_id)
);
COMMENT ON TABLE _grownext.entitlement_usage_hot IS 'Strict counters whose consumers waited for each other a hundred times within a minute, and when last.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_usage_hot', '');

CREATE TYPE grownext.usage_bucket AS (
    tenant_id    uuid,
    feature      text,
    bucket_start timestamptz,
    used         bigint,
    quota        bigint,
    overage      bigint);
COMMENT ON TYPE grownext.usage_bucket IS 'What a tenant used of a feature in an hour, day or month.';

-- First answers by idempotency key, kept for 30 days. No foreign keys: each would lock
-- the tenant's and the feature's row at every keyed consume.
CREATE TABLE _grownext.entitlement_usage_key (
    tenant_id       uuid        NOT NULL,
    operation       text        NOT NULL,
    idempotency_key text        NOT NULL COLLATE "C",
    feature_id      int         NOT NULL,
    amount          bigint      NOT NULL,
    result          grownext.usage_result,
    created_at      timestamptz NOT NULL,
    CONSTRAINT entitlement_usage_key_pkey PRIMARY KEY (tenant_id, operation, idempotency_key),
    CONSTRAINT entitlement_usage_key_operation_chk CHECK (operation IN ('consume', 'return', 'record'))
);
CREATE INDEX entitlement_usage_key_created_at_idx ON _grownext.entitlement_usage_key (created_at);
COMMENT ON TABLE _grownext.entitlement_usage_key IS 'Answers to consumes and returns that carried an idempotency key.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_usage_key', '');

-- Credits -------------------------------------------------------------------

-- One row per balance, locked by whoever burns or refunds, so that grants need no order
-- of locks and a denial is never an artefact of one.
CREATE TABLE _grownext.entitlement_balance (
    tenant_id  uuid   NOT NULL,
    feature_id int    NOT NULL,
    burnt      bigint NOT NULL DEFAULT 0,
    CONSTRAINT entitlement_balance_pkey PRIMARY KEY (tenant_id, feature_id),
    CONSTRAINT entitlement_balance_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id),
    CONSTRAINT entitlement_balance_feature_id_fkey FOREIGN KEY (feature_id) REFERENCES _grownext.entitlement_feature (id),
    CONSTRAINT entitlement_balance_burnt_chk CHECK (burnt >= 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE _grownext.entitlement_balance IS 'What a tenant burnt of a credit feature, refunds taken off.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_balance', '');

CREATE SEQUENCE _grownext.entitlement_credit_number AS bigint CACHE 1;
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_credit_number', '');

-- Amounts never change: more is another grant, so a balance can be told of any instant.
CREATE TABLE _grownext.entitlement_credit (
    id              uuid        NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    number          bigint      NOT NULL, -- from _grownext.core_nextval()
    tenant_id       uuid        NOT NULL,
    feature_id      int         NOT NULL,
    origin          text        NOT NULL,
    source_id       uuid,
    period_start    timestamptz,
    step            int         NOT NULL DEFAULT 0,
    amount          bigint,
    burnt           bigint      NOT NULL DEFAULT 0,
    priority        int         NOT NULL,
    valid_from      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL DEFAULT 'infinity',
    reason          text,
    idempotency_key text        COLLATE "C",
    created_at      timestamptz NOT NULL,
    created_by      text,
    voided_at       timestamptz,
    CONSTRAINT entitlement_credit_pkey PRIMARY KEY (id),
    CONSTRAINT entitlement_credit_period_key UNIQUE (tenant_id, feature_id, source_id, period_start, origin, step),
    CONSTRAINT entitlement_credit_idempotency_key UNIQUE (tenant_id, idempotency_key),
    CONSTRAINT entitlement_credit_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id),
    CONSTRAINT entitlement_credit_feature_id_fkey FOREIGN KEY (feature_id) REFERENCES _grownext.entitlement_feature (id),
    CONSTRAINT entitlement_credit_origin_chk CHECK (origin IN ('grant', 'period', 'rollover')),
    CONSTRAINT entitlement_credit_source_id_chk CHECK ((origin = 'grant') = (source_id IS NULL) AND (source_id IS NULL) = (period_start IS NULL)),
    CONSTRAINT entitlement_credit_amount_chk CHECK (amount > 0 AND (amount IS NOT NULL OR origin = 'period')),
    CONSTRAINT entitlement_credit_burnt_chk CHECK (burnt >= 0 AND burnt <= amount),
    CONSTRAINT entitlement_credit_valid_chk CHECK (valid_from < expires_at)
) WITH (fillfactor = 50);
CREATE INDEX entitlement_credit_expires_at_idx ON _grownext.entitlement_credit (tenant_id, feature_id, expires_at);
COMMENT ON TABLE _grownext.entitlement_credit IS 'Grants of credit: given once, or by a subscription for a period.';
COMMENT ON COLUMN _grownext.entitlement_credit.number IS 'The order in which grants were given; those that are equal otherwise are burnt in it.';
COMMENT ON COLUMN _grownext.entitlement_credit.origin IS 'grant: by credit_grant(); period: of a subscription, grant, free bundle or default; rollover: the rest of its period before.';
COMMENT ON COLUMN _grownext.entitlement_credit.source_id IS 'The subscription or entitlement_grant(); zero: free bundle or default. Counts only while that entitles.';
COMMENT ON COLUMN _grownext.entitlement_credit.step IS 'Above 0: what a change within the period added.';
COMMENT ON COLUMN _grownext.entitlement_credit.amount IS 'NULL: unlimited.';
COMMENT ON COLUMN _grownext.entitlement_credit.burnt IS 'The sum of its lines in entitlement_burn.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_credit', '');

CREATE SEQUENCE _grownext.entitlement_burn_id AS bigint CACHE 1;
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_burn_id', '');

-- The receipts. No foreign keys: each would lock rows at every consume.
CREATE TABLE _grownext.entitlement_burn (
    tenant_id      uuid        NOT NULL,
    feature_id     int         NOT NULL,
    id             bigint      NOT NULL, -- from _grownext.core_nextval()
    credit_id      uuid        NOT NULL,
    amount         bigint      NOT NULL,
    returned       bigint      NOT NULL DEFAULT 0,
    refund_of      bigint,
    reservation_id uuid,
    at             timestamptz NOT NULL,
    CONSTRAINT entitlement_burn_pkey PRIMARY KEY (tenant_id, feature_id, id),
    CONSTRAINT entitlement_burn_amount_chk CHECK (amount <> 0 AND (amount < 0) = (refund_of IS NOT NULL)),
    CONSTRAINT entitlement_burn_returned_chk CHECK (returned >= 0 AND returned <= greatest(amount, 0))
);
CREATE INDEX entitlement_burn_credit_id_idx ON _grownext.entitlement_burn (credit_id);
CREATE INDEX entitlement_burn_reservation_id_idx ON _grownext.entitlement_burn (reservation_id) WHERE reservation_id IS NOT NULL;
COMMENT ON TABLE _grownext.entitlement_burn IS 'What was burnt of which grant of credit, and, below zero, refunded.';
COMMENT ON COLUMN _grownext.entitlement_burn.returned IS 'How much of the line was refunded.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_burn', '');

-- Reservations --------------------------------------------------------------

-- No foreign keys to tenant and feature, as for the keys.
CREATE TABLE _grownext.entitlement_reservation (
    id              uuid        NOT NULL,
    tenant_id       uuid        NOT NULL,
    feature_id      int         NOT NULL,
    holder_id       uuid        NOT NULL,
    period          text,
    period_start    timestamptz,
    amount          bigint      NOT NULL,
    ttl             interval    NOT NULL,
    idempotency_key text        COLLATE "C",
    state           text        NOT NULL DEFAULT 'open',
    committed       bigint,
    expires_at      timestamptz NOT NULL,
    created_at      timestamptz NOT NULL,
    CONSTRAINT entitlement_reservation_pkey PRIMARY KEY (id),
    CONSTRAINT entitlement_reservation_idempotency_key UNIQUE (tenant_id, idempotency_key),
    CONSTRAINT entitlement_reservation_amount_chk CHECK (amount > 0 AND committed > 0),
    CONSTRAINT entitlement_reservation_period_chk CHECK ((period IS NULL) = (period_start IS NULL)),
    CONSTRAINT entitlement_reservation_state_chk CHECK (state IN ('open', 'committed', 'released', 'expired') AND (state = 'committed') = (committed IS NOT NULL))
);
CREATE INDEX entitlement_reservation_open_idx ON _grownext.entitlement_reservation (holder_id, feature_id, expires_at) WHERE state = 'open';
CREATE INDEX entitlement_reservation_expires_at_idx ON _grownext.entitlement_reservation (expires_at);
COMMENT ON TABLE _grownext.entitlement_reservation IS 'Units taken for a while: committed, released, or given back when they expire.';
COMMENT ON COLUMN _grownext.entitlement_reservation.holder_id IS 'The tenant at which they are counted: of a pool, the topmost.';
COMMENT ON COLUMN _grownext.entitlement_reservation.period IS 'With period_start, the counter that they came from; NULL for credits, whose receipt says it.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.entitlement_reservation', '');
