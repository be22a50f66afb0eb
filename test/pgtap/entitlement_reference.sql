-- The resolver against another one in plain SQL, written from the order of rules in
-- docs/entitlement.md and from what was said, not from what the extension compiled: on
-- random catalogues with random histories, at random instants, both must answer the same,
-- and entitlement_explain() must name the rule that decided. What is consumed and returned
-- on the way is counted here once more: usage and balances must agree, too.
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

-- What a value says, from the JSON that people wrote; and of which subscription's months.
CREATE TYPE ref.saying AS (enabled boolean, quota numeric, unlimited boolean, period text, soft boolean, value jsonb, rollover numeric, priority int, anchor timestamptz);
-- says: what decided; holder: whose counter or balance it is
CREATE TYPE ref.answer AS (allowed boolean, value jsonb, quota bigint, source text, reason text, rule text, says ref.saying, holder uuid,
                           used bigint, remaining bigint, resets_at timestamptz);
-- What was used, of which period.
CREATE TABLE ref.counter (feature text, holder uuid, period text, starts_at timestamptz, ends_at timestamptz, used numeric, PRIMARY KEY (holder, feature, period, starts_at));
-- Grants of credit and what was burnt of them; key: what credit_grant() returned.
CREATE TABLE ref.credit (id serial PRIMARY KEY, key uuid, feature text, holder uuid, origin text, source uuid, starts_at timestamptz, amount numeric, priority int,
                         given_at timestamptz, valid_from timestamptz, expires_at timestamptz, voided_at timestamptz DEFAULT 'infinity');
CREATE TABLE ref.burn (id serial PRIMARY KEY, credit int, amount numeric, returned numeric DEFAULT 0, at timestamptz, tie text);
CREATE INDEX ON ref.credit (holder, source);
CREATE INDEX ON ref.burn (credit);
CREATE FUNCTION ref.read(kind text, period text, j jsonb) RETURNS ref.saying LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN (
    SELECT (j <> 'false',
            CASE WHEN kind IN ('limit', 'seats', 'metered', 'credit') AND j <> 'false' AND n.said <> '"unlimited"' THEN n.said::numeric END,
            coalesce(kind IN ('limit', 'seats', 'metered', 'credit') AND n.said = '"unlimited"', false),
            CASE WHEN kind IN ('metered', 'credit') THEN coalesce(CASE jsonb_typeof(j) WHEN 'object' THEN j ->> 'period' END, period, 'month') END,
            coalesce(CASE jsonb_typeof(j) WHEN 'object' THEN (j ->> 'soft')::boolean END, false),
            CASE WHEN kind = 'config' AND j <> 'false' THEN j -> 'value' END,
            coalesce(CASE jsonb_typeof(j) WHEN 'object' THEN (j -> 'rollover')::numeric END, 0),
            coalesce(CASE jsonb_typeof(j) WHEN 'object' THEN (j -> 'priority')::int END, 0), NULL)::ref.saying
      FROM (SELECT CASE jsonb_typeof(j) WHEN 'object' THEN j -> CASE kind WHEN 'credit' THEN 'amount' ELSE 'quota' END ELSE j END) AS n (said));
END
$$;

CREATE FUNCTION ref.decide(kind text, said ref.saying, source text, rule text) RETURNS ref.answer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN (
    SELECT (n.reason IS NULL,
            CASE WHEN kind = 'boolean' THEN to_jsonb(said.enabled)
                 WHEN NOT said.enabled OR kind = 'credit' THEN NULL
                 WHEN kind = 'config' THEN said.value
                 WHEN said.unlimited THEN '"unlimited"'
                 ELSE to_jsonb(said.quota) END,
            CASE WHEN said.enabled AND kind IN ('limit', 'seats', 'metered') AND NOT said.unlimited THEN said.quota END,
            source, n.reason, rule, said, NULL, NULL, NULL, NULL)::ref.answer
      FROM (SELECT CASE WHEN NOT said.enabled THEN CASE source WHEN 'default' THEN 'not_included' ELSE 'taken_away' END
                        WHEN kind = 'metered' AND NOT said.unlimited AND said.quota = 0 AND NOT said.soft THEN 'quota_exceeded'
                        WHEN kind IN ('limit', 'seats') AND NOT said.unlimited AND said.quota = 0 THEN 'limit_is_zero' END) AS n (reason));
END
$$;

CREATE FUNCTION ref.deny(kind text, source text, reason text, rule text) RETURNS ref.answer LANGUAGE sql IMMUTABLE AS
$$ SELECT (false, CASE kind WHEN 'boolean' THEN 'false'::jsonb END, NULL, source, reason, rule, NULL, NULL, NULL, NULL, NULL)::ref.answer $$;

-- The last grant of a kind that is in force.
CREATE FUNCTION ref.granted(t uuid, f int, u uuid, wanted text, at timestamptz) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
    SELECT coalesce(o.value, 'true') FROM _grownext.entitlement_override AS o
     WHERE o.tenant_id = t AND o.feature_id = f AND o.user_id IS NOT DISTINCT FROM u AND o.effect = wanted
       AND o.valid_from <= at AND at < o.valid_until
     ORDER BY o.valid_from DESC, o.created_at DESC, o.id DESC LIMIT 1);
