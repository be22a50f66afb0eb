-- Tenants from provisioning to purge: slugs and their history, the hierarchy, deletion
-- with grace, and what a purge takes along.
BEGIN;
SELECT * FROM no_plan();
CREATE ROLE gt_user LOGIN IN ROLE grownext_user;
CREATE ROLE gt_app LOGIN IN ROLE grownext_user;
CREATE TEMP TABLE world AS
SELECT 'a1000000-0000-4000-8000-000000000001'::uuid AS acme, 'a1000000-0000-4000-8000-000000000002'::uuid AS beta,
       'b1000000-0000-4000-8000-000000000001'::uuid AS ann, 'b1000000-0000-4000-8000-000000000002'::uuid AS bob;
GRANT SELECT ON world TO PUBLIC;
SET LOCAL grownext.test_clock = '2030-01-01 00:00+00';
SELECT grownext.user_create('ann@tap.example', id => ann), grownext.user_create('bob@tap.example', id => bob) FROM world;
SELECT grownext.queue_define('tap-events'), grownext.event_route('*', 'tap-events');

-- Provisioning is one thing --------------------------------------------------------

SELECT is(grownext.tenant_create('tap-acme', 'Acme', ann, id => acme, external_id => 'crm-1'), acme, 'a tenant is made') FROM world;
SELECT is(grownext.tenant_create('tap-other', 'Other', bob, external_id => 'crm-1'), acme, 'the same external id is the same tenant') FROM world;
SELECT is((SELECT count(*) FROM grownext.member), 1::bigint, 'and the second call changed nothing');
SELECT results_eq($$ SELECT action FROM grownext.audit_event, world WHERE tenant_id = acme ORDER BY id $$, '{tenant.created,member.added}'::text[], 'what happened is recorded');
SELECT throws_ok($$ SELECT grownext.tenant_create('tap-beta', 'Beta', 'b1000000-0000-4000-8000-00000000000f') $$, '42704', NULL, 'an owner who does not exist');
SELECT throws_ok($$ SELECT grownext.tenant_create('tap-beta', 'Beta', bundle => 'no-such-bundle') $$, '42704', NULL, 'or a bundle');
SELECT throws_ok($$ SELECT grownext.tenant_create('tap-beta', 'Beta', parent_id => 'a1000000-0000-4000-8000-00000000000f') $$, '42704', NULL, 'or a parent');
SELECT is((SELECT count(*) FROM grownext.tenant), 1::bigint, 'leave nothing behind');

-- Slugs ---------------------------------------------------------------------------------

SELECT throws_ok(format('SELECT grownext.tenant_create(%L, ''X'')', s), '22023', NULL, format('slug "%s" is refused', left(s, 70)))
  FROM unnest(ARRAY['', 'ab', 'Acme', 'a_b', '-acme', 'acme-', 'ac--me', 'xn--acme', 'acme.x', 'a b', 'ä-b-c', 'acme' || chr(10), repeat('a', 64), repeat('a', 1000000), 'www', 'admin', 'api']) AS s;
