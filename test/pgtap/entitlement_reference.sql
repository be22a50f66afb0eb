-- The resolver against another one in plain SQL, written from the order of rules in
-- docs/entitlement.md and from what was said, not from what the extension compiled: on
-- random catalogues with random histories, at random instants, both must answer the same,
-- and entitlement_explain() must name the rule that decided.
--
-- GN_SEED        the seed of the run (2030)
-- GN_CATALOGUES  how many of them (1000)
-- GN_CATALOGUE   just this one, to look at what failed
\set seed 2030
\set catalogues 1000
\set catalogue 0
\getenv seed GN_SEED
\getenv catalogues GN_CATALOGUES
\getenv catalogue GN_CATALOGUE
BEGIN;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = warning;
SET LOCAL jit = off;
CREATE SCHEMA ref;

-- The reference -------------------------------------------------------------------------

CREATE TYPE ref.answer AS (allowed boolean, value jsonb, quota bigint, source text, reason text, rule text);

-- What a value says, from the JSON that people wrote.
CREATE TYPE ref.saying AS (enabled boolean, quota numeric, unlimited boolean, period text, soft boolean, value jsonb);
CREATE FUNCTION ref.read(kind text, period text, j jsonb) RETURNS ref.saying LANGUAGE sql IMMUTABLE AS $$
    SELECT (j <> 'false',
            CASE WHEN kind IN ('limit', 'metered') AND j <> 'false' AND n.said <> '"unlimited"' THEN n.said::numeric END,
            coalesce(kind IN ('limit', 'metered') AND n.said = '"unlimited"', false),
            CASE WHEN kind = 'metered' THEN coalesce(CASE jsonb_typeof(j) WHEN 'object' THEN j ->> 'period' END, period, 'month') END,
            coalesce(CASE jsonb_typeof(j) WHEN 'object' THEN (j ->> 'soft')::boolean END, false),
            CASE WHEN kind = 'config' AND j <> 'false' THEN j -> 'value' END)::ref.saying
      FROM (SELECT CASE jsonb_typeof(j) WHEN 'object' THEN j -> 'quota' ELSE j END) AS n (said);
$$;

CREATE FUNCTION ref.decide(kind text, said ref.saying, source text, rule text) RETURNS ref.answer LANGUAGE sql IMMUTABLE AS $$
    SELECT (n.reason IS NULL,
            CASE WHEN kind = 'boolean' THEN to_jsonb(said.enabled)
                 WHEN NOT said.enabled THEN NULL
                 WHEN kind = 'config' THEN said.value
                 WHEN said.unlimited THEN '"unlimited"'
                 ELSE to_jsonb(said.quota) END,
            CASE WHEN said.enabled AND kind IN ('limit', 'metered') AND NOT said.unlimited THEN said.quota END,
            source, n.reason, rule)::ref.answer
      FROM (SELECT CASE WHEN NOT said.enabled THEN CASE source WHEN 'default' THEN 'not_included' ELSE 'taken_away' END
                        WHEN kind = 'metered' AND NOT said.unlimited AND said.quota = 0 AND NOT said.soft THEN 'quota_exceeded'
                        WHEN kind = 'limit' AND NOT said.unlimited AND said.quota = 0 THEN 'limit_is_zero' END) AS n (reason);
$$;

CREATE FUNCTION ref.deny(kind text, source text, reason text, rule text) RETURNS ref.answer LANGUAGE sql IMMUTABLE AS
$$ SELECT (false, CASE kind WHEN 'boolean' THEN 'false'::jsonb END, NULL, source, reason, rule)::ref.answer $$;

-- The last grant of a kind that is in force.
CREATE FUNCTION ref.granted(t uuid, f int, u uuid, wanted text, at timestamptz) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT coalesce(o.value, 'true') FROM _grownext.entitlement_override AS o
     WHERE o.tenant_id = t AND o.feature_id = f AND o.user_id IS NOT DISTINCT FROM u AND o.effect = wanted
       AND o.valid_from <= at AND at < o.valid_until
     ORDER BY o.valid_from DESC, o.created_at DESC, o.id DESC LIMIT 1;