END
$$;

-- What the default bundle says to a tenant that subscribes to nothing but add-ons.
CREATE FUNCTION ref.free(t uuid, f _grownext.entitlement_feature, at timestamptz) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
    SELECT v.features -> f.feature
      FROM _grownext.entitlement_free_bundle AS b JOIN _grownext.entitlement_bundle_version AS v ON v.id = b.version_id
     WHERE b.valid_from <= at AND at < b.valid_until AND v.features -> f.feature <> 'false'
       AND NOT EXISTS (SELECT FROM _grownext.entitlement_phase AS p
                        WHERE p.tenant_id = t AND p.live AND NOT p.addon AND p.valid_from <= at AND at < p.valid_until AND at < p.live_until));
END
$$;

-- What is subscribed and in force, in the order in which it counts, what is free beside
-- add-ons, then what is added.
CREATE FUNCTION ref.sources(t uuid, f _grownext.entitlement_feature, at timestamptz)
RETURNS TABLE (place bigint, source text, said ref.saying, n int, anchor timestamptz, id uuid) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT row_number() OVER (ORDER BY p.addon, p.valid_from, p.subscription_id), 'subscription',
           ref.read(f.kind, f.options ->> 'period', v.features -> f.feature), p.quantity, p.anchor, p.subscription_id
      FROM _grownext.entitlement_phase AS p JOIN _grownext.entitlement_bundle_version AS v ON v.id = p.version_id
     WHERE p.tenant_id = t AND p.live AND p.valid_from <= at AND at < p.valid_until AND at < p.live_until
       AND v.features ? f.feature AND v.features -> f.feature <> 'false'
    UNION ALL
    SELECT 999, 'free_bundle', ref.read(f.kind, f.options ->> 'period', ref.free(t, f, at)), 1, NULL, NULL WHERE ref.free(t, f, at) IS NOT NULL
    UNION ALL
    SELECT 1000 + row_number() OVER (ORDER BY o.valid_from, o.created_at, o.id), 'tenant_grant',
           ref.read(f.kind, f.options ->> 'period', o.value -> 'add'), 1, NULL, o.id
      FROM _grownext.entitlement_override AS o
     WHERE o.tenant_id = t AND o.feature_id = f.id AND o.effect = 'add' AND o.valid_from <= at AND at < o.valid_until
       AND o.value -> 'add' <> 'false';
END
$$;

-- All of them together: NULL if there are none, or only what is free.
CREATE FUNCTION ref.together(t uuid, f _grownext.entitlement_feature, at timestamptz) RETURNS ref.answer LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
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
                          coalesce(max(c.amount) FILTER (WHERE c.source <> 'tenant_grant'), 0)
                        + coalesce(sum(c.amount) FILTER (WHERE c.source = 'tenant_grant'), 0) END, 9223372036854775807),
                bool_or((c.said).unlimited), (SELECT (l.said).period FROM leader AS l),
                bool_or((c.said).soft) FILTER (WHERE c.source <> 'tenant_grant' OR c.place = (SELECT l.place FROM leader AS l)),
                (array_agg((c.said).value ORDER BY c.source = 'free_bundle', c.place DESC))[1], NULL, NULL, (SELECT l.anchor FROM leader AS l))::ref.saying AS said
          FROM counted AS c)
    SELECT ref.decide(f.kind, d.said, s.source, 'subscription') FROM folded AS d,
           (SELECT a.source FROM all_sources AS a WHERE a.source <> 'free_bundle' ORDER BY a.place LIMIT 1) AS s);
END
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
            above.holder := coalesce(above.holder, parent);
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
        above.holder := NULL;
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

-- Usage ---------------------------------------------------------------------------------

-- The period that contains an instant; billing months begin at the anchor's day.
CREATE FUNCTION ref.bounds(says ref.saying, holder uuid, at timestamptz, OUT starts_at timestamptz, OUT ends_at timestamptz) LANGUAGE plpgsql STABLE AS $$
DECLARE
    zone CONSTANT text := (SELECT n.time_zone FROM _grownext.tenant_tenant AS n WHERE n.id = holder);
    unit CONSTANT text := CASE says.period WHEN 'billing' THEN 'month' ELSE says.period END;
    anchor CONSTANT timestamp := says.anchor AT TIME ZONE zone;
    n int;
BEGIN
    IF unit = 'never' THEN
        starts_at := '-infinity';
        ends_at := 'infinity';
    ELSIF says.period = 'billing' AND anchor IS NOT NULL THEN
        n := (extract(year FROM at AT TIME ZONE zone) - extract(year FROM anchor)) * 12 + extract(month FROM at AT TIME ZONE zone) - extract(month FROM anchor);
        IF anchor + n * interval '1 month' > at AT TIME ZONE zone THEN
            n := n - 1;
        END IF;
        starts_at := (anchor + n * interval '1 month') AT TIME ZONE zone;
        ends_at := (anchor + (n + 1) * interval '1 month') AT TIME ZONE zone;
    ELSE
        starts_at := date_trunc(unit, at AT TIME ZONE zone) AT TIME ZONE zone;
        ends_at := (date_trunc(unit, at AT TIME ZONE zone) + ('1 ' || unit)::interval) AT TIME ZONE zone;
    END IF;