SELECT lives_ok(format('SELECT grownext.tenant_create(%L, ''X'')', s), format('slug "%s" is accepted', s)) FROM unnest(ARRAY['tap', '1-2-3', repeat('a', 63)]) AS s;
SELECT is(grownext.tenant_create('tap-beta', 'Beta', bob, id => beta), beta, 'another tenant') FROM world;
SELECT lives_ok($$ SELECT grownext.tenant_update(acme, '{"slug": "tap-acme-2"}') FROM world $$, 'a slug changes');
SELECT is(grownext.slug_resolve('tap-acme'), ROW(acme, 'tap-acme-2', true)::grownext.slug_target, 'the old one leads on') FROM world;
SELECT is(grownext.slug_resolve('tap-acme-2'), ROW(acme, 'tap-acme-2', false)::grownext.slug_target, 'the new one leads here') FROM world;
SELECT is(grownext.slug_resolve('nobodys'), NULL, 'and nobody''s nowhere');
SELECT is(grownext.slug_resolve(NULL), NULL, 'as does none');
SELECT throws_ok($$ SELECT grownext.tenant_create('tap-acme', 'X') $$, '42710', 'slug "tap-acme" is taken', 'nobody else gets the old one');
SELECT throws_ok($$ SELECT grownext.tenant_update(beta, '{"slug": "tap-acme"}') FROM world $$, '42710', 'slug "tap-acme" is taken', 'by a change neither');
SELECT throws_ok($$ SELECT grownext.tenant_update(beta, '{"slug": "tap-acme-2"}') FROM world $$, '42710', 'slug "tap-acme-2" is taken', 'nor the one in use');
SELECT lives_ok($$ SELECT grownext.tenant_update(acme, '{"slug": "tap-acme"}') FROM world $$, 'whoever had it gets it back');
SELECT is(grownext.slug_resolve('tap-acme-2'), ROW(acme, 'tap-acme', true)::grownext.slug_target, 'and the other one leads there') FROM world;
DO $$
BEGIN
    FOR n IN 1..11 LOOP
        PERFORM set_config('grownext.test_clock', format('2030-01-01 00:%s:00+00', lpad(n::text, 2, '0')), true);
        PERFORM grownext.tenant_update('a1000000-0000-4000-8000-000000000001', jsonb_build_object('slug', 'tap-acme-n' || n));
    END LOOP;
END
$$;
SELECT is((SELECT count(*) FROM _grownext.tenant_slug AS s, world WHERE s.tenant_id = acme), 11::bigint, 'ten former slugs are kept');
SELECT is(grownext.slug_resolve('tap-acme-2'), NULL, 'the oldest is free again');
SELECT lives_ok($$ SELECT grownext.tenant_update(acme, '{"slug": "tap-acme"}') FROM world $$, 'slug as before');

-- What no tenant may have ---------------------------------------------------------------

SELECT throws_ok(format('SELECT grownext.tenant_update(acme, %L) FROM world', c), '22023', NULL, 'refused: ' || left(c, 60))
  FROM unnest(ARRAY['{"name": ""}', '{"external_id": ""}', '{"time_zone": "Mars/Base"}', '{"time_zone": "ABC5"}', '{"region": "EU"}', '{"attributes": []}',
                    '{"parent_id": "x"}', '{"parent_id": 7}', '{"region": 7}', '{"unknown": 1}', '[]', 'null', '7',
                    jsonb_build_object('name', repeat('x', 201))::text, jsonb_build_object('external_id', repeat('x', 256))::text,
                    jsonb_build_object('attributes', jsonb_build_object('x', repeat('x', 16384)))::text]) AS c;
SELECT throws_ok($$ SELECT grownext.tenant_update(NULL, '{}') $$, '42704', NULL, 'no tenant');
SELECT throws_ok($$ SELECT grownext.tenant_update(beta, '{"external_id": "crm-1"}') FROM world $$, '42710', NULL, 'an external id of another tenant');

-- Members change what people see, and nothing else
SELECT grownext.act_as(ann::text, acme) FROM world;
SET LOCAL SESSION AUTHORIZATION gt_user;
SELECT lives_ok($$ SELECT grownext.tenant_update(acme, '{"name": "Acme Ltd", "time_zone": "Europe/Vienna"}') FROM world $$, 'an owner changes name and time zone');
SELECT throws_ok(format('SELECT grownext.tenant_update(acme, %L) FROM world', c), '42501', NULL, 'but not ' || c)
  FROM unnest(ARRAY['{"attributes": {}}', '{"region": null}', '{"external_id": null}', '{"parent_id": null}']) AS c;
RESET SESSION AUTHORIZATION;

-- Hierarchy -------------------------------------------------------------------------------

