-- src/account/login_link.sql: links that sign a user in, as far as proving who it is;
-- the session that follows is made by component session

CREATE OR REPLACE FUNCTION _grownext.account_login_token(id uuid) RETURNS text
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_account_login_token';
COMMENT ON FUNCTION _grownext.account_login_token(uuid) IS 'The token of a login link, derived from its id under a key of this database.';

CREATE OR REPLACE FUNCTION _grownext.account_login_hash(token text) RETURNS bytea
LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'gn_account_login_hash';
COMMENT ON FUNCTION _grownext.account_login_hash(text) IS 'The SHA-256 of a login link''s token; NULL for what cannot be one.';

-- Whoever has one IPv6 address has 2^64.
CREATE OR REPLACE FUNCTION _grownext.account_ip_key(ip inet) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN family(ip) = 4 OR ip <<= '::ffff:0:0/96' THEN host(ip) ELSE network(set_masklen(ip, 64))::text END;
$$;
COMMENT ON FUNCTION _grownext.account_ip_key(inet) IS 'What counts as one IP address to a rate limit: an IPv4 address, or the /64 of an IPv6 address.';

-- Raises in a transaction of its own or not: the limiter counts beside it.
CREATE OR REPLACE FUNCTION _grownext.account_take(scope text, key text, burst bigint, what text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    verdict _grownext.core_rate_verdict;
BEGIN
    verdict := _grownext.core_rate_take(scope, key, burst, interval '1 hour');
    IF NOT verdict.allowed THEN
        RAISE EXCEPTION USING ERRCODE = 'NX041',
            MESSAGE = format('too many login links for this %s', what),
            DETAIL = format('%s are allowed in an hour.', burst),
            HINT = format('Try again in %s seconds.', greatest(ceil(extract(epoch FROM verdict.retry_at - _grownext.core_now()))::int, 1));
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.account_take(text, text, bigint, text) IS 'Takes one unit of an hourly limit or raises NX041.';

-- The answer, the work and the traces are the same whether somebody has the address or
-- not: a link of nobody is made like any other, and opens nothing.
CREATE OR REPLACE FUNCTION grownext.login_link_create(email text, ttl interval DEFAULT '15 minutes', ip inet DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made_at CONSTANT timestamptz := _grownext.core_now();
    ends_at CONSTANT timestamptz := made_at + coalesce(login_link_create.ttl, interval '15 minutes');
    key CONSTANT text := _grownext.account_email_key(login_link_create.email);
    link CONSTANT uuid := gen_random_uuid();
    token text;
    hash bytea;
    whose uuid;
BEGIN
    IF key IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'that is not an email address';
    ELSIF ends_at NOT BETWEEN made_at + interval '1 minute' AND made_at + interval '24 hours' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'the ttl of a login link must be 1 minute to 24 hours';
    END IF;
    IF login_link_create.ip IS NOT NULL THEN
        PERFORM _grownext.account_take('login_link_ip', _grownext.account_ip_key(login_link_create.ip),
            current_setting('grownext.account_link_ip_limit')::bigint, 'IP address');
    END IF;
    PERFORM _grownext.account_take('login_link', key, current_setting('grownext.account_link_limit')::bigint, 'email address');

    -- assignments, for the parameters of statements reach logs (auto_explain)
    token := _grownext.account_login_token(link);
    hash := _grownext.account_login_hash(token);
    -- one at a time per user, against user_disable(), and for the count below
    SELECT u.id INTO whose FROM _grownext.account_user AS u WHERE u.email_key = key AND u.disabled_at IS NULL FOR NO KEY UPDATE;
    INSERT INTO _grownext.account_login_link (id, user_id, token_hash, created_at, expires_at)
    VALUES (link, whose, hash, made_at, ends_at);
    -- mails overtake each other, so the latest three count; more would be a hoard
    DELETE FROM _grownext.account_login_link AS l
     WHERE l.id IN (SELECT o.id FROM _grownext.account_login_link AS o WHERE o.user_id = whose
                     ORDER BY o.created_at DESC, o.id = link DESC OFFSET 3);
    PERFORM _grownext.account_record('login_link.created', 'login_link:' || link, NULL,
        jsonb_build_object('user_id', whose), jsonb_build_object('login_link_id', link, 'expires_at', ends_at));
    RETURN token;
END
$$;
COMMENT ON FUNCTION grownext.login_link_create(text, interval, inet) IS 'Makes a single-use token that signs in whoever has the email address; returns one for an address that nobody has, too.';

CREATE OR REPLACE FUNCTION grownext.login_link_deliver(id uuid) RETURNS SETOF grownext.login_link_message
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    message grownext.login_link_message;
BEGIN
    SELECT u.id, u.email, u.name, NULL, l.expires_at INTO message
      FROM _grownext.account_login_link AS l JOIN _grownext.account_user AS u ON u.id = l.user_id
     WHERE l.id = login_link_deliver.id AND l.expires_at > _grownext.core_now() AND u.disabled_at IS NULL AND u.email IS NOT NULL;
    IF FOUND THEN
        message.token := _grownext.account_login_token(login_link_deliver.id);
        RETURN NEXT message;
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.login_link_deliver(uuid) IS 'What to send for a login link, and to whom; no row when there is nothing to send.';

-- Whose token it is, once. The caller makes the session in the same transaction. NULL
-- and an error when it is nobody's: returned, so that the count of failures is no
-- reason to raise, and that a link of a user who was disabled is used up all the same.
CREATE OR REPLACE FUNCTION _grownext.account_login_link_use(token text, ip inet, OUT user_id uuid, OUT refusal text, OUT retry_at timestamptz) RETURNS record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked_at CONSTANT timestamptz := _grownext.core_now();
    hash bytea;
    verdict _grownext.core_rate_verdict;
    owner uuid;
    link uuid;
BEGIN
    hash := _grownext.account_login_hash(token);
    refusal := 'invalid';
    -- The user before the link, as login_link_create() locks them.
    SELECT l.user_id INTO owner FROM _grownext.account_login_link AS l WHERE l.token_hash = hash;
    PERFORM FROM _grownext.account_user AS u WHERE u.id = owner FOR NO KEY UPDATE;
    DELETE FROM _grownext.account_login_link AS l WHERE l.token_hash = hash AND l.expires_at > asked_at RETURNING l.id INTO link;
    IF link IS NOT NULL THEN
        SELECT u.id INTO user_id FROM _grownext.account_user AS u WHERE u.id = owner AND u.disabled_at IS NULL;
    END IF;
    IF user_id IS NULL THEN
        -- Nobody guesses 256 bits, so a good token is never refused for the failures of others
        -- behind the same address: mail scanners and double clicks make many.
        IF ip IS NOT NULL THEN
            verdict := _grownext.core_failure_note('login_link_redeem', _grownext.account_ip_key(ip));
            IF NOT verdict.allowed THEN
                refusal := 'limited';
                retry_at := verdict.retry_at;
            END IF;
        END IF;
        RETURN;
    END IF;
    refusal := NULL;
    -- what else was sent has served its purpose
    DELETE FROM _grownext.account_login_link AS l WHERE l.user_id = owner;
    PERFORM _grownext.account_record('login_link.redeemed', 'login_link:' || link, NULL,
        jsonb_build_object('user_id', owner), jsonb_build_object('login_link_id', link, 'user_id', owner));
END
$$;
COMMENT ON FUNCTION _grownext.account_login_link_use(text, inet) IS 'Uses a login link up; says whose it was, or why not.';