END
$$;

-- What gives credit in periods at an instant: each for itself, nothing is folded.
CREATE FUNCTION ref.recurring(name text, t uuid, at timestamptz) RETURNS TABLE (source uuid, says ref.saying) LANGUAGE plpgsql STABLE AS $$
DECLARE
    f _grownext.entitlement_feature;
    answer CONSTANT ref.answer := ref.resolve(name, t, NULL, at);
    parent CONSTANT uuid := (SELECT p.parent_id FROM _grownext.tenant_parent AS p WHERE p.tenant_id = t);
BEGIN
    IF NOT answer.allowed THEN
        RETURN;
    END IF;
    SELECT * INTO f FROM _grownext.entitlement_feature AS e WHERE e.feature = name;
    CASE answer.rule
        WHEN 'parent', 'pool' THEN
            RETURN QUERY SELECT r.source, r.says FROM ref.recurring(name, parent, at) AS r;
        WHEN 'tenant_grant' THEN
            RETURN QUERY SELECT o.id, answer.says FROM _grownext.entitlement_override AS o
                          WHERE o.tenant_id = t AND o.feature_id = f.id AND o.effect = 'set' AND o.valid_from <= at AND at < o.valid_until
                          ORDER BY o.valid_from DESC, o.created_at DESC, o.id DESC LIMIT 1;
        WHEN 'subscription' THEN
            RETURN QUERY SELECT s.id, ((s.said).enabled, least((s.said).quota * s.n, 9223372036854775807), (s.said).unlimited, (s.said).period, (s.said).soft, (s.said).value,
                                       least((s.said).rollover * s.n, 9223372036854775807), (s.said).priority, s.anchor)::ref.saying
                           FROM ref.sources(t, f, at) AS s WHERE s.source = 'subscription';
        ELSE
            RETURN QUERY SELECT '00000000-0000-0000-0000-000000000000'::uuid, answer.says;
    END CASE;
END
$$;

-- What of a source's period is left when it ends, if more than so much is not asked for.
-- One that nobody touched is as it would have been; of those 60 are looked back on.
CREATE FUNCTION ref.left_at(name text, t uuid, source_id uuid, ends timestamptz, wanted numeric, untouched int) RETURNS numeric LANGUAGE plpgsql STABLE AS $$
DECLARE
    rest numeric;
    says ref.saying;
BEGIN
    IF untouched = 60 THEN
        RETURN 0;
    END IF;
    SELECT coalesce(sum(c.amount - coalesce((SELECT sum(b.amount) FROM ref.burn AS b WHERE b.credit = c.id AND b.at < ends), 0)), 0) INTO rest
      FROM ref.credit AS c WHERE c.feature = name AND c.holder = t AND c.source = source_id AND c.expires_at = ends HAVING count(*) > 0;
    IF rest IS NOT NULL THEN
        RETURN rest;
    END IF;
    SELECT (r.says).* INTO says FROM ref.recurring(name, t, ends - interval '1 microsecond') AS r WHERE r.source = source_id;
    IF NOT FOUND OR says.unlimited THEN
        RETURN 0;
    END IF;
    RETURN says.quota + CASE WHEN says.rollover = 0 OR says.quota >= wanted THEN 0 ELSE
        least(says.rollover, ref.left_at(name, t, source_id, (SELECT p.starts_at FROM ref.bounds(says, t, ends - interval '1 microsecond') AS p), wanted - says.quota, untouched + 1)) END;
END
$$;

-- What sources give for the running period that is not on record yet.
CREATE FUNCTION ref.due(name text, t uuid, at timestamptz) RETURNS SETOF ref.credit LANGUAGE plpgsql STABLE AS $$
DECLARE
    r record;
    p record;
    given record;
    due ref.credit;
BEGIN
    FOR r IN SELECT * FROM ref.recurring(name, t, at) LOOP
        p := ref.bounds(r.says, t, at);
        SELECT count(*) AS n, coalesce(sum(c.amount) FILTER (WHERE c.origin = 'period'), 0) AS amount, coalesce(bool_or(c.amount IS NULL), false) AS unlimited INTO given
          FROM ref.credit AS c WHERE c.feature = name AND c.holder = t AND c.source = r.source AND c.starts_at = p.starts_at AND c.valid_from <= at;
        due := (NULL, NULL, name, t, 'period', r.source, p.starts_at, CASE WHEN NOT (r.says).unlimited THEN (r.says).quota - given.amount END,
                (r.says).priority, at, at, p.ends_at, 'infinity');
        IF (r.says).unlimited AND NOT given.unlimited OR due.amount > 0 THEN
            RETURN NEXT due;
        END IF;
        IF given.n = 0 AND NOT (r.says).unlimited AND (r.says).rollover > 0 AND isfinite(p.starts_at) THEN
            due.origin := 'rollover';
            due.amount := least((r.says).rollover, ref.left_at(name, t, r.source, p.starts_at, (r.says).rollover, 0));
            IF due.amount > 0 THEN
                RETURN NEXT due;
            END IF;
        END IF;
    END LOOP;
END
$$;

