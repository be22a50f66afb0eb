# No stale answer: a session that stays open asks after each of 2,000 changes that another
# one committed, and so does a session on a hot standby after replay; parallel workers and
# other roles get the same answers; a hundred thousand tenants fit into a small memory.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tenant = 'ac000000-0000-4000-8000-000000000001';
my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION grownext;
CREATE EXTENSION dblink;
SELECT grownext.product_define('app', 'App');
SELECT grownext.feature_define('export', 'app', 'boolean');
SELECT grownext.tenant_create('watched', 'Watched', id => '$tenant');
CREATE TABLE trial (n int PRIMARY KEY, wanted boolean NOT NULL, got boolean);
SQL
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\n");
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));

# The session that runs this changes, each time in a transaction of its own; the one
# behind dblink stays open and asks, so it lives by messages alone.
$node->safe_psql('postgres', <<"SQL");
CREATE PROCEDURE watch(connection text, trials int, on_standby boolean) LANGUAGE plpgsql AS \$\$
DECLARE
    grant_id uuid;
    lsn pg_lsn;
BEGIN
    PERFORM dblink_connect('asker', connection);
    FOR i IN 1 .. trials LOOP
        IF i % 2 = 1 THEN
            grant_id := grownext.entitlement_grant('$tenant', 'export', 'true');
        ELSE
            PERFORM grownext.entitlement_revoke(grant_id);
        END IF;
        COMMIT;
        IF on_standby THEN
            lsn := pg_current_wal_lsn();
            WHILE (SELECT NOT r.done FROM dblink('asker', format('SELECT pg_last_wal_replay_lsn() >= %L', lsn)) AS r (done boolean)) LOOP
                NULL;
            END LOOP;
        END IF;
        INSERT INTO trial
        SELECT i, i % 2 = 1, r.e FROM dblink('asker', 'SELECT grownext.entitled(''export'', ''$tenant'')') AS r (e boolean);
        COMMIT;
    END LOOP;
    PERFORM dblink_disconnect('asker');
END
\$\$;
SQL

foreach my $case ([ 'another session', $node, 2000, 'false' ], [ 'a hot standby', $standby, 500, 'true' ])
{
	my ($name, $asked, $trials, $on_standby) = @$case;
	my $connection = $asked->connstr('postgres') . ' user=' . $node->safe_psql('postgres', 'SELECT current_user');
	$connection =~ s/'/''/g;
	$node->safe_psql('postgres', 'TRUNCATE trial');
	$node->safe_psql('postgres', "CALL watch('$connection', $trials, $on_standby)");
	is($node->safe_psql('postgres', 'SELECT count(*), count(*) FILTER (WHERE got IS DISTINCT FROM wanted) FROM trial'),
		"$trials|0", "$name: $trials changes, none stale");
}

# A standby compiles by what it replayed, and answers about the catalogue too
$node->safe_psql('postgres', "SELECT grownext.feature_define('late', 'app', 'boolean', '{\"default\": true}')");
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', "SELECT grownext.entitled('late', '$tenant'), (grownext.entitlement('late', '$tenant')).source"),
	't|default', 'a standby knows a new feature');

# It knows the default bundle, and says what a change of a subscription would do
$node->safe_psql('postgres', <<'SQL');
SELECT grownext.bundle_define('free', '{"late": true}', '{"default": true}');
SELECT grownext.bundle_define('plan', '{"export": true}');
SELECT grownext.tenant_create('free-tenant', 'Free', id => '00000000-0000-4000-8000-0000000000f1');
SELECT grownext.tenant_create('plan-tenant', 'Plan', id => '00000000-0000-4000-8000-0000000000f2', bundle => 'plan');
SQL
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', "SELECT (grownext.entitlement('late', '00000000-0000-4000-8000-0000000000f1')).source"),
	'free_bundle', 'a standby knows the default bundle');
is($standby->safe_psql('postgres', "SELECT (grownext.subscription_preview(id, 'free')).* FROM grownext.subscription WHERE tenant_id = '00000000-0000-4000-8000-0000000000f2'"),
	'export|true|false|f', 'and previews a change');
$node->safe_psql('postgres', q{SELECT grownext.bundle_define('free', '{"late": true}', '{"default": false}')});

