-- src/session/login_link.sql: a session for whoever has a login link

-- Component account proves who it is; the link is used up in the transaction that makes
-- the session, so of two who redeem it at once one gets a session.
CREATE OR REPLACE FUNCTION grownext.login_link_redeem(token text, attributes jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given CONSTANT jsonb := coalesce(login_link_redeem.attributes, '{}');
    outcome record;
BEGIN
    IF jsonb_typeof(given) <> 'object' OR jsonb_typeof(given -> 'ip') <> 'string' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a session''s attributes must be an object, and ip a string';
    ELSIF given ?| ARRAY['acr', 'amr', 'auth_time'] THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'acr, amr and auth_time of a session follow from the login link';
    ELSIF given ?| ARRAY['ip', 'scope', 'client_id'] AND NOT (_grownext.core_caller_has('service') OR _grownext.core_caller_has('admin')) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'permission denied to choose ip, scope or client_id of a session';
    END IF;
    -- an assignment, for the parameters of statements reach logs (auto_explain)
    outcome := _grownext.account_login_link_use(login_link_redeem.token, (given ->> 'ip')::inet);
    IF outcome.refusal = 'limited' THEN
        RETURN _grownext.session_retry(outcome.retry_at);
    ELSIF outcome.refusal IS NOT NULL THEN
        RETURN _grownext.session_refusal('the login link is not valid');
    END IF;
    RETURN grownext.session_create(outcome.user_id, NULL, given || '{"acr": "aal1", "amr": ["email"]}');
END
$$;
COMMENT ON FUNCTION grownext.login_link_redeem(text, jsonb) IS 'A session for the user of a login link, which is used up; or {error, error_description}.';

CREATE OR REPLACE FUNCTION _grownext.session_retry(retry_at timestamptz) RETURNS jsonb
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('error', 'rate_limited', 'error_description', 'too many failed attempts',
        'retry_after', greatest(ceil(extract(epoch FROM retry_at - _grownext.core_now()))::int, 1));
$$;
COMMENT ON FUNCTION _grownext.session_retry(timestamptz) IS 'A refusal that says when to try again, in seconds.';
