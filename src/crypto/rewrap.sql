-- src/crypto/rewrap.sql: what is sealed, under which master key, and sealing it again

-- For every component with a sealed column. The relation is schema-qualified and quoted, the
-- purpose an expression over its columns that gives what gn_seal() was told. Replayed.
CREATE OR REPLACE FUNCTION _grownext.crypto_sealed_register(relation text, column_name text, purpose text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO _grownext.crypto_sealed (relation, column_name, purpose)
    VALUES (crypto_sealed_register.relation, crypto_sealed_register.column_name, crypto_sealed_register.purpose)
    ON CONFLICT ON CONSTRAINT crypto_sealed_pkey DO UPDATE SET purpose = EXCLUDED.purpose;
$$;
COMMENT ON FUNCTION _grownext.crypto_sealed_register(text, text, text) IS 'Makes a column of sealed values known to status() and key_rewrap().';

SELECT _grownext.crypto_sealed_register('_grownext.crypto_root', 'sealed', '''crypto_root '' || name');
SELECT _grownext.crypto_sealed_register('_grownext.crypto_secret', 'sealed', '''crypto_secret '' || name || '' '' || version');

-- The second byte is the length of the id that follows it: src/crypto/seal.c.
CREATE OR REPLACE FUNCTION _grownext.crypto_sealed_under(sealed bytea) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN octet_length(sealed) > 2 THEN encode(substr(sealed, 3, get_byte(sealed, 1)), 'escape') ELSE '' END;
$$;
COMMENT ON FUNCTION _grownext.crypto_sealed_under(bytea) IS 'The id of the master key that a sealed value needs.';

CREATE OR REPLACE FUNCTION _grownext.crypto_reseal(purpose text, sealed bytea, OUT resealed bytea, OUT problem text) RETURNS record
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_crypto_reseal';
COMMENT ON FUNCTION _grownext.crypto_reseal(text, bytea) IS 'The value sealed under the current master key, or why it does not open.';

CREATE OR REPLACE FUNCTION _grownext.crypto_sealed_counts(OUT master_key text, OUT sealed bigint) RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    queries CONSTANT text := (
        -- relations and columns are names
        SELECT string_agg(format('SELECT _grownext.crypto_sealed_under(%I) AS id FROM %s WHERE %I IS NOT NULL',
                                 s.column_name, s.relation, s.column_name), ' UNION ALL ')
          FROM _grownext.crypto_sealed AS s);
BEGIN
    RETURN QUERY EXECUTE format('SELECT id, count(*) FROM (%s) AS v GROUP BY id ORDER BY id', queries);
END
$$;
COMMENT ON FUNCTION _grownext.crypto_sealed_counts() IS 'How many values are sealed under each master key.';

-- Each value is locked, opened and sealed again in its turn, so that it may change at the
-- same time; one that does not open stays as it is, and the others go on.
CREATE OR REPLACE FUNCTION _grownext.crypto_rewrap(max_count int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    current_id CONSTANT text := (SELECT k.id FROM _grownext.crypto_master_key_adopt() AS k);
    place record;
    held record;
    fresh record;
    done int := 0;
BEGIN
    FOR place IN SELECT * FROM _grownext.crypto_sealed AS s ORDER BY s.relation, s.column_name LOOP
        -- relation, column and expression are our components' own
        FOR held IN EXECUTE format(
            'SELECT s.ctid AS at, %s AS purpose, s.%I AS sealed FROM %s AS s WHERE _grownext.crypto_sealed_under(s.%I) <> $1 ORDER BY 2 FOR UPDATE OF s',
            place.purpose, place.column_name, place.relation, place.column_name) USING current_id
        LOOP
            IF done >= max_count THEN
                RETURN done;
            END IF;
            SELECT * INTO fresh FROM _grownext.crypto_reseal(held.purpose, held.sealed);
            IF fresh.problem IS NOT NULL THEN
                RAISE WARNING USING ERRCODE = 'data_corrupted',
                    MESSAGE = format('sealed value "%s" was left as it is: %s', held.purpose, fresh.problem);
                CONTINUE;
            END IF;
            EXECUTE format('UPDATE %s SET %I = $1 WHERE ctid = $2', place.relation, place.column_name)
              USING fresh.resealed, held.at;
            done := done + 1;
        END LOOP;
    END LOOP;
    RETURN done;
END
$$;
COMMENT ON FUNCTION _grownext.crypto_rewrap(int) IS 'Seals what is under other master keys again under the current one, at most so many values; returns how many.';

CREATE OR REPLACE FUNCTION _grownext.crypto_opens(sealed bytea) RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM _grownext.crypto_master_keys() AS m, unnest(m.ids, m.check_values) AS h (id, check_value)
          JOIN _grownext.crypto_master_key AS k ON k.id = h.id AND k.check_value = h.check_value
         WHERE h.id = _grownext.crypto_sealed_under(sealed));
$$;
COMMENT ON FUNCTION _grownext.crypto_opens(bytea) IS 'Whether the master key that a sealed value needs is at hand; it raises nothing.';

-- The rule of adopt_current_key() in src/crypto/seal.c, for passes that must not fail.
CREATE OR REPLACE FUNCTION _grownext.crypto_seals() RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT cardinality(m.ids) > 0
           AND NOT EXISTS (SELECT FROM _grownext.crypto_master_key AS k WHERE k.id = m.ids[1] AND k.check_value <> m.check_values[1])
           AND (NOT EXISTS (SELECT FROM _grownext.crypto_master_key)
                OR EXISTS (SELECT FROM unnest(m.ids, m.check_values) AS h (id, check_value)
                             JOIN _grownext.crypto_master_key AS k ON k.id = h.id AND k.check_value = h.check_value))
      FROM _grownext.crypto_master_keys() AS m;
$$;
COMMENT ON FUNCTION _grownext.crypto_seals() IS 'Whether the current master key may seal in this database; it raises nothing.';
