# Workers outside the database: what they were given survives every crash, is given to
# nobody else meanwhile, and takes effect once. And they wait without holding anything.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $rounds = $ENV{GN_KILLS} || 12;
my $node = GrowNext::Queue::new_node('main', <<'CONF');
restart_after_crash = on
max_prepared_transactions = 2
wal_writer_delay = 10s
CONF

sub sql { return GrowNext::Queue::sql($node, shift); }
sub service { return GrowNext::Queue::as($node, 'queue_service', shift); }
sub until_true { return GrowNext::Queue::until_true($node, shift); }

sql(<<'SQL');
SELECT grownext.queue_define(q, '{"backoff_base": "20 ms", "backoff_cap": "100 ms"}') FROM unnest('{work,load,narrow}'::text[]) AS q;
SELECT grownext.queue_define('narrow', '{"concurrency": 1}');
SELECT grownext.queue_grant('load', 'queue_app', 'work');
SQL

# --- job_wait ---

my $waiting = q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL grownext.job_wait%' AND state = 'active' AND wait_event_type = 'Extension'};

# starts a session that waits and then says what came of it
sub start_waiting
{
	my ($queue, $timeout) = @_;
	my %session = (out => '', err => '');
	$session{run} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('app'), '-U', 'queue_service', '-c', "CALL grownext.job_wait('$queue', '$timeout', NULL)" ],
		'<', \'', '>', \$session{out}, '2>', \$session{err}, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%session;
}

sub finish_waiting
{
	my ($session) = @_;
	$session->{run}->finish;
	chomp $session->{out};
	return $session->{out} || $session->{err};
}

