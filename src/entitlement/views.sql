-- src/entitlement/views.sql: what administrators, services and tenants look at

CREATE OR REPLACE VIEW grownext.product WITH (security_barrier) AS
    SELECT p.product, p.name, p.created_at FROM _grownext.entitlement_product AS p;
COMMENT ON VIEW grownext.product IS 'Products.';
CREATE OR REPLACE VIEW grownext.feature WITH (security_barrier) AS
    SELECT f.feature, f.product, f.kind, f.fold, f.inherit, f.options -> 'default' AS "default",
           CASE WHEN f.kind IN ('metered', 'credit') THEN coalesce(f.options ->> 'period', 'month') END AS period,
           f.description, f.created_at, f.updated_at
      FROM _grownext.entitlement_feature AS f;
COMMENT ON VIEW grownext.feature IS 'Features.';
CREATE OR REPLACE VIEW grownext.bundle WITH (security_barrier) AS
    SELECT v.bundle, b.name, v.version, v.features, v.grace, v.created_at,
           v.version = max(v.version) OVER (PARTITION BY v.bundle) AS latest,
           EXISTS (SELECT FROM _grownext.entitlement_free_bundle AS f
                    WHERE f.version_id = v.id AND f.valid_from <= _grownext.core_now() AND f.valid_until > _grownext.core_now()) AS "default"
      FROM _grownext.entitlement_bundle_version AS v
      JOIN _grownext.entitlement_bundle AS b ON b.bundle = v.bundle;
COMMENT ON VIEW grownext.bundle IS 'All versions of all bundles.';
CREATE OR REPLACE VIEW grownext.subscription WITH (security_barrier) AS
    SELECT s.* FROM _grownext.entitlement_subscription_now AS s
     WHERE s.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.subscription IS 'Subscriptions as they are now, with what is scheduled; without the rights of a service, the own tenant''s.';
CREATE OR REPLACE VIEW grownext.entitlement_override WITH (security_barrier) AS
    SELECT o.id, o.tenant_id, f.feature, o.user_id, o.effect, o.value, o.valid_from, nullif(o.valid_until, 'infinity') AS valid_until,
           o.reason, o.created_at, o.created_by, o.revoked_at
      FROM _grownext.entitlement_override AS o
      JOIN _grownext.entitlement_feature AS f ON f.id = o.feature_id
     WHERE o.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.entitlement_override IS 'Grants and blocks, past ones too; without the rights of a service, the own tenant''s.';
CREATE OR REPLACE VIEW grownext.usage_period WITH (security_barrier) AS
    SELECT c.tenant_id, f.feature, c.period, nullif(c.period_start, '-infinity') AS period_start, nullif(c.period_end, 'infinity') AS period_end,
           c.used, c.quota, greatest(c.quota - c.used, 0) AS remaining
      FROM _grownext.entitlement_counter AS c
      JOIN _grownext.entitlement_feature AS f ON f.id = c.feature_id
     WHERE c.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.usage_period IS 'Usage by period, past ones too; without the rights of a service, the own tenant''s.';
CREATE OR REPLACE VIEW grownext.credit WITH (security_barrier) AS
    SELECT c.id, c.tenant_id, f.feature, c.origin, nullif(c.source_id, '00000000-0000-0000-0000-000000000000') AS source_id, c.amount, c.burnt,
           CASE WHEN c.voided_at IS NULL AND c.expires_at > _grownext.core_now() THEN c.amount - c.burnt WHEN c.amount IS NOT NULL THEN 0 END AS remaining,
           c.priority, nullif(c.valid_from, '-infinity') AS valid_from, nullif(c.expires_at, 'infinity') AS expires_at,
           c.reason, c.created_at, c.created_by, c.voided_at
      FROM _grownext.entitlement_credit AS c
      JOIN _grownext.entitlement_feature AS f ON f.id = c.feature_id
     WHERE c.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.credit IS 'Grants of credit with what is left, past ones too; without the rights of a service, the own tenant''s.';
CREATE OR REPLACE VIEW grownext.reservation WITH (security_barrier) AS
    SELECT r.id, r.tenant_id, f.feature, r.amount,
           CASE WHEN r.state = 'open' AND r.expires_at <= _grownext.core_now() THEN 'expired' ELSE r.state END AS state,
           r.committed, r.created_at, r.expires_at
      FROM _grownext.entitlement_reservation AS r
      JOIN _grownext.entitlement_feature AS f ON f.id = r.feature_id
     WHERE r.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.reservation IS 'Reservations, closed ones for 30 days; without the rights of a service, the own tenant''s.';
CREATE OR REPLACE VIEW grownext.product_entitlement WITH (security_barrier) AS
    SELECT t.id AS tenant_id, f.product, e.feature, e.kind, e.value, e.used, e.quota, e.remaining, e.resets_at, e.source
      FROM _grownext.tenant_tenant AS t
     CROSS JOIN LATERAL grownext.entitlements(t.id) AS e
      JOIN _grownext.entitlement_feature AS f ON f.feature = e.feature
     WHERE (t.id = grownext.current_tenant() OR (SELECT _grownext.tenant_serves_all())) AND e.allowed;
COMMENT ON VIEW grownext.product_entitlement IS 'One row per tenant, product and feature that is in force now.';
