-- The caller's context at its edges: what undoes it, what outlives what, and what a
-- gateway may not hand over.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
RESET client_min_messages;
\set acme '''11111111-1111-4111-8111-111111111111'''
\set beta '''22222222-2222-4222-8222-222222222222'''
CREATE FUNCTION who() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws(' of ', grownext.current_subject(), left(grownext.current_tenant()::text, 8));
$$;
CREATE FUNCTION claims_are(claims text) RETURNS void LANGUAGE sql AS $$
    SELECT set_config('request.jwt.claims', claims, true);
$$;
-- SQLSTATE of pre_request() with these claims, in a subtransaction of its own
CREATE FUNCTION gate(claims text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    problem text;
BEGIN
    PERFORM set_config('request.jwt.claims', claims, true);
    PERFORM grownext.pre_request();
    RAISE EXCEPTION USING ERRCODE = 'TRIED', MESSAGE = coalesce(nullif(who(), ''), 'nobody');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS problem = PG_EXCEPTION_DETAIL;
    RETURN CASE SQLSTATE WHEN 'TRIED' THEN SQLERRM ELSE concat_ws(' ', SQLSTATE, SQLERRM, nullif(problem, '')) END;
END
$$;
SELECT grownext.gateway_trust(session_user);

-- Precedence: act_as, then a gateway; what a savepoint takes away uncovers what was below
BEGIN;
SELECT claims_are('{"sub": "gate", "tenant_id": "11111111-1111-4111-8111-111111111111"}');
SELECT grownext.pre_request();
SELECT who();
SAVEPOINT s;
SELECT grownext.act_as('ann', :beta, '{"scope": "read"}');
SELECT who(), grownext.has_scope('read');
ROLLBACK TO s;
SELECT who(), grownext.has_scope('read');
SELECT grownext.act_as('ann');
SELECT who() AS no_tenant_of_another_identity_shows_through;
-- the second act_as replaces the first
SELECT grownext.act_as('bob', :acme);
SELECT who(), grownext.claim('scope') IS NULL AS nothing_is_left_of_it;
COMMIT;
SELECT who();

-- Functions: a binding made inside outlives the function, with SET clauses and as definer too;
-- an exception block undoes what happened in it
CREATE FUNCTION bind_in_function() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM grownext.act_as('inner', '11111111-1111-4111-8111-111111111111');
END
$$;
CREATE FUNCTION bind_and_fail() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    seen text;
BEGIN
    BEGIN
        PERFORM grownext.act_as('lost', '22222222-2222-4222-8222-222222222222');
        seen := grownext.current_subject();
        PERFORM 1 / 0;
    EXCEPTION WHEN division_by_zero THEN
        RETURN seen || ' then ' || coalesce(grownext.current_subject(), 'nobody');
    END;
END
$$;
BEGIN;
SELECT bind_in_function();
SELECT who();
SELECT bind_and_fail();
SELECT who();
-- a value that was read stays what it was when the context changes in the same statement
SELECT who() AS before, bind_in_function() IS NULL AS f, grownext.act_as('later', :beta) IS NULL AS g, who() AS after;
WITH RECURSIVE step AS (
    SELECT 1 AS i, ARRAY[grownext.current_tenant()] AS seen
    UNION ALL
    SELECT i + 1, seen || grownext.current_tenant() FROM step,
           LATERAL (SELECT grownext.act_as('x', CASE i % 2 WHEN 0 THEN '11111111-1111-4111-8111-111111111111' ELSE '22222222-2222-4222-8222-222222222222' END::uuid) OFFSET 0) AS bound
     WHERE i < 4)
SELECT (SELECT array_agg(left(t::text, 4)) FROM unnest(seen) AS t) AS seen FROM step WHERE i = 4;
COMMIT;

-- SET ROLE and a definer function change who is judged, not who is spoken for
CREATE ROLE regress_edges_user IN ROLE grownext_user;
CREATE FUNCTION as_definer() RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = public AS 'SELECT who()';
BEGIN;
SELECT grownext.act_as('ann', :acme);
SET LOCAL ROLE regress_edges_user;
SELECT who(), as_definer();
SAVEPOINT s;
SELECT grownext.act_as('root');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
RESET ROLE;
SELECT who();
ROLLBACK;

-- Cursors: one that is held keeps its rows and gives nobody the context back; a procedure's
-- COMMIT ends the context in the middle of its loop
CREATE TABLE edge AS SELECT i, CASE i % 2 WHEN 0 THEN :acme ELSE :beta END::uuid AS tenant_id FROM generate_series(1, 10) AS i;
BEGIN;
SELECT grownext.act_as('ann', :acme);
DECLARE held CURSOR WITH HOLD FOR SELECT i, who() FROM edge WHERE tenant_id = grownext.current_tenant() ORDER BY i;
FETCH 1 FROM held;
COMMIT;
FETCH 2 FROM held;
SELECT who();
CLOSE held;
CREATE PROCEDURE commit_in_loop(INOUT seen text) LANGUAGE plpgsql AS $$
DECLARE
    found record;
BEGIN
    PERFORM grownext.act_as('ann', '11111111-1111-4111-8111-111111111111');
    FOR found IN SELECT i FROM edge WHERE tenant_id = grownext.current_tenant() ORDER BY i LOOP
        seen := concat_ws(',', seen, found.i || ':' || coalesce(grownext.current_subject(), 'nobody'));
        COMMIT;
    END LOOP;
END
$$;
CALL commit_in_loop(NULL);
SELECT who();

-- A deferred trigger runs at commit, still for the caller
CREATE TABLE edge_seen (who text);
CREATE FUNCTION note_who() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO edge_seen VALUES (who()); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON edge DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.i = 1) EXECUTE FUNCTION note_who();
BEGIN;
SELECT grownext.act_as('ann', :acme);
UPDATE edge SET i = 1 WHERE i = 1;
COMMIT;
TABLE edge_seen;

