# Sixteen sessions fight for what is left of a quota, beside a naive counter; a change of
# what is entitled is seen by open sessions and on a standby; a crash keeps the count.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tenant = 'aa000000-0000-4000-8000-000000000001';
my $node = PostgreSQL::Test::Cluster->new('quota');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
# a crash is only a crash when what was committed had been written
$node->append_conf('postgresql.conf', "fsync = on\nfull_page_writes = on\n");
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION grownext;
CREATE ROLE quota_service LOGIN IN ROLE grownext_service;
SELECT grownext.product_define('app', 'App');
SELECT grownext.feature_define('calls', 'app', 'metered', '{"period": "never"}');
SELECT grownext.feature_define('export', 'app', 'boolean');
SELECT grownext.bundle_define('pro', '{"calls": 100000, "export": true}');
SELECT grownext.tenant_create('quota', 'Quota', id => '$tenant', bundle => 'pro');
SELECT grownext.usage_consume('calls', 99900, tenant_id => '$tenant');
CREATE TABLE granted (n int NOT NULL);
CREATE TABLE naive (used int NOT NULL);
INSERT INTO naive VALUES (99900);
GRANT ALL ON granted, naive TO quota_service;
SQL

sub used
{
	return $node->safe_psql('postgres', "SELECT used FROM grownext.entitlement('calls', '$tenant')");
}

# Every client: consume, and remember each grant in the same transaction; now and then
# abort, or undo to a savepoint, or ask for more than one.
my $script = $node->basedir . '/fight.sql';
append_to_file($script, <<"SQL");
\\set n random(1, 3)
\\set fate random(1, 10)
BEGIN;
WITH c AS (SELECT * FROM grownext.usage_consume('calls', :n, NULL, '$tenant'))
INSERT INTO granted SELECT :n FROM c WHERE c.allowed;
SAVEPOINT s;
WITH c AS (SELECT * FROM grownext.usage_consume('calls', 1, NULL, '$tenant'))
INSERT INTO granted SELECT 1 FROM c WHERE c.allowed;
\\if :fate < 5
ROLLBACK TO s;
\\endif
\\if :fate = 10
ROLLBACK;
\\else
COMMIT;
\\endif
SQL
sub fight
{
	my ($file, $transactions) = @_;
	return [ 'pgbench', '-n', '-c', 16, '-j', 2, '-t', $transactions, '-U', 'quota_service',
		'-h', $node->host, '-p', $node->port, '-f', $file, 'postgres' ];
}
command_ok(fight($script, 40), '16 sessions fight for the last 100 units');
is($node->safe_psql('postgres', 'SELECT sum(n) FROM granted'), '100', 'exactly 100 were granted');
is(used(), '100000', 'and the counter says so');

# The same fight in the way that everybody writes at first: look, then count.
my $naive = $node->basedir . '/naive.sql';
append_to_file($naive, <<'SQL');
DO $$
BEGIN
    IF (SELECT used < 100000 FROM naive) THEN
        PERFORM pg_sleep(0.001);
        UPDATE naive SET used = used + 1;
    END IF;
END $$;
SQL
command_ok(fight($naive, 40), 'the same with a look before the count');
cmp_ok($node->safe_psql('postgres', 'SELECT used - 100000 FROM naive'), '>', 0, 'oversells');

# Denied means used up: with units left, nobody is denied.
$node->safe_psql('postgres', "SELECT grownext.usage_return('calls', 640, tenant_id => '$tenant')");
$node->safe_psql('postgres', 'TRUNCATE granted');
my $single = $node->basedir . '/single.sql';
append_to_file($single, "INSERT INTO granted SELECT CASE WHEN allowed THEN 1 ELSE 0 END FROM grownext.usage_consume('calls', tenant_id => '$tenant');\n");
command_ok(fight($single, 40), '640 units for 640 calls');
is($node->safe_psql('postgres', 'SELECT min(n), sum(n) FROM granted'), '1|640', 'all are granted');

# One key, sixteen callers, one unit.
$node->safe_psql('postgres', "SELECT grownext.usage_return('calls', 10, tenant_id => '$tenant')");
my $keyed = $node->basedir . '/keyed.sql';
append_to_file($keyed, "\\set key random(1, 5)\nSELECT grownext.usage_consume('calls', 1, 'key-' || :key, '$tenant');\n");
command_ok(fight($keyed, 20), '320 calls with five keys');
is(used(), '99995', 'are five grants');