$$;

-- What is subscribed and in force, in the order in which it counts, then what is added.
CREATE FUNCTION ref.sources(t uuid, f _grownext.entitlement_feature, at timestamptz)
RETURNS TABLE (place bigint, source text, said ref.saying, n int, anchor timestamptz) LANGUAGE sql STABLE AS $$
    SELECT row_number() OVER (ORDER BY p.addon, p.valid_from, p.subscription_id), 'subscription',
           ref.read(f.kind, f.options ->> 'period', v.features -> f.feature), p.quantity, p.anchor
      FROM _grownext.entitlement_phase AS p JOIN _grownext.entitlement_bundle_version AS v ON v.id = p.version_id
     WHERE p.tenant_id = t AND p.live AND p.valid_from <= at AND at < p.valid_until AND at < p.live_until
       AND v.features ? f.feature AND v.features -> f.feature <> 'false'
    UNION ALL
    SELECT 1000 + row_number() OVER (ORDER BY o.valid_from, o.created_at, o.id), 'tenant_grant',
           ref.read(f.kind, f.options ->> 'period', o.value -> 'add'), 1, NULL
      FROM _grownext.entitlement_override AS o
     WHERE o.tenant_id = t AND o.feature_id = f.id AND o.effect = 'add' AND o.valid_from <= at AND at < o.valid_until
       AND o.value -> 'add' <> 'false';
$$;

-- All of them together: NULL if there are none.
CREATE FUNCTION ref.together(t uuid, f _grownext.entitlement_feature, at timestamptz) RETURNS ref.answer LANGUAGE sql STABLE AS $$
    WITH all_sources AS MATERIALIZED (SELECT s.*, least(coalesce((s.said).quota, 0) * s.n, 9223372036854775807) AS amount FROM ref.sources(t, f, at) AS s),
    leader AS (SELECT * FROM all_sources ORDER BY place LIMIT 1),
    -- quotas of other periods than the first one's are left out; what is added has none
    counted AS (
        SELECT s.* FROM all_sources AS s, leader AS l
         WHERE f.kind <> 'metered' OR s.place = l.place OR s.source = 'tenant_grant'
            OR (s.said).period = (l.said).period AND ((s.said).period <> 'billing' OR s.anchor = l.anchor)),
    folded AS (
        SELECT (true,
                least(CASE f.fold WHEN 'sum' THEN sum(c.amount) ELSE
                          coalesce(max(c.amount) FILTER (WHERE c.source = 'subscription'), 0)
                        + coalesce(sum(c.amount) FILTER (WHERE c.source <> 'subscription'), 0) END, 9223372036854775807),
                bool_or((c.said).unlimited), NULL,
                bool_or((c.said).soft) FILTER (WHERE c.source = 'subscription' OR c.place = (SELECT l.place FROM leader AS l)),
                (array_agg((c.said).value ORDER BY c.place DESC))[1])::ref.saying AS said
          FROM counted AS c)
    SELECT ref.decide(f.kind, d.said, (SELECT l.source FROM leader AS l), 'subscription') FROM folded AS d WHERE EXISTS (SELECT FROM leader);
$$;

-- What the default bundle says to a tenant that subscribes to nothing but add-ons.
CREATE FUNCTION ref.free(t uuid, f _grownext.entitlement_feature, at timestamptz) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT v.features -> f.feature
      FROM _grownext.entitlement_free_bundle AS b JOIN _grownext.entitlement_bundle_version AS v ON v.id = b.version_id
     WHERE b.valid_from <= at AND at < b.valid_until AND v.features -> f.feature <> 'false'
       AND NOT EXISTS (SELECT FROM _grownext.entitlement_phase AS p
                        WHERE p.tenant_id = t AND p.live AND NOT p.addon AND p.valid_from <= at AND at < p.valid_until AND at < p.live_until);