-- A failed transaction leaves nothing either
BEGIN;
SELECT grownext.act_as('ann', :acme);
SELECT 1 / 0;
ROLLBACK;
SELECT who();

-- What a gateway may hand over -------------------------------------------------
SELECT gate('{"sub": "ann", "tenant_id": "11111111-1111-4111-8111-111111111111"}');
SELECT gate('{"sub": "ann", "tenant_id": null}') AS null_is_none;
SELECT gate('not JSON');
SELECT gate('{"sub": "ann"} trailing');
SELECT gate('"ann"'), gate('null');
SELECT gate('{"sub": "ann", "sub": "root"}');
SELECT gate('{"sub": "ann", "app": {"a": 1, "a": 1}}');
SELECT gate('{"sub": "a\u0000b"}');
SELECT gate('{"sub": "\ud800"}');
SELECT gate('{"n": 1e400000}');
SELECT gate(format('{"sub": "ann", "pad": "%s"}', repeat('x', 70000)));
SELECT gate(format('{"sub": "ann", "deep": %s1%s}', repeat('[', 31), repeat(']', 31))) AS deep_enough;
SELECT gate(format('{"sub": "ann", "deep": %s1%s}', repeat('[', 32), repeat(']', 32)));
SELECT gate(format('{"sub": "ann", "deep": %s}', repeat('[', 60000)));
SELECT gate('{"sub": 42}'), gate('{"sub": ""}'), gate('{"sub": {"id": "ann"}}');
SELECT gate('{"sub": "ann", "act": "support"}'), gate('{"sub": "ann", "act": {}}'), gate('{"sub": "ann", "act": {"sub": 1}}');
SELECT gate('{"sub": "ann", "tenant_id": 1}'), gate('{"sub": "ann", "tenant_id": ""}'), gate('{"sub": "ann", "tenant_id": "{11111111-1111-4111-8111-111111111111}"}'), gate('{"sub": "ann", "tenant_id": ["11111111-1111-4111-8111-111111111111"]}');
SELECT gate('{"sub": "ann: \"x\" {[,", "tenant_id": "11111111-1111-4111-8111-111111111111"}') AS not_fooled_by_a_string;
-- a session that a foreign issuer names in its own way is none
SELECT gate('{"iss": "https://idp.example", "sub": "ann", "sid": "A1B2"}');
-- the dotted name of a claim is not who acts
BEGIN;
SELECT claims_are('{"sub": "ann", "act.sub": "root"}');
SELECT grownext.pre_request();
SELECT grownext.current_actor();
COMMIT;