-- Grants in force at an instant. Without a limit is one only while what gave it is.
CREATE FUNCTION ref.in_force(name text, t uuid, instant timestamptz) RETURNS TABLE (credit ref.credit, burnt numeric) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    WITH r AS MATERIALIZED (SELECT * FROM ref.recurring(name, t, instant))
    SELECT c, coalesce((SELECT sum(b.amount) FROM ref.burn AS b WHERE b.credit = c.id AND b.at <= instant), 0)
      FROM ref.credit AS c
     WHERE c.feature = name AND c.holder = t AND c.valid_from <= instant AND instant < c.expires_at AND instant < c.voided_at
       AND (c.source IS NULL OR EXISTS (SELECT FROM r WHERE r.source = c.source AND (c.amount IS NOT NULL OR (r.says).unlimited)));
END
$$;

CREATE FUNCTION ref.balance(answer ref.answer, name text, t uuid, at timestamptz) RETURNS ref.answer LANGUAGE plpgsql STABLE AS $$
DECLARE
    sums record;
    gives boolean;
BEGIN
    -- who is denied is, whatever the balance
    IF NOT answer.allowed AND answer.reason <> 'not_included' THEN
        RETURN answer;
    END IF;
    SELECT count(*) > 0, min((SELECT b.ends_at FROM ref.bounds(r.says, t, at) AS b)) INTO gives, answer.resets_at FROM ref.recurring(name, t, at) AS r;
    SELECT count(*) AS n, coalesce(sum(g.amount), 0) AS quota, coalesce(bool_or(g.amount IS NULL), false) AS unlimited, coalesce(sum(g.burnt), 0) AS burnt INTO sums
      FROM (SELECT (i.credit).amount, i.burnt FROM ref.in_force(name, t, at) AS i UNION ALL SELECT d.amount, 0 FROM ref.due(name, t, at) AS d) AS g;
    IF sums.n = 0 AND NOT gives THEN
        RETURN answer;
    END IF;
    answer.source := CASE WHEN gives THEN answer.source ELSE 'tenant_grant' END;
    answer.used := least(sums.burnt, 9223372036854775807);
    answer.quota := CASE WHEN NOT sums.unlimited THEN least(sums.quota, 9223372036854775807) END;
    answer.remaining := answer.quota - answer.used;
    answer.value := coalesce(to_jsonb(answer.quota), '"unlimited"');
    answer.resets_at := nullif(answer.resets_at, 'infinity');
    answer.allowed := sums.unlimited OR answer.remaining > 0;
    answer.reason := CASE WHEN NOT answer.allowed THEN 'quota_exceeded' END;
    RETURN answer;
END
$$;

-- What was decided, with what is used.
CREATE FUNCTION ref.ask(name text, t uuid, u uuid, at timestamptz) RETURNS ref.answer LANGUAGE plpgsql STABLE AS $$
DECLARE
    kind CONSTANT text := (SELECT f.kind FROM _grownext.entitlement_feature AS f WHERE f.feature = name);
    answer ref.answer := ref.resolve(name, t, u, at);
    p record;
BEGIN
    answer.holder := coalesce(answer.holder, t);
    IF kind = 'credit' THEN
        RETURN ref.balance(answer, name, answer.holder, at);
    ELSIF kind = 'metered' AND (answer.says).enabled THEN
        p := ref.bounds(answer.says, answer.holder, at);
        answer.used := coalesce((SELECT c.used FROM ref.counter AS c
                                  WHERE c.feature = name AND c.holder = answer.holder AND c.period = replace((answer.says).period, 'billing', 'month') AND c.starts_at = p.starts_at), 0);
        answer.resets_at := nullif(p.ends_at, 'infinity');
        answer.remaining := CASE WHEN answer.quota > answer.used THEN answer.quota - answer.used WHEN answer.quota IS NOT NULL THEN 0 END;
        IF answer.used >= answer.quota AND NOT (answer.says).soft THEN
            answer.allowed := false;
            answer.reason := coalesce(answer.reason, 'quota_exceeded');
        END IF;
    END IF;
    RETURN answer;
END
$$;

-- Counts what is consumed, or says why not. NULL, and nothing is counted: alike grants of
-- several sources, of which nobody says which is burnt first.
CREATE FUNCTION ref.consume(name text, t uuid, n bigint, at timestamptz) RETURNS grownext.usage_result LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    answer ref.answer := ref.ask(name, t, NULL, at);
    kind CONSTANT text := (SELECT f.kind FROM _grownext.entitlement_feature AS f WHERE f.feature = name);
    allowed boolean := coalesce(answer.remaining >= n, true);
    bounds record;
    unclear boolean;