$$;

CREATE FUNCTION ref.resolve(name text, t uuid, u uuid, at timestamptz) RETURNS ref.answer LANGUAGE plpgsql STABLE AS $$
DECLARE
    f _grownext.entitlement_feature;
    parent CONSTANT uuid := (SELECT p.parent_id FROM _grownext.tenant_parent AS p WHERE p.tenant_id = t);
    state CONSTANT text := (SELECT n.state FROM _grownext.tenant_tenant AS n WHERE n.id = t);
    above ref.answer;
    said jsonb;
    answer ref.answer;
BEGIN
    SELECT * INTO f FROM _grownext.entitlement_feature AS e WHERE e.feature = name;
    IF f.id IS NULL THEN
        RETURN ref.deny(NULL, NULL, 'unknown_feature', 'feature');
    ELSIF state IS NULL THEN
        RETURN ref.deny(f.kind, NULL, 'unknown_tenant', 'tenant');
    ELSIF state <> 'active' THEN
        RETURN ref.deny(f.kind, NULL, 'tenant_suspended', 'tenant');
    ELSIF ref.granted(t, f.id, NULL, 'block', at) IS NOT NULL THEN
        RETURN ref.deny(f.kind, 'block', 'blocked', 'block');
    END IF;
    IF parent IS NOT NULL AND f.inherit <> 'own' THEN
        above := ref.resolve(name, parent, NULL, at);
        above.source := 'parent';
        IF f.inherit = 'pool' THEN
            above.rule := 'pool';
            RETURN above;
        END IF;
    END IF;
    said := ref.granted(t, f.id, u, 'set', at);
    IF u IS NOT NULL AND said IS NOT NULL THEN
        RETURN ref.decide(f.kind, ref.read(f.kind, f.options ->> 'period', said), 'user_grant', 'user_grant');
    END IF;
    said := ref.granted(t, f.id, NULL, 'set', at);
    IF said IS NOT NULL THEN
        RETURN ref.decide(f.kind, ref.read(f.kind, f.options ->> 'period', said), 'tenant_grant', 'tenant_grant');
    END IF;
    answer := ref.together(t, f, at);
    IF answer.rule IS NOT NULL THEN
        RETURN answer;
    ELSIF above.allowed THEN
        above.rule := 'parent';
        RETURN above;
    END IF;
    said := ref.free(t, f, at);
    IF said IS NOT NULL THEN
        RETURN ref.decide(f.kind, ref.read(f.kind, f.options ->> 'period', said), 'free_bundle', 'free_bundle');
    ELSIF f.options ? 'default' THEN
        RETURN ref.decide(f.kind, ref.read(f.kind, f.options ->> 'period', f.options -> 'default'), 'default', 'default');
    END IF;
    RETURN ref.deny(f.kind, NULL, 'not_included', NULL);
END
$$;

-- Chance --------------------------------------------------------------------------------

CREATE FUNCTION ref.chance(p float8) RETURNS boolean LANGUAGE sql VOLATILE AS $$ SELECT random() < p $$;
CREATE FUNCTION ref.one_of(choices text[]) RETURNS text LANGUAGE sql VOLATILE AS
$$ SELECT choices[1 + floor(random() * cardinality(choices))::int] $$;

CREATE FUNCTION ref.some_value(kind text) RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    is_soft CONSTANT boolean := ref.chance(0.3);
    quota jsonb := ref.one_of('{0,0,1,7,20,1000,9223372036854775807,"\"unlimited\""}')::jsonb;