# A crash: what was committed counts, what was not does not.
$node->safe_psql('postgres', "SELECT grownext.usage_consume('calls', 2, tenant_id => '$tenant')");
my $open = $node->background_psql('postgres');
$open->query_safe("BEGIN; SELECT grownext.usage_consume('calls', 3, tenant_id => '$tenant')");
$node->stop('immediate');
$node->start;
eval { $open->quit };
is(used(), '99997', 'after a crash');

# A session remembers where the row of a counter is. It may be elsewhere by the next
# consume: moved with its table, so that another row is there, or gone with its page.
$node->safe_psql('postgres', <<"SQL");
SELECT grownext.feature_define('moved.' || i, 'app', 'metered', '{"default": 1000, "period": "never"}') FROM generate_series(1, 200) AS i;
SQL
sub consume
{
	my ($i, $n) = @_;
	return "SELECT allowed, used FROM grownext.usage_consume('moved.$i', $n, tenant_id => '$tenant');\n";
}
my $fill = "SELECT count(*) FROM generate_series(1, 200) AS i, grownext.usage_consume('moved.' || i, i, tenant_id => '$tenant') AS r WHERE r.allowed;\n";
my $empty = "DELETE FROM _grownext.entitlement_usage AS u USING _grownext.entitlement_feature AS f WHERE f.id = u.feature_id AND f.feature LIKE 'moved.%'";
is($node->safe_psql('postgres', $fill . consume(1, 1) . consume(200, 1)
		. "$empty AND f.feature <= 'moved.150';\nVACUUM FULL _grownext.entitlement_usage;\n" . consume(1, 1) . consume(200, 1) . consume(170, 1)
		. "$empty;\nVACUUM (TRUNCATE) _grownext.entitlement_usage;\n" . consume(1, 1) . consume(200, 1)),
	"200\nt|2\nt|201\nt|1\nt|202\nt|171\nt|1\nt|1", 'rows of counters that move or go are found, or made, again');

# Open sessions and a standby know of a change from the next statement on.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
my $ask = "SELECT grownext.entitled('export', '$tenant')";
my $here = $node->background_psql('postgres');
my $there = $standby->background_psql('postgres');
is($here->query_safe($ask), 't', 'entitled in an open session');
is($there->query_safe($ask), 't', 'and on a standby');
my $stale = 0;
my $stale_there = 0;
foreach my $round (1 .. 20)
{
	my $on = $round % 2 == 0;
	$node->safe_psql('postgres', $on
		? "SELECT grownext.entitlement_revoke(id) FROM grownext.entitlement_override WHERE effect = 'block' AND revoked_at IS NULL"
		: "SELECT grownext.entitlement_block('$tenant', 'export', 'round')");
	$stale++ if $here->query_safe($ask) ne ($on ? 't' : 'f');
	$node->wait_for_catchup($standby);
	$stale_there++ if $there->query_safe($ask) ne ($on ? 't' : 'f');
}
is($stale, 0, 'no stale answer in an open session after 20 changes');
is($stale_there, 0, 'and none on the standby after replay');
isnt($standby->psql('postgres', "SELECT grownext.usage_consume('calls', tenant_id => '$tenant')"), 0, 'a standby consumes nothing');
is($standby->safe_psql('postgres', "SELECT count(*) > 0 FROM grownext.status() WHERE component = 'entitlement'"), 't', 'status() answers there');
$here->quit;
$there->quit;

# A dump brings everything back, and starts nothing twice.
$node->safe_psql('postgres', 'CREATE DATABASE restored');
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, 'postgres' ], 'pg_dump');
my ($out, $err) = run_command([ 'pg_dump', '-s', '-f', '/dev/null', '-h', $node->host, '-p', $node->port, 'postgres' ]);
unlike($err, qr/circular/, 'without a warning of circular foreign keys');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'restored' ], 'restore');
foreach my $table (qw(tenant subscription entitlement_override usage_period bundle feature))
{
	my $count = "SELECT count(*) FROM grownext.$table";
	is($node->safe_psql('restored', $count), $node->safe_psql('postgres', $count), "grownext.$table is as before");
}
is($node->safe_psql('restored', "SELECT grownext.entitled('export', '$tenant'), used FROM grownext.entitlement('calls', '$tenant')"),
	't|99997', 'the answers are as before');

$standby->stop;
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed by itself');
done_testing();
