-- What members may do: by their role, in their own tenant, never above themselves. Roles,
-- members, and ownership in two steps.
BEGIN;
SELECT * FROM no_plan();
CREATE ROLE gt_service LOGIN IN ROLE grownext_service;
\ir ../lib/members.psql
CREATE FUNCTION pg_temp.as_user_value(who uuid, tenant uuid, expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    value text;
BEGIN
    PERFORM grownext.act_as(who::text, tenant);
    SET LOCAL SESSION AUTHORIZATION gt_user;
    EXECUTE 'SELECT (' || expression || ')::text FROM world' INTO value;
    RESET SESSION AUTHORIZATION;
    RETURN value;
END
$$;

-- No function lets anybody at another tenant ---------------------------------------

CREATE TEMP TABLE call (statement text);
INSERT INTO call VALUES
    ('SELECT grownext.tenant_update(%1$s, ''{"name": "Mine"}'') FROM world'),
    ('SELECT grownext.tenant_delete(%1$s) FROM world'),
    ('SELECT grownext.role_define(''x'', ''{}'', %1$s) FROM world'),
    ('SELECT grownext.role_drop(''x'', %1$s) FROM world'),
    ('SELECT grownext.member_set_role(%1$s, stranger, ''member'') FROM world'),
    ('SELECT grownext.member_remove(%1$s, stranger) FROM world'),
    ('SELECT grownext.member_remove(%1$s, owner) FROM world'),
    ('SELECT grownext.ownership_offer(%1$s, stranger) FROM world'),
    ('SELECT grownext.invitation_create(%1$s, ''x@tap.example'') FROM world'),
    ('SELECT grownext.domain_claim(%1$s, ''tap.example'') FROM world'),
    ('SELECT grownext.domain_update(%1$s, ''tap.example'', ''{}'') FROM world'),
    ('SELECT grownext.domain_release(%1$s, ''tap.example'') FROM world');
SELECT is(pg_temp.as_user(owner, acme, format(statement, 'beta')), '42501', 'another tenant: ' || statement) FROM call, world;
SELECT is(pg_temp.as_user(owner, acme, format(statement, 'nowhere')), '42501', 'a tenant that does not exist looks the same: ' || statement) FROM call, world;
SELECT is(pg_temp.as_user(owner, NULL, format(statement, 'acme')), '42501', 'the own tenant, from a session without one: ' || statement) FROM call, world;
SELECT isnt(pg_temp.as_user(owner, acme, format(statement, 'NULL::uuid')), '00000', 'no tenant: ' || statement)
  FROM call, world WHERE statement !~ 'role_';
-- a token that names a tenant whose member one is not, or not any more, opens nothing
SELECT is(pg_temp.as_user(owner, beta, format(statement, 'beta')), '42501', 'a foreign tenant in the token: ' || statement)
  FROM call, world WHERE statement !~ 'owner\)';
-- what the permission lacks
SELECT is(pg_temp.as_user(member, acme, format(statement, 'acme')), '42501', 'a mere member: ' || statement) FROM call, world;

-- Permissions ---------------------------------------------------------------------

SELECT is(pg_temp.as_user_value(owner, acme, 'grownext.has_permission(''any.thing'')'), 'true', 'owners have every permission') FROM world;
SELECT is(pg_temp.as_user_value(admin, acme, 'grownext.has_permission(''members.invite'')'), 'true', 'admins invite') FROM world;
SELECT is(pg_temp.as_user_value(admin, acme, 'grownext.has_permission(''tenant.delete'')'), 'false', 'and do not delete the tenant') FROM world;
SELECT is(pg_temp.as_user_value(admin, acme, 'grownext.has_permission(''members'')'), 'false', 'a prefix is not the permission') FROM world;
SELECT is(pg_temp.as_user_value(admin, acme, 'grownext.has_permission(''members.*'')'), 'true', 'a pattern is covered by the same pattern') FROM world;
SELECT is(pg_temp.as_user_value(admin, acme, 'grownext.has_permission(''*'')'), 'false', 'and "*" by "*" alone') FROM world;
SELECT is(pg_temp.as_user_value(admin, acme, 'grownext.has_permission('''')'), 'false', 'nothing is no permission') FROM world;
SELECT is(pg_temp.as_user_value(admin, acme, 'grownext.has_permission(repeat(''x'', 100000))'), 'false', 'a huge one neither') FROM world;
SELECT is(pg_temp.as_user_value(admin, acme, 'grownext.has_permission(NULL)'), NULL, 'NULL is NULL') FROM world;
SELECT is(pg_temp.as_user_value(member, acme, 'grownext.has_permission(''members.invite'')'), 'false', 'members do nothing') FROM world;
SELECT is(pg_temp.as_user_value(stranger, acme, 'grownext.has_permission(''members.invite'')'), 'false', 'strangers neither') FROM world;

CREATE FUNCTION pg_temp.may(subject text, tenant uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM grownext.act_as(subject, tenant);
    RETURN grownext.has_permission('any.thing');
END
$$;
SELECT is(pg_temp.may(s, acme), s = owner::text, format('subject "%s"', left(s, 40)))
  FROM world, unnest(ARRAY[owner::text, 'service', owner::text, left(owner::text, -1), owner::text, left(owner::text, -1) || 'x', owner || 'x', owner::text, repeat('x', 255), member::text]) WITH ORDINALITY AS u (s, place)
 ORDER BY place;
-- what was remembered follows every change, and comes back with a savepoint
SAVEPOINT changes;
SELECT grownext.member_set_role(acme, member, 'admin') FROM world;
SELECT is(pg_temp.as_user_value(member, acme, 'grownext.has_permission(''members.invite'')'), 'true', 'another role counts at once') FROM world;
SELECT grownext.role_define('admin', '{}', acme) FROM world;
SELECT is(pg_temp.as_user_value(member, acme, 'grownext.has_permission(''members.invite'')'), 'false', 'so does a redefined one') FROM world;
SELECT grownext.role_drop('admin', acme) FROM world;
SELECT is(pg_temp.as_user_value(member, acme, 'grownext.has_permission(''members.invite'')'), 'true', 'and a dropped definition') FROM world;
SELECT grownext.user_disable(member) FROM world;
SELECT is(pg_temp.as_user_value(member, acme, 'grownext.has_permission(''members.invite'')'), 'false', 'a disabled user may nothing') FROM world;
SELECT grownext.user_enable(member), grownext.tenant_suspend(acme, 'unpaid') FROM world;
SELECT is(pg_temp.as_user_value(member, acme, 'grownext.has_permission(''members.invite'')'), 'false', 'nobody of a suspended tenant may anything') FROM world;
SELECT grownext.tenant_resume(acme), grownext.member_remove(acme, member) FROM world;
SELECT is(pg_temp.as_user_value(member, acme, 'grownext.has_permission(''members.invite'')'), 'false', 'nor a former member') FROM world;
ROLLBACK TO changes;
SELECT is(pg_temp.as_user_value(admin, acme, 'grownext.has_permission(''members.invite'')'), 'true', 'rolled back, it never happened') FROM world;
SELECT is(pg_temp.as_user_value(member, acme, 'grownext.has_permission(''members.invite'')'), 'false', 'for nobody') FROM world;

-- every pattern of the C function agrees with the SQL function
CREATE TEMP TABLE pattern AS SELECT unnest('{*,a,a.*,a.b,a.b.*,b,a*,.*}'::text[]) AS p;
SELECT grownext.role_define('one', array_agg(p), acme) FROM pattern, world WHERE p IN ('a.b.*', 'b') GROUP BY acme;
SELECT grownext.member_set_role(acme, member, 'one') FROM world;
SELECT is(pg_temp.as_user_value(member, acme, format('grownext.has_permission(%L)', p)),
          _grownext.tenant_permits('{a.b.*,b}', p)::text, format('permission "%s" in C and SQL', p)) FROM pattern, world;
SELECT grownext.member_set_role(acme, member, 'member'), grownext.role_drop('one', acme) FROM world;

-- in parallel workers too, and by what the transaction itself has changed
CREATE TABLE gt_asked AS SELECT CASE WHEN g % 2 = 0 THEN 'members.invite' ELSE 'tenant.delete' END AS permission FROM generate_series(1, 1000) AS g;
GRANT SELECT ON gt_asked TO gt_user;
ANALYZE gt_asked;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SET LOCAL parallel_leader_participation = off;
CREATE FUNCTION pg_temp.plan() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN SELECT count(*) FROM gt_asked WHERE grownext.has_permission(permission)'; END $$;
SELECT ok(EXISTS (SELECT FROM pg_temp.plan() AS line WHERE line ~ 'Workers Planned: [1-9]'), 'the permission is asked for in parallel workers');
SELECT is(pg_temp.as_user_value(admin, acme, '(SELECT count(*) FROM gt_asked WHERE grownext.has_permission(permission))'), '500', 'with the same answers') FROM world;
SAVEPOINT changes;
SELECT grownext.role_define('admin', '{tenant.delete,members.invite}', acme) FROM world;
SELECT is(pg_temp.as_user_value(admin, acme, '(SELECT count(*) FROM gt_asked WHERE grownext.has_permission(permission))'), '1000', 'that follow a change') FROM world;
ROLLBACK TO changes;
SELECT is(pg_temp.as_user_value(admin, acme, '(SELECT count(*) FROM gt_asked WHERE grownext.has_permission(permission))'), '500', 'and its rollback') FROM world;
RESET parallel_leader_participation;

-- Never above oneself -------------------------------------------------------------

SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.member_set_role(acme, member, ''owner'') FROM world'), '42501', 'an admin makes no owner') FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.member_set_role(acme, owner, ''member'') FROM world'), '42501', 'and demotes none') FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.member_remove(acme, owner) FROM world'), '42501', 'and removes none') FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.role_define(''super'', ''{*}'') FROM world'), '42501', 'and defines no role above the own') FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.role_define(''admin'', ''{billing.read}'') FROM world'), '42501', 'nor raises the own') FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.role_define(''inviter'', ''{members.invite}'') FROM world'), '00000', 'but one below it') FROM world;
SELECT is((SELECT tenant_id FROM grownext.role WHERE role = 'inviter'), acme, 'which is of the own tenant') FROM world;
SELECT grownext.role_define('super', '{*}', acme) FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.role_define(''super'', ''{}'') FROM world'), '42501', 'a role above the own cannot be taken down') FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.role_drop(''super'') FROM world'), '42501', 'nor dropped') FROM world;
SELECT grownext.member_set_role(acme, member, 'super') FROM world;
SELECT is(pg_temp.as_user(member, acme, 'SELECT grownext.member_set_role(acme, member, ''owner'') FROM world'), '42501', 'whoever may everything is still no owner') FROM world;
SELECT is(pg_temp.as_user(member, acme, 'SELECT grownext.member_set_role(acme, owner, ''member'') FROM world'), '42501', 'and below owners') FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.member_set_role(acme, member, ''member'') FROM world'), '42501', 'and above admins') FROM world;
SELECT grownext.member_set_role(acme, member, 'inviter') FROM world;
SELECT throws_ok($$ SELECT grownext.role_drop('inviter', acme) FROM world $$, '2BP01', NULL, 'a role in use stays');
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.member_set_role(acme, member, ''member'') FROM world'), '00000', 'an admin changes roles up to the own') FROM world;
SELECT lives_ok($$ SELECT grownext.role_drop('inviter', acme) FROM world $$, 'a role that nobody has goes');
SELECT throws_ok($$ SELECT grownext.role_drop('inviter', acme) FROM world $$, '42704', NULL, 'once');
SELECT throws_ok($$ SELECT grownext.role_drop(NULL) $$, '42704', NULL, 'no role');
SELECT throws_ok($$ SELECT grownext.role_define('r', array_fill('x.y'::text, ARRAY[1]) || array_agg('p.' || g)) FROM generate_series(1, 200) AS g $$, '22023', NULL, 'at most 200 permissions');
SELECT throws_ok($$ SELECT grownext.role_define('r', ARRAY[repeat('x', 129)]) $$, '22023', NULL, 'of at most 128 characters');
SELECT throws_ok($$ SELECT grownext.role_define('r', ARRAY[NULL]) $$, '22004', NULL, 'none of them NULL');
SELECT lives_ok($$ SELECT grownext.role_define('r' || g, '{}', acme) FROM world, generate_series(1, 99) AS g $$, 'a hundred roles');
SELECT throws_ok($$ SELECT grownext.role_define('r100', '{}', acme) FROM world $$, '54000', NULL, 'and no more');
SELECT grownext.act_as('service');
SELECT lives_ok($$ SELECT grownext.role_define('everywhere', '{}') $$, 'a role for all tenants');
SELECT grownext.member_add(beta, member, 'everywhere') FROM world;
SELECT throws_ok($$ SELECT grownext.role_drop('everywhere') $$, '2BP01', NULL, 'is in use if any tenant uses it');
SELECT grownext.role_define('everywhere', '{}', beta) FROM world;
SELECT lives_ok($$ SELECT grownext.role_drop('everywhere') $$, 'unless that has a definition of its own');

-- Members leave ---------------------------------------------------------------------

SELECT throws_ok($$ SELECT grownext.member_add(acme, nobody, 'member') FROM world $$, '42704', NULL, 'no such user');
SELECT throws_ok($$ SELECT grownext.member_add(nowhere, owner, 'member') FROM world $$, '42704', NULL, 'no such tenant');
SELECT throws_ok($$ SELECT grownext.member_add(acme, NULL, 'member') FROM world $$, '42704', NULL, 'no user');
SELECT throws_ok($$ SELECT grownext.member_add(acme, stranger, NULL) FROM world $$, '42704', NULL, 'no role');
SELECT grownext.user_disable(stranger) FROM world;
SELECT throws_ok($$ SELECT grownext.member_add(acme, stranger, 'member') FROM world $$, '55000', NULL, 'a disabled user joins nothing');
SELECT grownext.user_enable(stranger), grownext.tenant_suspend(acme, 'unpaid') FROM world;
SELECT throws_ok($$ SELECT grownext.member_add(acme, stranger, 'member') FROM world $$, 'NX023', NULL, 'nobody joins a suspended tenant');
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.member_remove(acme, member) FROM world'), 'NX023', 'where members do nothing') FROM world;
SELECT lives_ok($$ SELECT grownext.member_set_role(acme, member, 'admin') FROM world $$, 'but a service does');
SELECT grownext.tenant_resume(acme), grownext.member_set_role(acme, member, 'member') FROM world;
SELECT is(pg_temp.as_user(member, acme, 'SELECT grownext.member_remove(acme, member) FROM world'), '00000', 'everybody may leave') FROM world;
SELECT is(pg_temp.as_user(member, acme, 'SELECT grownext.member_remove(acme, member) FROM world'), '42704', 'once') FROM world;
SELECT is(pg_temp.as_user(owner, acme, 'SELECT grownext.member_remove(acme, owner) FROM world'), 'NX024', 'but the last owner') FROM world;
SELECT is(pg_temp.as_user(owner, acme, 'SELECT grownext.member_set_role(acme, owner, ''member'') FROM world'), 'NX024', 'who stays owner') FROM world;
SELECT throws_ok($$ SELECT grownext.user_delete(owner) FROM world $$, 'NX024', NULL, 'and user');

SELECT grownext.user_create('gone@tap.example', id => nobody), grownext.member_add(acme, nobody, 'member'), grownext.user_delete(nobody) FROM world;
SELECT results_eq($$ SELECT change -> 'before' ->> 'role', change ->> 'after' FROM grownext.audit_event, world WHERE action = 'member.removed' AND target = 'user:' || nobody $$,
                  $$ VALUES ('member', NULL::text) $$, 'a member who goes with the user is recorded as removed');

-- Ownership in two steps --------------------------------------------------------------

SELECT grownext.member_add(acme, member, 'member') FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.ownership_offer(acme, member) FROM world'), '42501', 'an admin has nothing to offer') FROM world;
SELECT throws_ok($$ SELECT grownext.ownership_offer(acme, stranger) FROM world $$, '42704', NULL, 'to a stranger nothing is offered');
SELECT throws_ok($$ SELECT grownext.ownership_offer(acme, owner) FROM world $$, '42710', NULL, 'nor to an owner');
SELECT throws_ok($$ SELECT grownext.ownership_offer(acme, NULL) FROM world $$, '42704', NULL, 'nor to nobody');
SELECT is(pg_temp.as_user(owner, acme, 'SELECT grownext.ownership_offer(acme, admin) FROM world'), '00000', 'an owner offers') FROM world;
CREATE TEMP TABLE offer AS SELECT id FROM grownext.ownership_offer;
GRANT SELECT ON offer TO PUBLIC;
SELECT is((SELECT count(*) FROM offer), 1::bigint, 'the offer is to be seen');
SELECT is((SELECT array_agg(role ORDER BY role) FROM grownext.member AS m, world WHERE m.tenant_id = acme), '{admin,member,owner}', 'and nothing has changed');
SELECT is(pg_temp.as_user_value(admin, acme, '(SELECT count(*) FROM grownext.ownership_offer)'), '1', 'to the one who got it') FROM world;
SELECT is(pg_temp.as_user_value(member, acme, '(SELECT count(*) FROM grownext.ownership_offer)'), '0', 'and to no other member') FROM world;
SELECT is(pg_temp.as_user(member, acme, 'SELECT grownext.ownership_accept(id) FROM offer'), '42501', 'who cannot accept it') FROM world;
SELECT is(pg_temp.as_user(member, acme, 'SELECT grownext.ownership_withdraw(id) FROM offer'), '42501', 'nor withdraw it') FROM world;
SELECT is(pg_temp.as_user(admin, beta, 'SELECT grownext.ownership_accept(id) FROM offer'), '42704', 'in another tenant it does not exist') FROM world;
SELECT throws_ok($$ SELECT grownext.act_as(member::text, acme), grownext.ownership_accept(id) FROM offer, world $$, '42501', NULL, 'a service that acts for somebody else cannot accept it either');
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.ownership_accept(id) FROM offer'), '00000', 'the one who got it accepts') FROM world;
SELECT results_eq($$ SELECT user_id, role FROM grownext.member AS m, world WHERE m.tenant_id = acme ORDER BY 1 $$,
                  $$ SELECT owner, 'admin' COLLATE "C" FROM world UNION ALL SELECT admin, 'owner' FROM world UNION ALL SELECT member, 'member' FROM world ORDER BY 1 $$, 'and both have changed places');
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.ownership_accept(id) FROM offer'), '42704', 'once') FROM world;
SELECT is((SELECT count(*) FROM grownext.audit_event AS e, world WHERE e.tenant_id = acme AND action IN ('ownership.offered', 'ownership.transferred')), 2::bigint, 'both steps are recorded');

-- an offer ends with its time, with a newer one, with whoever gave or got it
SET LOCAL grownext.test_clock = '2030-01-01 00:00+00';
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.ownership_offer(acme, owner) FROM world'), '00000', 'another offer') FROM world;
UPDATE offer SET id = (SELECT o.id FROM grownext.ownership_offer AS o);
SET LOCAL grownext.test_clock = '2030-01-08 00:00+00';
SELECT is(pg_temp.as_user(owner, acme, 'SELECT grownext.ownership_accept(id) FROM offer'), '55000', 'has expired after a week') FROM world;
SELECT is((SELECT count(*) FROM grownext.ownership_offer), 0::bigint, 'and is not shown');
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.ownership_offer(acme, member) FROM world'), '00000', 'a newer one') FROM world;
SELECT is(pg_temp.as_user(owner, acme, 'SELECT grownext.ownership_accept(id) FROM offer'), '42704', 'takes its place') FROM world;
UPDATE offer SET id = (SELECT o.id FROM grownext.ownership_offer AS o);
SELECT is(pg_temp.as_user(member, acme, 'SELECT grownext.ownership_withdraw(id) FROM offer'), '00000', 'and is declined') FROM world;
SELECT grownext.act_as('service'), grownext.member_set_role(acme, owner, 'owner') FROM world;
SELECT throws_ok($$ SELECT grownext.ownership_offer(acme, member) FROM world $$, '55000', NULL, 'of two owners, a service says which one gives');
SELECT is(pg_temp.as_user(owner, acme, 'SELECT grownext.ownership_offer(acme, member) FROM world'), '00000', 'one of them offers') FROM world;
UPDATE offer SET id = (SELECT o.id FROM grownext.ownership_offer AS o);
SELECT grownext.act_as('service'), grownext.member_set_role(acme, owner, 'member') FROM world;
SELECT is(pg_temp.as_user(member, acme, 'SELECT grownext.ownership_accept(id) FROM offer'), '55000', 'who is no owner any more has nothing to give') FROM world;
SELECT grownext.member_remove(acme, owner) FROM world;
SELECT is((SELECT count(*) FROM grownext.ownership_offer), 0::bigint, 'and who leaves takes the offer along');

SELECT * FROM finish();
ROLLBACK;
