# Nobody is started for nothing, and no call for the scheduler is lost.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use GrowNext::Workers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Workers::new_node('wakeups', conf => "grownext.executors = 3\ngrownext.executor_idle = 1h\n");
GrowNext::Workers::arm($node, 'one');
$node->safe_psql('one', <<'SQL');
CREATE ROLE worker_owner;
CREATE SCHEMA app AUTHORIZATION worker_owner;
CREATE FUNCTION app.work(payload jsonb) RETURNS void LANGUAGE sql AS
    'SELECT pg_advisory_xact_lock_shared((payload ->> ''gate'')::bigint)';
ALTER FUNCTION app.work(jsonb) OWNER TO worker_owner;
SELECT grownext.queue_define('work');
SELECT grownext.queue_handle('work', 'app.work(jsonb)', run_as => 'worker_owner');
SELECT grownext.queue_define('narrow', '{"concurrency": 1}');
SELECT grownext.queue_handle('narrow', 'app.work(jsonb)', run_as => 'worker_owner');
SQL

my $executors = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'grownext executor'";
my $waiting = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE l.locktype = 'advisory' AND NOT l.granted AND a.backend_type = 'grownext executor'";

sub becomes { return $node->poll_query_until('one', "SELECT ($_[0]) = $_[1]") }

sub close_gate
{
	my $session = $node->background_psql('one');
	$session->query_safe('SELECT pg_advisory_lock(1)');
	return $session;
}

sub enqueue
{
	my ($queue, $count) = @_;
	$node->safe_psql('one', "SELECT count(grownext.enqueue('$queue', '{\"gate\": 1}')) FROM generate_series(1, $count)");
}

sub passes
{
	my ($count) = @_;
	my $fine = 1;
	$fine &&= GrowNext::Workers::ticking($node, 'one') foreach 1 .. $count;
	return ok($fine, "$count passes of the scheduler later");
}

# ---- jobs that run do not ask for executors ------------------------------------

my $gate = close_gate();
enqueue('work', 1);
ok(becomes($waiting, 1), 'a job in the middle');
passes(5);
is($node->safe_psql('one', $executors), '1', 'it has one executor, and no other was started for it');
enqueue('work', 1);
ok(becomes($waiting, 2), 'a second job gets a second one');
passes(5);
is($node->safe_psql('one', $executors), '2', 'and no third one comes');
$gate->quit;
ok(becomes("SELECT count(*) FROM grownext.workers() WHERE worker = 'executor' AND state = 'idle'", 2), 'both wait for more');
passes(5);
is($node->safe_psql('one', $executors), '2', 'nobody else came');

$node->safe_psql('one', "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'grownext executor'");
ok(becomes($executors, 0), 'from the beginning');
$gate = close_gate();
enqueue('narrow', 10);
ok(becomes($waiting, 1), 'a queue that runs one job at a time');
passes(5);
is($node->safe_psql('one', $executors), '1', 'is no reason for two executors');
$gate->quit;
ok( $node->poll_query_until('one', "SELECT succeeded_total = 10 FROM grownext.queue_stats('narrow')"), 'one does all jobs');
is($node->safe_psql('one', $executors), '1', 'still the same');

# ---- a call that comes while a pass waits for a lock ---------------------------

# Far from any interval: a pass comes because somebody calls for it, or after a minute.
# The timer of the deadlock check would wake the scheduler, too, if it came in time.
$node->append_conf('postgresql.conf', "grownext.tick_interval = 1h\ndeadlock_timeout = 10min\n");
$node->restart;
ok( $node->poll_query_until('one', "SELECT count(*) = 1 FROM grownext.workers() WHERE worker = 'scheduler' AND state = 'idle' AND last_tick_at IS NOT NULL"),
	'after the first pass the scheduler sleeps');
my $blocker = $node->background_psql('one');
$blocker->query_safe('BEGIN; LOCK TABLE _grownext.audit_idempotency');
# asks for a pass, which comes to the audit log's tick and waits there; the queue's is over
$node->safe_psql('one', "SELECT grownext.enqueue('work', '{\"gate\": 0}', run_at => clock_timestamp() + interval '1 hour')");
ok( $node->poll_query_until('one', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'grownext scheduler' AND wait_event_type = 'Lock'"),
	'a pass waits for a lock');
my $job = $node->safe_psql('one', "SELECT grownext.enqueue('work', '{\"gate\": 0}', run_at => clock_timestamp() + interval '1 second')");
$blocker->query_safe('COMMIT');
ok($node->poll_query_until('one', "SELECT state = 'succeeded' FROM grownext.job_get($job)"), 'a job that was scheduled meanwhile runs');
cmp_ok($node->safe_psql('one', "SELECT extract(epoch FROM started_at - run_at) FROM grownext.job_get($job)"), '<', 20, 'when it is due, not at the next interval');
$blocker->quit;

is(GrowNext::Workers::lines($node, qr/PANIC|TRAP:|terminated by signal/), 0, 'nothing crashed');
$node->stop;
done_testing();