BEGIN
    IF kind = 'credit' AND answer.used IS NOT NULL THEN
        INSERT INTO ref.credit (feature, holder, origin, source, starts_at, amount, priority, given_at, valid_from, expires_at)
        SELECT d.feature, d.holder, d.origin, d.source, d.starts_at, d.amount, d.priority, d.given_at, d.valid_from, d.expires_at FROM ref.due(name, answer.holder, at) AS d;
    END IF;
    IF answer.used IS NULL OR kind = 'metered' AND NOT answer.allowed THEN
        RETURN (false, answer.used, answer.quota, answer.remaining, answer.resets_at, answer.reason)::grownext.usage_result;
    ELSIF NOT allowed AND NOT coalesce((answer.says).soft AND kind = 'metered', false) THEN
        RETURN (false, answer.used, answer.quota, answer.remaining, answer.resets_at, 'quota_exceeded')::grownext.usage_result;
    ELSIF kind = 'metered' THEN
        bounds := ref.bounds(answer.says, answer.holder, at);
        INSERT INTO ref.counter AS c VALUES (name, answer.holder, replace((answer.says).period, 'billing', 'month'), bounds.starts_at, bounds.ends_at, n)
        ON CONFLICT (holder, feature, period, starts_at) DO UPDATE SET used = c.used + n;
    ELSE
        WITH open AS (
            SELECT (i.credit).*, (i.credit).amount IS NOT NULL AS finite, coalesce((i.credit).amount - i.burnt, 9223372036854775807) AS rest FROM ref.in_force(name, answer.holder, at) AS i),
        placed AS (
            SELECT o.*, least(o.rest, greatest(n - sum(o.rest) OVER w + o.rest, 0)) AS taken, row_number() OVER w AS place
              FROM open AS o WHERE o.rest > 0
            WINDOW w AS (ORDER BY o.finite, o.priority, o.expires_at, o.given_at, o.origin <> 'rollover', o.id ROWS UNBOUNDED PRECEDING)),
        alike AS (
            SELECT p.finite, p.priority, p.expires_at, p.given_at, count(DISTINCT coalesce(p.source, p.key)) > 1 AS several, sum(p.taken) AS taken, sum(p.rest) AS rest
              FROM placed AS p GROUP BY 1, 2, 3, 4),
        line AS (
            INSERT INTO ref.burn (credit, amount, at, tie)
            SELECT p.id, p.taken, at, CASE WHEN a.several THEN format('%s %s %s %s', (SELECT max(b.id) FROM ref.burn AS b), p.priority, p.expires_at, p.given_at) END
              FROM placed AS p JOIN alike AS a USING (finite, priority, expires_at, given_at) WHERE p.taken > 0 ORDER BY p.place)
        SELECT bool_or(a.several AND a.taken > 0 AND a.taken < a.rest) INTO unclear FROM alike AS a;
        IF unclear THEN
            RAISE EXCEPTION USING ERRCODE = 'XXTIE';
        END IF;
    END IF;
    RETURN (true, answer.used + n, answer.quota, CASE WHEN answer.remaining > n THEN answer.remaining - n WHEN answer.quota IS NOT NULL THEN 0 END, answer.resets_at, NULL)::grownext.usage_result;
EXCEPTION WHEN SQLSTATE 'XXTIE' THEN RETURN NULL;
END
$$;

-- Gives back. NULL, and nothing is: as above, or it is not said of which period.
CREATE FUNCTION ref.give_back(name text, t uuid, n bigint, at timestamptz) RETURNS grownext.usage_result LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    nothing CONSTANT grownext.usage_result := (false, NULL, NULL, NULL, NULL, 'nothing_to_return');
    answer ref.answer := ref.ask(name, t, NULL, at);
    kind CONSTANT text := (SELECT f.kind FROM _grownext.entitlement_feature AS f WHERE f.feature = name);
    counter ref.counter;
    line record;
    missing numeric := n;
    part numeric;
BEGIN
    IF answer.used IS NULL THEN
        RETURN NULL;
    ELSIF kind = 'metered' THEN
        IF (SELECT count(*) > 1 FROM ref.counter AS c WHERE c.feature = name AND c.holder = answer.holder AND c.starts_at <= at AND at < c.ends_at) THEN
            RETURN NULL;
        END IF;
        UPDATE ref.counter AS c SET used = c.used - n
         WHERE c.feature = name AND c.holder = answer.holder AND c.starts_at <= at AND at < c.ends_at AND c.used >= n RETURNING * INTO counter;
        RETURN CASE WHEN FOUND THEN (true, counter.used, NULL, NULL, nullif(counter.ends_at, 'infinity'), NULL)::grownext.usage_result ELSE nothing END;
    END IF;
    IF (SELECT coalesce(sum(b.amount), 0) < n FROM ref.burn AS b JOIN ref.credit AS c ON c.id = b.credit WHERE c.feature = name AND c.holder = answer.holder) THEN
        RETURN nothing;
    END IF;
    FOR line IN SELECT b.* FROM ref.burn AS b JOIN ref.credit AS c ON c.id = b.credit
                 WHERE c.feature = name AND c.holder = answer.holder AND b.amount > b.returned ORDER BY b.id DESC LOOP
        EXIT WHEN missing = 0;
        part := least(missing, line.amount - line.returned);
        missing := missing - part;
        UPDATE ref.burn AS b SET returned = b.returned + part WHERE b.id = line.id;
        INSERT INTO ref.burn (credit, amount, at) VALUES (line.credit, -part, at);
    END LOOP;
    IF EXISTS (SELECT FROM ref.burn AS b JOIN ref.credit AS c ON c.id = b.credit WHERE c.feature = name AND c.holder = answer.holder AND b.tie IS NOT NULL GROUP BY b.tie HAVING sum(b.returned) > 0 AND sum(b.returned) < sum(b.amount)) THEN
        RAISE EXCEPTION USING ERRCODE = 'XXTIE';
    END IF;
    INSERT INTO ref.credit (feature, holder, origin, source, starts_at, amount, priority, given_at, valid_from, expires_at)
    SELECT d.feature, d.holder, d.origin, d.source, d.starts_at, d.amount, d.priority, d.given_at, d.valid_from, d.expires_at FROM ref.due(name, answer.holder, at) AS d;
    answer := ref.ask(name, t, NULL, at);
    RETURN (true, answer.used, answer.quota, answer.remaining, answer.resets_at, NULL)::grownext.usage_result;