-- An anonymous request: no claims, or only the role that PostgREST makes up
SELECT gate(''), gate('{}'), gate('{"role": "web_anon"}');
BEGIN;
SELECT claims_are('{"role": "web_anon"}');
SELECT grownext.pre_request();
SELECT grownext.claims() IS NULL AS no_claims, grownext.has_scope('read') IS NULL AS no_scope;
SAVEPOINT s;
SELECT claims_are('{"sub": "ann"}');
SELECT grownext.pre_request();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- A savepoint that is rolled back takes the request with it
BEGIN;
SAVEPOINT s;
SELECT claims_are('{"sub": "first"}');
SELECT grownext.pre_request();
SELECT who();
ROLLBACK TO s;
SELECT who();
SELECT claims_are('{"sub": "second"}');
SELECT grownext.pre_request();
SELECT who();
SAVEPOINT s;
SELECT claims_are('{"sub": "third"}');
SELECT grownext.pre_request();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
RELEASE s;
SELECT who();
-- with the claims taken away nobody answers in their name
SELECT claims_are('');
SELECT who();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- Where the tenant stands: in foreign tokens where the setting says, in our own never there
INSERT INTO _grownext.core_option VALUES ('issuer', '"https://auth.example.com"') ON CONFLICT (name) DO NOTHING;
BEGIN;
SET LOCAL grownext.tenant_claim = 'app.org';
SELECT gate('{"sub": "ann", "app": {"org": "22222222-2222-4222-8222-222222222222"}, "tenant_id": "11111111-1111-4111-8111-111111111111"}') AS foreign_token,
       gate(format('{"iss": %s, "sub": "ann", "app": {"org": "22222222-2222-4222-8222-222222222222"}, "tenant_id": "11111111-1111-4111-8111-111111111111"}',
                   (SELECT value FROM _grownext.core_option WHERE name = 'issuer'))) AS our_own,
       gate('{"sub": "ann", "app": {"org": "acme"}}') AS malformed;
ROLLBACK;
SET ROLE regress_edges_user;
SET grownext.tenant_claim = 'elsewhere';
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
DELETE FROM _grownext.core_option WHERE name = 'issuer' AND value = '"https://auth.example.com"';

-- Trust by membership: who is a member is asked at each request, not remembered
SELECT grownext.gateway_distrust(session_user);
CREATE ROLE regress_edges_gateway;
SELECT grownext.gateway_trust('regress_edges_gateway');
SELECT gate('{"sub": "ann"}') ~ '^NX003' AS no_member;
GRANT regress_edges_gateway TO CURRENT_USER;
SELECT gate('{"sub": "ann"}') AS member;
REVOKE regress_edges_gateway FROM CURRENT_USER;
SELECT gate('{"sub": "ann"}') ~ '^NX003' AS no_member_any_more;
-- a role that is gone is nobody's gateway
DROP ROLE regress_edges_gateway;
SELECT gate('{"sub": "ann"}') ~ '^NX003' AS no_role;
SELECT grownext.gateway_distrust('regress_edges_gateway');
SELECT grownext.gateway_trust('regress_edges_gateway');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.gateway_trust(NULL);
\echo :LAST_ERROR_SQLSTATE

-- require_pre_request off: the claims count at once, with the same strictness, in parallel
-- workers too, and for a savepoint only as long as it lasts
SELECT grownext.gateway_trust(session_user);
INSERT INTO _grownext.core_option VALUES ('require_pre_request', 'false');
BEGIN;
SAVEPOINT s;
SELECT claims_are('{"sub": "first", "tenant_id": "11111111-1111-4111-8111-111111111111"}');
SELECT who();
ROLLBACK TO s;
SELECT who();
SELECT claims_are('{"sub": "second", "tenant_id": "22222222-2222-4222-8222-222222222222"}');
SELECT who();
SAVEPOINT s;
SELECT claims_are('{"sub": "third"}');
SELECT who();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
SELECT claims_are('{"sub": "ann", "sub": "root"}');
SELECT who();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
SELECT claims_are('{"role": "web_anon"}');
SELECT who(), grownext.claims() IS NULL AS nobody;
ROLLBACK;
ALTER TABLE edge SET (parallel_workers = 2);
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET parallel_leader_participation = off;
BEGIN;
SELECT claims_are('{"sub": "ann", "tenant_id": "11111111-1111-4111-8111-111111111111"}');
EXPLAIN (COSTS OFF) SELECT count(*) FROM edge WHERE tenant_id = grownext.current_tenant();
SELECT count(*) FROM edge WHERE tenant_id = grownext.current_tenant();
COMMIT;
SELECT count(*) AS without_claims FROM edge WHERE tenant_id = grownext.current_tenant();
DELETE FROM _grownext.core_option WHERE name = 'require_pre_request';

