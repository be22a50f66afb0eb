-- src/crypto/functions.sql: stored secrets; set-up and status of the master key

CREATE OR REPLACE FUNCTION grownext.secret_set(name text, value text DEFAULT NULL, file text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_secret_set_sql';
COMMENT ON FUNCTION grownext.secret_set(text, text, text) IS 'Stores a secret, sealed, from a value or (superusers) from a file of the server; the previous value stays valid for a day.';

CREATE OR REPLACE FUNCTION grownext.secret_drop(name text) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_secret_drop_sql';
COMMENT ON FUNCTION grownext.secret_drop(text) IS 'Forgets a stored secret, its previous value too.';

CREATE OR REPLACE VIEW grownext.secret WITH (security_barrier) AS
SELECT s.name,
       s.created_at AS set_at,
       p.retires_at AS previous_until
  FROM _grownext.crypto_secret AS s
  LEFT JOIN _grownext.crypto_secret AS p ON p.name = s.name AND p.retires_at > _grownext.core_now()
 WHERE s.retires_at IS NULL;
COMMENT ON VIEW grownext.secret IS 'Names of the stored secrets; values never leave the library.';

CREATE OR REPLACE FUNCTION _grownext.crypto_master_key_adopt(OUT id text, OUT adopted boolean) RETURNS record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_crypto_master_key_adopt';
COMMENT ON FUNCTION _grownext.crypto_master_key_adopt() IS 'Tests the current master key against this database, makes it known if it may be; raises NX017.';

CREATE OR REPLACE FUNCTION _grownext.crypto_master_keys(OUT source text, OUT problem text, OUT hint text, OUT ids text[], OUT check_values bytea[], OUT exposed boolean) RETURNS record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_crypto_master_keys';
COMMENT ON FUNCTION _grownext.crypto_master_keys() IS 'The master keys at hand by id and check value, or why there is none; never raises.';

CREATE OR REPLACE FUNCTION _grownext.crypto_setup(issuer text, audiences text[], options jsonb) RETURNS SETOF grownext.setup_step
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at_hand record;
    key record;
BEGIN
    SELECT * INTO at_hand FROM _grownext.crypto_master_keys();
    IF at_hand.problem IS NOT NULL THEN
        RETURN NEXT ROW('master key', 'failed: ' || at_hand.problem, at_hand.hint)::grownext.setup_step;
        RETURN;
    END IF;
    SELECT * INTO key FROM _grownext.crypto_master_key_adopt();
    RETURN NEXT ROW('master key', CASE WHEN key.adopted THEN 'created' ELSE 'unchanged' END, NULL)::grownext.setup_step;
END
$$;
COMMENT ON FUNCTION _grownext.crypto_setup(text, text[], jsonb) IS 'Makes the master key known to this database.';

-- Reads only; on a standby it tests the keys of the standby's own file.
CREATE OR REPLACE FUNCTION _grownext.crypto_status() RETURNS SETOF grownext.status_item
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at_hand record;
    known int;
    wrong text[];
    absent text[];
    missing text[];
    current_known boolean;
    total bigint;
    older bigint;
    older_ids text[];
BEGIN
    SELECT * INTO at_hand FROM _grownext.crypto_master_keys();
    SELECT coalesce(sum(c.sealed), 0),
           coalesce(sum(c.sealed) FILTER (WHERE c.master_key <> at_hand.ids[1]), 0),
           array_agg(c.master_key ORDER BY c.master_key) FILTER (WHERE c.master_key <> at_hand.ids[1]),
           array_agg(c.master_key ORDER BY c.master_key) FILTER (WHERE c.master_key <> ALL (at_hand.ids))
      INTO total, older, older_ids, missing
      FROM _grownext.crypto_sealed_counts() AS c;
    SELECT count(*),
           array_agg(k.id ORDER BY k.id) FILTER (WHERE h.id IS NOT NULL AND h.check_value <> k.check_value),
           array_agg(k.id ORDER BY k.id) FILTER (WHERE h.id IS NULL),
           coalesce(bool_or(h.place = 1 AND h.check_value = k.check_value), false)
      INTO known, wrong, absent, current_known
      FROM _grownext.crypto_master_key AS k
      LEFT JOIN unnest(at_hand.ids, at_hand.check_values) WITH ORDINALITY AS h (id, check_value, place) USING (id);

    IF at_hand.problem IS NOT NULL THEN
        RETURN NEXT ROW('crypto', 'master key', CASE WHEN known > 0 OR at_hand.source <> 'nowhere' THEN 'failed' ELSE 'off' END,
            at_hand.problem, at_hand.hint, NULL)::grownext.status_item;
    ELSIF wrong IS NOT NULL THEN
        RETURN NEXT ROW('crypto', 'master key', 'failed',
            format('"%s" is not the one that this database was sealed with', array_to_string(wrong, '", "')),
            format('Put the original line "%s:..." back where keys come from (%s).', wrong[1], at_hand.source), NULL)::grownext.status_item;
    ELSIF known = 0 THEN
        RETURN NEXT ROW('crypto', 'master key', 'ok',
            format('"%s" from %s; nothing is sealed yet', at_hand.ids[1], at_hand.source), NULL, NULL)::grownext.status_item;
    ELSIF cardinality(absent) = known THEN
        RETURN NEXT ROW('crypto', 'master key', 'failed',
            format('none of the keys at hand is known to this database, which needs "%s"', array_to_string(coalesce(missing, absent), '", "')),
            format('Put the line "%s:..." back where keys come from (%s).', (coalesce(missing, absent))[1], at_hand.source), NULL)::grownext.status_item;
    ELSIF missing IS NOT NULL THEN
        RETURN NEXT ROW('crypto', 'master key', 'degraded',
            format('what was sealed under "%s" cannot be opened', array_to_string(missing, '", "')),
            format('Put the line "%s:..." back where keys come from (%s).', missing[1], at_hand.source), NULL)::grownext.status_item;
    ELSE
        RETURN NEXT ROW('crypto', 'master key', 'ok',
            format('"%s" from %s%s', at_hand.ids[1], at_hand.source,
                   CASE WHEN NOT current_known THEN '; new, known from the next sealing on' END), NULL,
            (SELECT max(k.adopted_at) FROM _grownext.crypto_master_key AS k WHERE k.id = at_hand.ids[1]))::grownext.status_item;
    END IF;

    -- Until all is sealed again, the old lines are needed.
    IF at_hand.problem IS NOT NULL OR wrong IS NOT NULL THEN
        NULL; -- the line above says it all
    ELSIF older > 0 THEN
        RETURN NEXT ROW('crypto', 'sealed values', 'degraded',
            format('%s of %s are sealed under "%s", not under the current master key "%s"',
                   older, total, array_to_string(older_ids, '", "'), at_hand.ids[1]),
            'SELECT grownext.key_rewrap();', NULL)::grownext.status_item;
    ELSIF total > 0 THEN
        RETURN NEXT ROW('crypto', 'sealed values', 'ok',
            format('all %s are sealed under the current master key "%s"', total, at_hand.ids[1]), NULL, NULL)::grownext.status_item;
    END IF;

    -- A key that travels with every base backup protects nothing.
    IF at_hand.exposed THEN
        RETURN NEXT ROW('crypto', 'master key place', 'degraded',
            'the master key file lies in the data directory: every base backup carries it',
            'Move it out and point grownext.master_key_file to it.', NULL)::grownext.status_item;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.crypto_status() IS 'Whether the master key is there and the right one, and whether all is sealed under it.';