my $waiter = start_waiting('work', '10 min');
until_true("SELECT ($waiting) = 1");
is( sql(q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL grownext.job_wait%' AND pid <> pg_backend_pid() AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)}),
	'0', 'who waits has no snapshot and no transaction id');
is( sql(q{SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE a.query LIKE 'CALL grownext.job_wait%' AND a.pid <> pg_backend_pid() AND l.locktype <> 'virtualxid'}),
	'0', 'and no lock');
is(sql(q{SELECT detail FROM grownext.status() WHERE component = 'queue' AND item = 'work'}), 'outside workers hold 0 jobs, 1 wait for one', 'status knows');
my $enqueued = time();
service(q{BEGIN; SELECT grownext.enqueue('work'); ROLLBACK});
service(q{SELECT grownext.enqueue('work', run_at => now() + interval '1 h')});
service(q{SELECT grownext.enqueue('load')});
is(sql($waiting), '1', 'what is rolled back, not due or elsewhere wakes nobody');
service(q{SELECT grownext.enqueue('work')});
is(finish_waiting($waiter), 't', 'a commit wakes it');
cmp_ok(time() - $enqueued, '<', 5, 'at once');
is(finish_waiting(start_waiting('work', '0')), 't', 'where there is a job nobody waits');
sql(q{SELECT count(grownext.job_complete(id, lease_id)) FROM grownext.job_fetch('work', 10)});
is(finish_waiting(start_waiting('work', '10 ms')), 'f', 'where there is none, for the time given');

my @waiters;
foreach my $n (1 .. 5)
{
	push @waiters, start_waiting('work', '10 min');
	until_true("SELECT ($waiting) = $n");
}
service(q{SELECT cardinality(grownext.enqueue_many('work', ARRAY['1', '2']::jsonb[]))});
is(finish_waiting(shift @waiters), 't', 'of five waiters who waited longest wakes');
is(finish_waiting(shift @waiters), 't', 'for two jobs, two');
is(sql($waiting), '3', 'the others sleep on');
sql(q{SELECT count(grownext.job_complete(id, lease_id)) FROM grownext.job_fetch('work', 10)});
sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL grownext.job_wait%' AND pid <> pg_backend_pid() ORDER BY backend_start LIMIT 1});
like(finish_waiting(shift @waiters), qr/canceling statement/, 'a cancelled one ends');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL grownext.job_wait%' AND pid <> pg_backend_pid() ORDER BY backend_start LIMIT 1});
like(finish_waiting(shift @waiters), qr/terminating connection/, 'so does a terminated one');
service(q{SELECT grownext.enqueue('work')});
is(finish_waiting(shift @waiters), 't', 'the last one is called all the same');

# a place of a limited queue, a resumed queue and a promoted job wake, too
service(q{SELECT grownext.enqueue('narrow') FROM generate_series(1, 2)});
my ($id, $lease) = split(/\|/, service(q{SELECT id, lease_id FROM grownext.job_fetch('narrow', 2, '1 h')}));
$waiter = start_waiting('narrow', '10 min');
until_true("SELECT ($waiting) = 1");
service("SELECT grownext.job_complete($id, $lease)");
is(finish_waiting($waiter), 't', 'a completion that makes room wakes who waits for it');
sql(q{SELECT grownext.queue_pause('narrow')});
$waiter = start_waiting('narrow', '10 min');
until_true("SELECT ($waiting) = 1");
sql(q{SELECT grownext.queue_resume('narrow')});
is(finish_waiting($waiter), 't', 'so does a resume');
sql(q{SELECT count(grownext.job_complete(id, lease_id)) FROM grownext.job_fetch('work', 10)});
$waiter = start_waiting('work', '10 min');
until_true("SELECT ($waiting) = 1");
service(q{SELECT grownext.enqueue('work', run_at => clock_timestamp() + interval '0.2 s')});
is(finish_waiting($waiter), 't', 'and a job that becomes due');
sql(q{SELECT count(grownext.job_complete(id, lease_id)) FROM grownext.job_fetch('work', 10)});

# whoever waits does not keep the server from stopping
$waiter = start_waiting('work', '10 min');
until_true("SELECT ($waiting) = 1");
$node->stop('fast');
like(finish_waiting($waiter), qr/terminating connection/, 'a shutdown does not wait for it');
$node->start;

# --- two-phase commit ---

foreach my $call (q{count(*) FROM grownext.job_fetch('work')}, 'grownext.job_fail(0, 0, \'x\')', "grownext.job_complete_many('{}', '{}')")
{
	my ($rc, $out, $err) = $node->psql('app', "BEGIN; SELECT $call; PREPARE TRANSACTION 'x'");
	like($err, qr/cannot PREPARE a transaction that has called job_/, "not to be prepared: $call");
}
my ($rc, $out, $err) = $node->psql('app', "BEGIN; SAVEPOINT s; SELECT count(*) FROM grownext.job_fetch('work'); ROLLBACK TO s; SELECT grownext.enqueue('work'); PREPARE TRANSACTION 'x'");
is($err, '', 'one that was rolled back to a savepoint is');
$waiter = start_waiting('work', '10 min');
until_true("SELECT ($waiting) = 1");
$node->safe_psql('app', "COMMIT PREPARED 'x'");
is(finish_waiting($waiter), 't', 'and what a prepared transaction enqueued is found');
sql(q{SELECT count(grownext.job_complete(id, lease_id)) FROM grownext.job_fetch('work', 10)});

# --- a crash: what was handed out is on disk, with its lease ---

my $async = q{SET synchronous_commit = off;};
my $job = service("$async SELECT grownext.enqueue('work', '\"async\"')");
my $lost = service("$async SELECT grownext.enqueue('load', '{\"n\": 0}')");
($id, $lease) = split(/\|/, service("$async SELECT id, lease_id FROM grownext.job_fetch('work', 1, '1 h')"));
is($id, $job, 'a job that was committed asynchronously is handed out');
GrowNext::Queue::kill_postmaster($node);
is(sql("SELECT concat_ws(' ', state, attempt) FROM grownext.job_get($job)"), 'running 1', 'after a crash its worker still has it');
is(service(q{SELECT count(*) FROM grownext.job_fetch('work', 10)}), '0', 'nobody else gets it');
is(service("SELECT grownext.job_complete($id, $lease)"), 'succeeded', 'and the worker settles it');

# a job whose fetch has not been committed: its enqueuer's commit is on disk before the
# worker acts
$job = service("$async SELECT grownext.enqueue('work', '\"early\"')");
my $session = $node->background_psql('app');
is($session->query_safe(q{BEGIN; SELECT id FROM grownext.job_fetch('work')}), $job, 'a fetch that is not committed');
GrowNext::Queue::kill_postmaster($node);
eval { $session->quit };
is(sql("SELECT state FROM grownext.job_get($job)"), 'ready', 'its job is there after a crash, and ready again');
is(sql("SELECT attempt FROM grownext.job_get($job)"), '0', 'uncharged');
sql(q{SELECT grownext.queue_purge(q) FROM unnest('{work,load}'::text[]) AS q});

# --- a promotion, and a standby before it ---

$job = service(q{SELECT grownext.enqueue('work')});
($id, $lease) = split(/\|/, service(q{SELECT id, lease_id FROM grownext.job_fetch('work', 1, '1 h')}));
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
foreach my $call (q{SELECT grownext.job_fetch('work')}, "SELECT grownext.job_complete($id, $lease)", "SELECT grownext.job_extend('{$id}', '{$lease}', '1 h')", q{CALL grownext.job_wait('work', '1 s', NULL)})
{
	($rc, $out, $err) = $standby->psql('app', $call);
	like($err, qr/cannot execute job_\w+\(\) (in a read-only transaction|during recovery)/, "not on a standby: $call");
}
$standby->promote;
is($standby->safe_psql('app', q{SELECT count(*) FROM grownext.job_fetch('work')}), '0', 'a promoted server withholds what an outside worker has');
is($standby->safe_psql('app', "SELECT grownext.job_complete($id, $lease)"), 'succeeded', 'and takes its completion');
$standby->stop;
service("SELECT grownext.job_complete($id, $lease)");

# --- without preload ---

$job = service(q{SELECT grownext.enqueue('work')});
($id, $lease) = split(/\|/, service(q{SELECT id, lease_id FROM grownext.job_fetch('work', 1, '1 h')}));
$node->stop;
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->start;
foreach my $call (q{SELECT grownext.job_fetch('work')}, q{CALL grownext.job_wait('work', '1 s', NULL)})
{
	($rc, $out, $err) = $node->psql('app', $call);
	like($err, qr/needs grownext in shared_preload_libraries/, "without preload: $call");
}
is(service("SELECT grownext.job_complete($id, $lease)"), 'succeeded', 'what was fetched before is settled');
$node->stop;
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'grownext'");
$node->start;

# --- killed at random: no job is lost, none takes effect twice ---

sql(<<'SQL');
CREATE TABLE app.effect (n int NOT NULL, worker int NOT NULL);
ALTER TABLE app.effect OWNER TO queue_app;
SQL
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
-- a worker of the kind that keeps its connection: takes a few jobs, writes the effect of
-- each with its completion, and is now and then too slow for its lease
CREATE PROCEDURE app.worker(name int) LANGUAGE plpgsql AS $$
DECLARE
    jobs grownext.job[];
    job grownext.job;
    ready boolean;
BEGIN
    LOOP
        CALL grownext.job_wait('load', '1 s', ready);
        SELECT array_agg(f) INTO jobs FROM grownext.job_fetch('load', 3, '300 ms', 'w' || name) AS f;
        COMMIT;
        FOREACH job IN ARRAY coalesce(jobs, '{}') LOOP
            PERFORM pg_sleep(CASE WHEN random() < 0.02 THEN 0.4 ELSE 0.005 * random() END);
            BEGIN
                INSERT INTO app.effect VALUES ((job.payload ->> 'n')::int, name);
                PERFORM grownext.job_complete(job.id, job.lease_id);
            EXCEPTION WHEN SQLSTATE 'NX031' THEN
                NULL; -- somebody else has it, and our effect is undone
            END;
            COMMIT;
        END LOOP;
    END LOOP;
END $$;
SQL
my $count = 150 * $rounds;
my $stop = $node->basedir . '/stop';
my @pids;
foreach my $name (1 .. 4)
{
	my $pid = fork();
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open(STDOUT, '>', '/dev/null');
		open(STDERR, '>', '/dev/null');
		while (!-e $stop)
		{
			system('psql', '-Xq', '-d', $node->connstr('app'), '-U', 'queue_app', '-c', "CALL app.worker($name)");
			sleep(0.1);
		}
		exec('true');
	}
	push @pids, $pid;
}
# whatever happens here, the workers end; they leave by exec and do not come along here
END { append_to_file($stop, '') if defined $stop; }

