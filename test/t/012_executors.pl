# Executors start on demand, leave when idle, and can be killed at any line.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use GrowNext::Workers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Workers::new_node('executors', conf => <<'CONF');
restart_after_crash = on
grownext.executors = 3
grownext.executor_idle = 2s
max_prepared_transactions = 5
CONF
GrowNext::Workers::arm($node, 'one', 'two');

foreach my $database ('one', 'two')
{
	$node->safe_psql($database, <<'SQL');
DO $$ BEGIN IF to_regrole('worker_owner') IS NULL THEN CREATE ROLE worker_owner; END IF; END $$;
CREATE SCHEMA app AUTHORIZATION worker_owner;
CREATE TABLE app.done (job bigint, pid int DEFAULT pg_backend_pid());
-- holds a key that the test waits for and takes away
CREATE FUNCTION app.work(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared((payload ->> 'gate')::bigint);
    INSERT INTO app.done VALUES ((payload ->> 'n')::bigint);
END $$;
ALTER TABLE app.done OWNER TO worker_owner;
ALTER FUNCTION app.work(jsonb) OWNER TO worker_owner;
SELECT grownext.queue_define('work', '{"backoff_base": "100ms"}');
SELECT grownext.queue_handle('work', 'app.work(jsonb)', run_as => 'worker_owner');
SQL
}

my $executors = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'grownext executor'";

sub enqueue
{
	my ($database, $count, $gate) = @_;
	return $node->safe_psql($database,
		"SELECT count(grownext.enqueue('work', jsonb_build_object('n', n, 'gate', $gate))) FROM generate_series(1, $count) AS n");
}

sub done { return $node->poll_query_until($_[0], "SELECT count(*) >= $_[1] FROM app.done") }

# ---- on demand ---------------------------------------------------------------

is($node->safe_psql('one', $executors), '0', 'a quiet database has no executor');
enqueue('one', 1, 0);
ok(done('one', 1), 'a committed job runs');
ok( $node->poll_query_until('one', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'grownext executor'"),
	'an idle executor leaves');
$node->safe_psql('one', "BEGIN; SAVEPOINT s; SELECT grownext.enqueue('work', '{\"n\": 1, \"gate\": 0}'); ROLLBACK TO s; COMMIT");
$node->safe_psql('one', 'UPDATE _grownext.core_identity SET environment = environment');
ok(GrowNext::Workers::ticking($node, 'one'), 'a pass later');
is($node->safe_psql('one', $executors), '0', 'a job of a rolled-back savepoint started none');

# ---- bounded -----------------------------------------------------------------

# gates: an exclusive lock keeps every handler waiting inside its job
sub close_gate
{
	my ($database, $gate) = @_;
	my $session = $node->background_psql($database);
	$session->query_safe("SELECT pg_advisory_lock($gate)");
	return $session;
}

sub open_gate { $_[0]->quit }

sub running
{
	my ($database, $count) = @_;
	return $node->poll_query_until($database,
		"SELECT count(*) = $count FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE l.locktype = 'advisory' AND NOT l.granted AND a.backend_type = 'grownext executor' AND a.datname = '$database'");
}

my $gate = close_gate('one', 1);
enqueue('one', 20, 1);
ok(running('one', 3), 'as many executors as grownext.executors, and no more');
is($node->safe_psql('one', $executors), '3', 'exactly');
open_gate($gate);
ok(done('one', 21), 'all jobs run');

# ---- pg_terminate_backend in the middle of a job -----------------------------

$gate = close_gate('one', 2);
enqueue('one', 1, 2);
ok(running('one', 1), 'a job in the middle');
$node->safe_psql('one', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'grownext executor'");
ok(running('one', 1), 'is terminated, and runs again in another executor');
open_gate($gate);
ok(done('one', 22), 'to its end');
is($node->safe_psql('one', 'SELECT count(*) FROM app.done'), '22', 'its effect is there once');

# ---- kill -9 in the middle of a job ------------------------------------------

$gate = close_gate('one', 3);
enqueue('one', 1, 3);
ok(running('one', 1), 'a job in the middle');
kill 'KILL', GrowNext::Workers::pid($node, 'executor', 'one');
eval { $gate->quit };
ok($node->poll_query_until('one', 'SELECT count(*) = 23 FROM app.done'), 'is killed with -9; after the restart it runs again');
ok(GrowNext::Workers::ticking($node, 'two'), 'the other database is served again, too');

# ---- drain and off -----------------------------------------------------------

$gate = close_gate('one', 4);
enqueue('one', 5, 4);
ok(running('one', 3), 'jobs in the middle, jobs behind them');
$node->append_conf('postgresql.conf', "grownext.mode = drain\n");
$node->reload;
ok( $node->poll_query_until('one', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'grownext scheduler'"),
	'drain: the schedulers leave');
is($node->safe_psql('one', $executors), '3', 'running jobs go on');
open_gate($gate);
ok(GrowNext::Workers::gone($node, 'one'), 'and when they are done their executors leave');
is($node->safe_psql('one', 'SELECT count(*) FROM app.done'), '26', 'having started no other job');
$node->append_conf('postgresql.conf', "grownext.mode = on\n");
$node->reload;
ok(done('one', 28), 'on: the rest runs');

$gate = close_gate('one', 5);
enqueue('one', 1, 5);
ok(running('one', 1), 'a job in the middle');
$node->append_conf('postgresql.conf', "grownext.mode = off\n");
$node->reload;
ok(GrowNext::Workers::gone($node, 'one'), 'off: it is aborted, everybody leaves');
open_gate($gate);
is($node->safe_psql('one', 'SELECT count(*) FROM app.done'), '28', 'it left nothing behind');
$node->append_conf('postgresql.conf', "grownext.mode = on\n");
$node->reload;
ok(done('one', 29), 'on: it runs again');

# ---- fence -------------------------------------------------------------------

$gate = close_gate('one', 6);
enqueue('one', 5, 6);
ok(running('one', 3), 'jobs in the middle');
$node->safe_psql('one', "SELECT grownext.fence('the sky is falling')");
open_gate($gate);
ok(GrowNext::Workers::gone($node, 'one'), 'fence(): workers leave');
is($node->safe_psql('one', 'SELECT count(*) FROM app.done'), '32', 'after the jobs in hand, and none begins');
is(GrowNext::Workers::status($node, 'one', 'identity', 'detail'), 'fenced: the sky is falling', 'status() shows it');
is(GrowNext::Workers::state($node, 'one', 'scheduler') || '', 'fenced', 'and workers()');
my ($rc, $out, $err) = $node->psql('one', "SELECT grownext.unfence('it did not', 'maybe')");
like($err, qr/pending must be keep or skip/, 'unfence() knows two ways');
$node->safe_psql('one', "SELECT grownext.unfence('it did not')");
ok(done('one', 34), 'unfence() lets the rest run');
$node->safe_psql('one', "SELECT grownext.fence('again')");
enqueue('one', 5, 6);
$node->safe_psql('one', "SELECT grownext.unfence('skip them', pending => 'skip')");
enqueue('one', 1, 0);
ok(done('one', 35), 'pending => skip: what comes later runs');
ok( $node->poll_query_until('one', "SELECT coalesce(sum(ready + running + scheduled), 0) = 0 FROM grownext.queue_stats()"),
	'nothing is left');
is($node->safe_psql('one', 'SELECT count(*) FROM app.done'), '35', 'and what was pending did not run');

# ---- commands on the database with a job in the middle -----------------------

# A job that waits for a row that a prepared transaction holds: no session, so only the worker is in the way.
$node->safe_psql('two', "INSERT INTO app.done VALUES (0); BEGIN; LOCK app.done; PREPARE TRANSACTION 'gate'");
enqueue('two', 1, 0);
ok( $node->poll_query_until('two', "SELECT count(*) = 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE NOT l.granted AND a.backend_type = 'grownext executor'"),
	'a job in the middle');
($rc, $out, $err) = $node->psql('postgres', 'CREATE DATABASE copy TEMPLATE two');
like($err, qr/There is 1 prepared transaction using the database/, 'its worker is out of the way, the prepared transaction is not');
$node->safe_psql('two', "COMMIT PREPARED 'gate'");
ok(done('two', 2), 'and the aborted job runs again');
$node->safe_psql('postgres', 'ALTER DATABASE two RENAME TO second');

enqueue('second', 50, 0);
$node->safe_psql('second', 'BEGIN; DROP EXTENSION grownext CASCADE; ROLLBACK') foreach 1 .. 3;
ok(done('second', 52), 'DROP EXTENSION rolled back amid running jobs loses none');
$node->safe_psql('second', 'DROP EXTENSION grownext CASCADE');
ok(GrowNext::Workers::gone($node, 'second'), 'DROP EXTENSION makes everybody leave');
$node->safe_psql('postgres', 'DROP DATABASE second');

$node->stop;
is(GrowNext::Workers::lines($node, qr/PANIC|TRAP:/), 0, 'nothing panicked');
done_testing();
