-- src/jwt/policy.sql: keys that rotate by themselves
--
-- The pass makes a standby key publish_before ahead of time, activates it once the active key
-- is rotate_after old and the new one was published for publish_before, and forgets retired
-- keys. A late pass shifts the rotation, never the publication. A purpose without an active
-- key is left alone: whoever revoked it decides what signs next.

CREATE OR REPLACE FUNCTION grownext.key_policy_define(purpose text, options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted _grownext.jwt_key_policy;
BEGIN
    PERFORM _grownext.jwt_check_purpose(purpose);
    PERFORM _grownext.core_check_options(options,
        '{"rotate_after": "string", "publish_before": "string", "rotate_at": "string", "keep_retired": "string"}');
    wanted.purpose := purpose;
    wanted.rotate_after := _grownext.jwt_interval_option(options, 'rotate_after');
    wanted.publish_before := coalesce(_grownext.jwt_interval_option(options, 'publish_before'), '1 day');
    wanted.keep_retired := coalesce(_grownext.jwt_interval_option(options, 'keep_retired'), '30 days');
    IF options ->> 'rotate_at' !~ '^([01][0-9]|2[0-3]):[0-5][0-9]$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "rotate_at" must be a time of day in UTC', HINT = 'Write it as ''03:00''.';
    END IF;
    wanted.rotate_at := (options ->> 'rotate_at')::time;
    IF wanted.publish_before < interval '6 minutes' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "publish_before" must be at least 6 minutes',
            DETAIL = 'Verifiers may hold a copy of the JWKS for five minutes.';
    ELSIF wanted.rotate_after <= wanted.publish_before THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "rotate_after" must be longer than "publish_before", which is %s', wanted.publish_before);
    ELSIF wanted.keep_retired < interval '0' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "keep_retired" must not be negative';
    END IF;
    INSERT INTO _grownext.jwt_key_policy VALUES (wanted.*)
    ON CONFLICT ON CONSTRAINT jwt_key_policy_pkey DO UPDATE
       SET rotate_after = EXCLUDED.rotate_after, publish_before = EXCLUDED.publish_before,
           rotate_at = EXCLUDED.rotate_at, keep_retired = EXCLUDED.keep_retired;
    PERFORM _grownext.audit_write('key_policy.defined', 'key_policy:' || purpose, NULL, NULL, options);
END
$$;
COMMENT ON FUNCTION grownext.key_policy_define(text, jsonb) IS 'Says when the keys of a purpose rotate by themselves; replaces what was said before.';

-- What is due when, for each purpose that rotates by itself and has an active key.
CREATE OR REPLACE VIEW _grownext.jwt_rotation WITH (security_barrier) AS
    SELECT p.purpose, s.kid AS standby_kid, due.at - p.publish_before AS publish_at, due.at AS rotate_at
      FROM _grownext.jwt_key_policy AS p
      JOIN _grownext.jwt_key AS a ON a.purpose = p.purpose AND a.state = 'active'
      LEFT JOIN LATERAL (
           SELECT k.kid, k.published_at FROM _grownext.jwt_key AS k
            WHERE k.purpose = p.purpose AND k.state = 'standby' ORDER BY k.published_at, k.kid LIMIT 1) AS s ON true
     CROSS JOIN LATERAL (SELECT greatest(a.activated_at + p.rotate_after, s.published_at + p.publish_before) AS at) AS ready
     CROSS JOIN LATERAL (SELECT (date_trunc('day', ready.at AT TIME ZONE 'UTC') + p.rotate_at) AT TIME ZONE 'UTC' AS at) AS time_of_day
     CROSS JOIN LATERAL (SELECT CASE WHEN p.rotate_at IS NULL THEN ready.at
                                     WHEN time_of_day.at >= ready.at THEN time_of_day.at
                                     ELSE time_of_day.at + interval '24 hours' END AS at) AS due
     WHERE p.rotate_after IS NOT NULL;
COMMENT ON VIEW _grownext.jwt_rotation IS 'When the next key of each purpose is to be published and to become active.';

-- Retired keys: when none of their tokens counts any more, what of them is left, and when they
-- may be forgotten. Revoked ones stay: their kids must not come back.
CREATE OR REPLACE VIEW _grownext.jwt_retired WITH (security_barrier) AS
    SELECT k.kid, k.purpose, CASE WHEN k.sealed IS NOT NULL THEN k.accepted_until END AS erase_at,
           k.accepted_until + coalesce(p.keep_retired, interval '30 days') AS forget_at
      FROM _grownext.jwt_key AS k
      LEFT JOIN _grownext.jwt_key_policy AS p ON p.purpose = k.purpose
     WHERE k.state = 'retiring';
COMMENT ON VIEW _grownext.jwt_retired IS 'When the private part of each retired key may go, and when the key may be forgotten.';

CREATE OR REPLACE FUNCTION _grownext.jwt_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    due record;
BEGIN
    -- looks first: only who has something to do takes the lock and disturbs caches
    IF EXISTS (SELECT FROM _grownext.jwt_rotation AS p
                WHERE CASE WHEN p.standby_kid IS NULL THEN p.publish_at ELSE p.rotate_at END <= jwt_tick.now)
       OR EXISTS (SELECT FROM _grownext.jwt_retired AS f WHERE least(f.erase_at, f.forget_at) <= jwt_tick.now) THEN
        LOCK TABLE _grownext.jwt_key IN SHARE ROW EXCLUSIVE MODE;
        FOR due IN SELECT * FROM _grownext.jwt_rotation AS p ORDER BY p.purpose LOOP
            IF due.standby_kid IS NOT NULL AND due.rotate_at <= jwt_tick.now THEN
                PERFORM _grownext.jwt_key_activate(due.standby_kid, due.purpose, jwt_tick.now, '{"scheduled": true}');
            ELSIF due.standby_kid IS NULL AND due.publish_at <= jwt_tick.now AND _grownext.crypto_seals() THEN
                PERFORM _grownext.jwt_key_make(l.alg, due.purpose, l.ref, jwt_tick.now, '{"scheduled": true}') FROM _grownext.jwt_key_like(due.purpose) AS l;
            END IF;
        END LOOP;
        -- what nobody needs, nobody can steal
        UPDATE _grownext.jwt_key AS k SET sealed = NULL
          FROM _grownext.jwt_retired AS f WHERE f.kid = k.kid AND f.erase_at <= jwt_tick.now;
        FOR due IN SELECT * FROM _grownext.jwt_retired AS f WHERE f.forget_at <= jwt_tick.now ORDER BY f.kid LOOP
            DELETE FROM _grownext.jwt_key AS k WHERE k.kid = due.kid;
            PERFORM _grownext.audit_write('key.forgotten', 'key:' || due.kid, NULL, jsonb_build_object('purpose', due.purpose), NULL);
        END LOOP;
    END IF;
    -- what is overdue all the same waits for a master key: look again in a while
    RETURN (SELECT greatest(jwt_tick.now + interval '10 seconds', least(jwt_tick.now + interval '1 hour', min(n.at)))
              FROM (SELECT CASE WHEN p.standby_kid IS NULL THEN p.publish_at ELSE p.rotate_at END AS at FROM _grownext.jwt_rotation AS p
                    UNION ALL SELECT least(f.erase_at, f.forget_at) FROM _grownext.jwt_retired AS f) AS n);
END
$$;
COMMENT ON FUNCTION _grownext.jwt_tick(timestamptz) IS 'Background pass: publishes and activates the next keys in time, forgets retired ones.';

CREATE OR REPLACE VIEW grownext.key_policy WITH (security_barrier) AS
SELECT p.purpose, p.rotate_after, p.publish_before, p.rotate_at, p.keep_retired,
       n.standby_kid AS next_kid,
       CASE WHEN n.standby_kid IS NULL THEN n.publish_at END AS publish_at,
       n.rotate_at AS next_rotation_at
  FROM _grownext.jwt_key_policy AS p
  LEFT JOIN _grownext.jwt_rotation AS n ON n.purpose = p.purpose;
COMMENT ON VIEW grownext.key_policy IS 'When keys rotate by themselves, and what comes next.';