my %killed;
my $n = 0;
for my $round (1 .. $rounds)
{
	GrowNext::Queue::until_true($node, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'CALL app.worker%')");
	service("SELECT cardinality(grownext.enqueue_many('load', ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series($n + 1, $n + 150) AS n)))");
	$n += 150;
	sleep(0.1 + rand(0.5));
	if ($round % 4 == 0)
	{
		GrowNext::Queue::kill_postmaster($node);
		$killed{postmaster}++;
		next;
	}
	my $pid = $node->safe_psql('app', q{SELECT pid FROM pg_stat_activity WHERE query LIKE 'CALL app.worker%' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1});
	next unless $pid =~ /^\d+$/;
	if ($round % 4 == 2)
	{
		sql("SELECT pg_terminate_backend($pid)");
		$killed{connection}++;
		next;
	}
	my $launcher = $node->safe_psql('app', q{SELECT pid FROM grownext.workers() WHERE worker = 'launcher'});
	$killed{backend}++ if kill('KILL', $pid);
	until_true("SELECT EXISTS (SELECT FROM grownext.workers() WHERE worker = 'launcher' AND pid <> $launcher)");
}
until_true(q{SELECT count(*) = 0 FROM _grownext.queue_job WHERE queue = 'load'});
append_to_file($stop, '');
# a server without workers' sessions
sql(q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'CALL app.worker%' AND pid <> pg_backend_pid()});
waitpid($_, 0) foreach @pids;
note('killed: ' . join(', ', map { "$_ $killed{$_} times" } sort keys %killed));
note(sql(q{SELECT count(*) || ' attempts were lost' FROM _grownext.queue_done AS d, jsonb_array_elements(d.attempts) AS a WHERE a ->> 'error' = 'lease expired'}));
cmp_ok(scalar(keys %killed), '==', 3, 'connections, backends and the postmaster were killed');
is(sql('SELECT count(*) FROM app.effect'), $count, 'every job took effect, once');
is(sql('SELECT count(DISTINCT n) FROM app.effect'), $count, 'each its own');
is(sql(q{SELECT count(*) FROM _grownext.queue_done WHERE queue = 'load' AND state = 'succeeded'}), $count, 'each has its outcome');
is(sql('SELECT count(*) FROM _grownext.queue_dead'), '0', 'none is dead');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:|terminated by signal (?!9)/, 'nothing crashed but what was killed');
$node->stop;
done_testing();
