# Too few processes or slots: one line in the log, visible in status(), and it recovers.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use GrowNext::Workers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

foreach my $case (
	# one for the launcher, one for logical replication's, one for a worker
	{ limit => 'max_worker_processes', conf => "max_worker_processes = 3\n", line => qr/no background process is left/ },
	{ limit => 'worker slots', conf => "grownext.max_workers = 1\n", line => qr/grownext has no worker slot left/ })
{
	my $limit = $case->{limit};
	my $node = GrowNext::Workers::new_node($limit =~ tr/ /_/r, conf => $case->{conf});

	GrowNext::Workers::arm($node, 'one');
	is(GrowNext::Workers::status($node, 'one', $limit), $limit eq 'worker slots' ? 'ok' : 'degraded', "$limit: one database is served");
	$node->safe_psql('postgres', 'CREATE DATABASE two');
	$node->safe_psql('two', 'CREATE EXTENSION grownext');
	GrowNext::Workers::set_up($node, 'two');
	ok($node->poll_query_until('two', "SELECT state = 'degraded' AND detail LIKE 'a worker could not start%' FROM grownext.status() WHERE item = '$limit'"),
		"$limit: a second one finds none left, and status() says so");
	like(GrowNext::Workers::status($node, 'two', $limit, 'hint'), qr/ALTER SYSTEM SET /, 'and how to mend it');
	is(GrowNext::Workers::status($node, 'two', 'scheduler'), 'failed', 'and that its scheduler is missing');
	ok(GrowNext::Workers::ticking($node, 'one'), 'the first goes on');
	my $since = GrowNext::Workers::status($node, 'two', $limit, 'since');
	isnt($since, '', 'since is told');

	# It was tried again by now: the launcher made more passes than it logged lines.
	my $pass = "SELECT last_tick_at FROM grownext.workers() WHERE worker = 'launcher'";
	foreach (1 .. 2)
	{
		my $seen = $node->safe_psql('two', $pass);
		$node->safe_psql('two', 'UPDATE _grownext.core_identity SET environment = environment');
		ok($node->poll_query_until('two', "SELECT ($pass) > '$seen'"), 'the launcher makes a pass');
	}
	is(GrowNext::Workers::lines($node, $case->{line}), 1, "$limit: one line in the log");
	is(GrowNext::Workers::status($node, 'two', $limit, 'since'), $since, 'since stays');

	$node->safe_psql('one', "SELECT grownext.fence('makes room')");
	ok(GrowNext::Workers::ticking($node, 'two'), "$limit: room is used when it appears");
	is(GrowNext::Workers::status($node, 'two', $limit, "detail LIKE 'a worker could not start%'"), 'f', 'and the shortage is over');
	$node->safe_psql('two', 'DROP EXTENSION grownext CASCADE');
	$node->safe_psql('one', "SELECT grownext.unfence('the other left')");
	ok(GrowNext::Workers::ticking($node, 'one'), "$limit: and again the other way round");

	# A job finds no executor, and says nothing new to the log
	$node->safe_psql('one', <<'SQL');
CREATE ROLE worker_owner;
CREATE SCHEMA app AUTHORIZATION worker_owner;
CREATE FUNCTION app.work(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
ALTER FUNCTION app.work(jsonb) OWNER TO worker_owner;
SELECT grownext.queue_define('work');
SELECT grownext.queue_handle('work', 'app.work(jsonb)', run_as => 'worker_owner');
SELECT grownext.enqueue('work');
SQL
	ok($node->poll_query_until('one', "SELECT detail LIKE 'a worker could not start%' FROM grownext.status() WHERE item = '$limit'"),
		"$limit: a job without an executor shows in status()");
	cmp_ok(GrowNext::Workers::lines($node, $case->{line}), '<=', 1, 'still one line');
	$node->stop;
	is(GrowNext::Workers::lines($node, qr/PANIC|TRAP:/), 0, 'nothing panicked');
}

# ---- fairness: executors give way to a scheduler -----------------------------

my $node = GrowNext::Workers::new_node('fair', conf => "grownext.max_workers = 3\ngrownext.executors = 2\n");
GrowNext::Workers::arm($node, 'one');
$node->safe_psql('one', <<'SQL');
CREATE ROLE worker_owner;
CREATE SCHEMA app AUTHORIZATION worker_owner;
CREATE FUNCTION app.work(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.1)';
ALTER FUNCTION app.work(jsonb) OWNER TO worker_owner;
SELECT grownext.queue_define('work');
SELECT grownext.queue_handle('work', 'app.work(jsonb)', run_as => 'worker_owner');
SELECT count(grownext.enqueue('work')) FROM generate_series(1, 5000);
SQL
ok( $node->poll_query_until('one', "SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'grownext executor'"),
	'one database uses all slots');
$node->safe_psql('postgres', 'CREATE DATABASE two');
$node->safe_psql('two', 'CREATE EXTENSION grownext');
GrowNext::Workers::set_up($node, 'two');
ok(GrowNext::Workers::ticking($node, 'two'), 'a second one gets its scheduler all the same');
is( $node->safe_psql('one', "SELECT ready > 100 FROM grownext.queue_stats('work')"), 't', 'with the backlog of the first still there');
$node->stop('immediate');
done_testing();