SELECT lives_ok($$ SELECT grownext.tenant_update(beta, jsonb_build_object('parent_id', acme)) FROM world $$, 'a tenant below another');
SELECT throws_ok($$ SELECT grownext.tenant_update(acme, jsonb_build_object('parent_id', beta)) FROM world $$, '22023', NULL, 'not the other way round as well');
SELECT throws_ok($$ SELECT grownext.tenant_update(acme, jsonb_build_object('parent_id', acme)) FROM world $$, '22023', NULL, 'nor below itself');
SELECT throws_ok($$ SELECT grownext.tenant_delete(acme) FROM world $$, '2BP01', NULL, 'a tenant with others below it stays');
SELECT lives_ok($$ SELECT grownext.tenant_delete(beta), grownext.tenant_delete(acme) FROM world $$, 'until they are deleted too');
SELECT throws_ok($$ SELECT grownext.tenant_restore(beta) FROM world $$, '55000', NULL, 'below a deleted one nothing is restored');
SELECT throws_ok($$ SELECT grownext.tenant_create('tap-gamma', 'Gamma', parent_id => acme) FROM world $$, 'NX023', NULL, 'nor created');
SELECT lives_ok($$ SELECT grownext.tenant_restore(acme), grownext.tenant_restore(beta) FROM world $$, 'from above it works');
SELECT lives_ok($$ SELECT grownext.tenant_update(beta, '{"parent_id": null}') FROM world $$, 'apart again');

-- Deletion and grace ---------------------------------------------------------------------

SELECT grownext.act_as(ann::text, acme) FROM world;
SET LOCAL SESSION AUTHORIZATION gt_user;
SELECT throws_ok($$ SELECT grownext.tenant_delete(acme, '29 days') FROM world $$, '42501', NULL, 'an owner leaves thirty days');
SELECT lives_ok($$ SELECT grownext.tenant_delete(acme) FROM world $$, 'and may delete the tenant');
SELECT is(grownext.has_permission('anything'), false, 'where nobody has a permission any more');
SELECT throws_ok($$ SELECT grownext.tenant_delete(acme) FROM world $$, 'NX023', NULL, 'nor does anything');
RESET SESSION AUTHORIZATION;
SELECT is((SELECT state || ' ' || (purge_at - _grownext.core_now()) FROM grownext.tenant, world WHERE id = acme), 'closing 30 days', 'it is closing');
SELECT throws_ok(format('SELECT grownext.tenant_delete(acme, %L) FROM world', g), '22023', NULL, 'no grace of ' || coalesce(g, 'NULL')) FROM unnest(ARRAY[NULL, '-1 day', '11 years']) AS g;
SELECT throws_ok($$ SELECT grownext.tenant_suspend(acme, 'x') FROM world $$, 'NX023', NULL, 'what is closing is not suspended');
SELECT throws_ok($$ SELECT grownext.tenant_resume(acme) FROM world $$, 'NX023', NULL, 'nor resumed');
SELECT throws_ok($$ SELECT grownext.member_add(acme, bob, 'member') FROM world $$, 'NX023', NULL, 'nor joined');
SELECT lives_ok($$ SELECT grownext.tenant_delete(acme, '1 day') FROM world $$, 'when is changed');
SELECT is((SELECT purge_at - _grownext.core_now() FROM grownext.tenant, world WHERE id = acme), '1 day', 'to a day');
SELECT lives_ok($$ SELECT grownext.tenant_restore(acme) FROM world $$, 'and taken back');
SELECT is((SELECT state FROM grownext.tenant, world WHERE id = acme), 'active', 'it is what it was');
SELECT lives_ok($$ SELECT grownext.tenant_restore(acme) FROM world $$, 'twice is once');
SELECT grownext.tenant_suspend(acme, 'unpaid'), grownext.tenant_delete(acme), grownext.tenant_restore(acme) FROM world;
SELECT is((SELECT state || ' ' || suspend_reason FROM grownext.tenant, world WHERE id = acme), 'suspended unpaid', 'what was suspended comes back suspended');
SELECT grownext.tenant_resume(acme) FROM world;
SELECT throws_ok($$ SELECT grownext.tenant_delete(NULL) $$, '42704', NULL, 'no tenant to delete');
SELECT throws_ok($$ SELECT grownext.tenant_restore(NULL) $$, '42704', NULL, 'nor to restore');
SELECT throws_ok(format('SELECT grownext.tenant_suspend(acme, %L) FROM world', r), '22023', NULL, 'a suspension needs a reason') FROM unnest(ARRAY[NULL, '', repeat('x', 1001)]) AS r;

-- What a purge takes along ------------------------------------------------------------------