EXCEPTION WHEN SQLSTATE 'XXTIE' THEN RETURN NULL;
END
$$;

CREATE TABLE ref.difference (catalogue int, feature text, tenant_id uuid, user_id uuid, at timestamptz, how text, ours text, reference text);
CREATE TABLE ref.asked (catalogue int, rule text, questions bigint);

-- Chance --------------------------------------------------------------------------------

CREATE FUNCTION ref.chance(p float8) RETURNS boolean LANGUAGE sql VOLATILE AS $$ SELECT random() < p $$;
CREATE FUNCTION ref.one_of(choices text[]) RETURNS text LANGUAGE sql VOLATILE AS
$$ SELECT choices[1 + floor(random() * cardinality(choices))::int] $$;

CREATE FUNCTION ref.some_value(kind text) RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    is_soft CONSTANT boolean := ref.chance(0.4);
    quota jsonb := ref.one_of('{0,0,1,7,20,1000,9223372036854775807,"\"unlimited\""}')::jsonb;
    amount jsonb := ref.one_of('{0,3,7,20,20,100,9223372036854775807,"\"unlimited\""}')::jsonb;
BEGIN
    IF ref.chance(0.15) THEN
        RETURN 'false';
    END IF;
    RETURN CASE kind
        WHEN 'boolean' THEN 'true'
        WHEN 'config' THEN jsonb_build_object('value', ref.one_of('{1,null,"\"dark\"","{\"a\": []}"}')::jsonb)
        WHEN 'credit' THEN CASE WHEN ref.chance(0.3) THEN amount
                                ELSE jsonb_strip_nulls(jsonb_build_object('amount', amount, 'rollover', CASE WHEN amount <> '0' OR ref.chance(0.1) THEN ref.one_of('{0,5,12,25,null}')::jsonb END, 'priority', ref.one_of('{0,1,2,3,null}')::jsonb)) END
        WHEN 'seats' THEN CASE WHEN ref.chance(0.5) THEN quota ELSE jsonb_build_object('quota', quota) END
        WHEN 'limit' THEN CASE WHEN ref.chance(0.5) THEN quota ELSE jsonb_build_object('quota', quota) END
        ELSE CASE WHEN ref.chance(0.4) THEN quota
                  ELSE jsonb_strip_nulls(jsonb_build_object('quota', CASE WHEN is_soft AND ref.chance(0.5) THEN '0' ELSE quota END, 'period', nullif(ref.one_of('{day,month,billing,never,-,-,-,-}'), '-'),
                                                            'soft', CASE WHEN is_soft THEN true END)) END
    END;
END
$$;

-- One catalogue and its history ---------------------------------------------------------