-- what needs the rows of trust can be asked in a parallel worker and in the leader beside it
CREATE ROLE regress_edges_service;
SELECT grownext.capability_grant('service', 'regress_edges_service');
GRANT USAGE ON SCHEMA _grownext TO regress_edges_service;
GRANT EXECUTE ON FUNCTION _grownext.core_caller_has(text) TO regress_edges_service;
GRANT SELECT ON edge TO regress_edges_service;
SET ROLE regress_edges_service;
SELECT count(*) FROM edge WHERE _grownext.core_caller_has('service') AND i > 0;
SET parallel_leader_participation = on;
SELECT count(*) FROM edge WHERE _grownext.core_caller_has('service') AND i > 0;
RESET ROLE;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET parallel_leader_participation;
SELECT grownext.capability_revoke('service', 'regress_edges_service');

-- The request's id reaches the audit log, from a gateway's header and from nobody else's
CREATE FUNCTION headers_are(headers text) RETURNS void LANGUAGE sql AS $$ SELECT set_config('request.headers', headers, true); $$;
CREATE FUNCTION audited_id(headers text, claims text DEFAULT '') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    event bigint;
BEGIN
    PERFORM claims_are(claims), headers_are(headers);
    PERFORM grownext.pre_request();
    event := grownext.audit_append('edge.tested');
    RETURN (SELECT coalesce(e.request_id, 'none') FROM grownext.audit_event AS e WHERE e.id = event);
END
$$;
SELECT audited_id('{"x-request-id": "req-1", "host": "api"}');
SELECT audited_id('{"x-request-id": "req-2"}', '{"sub": "ann", "request_id": "claimed"}');
SELECT audited_id('{"host": "api"}', '{"sub": "ann", "request_id": "claimed"}');
SELECT audited_id(''), audited_id('[]'), audited_id('{"x-request-id": ');
SELECT audited_id('{"x-request-id": "a b"}'), audited_id('{"x-request-id": "a\nb"}'), audited_id('{"x-request-id": ""}'), audited_id(format('{"x-request-id": "%s"}', repeat('x', 201)));
BEGIN;
SELECT headers_are('{"x-request-id": "req-3"}');
SELECT grownext.audit_append('edge.tested') IS NOT NULL AS before_pre_request;
SELECT request_id IS NULL AS not_yet FROM grownext.audit_search(count => 1);
COMMIT;
SELECT grownext.gateway_distrust(session_user);

-- act_as: whom it may name
SELECT grownext.act_as(repeat('x', 256));
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.act_as(E'a\nb');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.act_as('ann', claims => jsonb_build_object('pad', repeat('x', 70000)));
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.act_as('ann', claims => '{"act": null}');
\echo :LAST_ERROR_SQLSTATE

-- A superuser cannot set, reset or inherit a context either
BEGIN;
SELECT grownext.act_as('ann', :acme);
SET LOCAL grownext.context = '';
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
CREATE FUNCTION with_context() RETURNS void LANGUAGE sql SET grownext.context = '00' AS 'SELECT';
\echo :LAST_ERROR_SQLSTATE
ALTER DATABASE contrib_regression SET grownext.context = '00';
\echo :LAST_ERROR_SQLSTATE

DROP TABLE edge, edge_seen;
DROP PROCEDURE commit_in_loop(text);
DROP FUNCTION audited_id(text, text), headers_are(text), note_who(), as_definer(), bind_and_fail(), bind_in_function(), gate(text), claims_are(text), who();
REVOKE ALL ON SCHEMA _grownext FROM regress_edges_service;
REVOKE ALL ON FUNCTION _grownext.core_caller_has(text) FROM regress_edges_service;
DROP ROLE regress_edges_user, regress_edges_service;
