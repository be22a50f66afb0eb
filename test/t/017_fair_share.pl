# Slots are shared: one busy database keeps no other's jobs from running.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use GrowNext::Workers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node;

sub serve
{
	my ($name, $conf, @databases) = @_;
	$node = GrowNext::Workers::new_node($name, conf => $conf);
	GrowNext::Workers::arm($node, @databases);
	foreach my $database (@databases)
	{
		$node->safe_psql($database, <<'SQL');
DO $$ BEGIN IF to_regrole('worker_owner') IS NULL THEN CREATE ROLE worker_owner; END IF; END $$;
CREATE SCHEMA app AUTHORIZATION worker_owner;
CREATE FUNCTION app.work(payload jsonb) RETURNS void LANGUAGE sql AS
    'SELECT pg_advisory_xact_lock_shared((payload ->> ''gate'')::bigint); SELECT pg_sleep(0.02)';
ALTER FUNCTION app.work(jsonb) OWNER TO worker_owner;
SELECT grownext.queue_define('work');
SELECT grownext.queue_handle('work', 'app.work(jsonb)', run_as => 'worker_owner');
SQL
	}
}

sub enqueue
{
	my ($database, $count, $gate) = @_;
	$node->safe_psql($database,
		"SELECT count(grownext.enqueue('work', '{\"gate\": $gate}')) FROM generate_series(1, $count)");
}

sub close_gate
{
	my ($database, $gate) = @_;
	my $session = $node->background_psql($database);
	$session->query_safe("SELECT pg_advisory_lock($gate)");
	return $session;
}

my $executors = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'grownext executor' AND datname";
my $waiting = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE l.locktype = 'advisory' AND NOT l.granted AND a.backend_type = 'grownext executor' AND a.datname";
my $succeeded = "SELECT succeeded_total FROM grownext.queue_stats('work')";

sub becomes { return $node->poll_query_until($_[0], "SELECT ($_[1]) = $_[2]") }

# ---- the last slot is for a first job, whatever the others do ------------------

serve('last_slot', "grownext.max_workers = 5\ngrownext.executors = 8\n", 'one', 'two');
my $gate = close_gate('one', 1);
enqueue('one', 20, 1);
ok(becomes('one', "$waiting = 'one'", 2), 'jobs that never end take every slot but one');
ok(GrowNext::Workers::ticking($node, 'one'), 'passes later');
ok($node->poll_query_until('one', "SELECT detail LIKE 'a worker could not start%' FROM grownext.status() WHERE item = 'worker slots'"),
	'which status() shows');
is($node->safe_psql('one', "$executors = 'one'"), '2', 'it still is so');
enqueue('two', 3, 0);
ok(becomes('two', $succeeded, 3), 'the first jobs of another database run at once');
is($node->safe_psql('one', "$waiting = 'one'"), '2', 'beside them, which go on');
$gate->quit;
ok(becomes('one', $succeeded, 20), 'and come to their end');
$node->stop;

# ---- with one slot for all they take turns -------------------------------------

serve('turns', "grownext.max_workers = 4\ngrownext.executors = 2\n", 'one', 'two', 'three');
enqueue('one', 500, 0);
ok(becomes('one', "$executors = 'one'", 1), 'a backlog takes the only slot');
enqueue('two', 1, 0);
enqueue('three', 1, 0);
ok(becomes('two', $succeeded, 1), 'a job of a second database runs');
ok(becomes('three', $succeeded, 1), 'and one of a third');
is($node->safe_psql('one', "SELECT ready > 100 FROM grownext.queue_stats('work')"), 't', 'with the backlog of the first still there');
enqueue('two', 200, 0);
ok(becomes('one', $succeeded, 500), 'two backlogs: the one comes to its end');
ok(becomes('two', $succeeded, 201), 'and the other');
$node->stop;

# ---- two backlogs get the same --------------------------------------------------

serve('balance', "grownext.max_workers = 8\ngrownext.executors = 8\n", 'one', 'two');
my %gate = map { $_ => close_gate($_, 1) } 'one', 'two';
enqueue('one', 2000, 0);
ok(becomes('one', "$executors = 'one'", 5), 'one backlog: every slot but the last');
enqueue('two', 2000, 0);
ok($node->poll_query_until('one', "SELECT ($executors = 'one') = 3 AND ($executors = 'two') = 3"), 'two backlogs: half of the slots each');
# jobs that hold what each has, in front of the backlog: nothing moves any more
$node->safe_psql($_, "SELECT count(grownext.enqueue('work', '{\"gate\": 1}', priority => -1)) FROM generate_series(1, 10)") foreach 'one', 'two';
ok($node->poll_query_until('one', "SELECT ($waiting = 'one') = 3 AND ($waiting = 'two') = 3"), 'and it stays so');
$_->quit foreach values %gate;
$node->stop('immediate');

# ---- an executor without work makes room at once --------------------------------

serve('idle', "grownext.max_workers = 3\ngrownext.executors = 2\ngrownext.executor_idle = 1h\n", 'one', 'two');
enqueue('one', 1, 0);
ok(becomes('one', $succeeded, 1), 'an executor has run its job');
ok( $node->poll_query_until('one', "SELECT count(*) = 1 FROM grownext.workers() WHERE worker = 'executor' AND state = 'idle' AND database = 'one'"),
	'and waits for more');
enqueue('two', 1, 0);
ok(becomes('two', $succeeded, 1), 'its slot serves another database');
is($node->safe_psql('one', "$executors = 'one'"), '0', 'it has left');
enqueue('one', 1, 0);
ok(becomes('one', $succeeded, 2), 'and the other way round');
is(GrowNext::Workers::lines($node, qr/PANIC|TRAP:|terminated by signal/), 0, 'nothing crashed');
$node->stop;
done_testing();