CREATE SCHEMA gt_app AUTHORIZATION gt_app;
SET LOCAL SESSION AUTHORIZATION gt_app;
CREATE TABLE gt_app.a_customer (id int PRIMARY KEY, tenant_id uuid NOT NULL);
CREATE TABLE gt_app.b_order (id int PRIMARY KEY, tenant_id uuid NOT NULL, customer int REFERENCES gt_app.a_customer DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE gt_app.c_log (id int, at date NOT NULL, tenant_id uuid) PARTITION BY RANGE (at);
CREATE TABLE gt_app.c_log_2030 PARTITION OF gt_app.c_log FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');
CREATE TABLE gt_app.d_kept (id int, tenant_id uuid NOT NULL);
CREATE TABLE gt_app.run_as (who name);
CREATE FUNCTION gt_app.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO gt_app.run_as VALUES (current_user); RETURN OLD; END $$;
CREATE TRIGGER note BEFORE DELETE ON gt_app.b_order FOR EACH ROW EXECUTE FUNCTION gt_app.note();
SELECT lives_ok($$ SELECT grownext.tenant_isolate('gt_app.a_customer', options => '{"on_purge": "delete"}') $$, 'rows that go');
SELECT lives_ok($$ SELECT grownext.tenant_isolate('gt_app.b_order', options => '{"on_purge": "delete"}') $$, 'and those that point to them');
SELECT lives_ok($$ SELECT grownext.tenant_isolate('gt_app.c_log', options => '{"on_purge": "detach"}') $$, 'rows that stay without a tenant');
SELECT lives_ok($$ SELECT grownext.tenant_isolate('gt_app.d_kept') $$, 'rows that stay');
SELECT throws_ok($$ SELECT grownext.tenant_isolate('gt_app.d_kept', options => '{"on_purge": "detach"}') $$, '22023', NULL, 'a column that cannot be null cannot be detached');
SELECT throws_ok(format('SELECT grownext.tenant_isolate(''gt_app.d_kept'', options => %L)', o), '22023', NULL, 'refused: ' || o)
  FROM unnest(ARRAY['{"on_purge": "burn"}', '{"on_purge": true}', '{"on_purge": null}']) AS o;
-- a policy of the application hides rows from their own table's owner; the purge finds them
CREATE POLICY nothing ON gt_app.b_order AS RESTRICTIVE USING (false) WITH CHECK (true);
CREATE TABLE gt_app.c_log_2031 PARTITION OF gt_app.c_log FOR VALUES FROM ('2031-01-01') TO ('2032-01-01');
ALTER TABLE gt_app.a_customer RENAME TO z_customer;
SELECT lives_ok($$ SELECT grownext.tenant_isolate('gt_app.z_customer') $$, 'isolated again, under another name');
RESET SESSION AUTHORIZATION;
SELECT is((SELECT string_agg(format('%s.%s %s', relation::regclass, column_name, action), ', ' ORDER BY relation::regclass::text) FROM _grownext.tenant_purge_targets()),
    'gt_app.b_order.tenant_id delete, gt_app.c_log_2030.tenant_id detach, gt_app.c_log_2031.tenant_id detach, gt_app.z_customer.tenant_id delete',
    'what a purge takes along follows renamed tables and new partitions');
INSERT INTO gt_app.z_customer SELECT g, CASE WHEN g <= 3 THEN acme ELSE beta END FROM world, generate_series(1, 5) AS g;
INSERT INTO gt_app.b_order SELECT g, CASE WHEN g <= 3 THEN acme ELSE beta END, g FROM world, generate_series(1, 5) AS g;
INSERT INTO gt_app.c_log SELECT g, date '2030-06-01' + g * 365, CASE WHEN g <= 1 THEN acme ELSE beta END FROM world, generate_series(0, 1) AS g;
INSERT INTO gt_app.d_kept SELECT 1, acme FROM world;
SELECT grownext.member_add(acme, bob, 'admin'), grownext.domain_claim(acme, 'tap.example'), grownext.role_define('r', '{}', acme), grownext.product_define('p', 'P') FROM world;
SELECT grownext.feature_define('f', 'p', 'metered'), grownext.bundle_define('b', '{"f": {"quota": 5, "period": "month"}}'), grownext.subscription_start(acme, 'b'),
       grownext.entitlement_grant(acme, 'f', '7'), grownext.usage_consume('f', 1, 'key', acme), grownext.tenant_delete(acme, '1 day') FROM world;
SELECT is(_grownext.tenant_tick('2030-01-01 12:00+00'), '2030-01-01 12:00:15+00', 'within the grace nothing happens');
SELECT is((SELECT state FROM grownext.tenant, world WHERE id = acme), 'closing', 'to the tenant');

-- somebody is in the way: it is noted, shown, and tried again later, and others are not held up
CREATE TABLE gt_blocker (customer int REFERENCES gt_app.z_customer);
INSERT INTO gt_blocker VALUES (1);
SELECT is(_grownext.tenant_tick('2030-02-01 00:00+00'), '2030-02-01 00:00+00', 'after it the purge begins');
SELECT is((SELECT state FROM grownext.tenant, world WHERE id = acme), 'purging', 'with the application''s rows');
SELECT is((SELECT count(*) FROM gt_app.b_order), 2::bigint, 'those that nothing points to');
SELECT throws_ok($$ SELECT grownext.tenant_restore(acme) FROM world $$, '55000', NULL, 'and there is no way back');
SELECT lives_ok($$ SELECT grownext.tenant_delete(acme) FROM world $$, 'deleting it again changes nothing');
SELECT is(_grownext.tenant_tick('2030-02-01 00:00+00'), '2030-02-01 00:00+00', 'the next pass gets no further');
SELECT matches((SELECT purge_error FROM _grownext.tenant_tenant, world WHERE id = acme), 'violates foreign key constraint.*gt_blocker.*23503', 'and says what is in the way');
SELECT results_eq($$ SELECT state, hint FROM _grownext.tenant_status() WHERE item = 'purge' $$, $$ VALUES ('degraded', 'Mend what is in the way: it is tried again every ten minutes.') $$, 'status() shows it');
SELECT is(_grownext.tenant_tick('2030-02-01 00:05+00'), '2030-02-01 00:05:15+00', 'it is left alone for a while');
DROP TABLE gt_blocker;
SELECT is(_grownext.tenant_tick('2030-02-01 00:10+00'), '2030-02-01 00:10+00', 'mended, it goes on');
SELECT is(_grownext.tenant_tick('2030-02-01 00:10+00'), '2030-02-01 00:10+00', 'another pass');
SELECT is((SELECT count(*) FROM grownext.tenant, world WHERE id = acme), 0::bigint, 'and the tenant is gone');
SELECT is((SELECT count(*) FROM gt_app.z_customer), 2::bigint, 'its rows are deleted');
SELECT is((SELECT count(*) FROM gt_app.b_order), 2::bigint, 'those that pointed to them too');
SELECT is((SELECT count(*) FROM gt_app.c_log WHERE tenant_id IS NULL), 2::bigint, 'or detached, in newer partitions too');
SELECT is((SELECT count(*) FROM gt_app.d_kept, world WHERE tenant_id = acme), 1::bigint, 'or kept, as was said');
SELECT is((SELECT array_agg(DISTINCT who) FROM gt_app.run_as), '{gt_app}'::name[], 'triggers ran as the table''s owner');
SELECT is(grownext.slug_resolve('tap-acme'), NULL, 'the slug is free');
SELECT is((SELECT count(*) FROM grownext.tenant, world WHERE id = beta), 1::bigint, 'the other tenant is there');
-- nothing of ours knows it any more but the log
SELECT is_empty(format('SELECT %L FROM _grownext.%I, world WHERE %I = acme', c.relname, c.relname, a.attname), format('no row of %s is left', c.relname))
  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
 WHERE c.relnamespace = '_grownext'::regnamespace AND c.relkind = 'r' AND NOT starts_with(c.relname, 'queue_') AND NOT starts_with(c.relname, 'audit_');
SELECT results_eq($$ SELECT action FROM grownext.audit_event, world WHERE tenant_id = acme AND action ~ 'purge' ORDER BY id $$, '{tenant.purge_started,tenant.purged}'::text[], 'which says so');
SELECT is((SELECT count(*) FROM grownext.audit_event, world WHERE tenant_id = acme AND action = 'member.removed'), 0::bigint, 'and is spared a line for each member');
SELECT is(_grownext.tenant_tick('2030-02-01 00:10+00'), '2030-02-01 00:10:15+00', 'there is nothing more to do');
SELECT lives_ok($$ SELECT grownext.tenant_create('tap-acme', 'Acme again', external_id => 'crm-1', id => acme) FROM world $$, 'slug, external id and id can be given again');

-- A trigger that keeps rows is found out
CREATE TABLE gt_stubborn (id int, tenant_id uuid NOT NULL);
CREATE INDEX ON gt_stubborn (tenant_id);
CREATE FUNCTION gt_no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER no BEFORE DELETE ON gt_stubborn FOR EACH ROW EXECUTE FUNCTION gt_no();
SELECT is_empty($$ SELECT grownext.tenant_isolate('gt_stubborn', options => '{"on_purge": "delete"}') $$, 'a table that keeps its rows');
INSERT INTO gt_stubborn SELECT 1, acme FROM world;
SELECT grownext.tenant_delete(acme, '0') FROM world;
SELECT is(_grownext.tenant_tick('2030-03-01 00:00+00'), '2030-03-01 00:00+00', 'a purge');
SELECT matches((SELECT purge_error FROM _grownext.tenant_tenant, world WHERE id = acme), 'rows of public.gt_stubborn stay although they were deleted', 'does not end before they are gone');
DROP TABLE gt_stubborn;
SELECT _grownext.tenant_tick('2030-03-01 00:10+00');
SELECT is((SELECT count(*) FROM grownext.tenant, world WHERE id = acme), 0::bigint, 'or the table is');

-- Reactors: what stands to the right takes part, and may refuse
CREATE TABLE gt_reaction (place serial, event text, tenant_id uuid, options jsonb);
CREATE FUNCTION _grownext.tenant_gt_react(event text, tenant_id uuid, options jsonb) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO public.gt_reaction (event, tenant_id, options) VALUES (event, tenant_id, options);
    IF event = 'seats.grow' AND _grownext.tenant_seats(tenant_id) > 2 THEN
        RAISE EXCEPTION USING ERRCODE = 'NX022', MESSAGE = 'no seat is left';
    END IF;
END
$$;
INSERT INTO _grownext.tenant_reactor VALUES ('test', 'tenant_gt_react');
SELECT grownext.tenant_create('tap-gamma', 'Gamma', ann, id => acme), grownext.member_add(acme, bob, 'member') FROM world;
SELECT grownext.user_create('cyd@tap.example', id => 'b1000000-0000-4000-8000-000000000003');
SELECT throws_ok($$ SELECT grownext.member_add(acme, 'b1000000-0000-4000-8000-000000000003', 'member') FROM world $$, 'NX022', NULL, 'a reactor refuses a third seat');
SELECT is((SELECT count(*) FROM grownext.member, world WHERE tenant_id = acme), 2::bigint, 'and nobody came');
SELECT grownext.member_remove(acme, bob), grownext.tenant_suspend(acme, 'x'), grownext.tenant_resume(acme), grownext.tenant_delete(acme, '0'), grownext.tenant_restore(acme), grownext.tenant_delete(acme, '0') FROM world;
SELECT _grownext.tenant_tick('2030-04-01 00:00+00');
SELECT results_eq('SELECT event FROM gt_reaction ORDER BY place',
    '{tenant.created,seats.grow,seats.grow,seats.shrink,tenant.suspended,tenant.resumed,tenant.deleted,tenant.restored,tenant.deleted,tenant.purged}'::text[], 'it is told of everything, in order');

-- Every event was sent to whoever routed it
SELECT set_eq($$ SELECT DISTINCT payload ->> 'type' FROM _grownext.queue_job WHERE queue = 'tap-events' AND payload ->> 'type' LIKE 'tenant.%' $$,
    '{tenant.created,tenant.updated,tenant.deleted,tenant.restored,tenant.suspended,tenant.resumed,tenant.purge_started,tenant.purged}'::text[], 'and every change was sent');

SELECT * FROM finish();
ROLLBACK;
