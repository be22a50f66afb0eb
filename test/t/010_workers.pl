# Workers come with setup(), and come back: whatever is terminated or killed.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use GrowNext::Workers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Workers::new_node('workers', conf => "restart_after_crash = on\n");

sub workers
{
	my ($database) = @_;
	return $node->safe_psql($database,
		"SELECT string_agg(concat_ws(':', coalesce(database, '-'), worker, state), ' ' ORDER BY worker, database) FROM grownext.workers()");
}

# ---- from nothing to a scheduler ---------------------------------------------

ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'grownext launcher'"),
	'a preloaded server has a launcher');
$node->safe_psql('postgres', 'CREATE DATABASE one');
$node->safe_psql('one', 'CREATE EXTENSION grownext');
ok(GrowNext::Workers::gone($node, 'one'), 'CREATE EXTENSION alone starts nothing that stays');
is(GrowNext::Workers::status($node, 'one', 'identity'), 'off', 'status() says that setup() is missing');
like(GrowNext::Workers::status($node, 'one', 'identity', 'hint'), qr/grownext\.setup\(/, 'and how to mend it');

is( $node->safe_psql('one', "BEGIN; SELECT count(*) > 3 FROM grownext.setup('https://id.example', '{https://api.example}'); ROLLBACK"),
	't', 'a setup() that rolls back');
is( $node->safe_psql('one', "BEGIN; SELECT FROM grownext.setup('https://id.example', '{https://api.example}'); SELECT state, detail FROM grownext.status() WHERE item = 'scheduler'; ROLLBACK") =~ s/^\n+//r,
	'degraded|starting', 'a scheduler that was asked for a moment ago is starting, not failed');
ok(GrowNext::Workers::gone($node, 'one'), 'arms nothing');
is( $node->safe_psql('one', "SELECT string_agg(step || '=' || state, ' ') FROM grownext.setup('https://id.example', '{https://api.example}') WHERE step IN ('identity', 'issuer', 'audiences', 'workers')"),
	'identity=created issuer=created audiences=created workers=on', 'setup() says what it did');
ok(GrowNext::Workers::ticking($node, 'one'), 'and its commit brings the scheduler, with no probe to wait for');
is( $node->safe_psql('one', "SELECT string_agg(step || '=' || state, ' ') FROM grownext.setup('https://id.example', '{https://api.example,https://b.example}') WHERE step IN ('identity', 'issuer', 'audiences', 'workers')"),
	'identity=unchanged issuer=unchanged audiences=changed workers=on', 'setup() again changes what differs');
is(workers('one'), '-:launcher:running one:scheduler:idle', 'workers() shows launcher and scheduler')
	|| diag(workers('one'));
is( $node->safe_psql('one', "SELECT string_agg(item, ' ') FROM grownext.status() WHERE component = 'core' AND state <> 'ok'"),
	'', 'status() of core is all ok');
is( $node->safe_psql('one', "SELECT application_name FROM pg_stat_activity WHERE backend_type = 'grownext scheduler'"),
	'grownext scheduler', 'pg_stat_activity names it');

# ---- pg_terminate_backend ----------------------------------------------------

my $before = GrowNext::Workers::pid($node, 'scheduler', 'one');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($before)");
ok( $node->poll_query_until('one', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'grownext scheduler' AND pid <> $before"),
	'a terminated scheduler is replaced');
ok(GrowNext::Workers::ticking($node, 'one'), 'and ticks');
is( $node->safe_psql('one', "SELECT restarts || ' ' || last_error FROM grownext.workers() WHERE worker = 'scheduler'"),
	'1 terminating background worker "grownext scheduler" due to administrator command',
	'workers() counts it and says why');

my $launcher = GrowNext::Workers::pid($node, 'launcher');
my $scheduler = GrowNext::Workers::pid($node, 'scheduler', 'one');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok( $node->poll_query_until('one', "SELECT state = 'failed' FROM grownext.status() WHERE item = 'launcher'"),
	'a terminated launcher shows in status()');
ok( $node->poll_query_until('one', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'grownext launcher' AND pid <> $launcher"),
	'the postmaster replaces it');
is(GrowNext::Workers::pid($node, 'scheduler', 'one'), $scheduler, 'the scheduler went on meanwhile');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($scheduler)");
ok(GrowNext::Workers::ticking($node, 'one'), 'the new launcher replaces a scheduler that the old one started')
	&& isnt(GrowNext::Workers::pid($node, 'scheduler', 'one'), $scheduler, 'with a new process');

# ---- kill -9 -----------------------------------------------------------------

foreach my $victim ('launcher', 'scheduler')
{
	my $pid = GrowNext::Workers::pid($node, $victim);
	kill 'KILL', $pid;
	ok( $node->poll_query_until('postgres', "SELECT count(*) = 2 AND bool_and(pid <> $pid) FROM pg_stat_activity WHERE backend_type IN ('grownext launcher', 'grownext scheduler')"),
		"kill -9 of the $victim restarts the server, and all workers come back");
	ok(GrowNext::Workers::ticking($node, 'one'), 'and tick');
}

# ---- a tick that fails -------------------------------------------------------

$node->safe_psql('one', <<'SQL');
CREATE OR REPLACE FUNCTION _grownext.core_tick(at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'this pass is broken'; END $$;
SQL
ok( $node->poll_query_until('one', "SELECT last_error = 'this pass is broken' FROM grownext.workers() WHERE worker = 'scheduler'"),
	'a failing tick shows in workers()');
is(GrowNext::Workers::status($node, 'one', 'scheduler'), 'degraded', 'and in status()');
$scheduler = GrowNext::Workers::pid($node, 'scheduler', 'one');
ok(GrowNext::Workers::ticking($node, 'one'), 'passes go on');
is(GrowNext::Workers::pid($node, 'scheduler', 'one'), $scheduler, 'in the same process');
cmp_ok(GrowNext::Workers::lines($node, qr/ERROR:  this pass is broken/), '<=', 5, 'so that the log is not flooded');
$node->safe_psql('one', <<'SQL');
CREATE OR REPLACE FUNCTION _grownext.core_tick(at timestamptz) RETURNS timestamptz
LANGUAGE sql AS $$ SELECT NULL::timestamptz $$;
UPDATE _grownext.core_identity SET environment = environment;
SQL
ok( $node->poll_query_until('one', "SELECT last_error IS NULL FROM grownext.workers() WHERE worker = 'scheduler'"),
	'mended, it is tried at once when identity or extension are touched, and the error is forgotten');

# ---- DROP EXTENSION while running --------------------------------------------

$node->safe_psql('one', 'BEGIN; DROP EXTENSION grownext CASCADE; ROLLBACK');
ok(GrowNext::Workers::ticking($node, 'one'), 'a DROP EXTENSION that rolls back leaves the scheduler');
$node->safe_psql('one', 'DROP EXTENSION grownext CASCADE');
ok(GrowNext::Workers::gone($node, 'one'), 'DROP EXTENSION makes the scheduler leave');
$node->safe_psql('one', 'CREATE EXTENSION grownext');
GrowNext::Workers::set_up($node, 'one');
ok(GrowNext::Workers::ticking($node, 'one'), 'CREATE EXTENSION and setup() bring it back');


# ---- mode --------------------------------------------------------------------

foreach my $mode ('drain', 'off')
{
	$node->append_conf('postgresql.conf', "grownext.mode = $mode\n");
	$node->reload;
	ok(GrowNext::Workers::gone($node, 'one'), "grownext.mode = $mode: the scheduler leaves");
	is(GrowNext::Workers::status($node, 'one', 'mode'), 'degraded', 'status() says so');
	is(GrowNext::Workers::state($node, 'one', 'scheduler'), 'stopped', 'and workers()');
	$node->append_conf('postgresql.conf', "grownext.mode = on\n");
	$node->reload;
	ok(GrowNext::Workers::ticking($node, 'one'), "on again: it is back");
}

# ---- grownext.databases ------------------------------------------------------

$node->append_conf('postgresql.conf', "grownext.databases = 'other, \"One\"'\n");
$node->reload;
ok(GrowNext::Workers::gone($node, 'one'), 'a database that is not listed is not served');
is(GrowNext::Workers::status($node, 'one', 'mode'), 'off', 'status() says so');
$node->append_conf('postgresql.conf', "grownext.databases = 'other, one'\n");
$node->reload;
ok(GrowNext::Workers::ticking($node, 'one'), 'listed, it is');
$node->append_conf('postgresql.conf', "grownext.databases = ''\n");
$node->reload;

# ---- who may see -------------------------------------------------------------

$node->safe_psql('one', 'CREATE ROLE watcher LOGIN IN ROLE grownext_monitor; CREATE ROLE nobody_special LOGIN');
is( $node->safe_psql('one', "SELECT count(*) FROM grownext.workers()", extra_params => [ '-U', 'watcher' ]),
	'2', 'a monitor sees the workers');
my ($rc, $out, $err) = $node->psql('one', 'SELECT grownext.workers()', extra_params => [ '-U', 'nobody_special' ]);
isnt($rc, 0, 'others do not');

$node->stop;
is(GrowNext::Workers::lines($node, qr/PANIC|TRAP:/), 0, 'nothing panicked');
done_testing();