# Parallel workers start with an empty memory and may take no snapshot of their own.
$node->safe_psql('postgres', <<"SQL");
CREATE TABLE item AS SELECT g AS id, 'export'::text AS feature FROM generate_series(1, 100000) AS g;
ANALYZE item;
SELECT grownext.entitlement_grant('$tenant', 'export', 'true');
ALTER DATABASE postgres SET min_parallel_table_scan_size = 0;
ALTER DATABASE postgres SET parallel_setup_cost = 0;
ALTER DATABASE postgres SET parallel_tuple_cost = 0;
SQL
like($node->safe_psql('postgres', "EXPLAIN (COSTS OFF) SELECT count(*) FROM item WHERE grownext.entitled(feature, '$tenant')"),
	qr/Workers Planned/, 'a condition on each row runs in parallel');
is($node->safe_psql('postgres', <<"SQL"), "100000\n0\n100000", 'parallel workers answer as the leader does, before and after a change');
SELECT count(*) FROM item WHERE grownext.entitled(feature, '$tenant');
SELECT FROM (SELECT grownext.entitlement_block('$tenant', 'export', 'test')) AS b;
SELECT count(*) FROM item WHERE grownext.entitled(feature, '$tenant');
SELECT FROM (SELECT grownext.entitlement_revoke(id) FROM grownext.entitlement_override WHERE effect = 'block' AND revoked_at IS NULL) AS r;
SELECT count(*) FROM item WHERE grownext.entitled(feature, '$tenant');
SQL
is($node->safe_psql('postgres', <<"SQL"), "100000\n100000", 'REPEATABLE READ in parallel, twice');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM item WHERE grownext.entitled(feature, '$tenant');
SELECT count(*) FROM item WHERE grownext.entitled(feature, '$tenant');
COMMIT;
SQL

# What one role's question brought into memory answers nobody else's.
$node->safe_psql('postgres', <<"SQL");
CREATE ROLE some_service IN ROLE grownext_service;
CREATE ROLE some_user IN ROLE grownext_user;
GRANT SELECT ON item TO some_service, some_user;
SQL
is($node->safe_psql('postgres', <<"SQL"), "t\nf\nf\nt", 'SET ROLE: each role has its own rights in one session');
SET ROLE some_service;
SELECT grownext.entitled('export', '$tenant');
SET ROLE some_user;
SELECT grownext.entitled('export', '$tenant');
SELECT bool_or(grownext.entitled(feature, '$tenant')) FROM item;
SET ROLE some_service;
SELECT bool_and(grownext.entitled(feature, '$tenant')) FROM item;
SQL

# A hundred thousand tenants, one in three entitled, and memory for a few hundred
$node->safe_psql('postgres', <<"SQL");
INSERT INTO _grownext.tenant_tenant (id, slug, name, created_at, updated_at)
SELECT ('ad000000-0000-4000-8000-' || lpad(to_hex(g), 12, '0'))::uuid, 'many-' || g, 'Many', now(), now() FROM generate_series(1, 100000) AS g;
INSERT INTO _grownext.entitlement_override (tenant_id, feature_id, effect, setting, value, valid_from, created_at)
SELECT ('ad000000-0000-4000-8000-' || lpad(to_hex(g), 12, '0'))::uuid, f.id, 'set', ROW(true, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::_grownext.entitlement_setting, 'true', now(), now()
  FROM generate_series(3, 100000, 3) AS g, _grownext.entitlement_feature AS f WHERE f.feature = 'export';
ANALYZE _grownext.tenant_tenant, _grownext.entitlement_override;
SQL
is($node->safe_psql('postgres', <<"SQL"), "33333|t", '100,000 tenants with 1 MB: right, and within the limit');
SET max_parallel_workers_per_gather = 0;
SET grownext.entitlement_cache_size = '1MB';
CREATE TEMP TABLE answer AS
SELECT count(*) FILTER (WHERE grownext.entitled('export', ('ad000000-0000-4000-8000-' || lpad(to_hex(g), 12, '0'))::uuid)) AS entitled FROM generate_series(1, 100000) AS g;
SELECT entitled, (SELECT sum(total_bytes) < 2 * 1024 * 1024 FROM pg_backend_memory_contexts WHERE name IN ('grownext entitlements', 'grownext catalogue')) FROM answer;
SQL

$standby->stop;
$node->stop;
done_testing();