BEGIN
    IF ref.chance(0.15) THEN
        RETURN 'false';
    END IF;
    RETURN CASE kind
        WHEN 'boolean' THEN 'true'
        WHEN 'config' THEN jsonb_build_object('value', ref.one_of('{1,null,"\"dark\"","{\"a\": []}"}')::jsonb)
        WHEN 'limit' THEN CASE WHEN ref.chance(0.5) THEN quota ELSE jsonb_build_object('quota', quota) END
        ELSE CASE WHEN ref.chance(0.4) THEN quota
                  ELSE jsonb_strip_nulls(jsonb_build_object('quota', CASE WHEN is_soft AND ref.chance(0.5) THEN '0' ELSE quota END, 'period', nullif(ref.one_of('{day,month,billing,never,-}'), '-'),
                                                            'soft', CASE WHEN is_soft THEN true END)) END
    END;
END
$$;

-- One catalogue and its history ---------------------------------------------------------

CREATE FUNCTION ref.define_feature(name text, kind text, period text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM grownext.feature_define(name, 'app', kind, jsonb_strip_nulls(jsonb_build_object(
        'inherit', ref.one_of(CASE kind WHEN 'metered' THEN '{own,parent,pool}'::text[] ELSE '{own,parent}' END),
        'fold', CASE WHEN kind IN ('limit', 'metered') THEN ref.one_of('{max,sum}') END,
        'period', period))
        || CASE WHEN ref.chance(0.4) THEN jsonb_build_object('default', ref.some_value(kind)) ELSE '{}' END);
END
$$;

CREATE FUNCTION ref.define_bundle() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM grownext.bundle_define('b' || ref.one_of('{1,2,3}'),
        (SELECT coalesce(jsonb_object_agg(f.feature, ref.some_value(f.kind)) FILTER (WHERE ref.chance(0.6)), '{}') FROM _grownext.entitlement_feature AS f),
        jsonb_strip_nulls(jsonb_build_object('grace', ref.one_of('{0,3 days,36 hours}'), 'default', ref.one_of('{true,false,null,null}')::jsonb)));
END
$$;

-- An instant near now, as a text: the same number comes often, so that ends meet beginnings.
CREATE FUNCTION ref.soon(now timestamptz) RETURNS text LANGUAGE sql VOLATILE AS
$$ SELECT (now + floor(random() * 8) * interval '5 days')::text $$;

CREATE FUNCTION ref.some_subscription() RETURNS uuid LANGUAGE sql VOLATILE AS
$$ SELECT s.id FROM _grownext.entitlement_subscription AS s ORDER BY s.started_at, s.tenant_id, s.external_id, random() LIMIT 1
   OFFSET floor(random() * (SELECT count(*) FROM _grownext.entitlement_subscription)) $$;

CREATE FUNCTION ref.act(n int, tenants uuid[], users uuid[], now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := tenants[1 + floor(random() * cardinality(tenants))::int];
    feature _grownext.entitlement_feature;
    chance CONSTANT float8 := random();
    dates CONSTANT jsonb := jsonb_strip_nulls(jsonb_build_object(
        'trial_until', CASE WHEN ref.chance(0.3) THEN ref.soon(now) END, 'paid_through', CASE WHEN ref.chance(0.5) THEN ref.soon(now) END));
    old _grownext.entitlement_subscription;
BEGIN
    SELECT * INTO feature FROM _grownext.entitlement_feature AS f ORDER BY f.id
    OFFSET floor(random() * (SELECT count(*) FROM _grownext.entitlement_feature)) LIMIT 1;
    IF chance < 0.22 THEN
        PERFORM grownext.subscription_start(tenant, 'b' || ref.one_of('{1,2,3}'), 1 + floor(random() * 3)::int, dates || jsonb_strip_nulls(jsonb_build_object(
            'external_id', 's' || n, 'addon', CASE WHEN ref.chance(0.3) THEN true END, 'anchor', CASE WHEN ref.chance(0.3) THEN ref.soon(now) END)));
    ELSIF chance < 0.40 THEN
        PERFORM grownext.subscription_change(ref.some_subscription(), CASE WHEN ref.chance(0.5) THEN 'b' || ref.one_of('{1,2,3}') END,
            CASE WHEN ref.chance(0.4) THEN 1 + floor(random() * 3)::int END, ref.one_of('{now,period_end}'),
            dates || CASE WHEN ref.chance(0.3) THEN '{"resume": true}' ELSE '{}' END::jsonb);
    ELSIF chance < 0.46 THEN
        PERFORM grownext.subscription_end(ref.some_subscription(), ref.one_of('{now,period_end}'));
    ELSIF chance < 0.60 THEN
        -- as billing says it
        SELECT s.* INTO old FROM _grownext.entitlement_subscription AS s WHERE s.id = ref.some_subscription();
        PERFORM _grownext.entitlement_subscription_apply(old.tenant_id, old.external_id, 'b' || ref.one_of('{1,2,3}'),
            ref.one_of('{active,active,trialing,past_due,paused,unpaid,incomplete,canceled}'), 1 + floor(random() * 3)::int,
            (dates ->> 'paid_through')::timestamptz, (dates ->> 'trial_until')::timestamptz,
            ends_at => CASE WHEN ref.chance(0.2) THEN ref.soon(now)::timestamptz END, addon => old.addon);
    ELSIF chance < 0.76 THEN
        PERFORM grownext.entitlement_grant(tenant, feature.feature,
            CASE WHEN feature.kind IN ('limit', 'metered') AND ref.chance(0.5) THEN jsonb_build_object('add', ref.some_value(feature.kind))
                 ELSE ref.some_value(feature.kind) END,
            CASE WHEN ref.chance(0.4) THEN ref.soon(now)::timestamptz END, CASE WHEN ref.chance(0.6) THEN now + interval '45 days' END);
    ELSIF chance < 0.88 AND feature.kind <> 'metered' THEN
        PERFORM grownext.entitlement_grant(tenant, feature.feature, ref.some_value(feature.kind), NULL, CASE WHEN ref.chance(0.5) THEN now + interval '20 days' END,
            user_id => users[1 + floor(random() * 2)::int]);
    ELSIF chance < 0.91 THEN
        PERFORM grownext.entitlement_block(tenant, feature.feature, 'chance');
    ELSIF chance < 0.96 THEN
        PERFORM grownext.entitlement_revoke((SELECT o.id FROM _grownext.entitlement_override AS o WHERE o.revoked_at IS NULL
                                              ORDER BY o.valid_from, o.created_at, o.tenant_id, o.feature_id LIMIT 1));
    ELSIF chance < 0.98 THEN
        PERFORM ref.define_bundle();
    ELSE
        PERFORM ref.define_feature(feature.feature, feature.kind, feature.options ->> 'period');
    END IF;
EXCEPTION
    -- ended already, nothing to revoke, nothing subscribed yet: chance asked for it
    WHEN object_not_in_prerequisite_state OR undefined_object OR invalid_parameter_value THEN NULL;
END
$$;

-- Leaves the clock at the history's end.
CREATE FUNCTION ref.build(tenants uuid[], users uuid[]) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    now timestamptz := '2030-01-10';
    kind text;
BEGIN
    PERFORM set_config('grownext.test_clock', now::text, true);
    PERFORM grownext.product_define('app', 'App');
    FOREACH kind IN ARRAY '{boolean,limit,metered,config,metered}'::text[] LOOP
        PERFORM ref.define_feature('f' || (SELECT count(*) FROM _grownext.entitlement_feature), kind,
                                   CASE WHEN kind = 'metered' THEN nullif(ref.one_of('{day,month,-}'), '-') END);
    END LOOP;
    -- of each bundle there is a version at least
    PERFORM grownext.bundle_define('b' || g, '{"f0": true}') FROM generate_series(1, 3) AS g;
    PERFORM ref.define_bundle() FROM generate_series(1, 4);
    FOR i IN 1 .. 3 LOOP
        PERFORM grownext.tenant_create('reference-' || i, 'T', id => tenants[i], parent_id => CASE WHEN ref.chance(0.7) THEN tenants[i - 1] END);
    END LOOP;
    FOR n IN 1 .. 14 LOOP
        now := now + floor(random() * 4) * interval '5 days';
        PERFORM set_config('grownext.test_clock', now::text, true);
        PERFORM ref.act(n, tenants, users, now);
    END LOOP;
    IF ref.chance(0.1) THEN
        PERFORM grownext.tenant_suspend(tenants[1 + floor(random() * 3)::int], 'chance');
    END IF;
    RETURN now;
END
$$;

-- Instants of which to ask: boundaries, a microsecond before them, and any others.
CREATE FUNCTION ref.instants(now timestamptz) RETURNS SETOF timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT c.at - CASE WHEN ref.chance(0.4) THEN interval '1 microsecond' ELSE interval '0' END
      FROM (SELECT b.at FROM (SELECT valid_from FROM _grownext.entitlement_phase UNION SELECT valid_until FROM _grownext.entitlement_phase
                              UNION SELECT live_until FROM _grownext.entitlement_phase
                              UNION SELECT valid_from FROM _grownext.entitlement_override UNION SELECT valid_until FROM _grownext.entitlement_override
                              UNION SELECT valid_from FROM _grownext.entitlement_free_bundle) AS b (at)
             WHERE isfinite(b.at) ORDER BY b.at) AS c
     WHERE ref.chance(0.2)
    UNION ALL
    SELECT now
    UNION ALL
    SELECT now + (random() - 0.5) * interval '120 days';
$$;

CREATE TABLE ref.difference (catalogue int, feature text, tenant_id uuid, user_id uuid, at timestamptz, how text, ours text, reference text);
CREATE TABLE ref.asked (catalogue int, rule text, questions bigint);

-- entitlements() and entitlement() as of the instant, explain of it, and entitled() at it.
CREATE FUNCTION ref.compare(n int, t uuid, u uuid, instant timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    feature text;
    expected ref.answer;
    state grownext.entitlement_state;
    explained jsonb;
    rule text;
BEGIN
    PERFORM set_config('grownext.test_clock', instant::text, true);
    PERFORM grownext.act_as(coalesce(u::text, 'nobody'), t);
    FOR state IN SELECT * FROM grownext.entitlements(t, instant) LOOP
        feature := state.feature;
        expected := ref.resolve(feature, t, u, instant);
        IF (state.allowed, state.value, state.quota, state.source, state.reason)
           IS DISTINCT FROM (expected.allowed, expected.value, expected.quota, expected.source, expected.reason) THEN
            INSERT INTO ref.difference VALUES (n, feature, t, u, instant, 'entitlements', state::text, expected::text);
        END IF;
        IF grownext.entitled(feature, t) IS DISTINCT FROM expected.allowed THEN
            INSERT INTO ref.difference VALUES (n, feature, t, u, instant, 'entitled', (NOT expected.allowed)::text, expected::text);
        END IF;
        -- one feature in full: asked for alone, now and as of then, and explained
        IF ref.chance(0.25) THEN
            IF grownext.entitlement(feature, t, instant, u) IS DISTINCT FROM state OR grownext.entitlement(feature, t, NULL, u) IS DISTINCT FROM state THEN
                INSERT INTO ref.difference VALUES (n, feature, t, u, instant, 'entitlement', grownext.entitlement(feature, t, NULL, u)::text, state::text);
            END IF;
            explained := grownext.entitlement_explain(feature, t, instant);
            rule := (SELECT s ->> 'rule' FROM jsonb_array_elements(explained -> 'steps') WITH ORDINALITY AS e (s, place)
                      WHERE (s ->> 'decided')::boolean ORDER BY place DESC LIMIT 1);
            IF (rule, explained ->> 'allowed', explained ->> 'source', explained ->> 'reason')
               IS DISTINCT FROM (expected.rule, expected.allowed::text, expected.source, expected.reason) THEN
                INSERT INTO ref.difference VALUES (n, feature, t, u, instant, 'explain', explained::text, expected::text);
            END IF;
        END IF;
        UPDATE ref.asked AS a SET questions = a.questions + 1 WHERE a.rule = coalesce(expected.rule, 'none');
    END LOOP;
END
$$;

-- A catalogue is rolled back with its history; what differs, and what was asked, stays.
CREATE FUNCTION ref.run(seed int, n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tenants CONSTANT uuid[] := ARRAY(SELECT ('00000000-0000-4000-8000-00000000e00' || g)::uuid FROM generate_series(1, 3) AS g);
    users CONSTANT uuid[] := '{00000000-0000-4000-8000-00000000e011,00000000-0000-4000-8000-00000000e012}';
    ended_at timestamptz;
    instant timestamptz;
    differences ref.difference[];
    asked ref.asked[];
BEGIN
    PERFORM setseed(((seed::bigint * 7919 + n) % 1000003) / 1000003.0);
    BEGIN
        ended_at := ref.build(tenants, users);
        FOR instant IN SELECT * FROM ref.instants(ended_at) LOOP
            PERFORM ref.compare(n, tenants[1 + floor(random() * 3)::int], CASE WHEN ref.chance(0.5) THEN users[1 + floor(random() * 2)::int] END, instant);
        END LOOP;
        differences := ARRAY(SELECT d FROM ref.difference AS d);
        asked := ARRAY(SELECT a FROM ref.asked AS a);
        RAISE EXCEPTION USING ERRCODE = 'XXREF';
    EXCEPTION WHEN SQLSTATE 'XXREF' THEN NULL;
    END;
    INSERT INTO ref.difference SELECT d.* FROM unnest(differences) AS d WHERE d.catalogue = n;
    UPDATE ref.asked AS a SET questions = b.questions FROM unnest(asked) AS b WHERE b.rule = a.rule;
END
$$;

SELECT grownext.user_create('ref-' || g || '@example.com', id => ('00000000-0000-4000-8000-00000000e01' || g)::uuid) FROM generate_series(1, 2) AS g;
INSERT INTO ref.asked SELECT 0, r, 0 FROM unnest('{feature,tenant,block,pool,user_grant,tenant_grant,subscription,parent,free_bundle,default,none}'::text[]) AS r;

SELECT diag('seed ' || :'seed' || ', ' || :'catalogues' || ' catalogues');
SELECT count(ref.run(:seed, g)) AS run FROM generate_series(CASE WHEN :catalogue > 0 THEN :catalogue ELSE 1 END, CASE WHEN :catalogue > 0 THEN :catalogue ELSE :catalogues END) AS g;
SELECT diag(format('catalogue %s (GN_SEED=%s GN_CATALOGUE=%s): %s of %s, tenant %s, user %s, at %s: %s, but the reference says %s',
                   d.catalogue, :'seed', d.catalogue, d.how, d.feature, d.tenant_id, d.user_id, d.at, d.ours, d.reference))
  FROM ref.difference AS d ORDER BY d.catalogue, d.at LIMIT 5;
SELECT is((SELECT count(*) FROM ref.difference), 0::bigint, 'the resolver and the reference agree');
SELECT diag(string_agg(a.rule || ' ' || a.questions, ', ')) FROM ref.asked AS a;

-- Chance may miss; with a thousand catalogues it must not.
SELECT cmp_ok((SELECT min(a.questions) FROM ref.asked AS a WHERE a.rule <> 'feature'), '>', CASE WHEN :catalogues >= 1000 AND :catalogue = 0 THEN 100 ELSE -1 END::bigint,
              'every rule decided about many questions');
SELECT is((grownext.entitlement('f.unknown', '00000000-0000-4000-8000-00000000e001')).reason, (ref.resolve('f.unknown', '00000000-0000-4000-8000-00000000e001', NULL, now())).reason,
          'an unknown feature');

SELECT * FROM finish();
ROLLBACK;