CREATE FUNCTION ref.define_feature(name text, kind text, period text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM grownext.feature_define(name, 'app', kind, jsonb_strip_nulls(jsonb_build_object(
        'inherit', ref.one_of(CASE WHEN kind IN ('metered', 'credit') THEN '{own,parent,pool}'::text[] ELSE '{own,parent}' END),
        'fold', CASE WHEN kind IN ('limit', 'seats', 'metered') THEN nullif(ref.one_of('{max,sum,-}'), '-') END,
        'tier', CASE WHEN kind = 'metered' THEN ref.one_of('{strict,strict,escrow,soft}') END,
        'shards', CASE WHEN kind = 'metered' THEN 2 END,
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
            CASE WHEN feature.kind IN ('limit', 'seats', 'metered') AND ref.chance(0.5) THEN jsonb_build_object('add', ref.some_value(feature.kind))
                 ELSE ref.some_value(feature.kind) END,
            CASE WHEN ref.chance(0.4) THEN ref.soon(now)::timestamptz END, CASE WHEN ref.chance(0.6) THEN now + interval '45 days' END);
    ELSIF chance < 0.88 AND feature.kind IN ('boolean', 'limit', 'config') THEN
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

-- Consumes or returns some, or grants or voids credit; as it is counted here, too.
CREATE FUNCTION ref.use(n int, tenants uuid[], now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tenant CONSTANT uuid := tenants[1 + floor(random() * cardinality(tenants))::int];
    amount CONSTANT bigint := ref.one_of('{1,2,7,20,50}')::bigint;
    chance CONSTANT float8 := random();
    feature _grownext.entitlement_feature;
    credit ref.credit;
    expected grownext.usage_result;
    result grownext.usage_result;
BEGIN
    SELECT * INTO feature FROM _grownext.entitlement_feature AS f WHERE f.kind IN ('metered', 'credit') ORDER BY f.kind = 'metered', f.id OFFSET floor(random() * 3) LIMIT 1;
    IF feature.kind = 'credit' AND chance < 0.2 THEN
        credit := (nextval('ref.credit_id_seq'), NULL, feature.feature, tenant, 'grant', NULL, NULL, amount, floor(random() * 4), now, now,
                   CASE WHEN ref.chance(0.6) THEN ref.soon(now + interval '5 days') ELSE 'infinity' END, 'infinity');
        credit.key := grownext.credit_grant(tenant, credit.feature, amount, nullif(credit.expires_at, 'infinity'), credit.priority);
        INSERT INTO ref.credit SELECT credit.*;
    ELSIF feature.kind = 'credit' AND chance < 0.25 THEN
        UPDATE ref.credit AS c SET voided_at = now WHERE c.id = (SELECT max(d.id) FROM ref.credit AS d WHERE d.holder = tenant AND d.key IS NOT NULL) AND c.voided_at = 'infinity' RETURNING * INTO credit;
        IF FOUND THEN
            PERFORM grownext.entitlement_revoke(credit.key);
        END IF;
    ELSIF chance < 0.8 THEN
        expected := ref.consume(feature.feature, tenant, amount, now);
        IF expected.allowed IS NOT NULL THEN
            result := grownext.usage_consume(feature.feature, amount, NULL, tenant);
        END IF;
    ELSE
        expected := ref.give_back(feature.feature, tenant, amount, now);
        IF expected.allowed IS NOT NULL THEN
            result := grownext.usage_return(feature.feature, amount, NULL, tenant);
            IF feature.kind = 'metered' THEN
                -- what the last consume went by
                result.quota := NULL;
                result.remaining := NULL;
            END IF;
        END IF;
    END IF;
    IF result IS DISTINCT FROM expected THEN
        INSERT INTO ref.difference VALUES (n, feature.feature, tenant, NULL, now, CASE WHEN chance < 0.8 THEN 'usage_consume ' ELSE 'usage_return ' END || amount, result::text, expected::text);
    END IF;
    UPDATE ref.asked AS a SET questions = a.questions + 1 WHERE a.rule = CASE WHEN NOT expected.allowed THEN 'use denied' WHEN chance < 0.8 THEN 'consumed' ELSE 'returned' END || ' ' || feature.kind;
EXCEPTION
    -- credit of a pool is granted to the topmost
    WHEN invalid_parameter_value THEN NULL;
END
$$;

-- Leaves the clock at the history's end.
CREATE FUNCTION ref.build(catalogue int, tenants uuid[], users uuid[]) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    now timestamptz := '2030-01-10';
    kind text;
BEGIN
    PERFORM set_config('grownext.test_clock', now::text, true);
    PERFORM grownext.product_define('app', 'App');
    FOREACH kind IN ARRAY '{boolean,limit,metered,config,metered,seats,credit}'::text[] LOOP
        PERFORM ref.define_feature('f' || (SELECT count(*) FROM _grownext.entitlement_feature), kind,
                                   CASE WHEN kind IN ('metered', 'credit') THEN nullif(ref.one_of(CASE kind WHEN 'metered' THEN '{day,month,-}'::text[] ELSE '{week,month,month,billing,never,-}' END), '-') END);
    END LOOP;
    -- of each bundle there is a version at least
    PERFORM grownext.bundle_define('b' || g, '{"f0": true}') FROM generate_series(1, 3) AS g;
    PERFORM ref.define_bundle() FROM generate_series(1, 4);
    FOR i IN 1 .. 3 LOOP
        PERFORM grownext.tenant_create('reference-' || i, 'T', id => tenants[i], parent_id => CASE WHEN ref.chance(0.7) THEN tenants[i - 1] END,
                                       time_zone => ref.one_of('{UTC,America/New_York,Asia/Kolkata}'));
    END LOOP;
    -- several that hold all the time: what folds is rare otherwise
    IF ref.chance(0.5) THEN
        PERFORM grownext.bundle_define('b' || g, jsonb_build_object('f2', jsonb_build_object('quota', g, 'soft', ref.chance(0.3)), 'f5', g)) FROM generate_series(1, 3) AS g;
        PERFORM grownext.subscription_start(tenants[2], 'b' || g, options => jsonb_build_object('external_id', 'all' || g, 'addon', g = 1)) FROM generate_series(1, 3) AS g;
    END IF;
    FOR n IN 1 .. 12 LOOP
        now := now + floor(random() * 4) * interval '5 days';
        PERFORM set_config('grownext.test_clock', now::text, true);
        PERFORM ref.act(n, tenants, users, now);
        PERFORM ref.use(catalogue, tenants, now) FROM generate_series(1, CASE WHEN ref.chance(0.3) THEN 2 ELSE 1 END);
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
     WHERE ref.chance(0.15)
    UNION ALL
    SELECT now
    UNION ALL
    SELECT now + (random() - 0.5) * interval '120 days';
$$;

-- entitlements() and entitlement() as of the instant, explain of it, and entitled() at it.
CREATE FUNCTION ref.compare(n int, t uuid, u uuid, instant timestamptz, ended_at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    feature text;
    expected ref.answer;
    state grownext.entitlement_state;
    now_state grownext.entitlement_state;
    explained jsonb;
    rule text;
    -- a balance knows what was burnt later, unless it is asked as of then
    is_past boolean;
BEGIN
    PERFORM set_config('grownext.test_clock', instant::text, true);
    PERFORM grownext.act_as(coalesce(u::text, 'nobody'), t);
    FOR state IN SELECT * FROM grownext.entitlements(t, instant) LOOP
        feature := state.feature;
        is_past := state.kind = 'credit' AND instant < ended_at;
        expected := ref.ask(feature, t, u, instant);
        IF (state.allowed, state.value, state.used, state.quota, state.remaining, state.resets_at, state.source, state.reason) IS DISTINCT FROM
           (expected.allowed, expected.value, expected.used, expected.quota, expected.remaining, expected.resets_at, expected.source, expected.reason) THEN
            INSERT INTO ref.difference VALUES (n, feature, t, u, instant, 'entitlements', state::text, expected::text);
        END IF;
        IF NOT is_past AND grownext.entitled(feature, t) IS DISTINCT FROM expected.allowed THEN
            INSERT INTO ref.difference VALUES (n, feature, t, u, instant, 'entitled', (NOT expected.allowed)::text, expected::text);
        END IF;
        -- one feature in full: asked for alone, now and as of then, and explained
        IF ref.chance(0.25) THEN
            now_state := grownext.entitlement(feature, t, NULL, u);
            IF state.kind = 'seats' THEN
                -- members are counted now only
                now_state.used := NULL;
                now_state.remaining := NULL;
            END IF;
            IF grownext.entitlement(feature, t, instant, u) IS DISTINCT FROM state OR NOT is_past AND now_state IS DISTINCT FROM state THEN
                INSERT INTO ref.difference VALUES (n, feature, t, u, instant, 'entitlement', now_state::text, state::text);
            END IF;
            explained := grownext.entitlement_explain(feature, t, instant);
            rule := (SELECT s ->> 'rule' FROM jsonb_array_elements(explained -> 'steps') WITH ORDINALITY AS e (s, place)
                      WHERE (s ->> 'decided')::boolean ORDER BY place DESC LIMIT 1);
            IF (rule, explained ->> 'allowed', explained ->> 'source', explained ->> 'reason', explained ->> 'used')
               IS DISTINCT FROM (expected.rule, expected.allowed::text, expected.source, expected.reason, expected.used::text) THEN
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
    -- of each catalogue's own, so that what was rolled back is in nobody's way
    tenants CONSTANT uuid[] := ARRAY(SELECT format('00000000-0000-4000-8000-%s', lpad(to_hex(n * 16 + g), 12, '0'))::uuid FROM generate_series(1, 3) AS g);
    users CONSTANT uuid[] := '{00000000-0000-4000-8000-00000000e011,00000000-0000-4000-8000-00000000e012}';
    ended_at timestamptz;
    instant timestamptz;
    differences ref.difference[];
    asked ref.asked[];
BEGIN
    PERFORM setseed(((seed::bigint * 7919 + n) % 1000003) / 1000003.0);
    BEGIN
        ended_at := ref.build(n, tenants, users);
        FOR instant IN SELECT * FROM ref.instants(ended_at) LOOP
            PERFORM ref.compare(n, tenants[1 + floor(random() * 3)::int], CASE WHEN ref.chance(0.5) THEN users[1 + floor(random() * 2)::int] END, instant, ended_at);
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
INSERT INTO ref.asked SELECT 0, r, 0 FROM unnest('{feature,tenant,block,pool,user_grant,tenant_grant,subscription,parent,free_bundle,default,none,consumed metered,consumed credit,returned metered,returned credit,use denied metered,use denied credit}'::text[]) AS r;

SELECT diag('seed ' || :'seed' || ', ' || :'catalogues' || ' catalogues');
SELECT count(ref.run(:seed, g)) AS run FROM generate_series(CASE WHEN :catalogue > 0 THEN :catalogue ELSE 1 END, CASE WHEN :catalogue > 0 THEN :catalogue ELSE :catalogues END) AS g;
SELECT diag(format('catalogue %s (GN_SEED=%s GN_CATALOGUE=%s): %s of %s, tenant %s, user %s, at %s: %s, but the reference says %s',
                   d.catalogue, :'seed', d.catalogue, d.how, d.feature, d.tenant_id, d.user_id, d.at, d.ours, d.reference))
  FROM ref.difference AS d ORDER BY d.catalogue, d.at LIMIT 5;
SELECT is((SELECT count(*) FROM ref.difference), 0::bigint, 'the resolver and the reference agree');
SELECT diag(string_agg(a.rule || ' ' || a.questions, ', ')) FROM ref.asked AS a;

-- Chance may miss; with a thousand catalogues it must not.
SELECT cmp_ok((SELECT min(a.questions) FROM ref.asked AS a WHERE a.rule <> 'feature'), '>', CASE WHEN :catalogues >= 1000 AND :catalogue = 0 THEN 50 ELSE -1 END::bigint,
              'every rule decided about many questions');
SELECT is((grownext.entitlement('f.unknown', '00000000-0000-4000-8000-00000000e001')).reason, (ref.resolve('f.unknown', '00000000-0000-4000-8000-00000000e001', NULL, now())).reason,
          'an unknown feature');

SELECT * FROM finish();
ROLLBACK;
