# What queues count: waits and runs, totals over time, SLAs and their events, the history
# of one job; what rolls back counts for nothing, and what was written down survives.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Queue::new_node('main', "grownext.queue_metrics = 10\n");

sub sql { return GrowNext::Queue::sql($node, shift); }
sub admin { return GrowNext::Queue::as($node, 'queue_admin', shift); }
sub until_true { return GrowNext::Queue::until_true($node, shift); }

# at(TIME, SQL): in a session whose clock stands
sub at
{
	my ($time, $sql) = @_;
	my $output = sql("SET grownext.test_clock = '2030-01-01 $time UTC';\n$sql");
	return $output;
}

# tick(TIME): the scheduler's pass at that time
sub tick { return at($_[0], qq{SELECT _grownext.queue_tick('2030-01-01 $_[0] UTC') IS NULL}); }

# work(QUEUE, COUNT, ENQUEUED, STARTED, ENDED, MORE): and MORE that wait already
sub work
{
	my ($queue, $count, $enqueued, $started, $ended, $more) = @_;

	at($enqueued, "SELECT count(grownext.enqueue('$queue')) FROM generate_series(1, $count)");
	$count += $more || 0;
	my @leases = split(/\n/, at($started, "SELECT id || ',' || lease_id FROM grownext.job_fetch('$queue', $count)"));
	my @ids = map { (split(/,/))[0] } @leases;
	my @lease_ids = map { (split(/,/))[1] } @leases;
	is(at($ended, sprintf(q{SELECT cardinality(grownext.job_complete_many('{%s}', '{%s}'))}, join(',', @ids), join(',', @lease_ids))),
		$count, "$count jobs of $queue done");
}

# --- executors ---

admin(q{SELECT grownext.queue_define('run', '{"backoff_base": "10 ms", "backoff_cap": "10 ms", "max_attempts": 2}');
	SELECT grownext.queue_grant('run', 'queue_app', 'work')});
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE FUNCTION app.work(job grownext.job) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(((job).payload ->> 'sleep')::float8);
    IF (job).payload ? 'fail' THEN
        RAISE EXCEPTION 'as ordered';
    END IF;
END $$;
SELECT grownext.queue_handle('run', 'app.work(grownext.job)');
SQL
my $slow = sql(q{SELECT grownext.enqueue('run', '{"sleep": 0.2}', deadline => now() + interval '0.1 s')});
is(GrowNext::Queue::settle($node, $slow), 'succeeded', 'a job runs');
my $failing = sql(q{SELECT grownext.enqueue('run', '{"sleep": 0, "fail": true}')});
is(GrowNext::Queue::settle($node, $failing), 'dead', 'another fails twice');

# what an executor does is counted when it is over, a moment after it is seen
until_true(q{SELECT sum(succeeded) = 1 AND sum(failed) = 2 FROM grownext.queue_history('run', bucket => '1 hour')});
is(sql(q{SELECT enqueued, started, succeeded, failed, dead, deadlines_missed FROM (
		SELECT sum(enqueued), sum(started), sum(succeeded), sum(failed), sum(dead), sum(deadlines_missed) FROM grownext.queue_history('run')) AS h (enqueued, started, succeeded, failed, dead, deadlines_missed)}),
	'2|3|1|2|1|1', 'attempts, outcomes and missed deadlines are counted');
is(sql(q{SELECT run_p99_ms BETWEEN 180 AND 2000, wait_p50_ms < 2000, sla_attained IS NULL, deadlines_missed FROM grownext.queue_stats('run')}), 't|t|t|1',
	'and timed; without an SLA nothing is attained');
is(sql("SELECT jsonb_path_query_array(attempts, '\$[*].attempt'), jsonb_path_query_array(attempts, '\$[*].worker'), attempts -> 1 ->> 'error' FROM grownext.job_get($failing)"),
	'[1, 2]|["executor", "executor"]|P0001: as ordered', 'both attempts of the dead one are there');
my $running = sql(q{SELECT grownext.enqueue('run', '{"sleep": 600}')});
until_true("SELECT (grownext.job_get($running)).state = 'running'");
is(sql("SELECT started_at > enqueued_at, worker, attempts FROM grownext.job_get($running)"), 't|executor|[]', 'of a running job it is seen since when and where it runs');
sql("SELECT grownext.job_cancel($running)");
is(GrowNext::Queue::settle($node, $running), 'cancelled', 'it is cancelled');
is(sql("SELECT attempts -> 0 ? 'started_at', attempts -> 0 ? 'cancelled_at', attempts -> 0 ->> 'error', attempts -> 0 ->> 'worker' FROM grownext.job_get($running)"),
	't|t|cancelled by job_cancel()|executor', 'and says so');

# --- workers outside; from here on nothing happens by itself ---

$node->append_conf('postgresql.conf', "grownext.mode = off\n");
$node->reload;
$node->poll_query_until('app', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'grownext%' AND datname = 'app'}) or die 'workers stay';

admin(q{SELECT grownext.queue_define('mail', '{"sla": {"start_within": "5 seconds", "target": 0.9, "window": "2 hours"}}');
	SELECT grownext.queue_define('events');
	SELECT grownext.event_route('queue.sla_missed', 'events');
	SELECT grownext.event_route('queue.sla_met', 'events')});
work('mail', 90, '00:00:00', '00:00:02', '00:00:02.5');
my $figures = q{SELECT round(wait_p50_ms::numeric, -2), round(run_p99_ms::numeric, -2), sla_target, sla_attained, enqueued_total, succeeded_total FROM grownext.queue_stats('mail')};
my $seen = at('00:00:30', $figures);
my ($wait, $run, @rest) = split(/\|/, $seen);
cmp_ok(abs($wait - 2000), '<=', 250, 'the wait of workers outside is an eighth off at most');
cmp_ok(abs($run - 500), '<=', 63, 'so is the run');
is(join('|', @rest), '0.9|1|90|90', 'all started in time');
is(sql(q{SELECT count(*) FROM _grownext.queue_history WHERE queue = 'mail'}), '0', 'nothing of it is written down');
tick('00:00:50');
is(sql(q{SELECT count(*) FROM _grownext.queue_history WHERE queue = 'mail'}), '0', 'nor is it within its minute');
sql(q{BEGIN; SET LOCAL grownext.test_clock = '2030-01-01 00:01:10 UTC'; SELECT _grownext.queue_tick('2030-01-01 00:01:10 UTC'); ROLLBACK});
is(at('00:01:10', $figures), $seen, 'a pass that rolls back loses nothing');
tick('00:01:10');
is(sql(q{SELECT at = '2030-01-01 00:00 UTC', seconds, enqueued, started, succeeded, within, late FROM _grownext.queue_history WHERE queue = 'mail'}),
	't|60|90|90|90|90|0', 'a pass in the next minute writes it down');
is(sql(q{SELECT count(*) FROM _grownext.queue_measured() WHERE queue = 'mail'}), '0', 'and takes it off the memory');
is(at('00:01:10', $figures), $seen, 'figures are as before');
$node->stop('immediate');
$node->start;
is(at('00:01:10', $figures), $seen, 'and so they are after a crash');

# --- what rolls back ---

at('00:02:00', <<'SQL');
BEGIN;
SELECT grownext.enqueue('mail');
SAVEPOINT a;
SELECT grownext.enqueue_many('mail', '{"{}", "{}"}');
SAVEPOINT b;
SELECT grownext.enqueue('mail');
RELEASE SAVEPOINT b;
ROLLBACK TO SAVEPOINT a;
SELECT grownext.enqueue('mail');
COMMIT;
BEGIN;
SELECT count(*) FROM grownext.job_fetch('mail', 10);
ROLLBACK;
SQL
is(sql(q{SELECT enqueued, started FROM _grownext.queue_measured() WHERE queue = 'mail'}), '2|0', 'what is rolled back is not counted, to a savepoint either');

# --- SLA ---

is(at('00:02:04', q{SELECT sla_attained FROM grownext.queue_stats('mail')}), '1', 'jobs that wait and are not late yet do not count');
is(at('00:02:10', q{SELECT sla_attained = 90 / 92.0 FROM grownext.queue_stats('mail')}), 't', 'those that are late do, though nothing starts');
work('mail', 9, '00:02:10', '00:02:16', '00:02:17', 2);
tick('00:03:00');
my $events = q{SELECT string_agg(payload ->> 'type', ' ' ORDER BY id) FROM _grownext.queue_job WHERE queue = 'events'};
is(at('00:03:00', q{SELECT enqueued, started, sla_within, sla_late FROM grownext.queue_history('mail', '2030-01-01 00:02 UTC', '2030-01-01 00:03 UTC')}),
	'11|11|0|11', 'late starts are counted');
is(at('00:03:00', q{SELECT round(sla_attained::numeric, 4) FROM grownext.queue_stats('mail')}), '0.8911', 'and lower what is attained');
is(sql($events), 'queue.sla_missed', 'an event is sent');
tick('00:04:00');
is(sql($events), 'queue.sla_missed', 'once');
is(sql(q{SELECT payload -> 'data' ->> 'queue', payload -> 'data' ->> 'target', payload -> 'data' ->> 'start_within' FROM _grownext.queue_job WHERE queue = 'events'}),
	'mail|0.9|00:00:05', 'with the terms');
like(at('00:04:00', q{SELECT state || ' ' || detail FROM grownext.status() WHERE item = 'mail' AND detail LIKE 'SLA%'}),
	qr/^degraded SLA missed: 89\.1\d* % of jobs started within 00:00:05, over 02:00:00; the target is 90 %$/, 'status says so');
work('mail', 20, '00:05:00', '00:05:01', '00:05:02');
tick('00:06:00');
is(sql($events), 'queue.sla_missed queue.sla_met', 'when it is attained again, another event is sent');
is(at('00:06:00', q{SELECT count(*) FROM grownext.status() WHERE item = 'mail' AND detail LIKE 'SLA%'}), '0', 'and status is silent');
admin(q{SELECT grownext.queue_define('mail', '{"sla": {"start_within": "1 second", "target": 0.9}}')});
is(at('00:06:00', q{SELECT sla_attained IS NULL FROM grownext.queue_stats('mail')}), 't', 'starts under other terms do not count');

# --- history ---

is(at('00:06:30', q{SELECT to_char(at AT TIME ZONE 'UTC', 'HH24:MI'), enqueued, started, succeeded, round(wait_p50_ms) BETWEEN 900 AND 1130, sla_within IS NULL
		FROM grownext.queue_history('mail', '2030-01-01 00:04:30 UTC') WHERE enqueued > 0}), '00:05|20|20|20|t|t', 'a bucket of history');
is(at('00:06:30', q{SELECT count(*), sum(enqueued) FROM grownext.queue_history('mail', '2030-01-01 00:00 UTC', bucket => '5 minutes')}), '2|121', 'buckets may be longer');
my $sums = q{SELECT sum(enqueued), sum(started), sum(succeeded), max(array_length(wait, 1)) > 0 FROM _grownext.queue_history WHERE queue = 'mail'};
my $before = sql($sums);
sql(q{SET grownext.test_clock = '2030-01-04 00:00 UTC'; SELECT _grownext.queue_tick('2030-01-04 00:00 UTC')});
is(sql($sums), $before, 'minutes that are old become hours, and nothing is lost');
is(sql(q{SELECT string_agg(DISTINCT seconds::text, ' ') FROM _grownext.queue_history WHERE queue = 'mail'}), '3600', 'all of them');
sql(q{SET grownext.test_clock = '2030-04-04 00:00 UTC'; SELECT _grownext.queue_tick('2030-04-04 00:00 UTC')});
is(sql(q{SELECT count(*) FROM _grownext.queue_history WHERE queue = 'mail'}), '0', 'after ninety days they go');

# --- one job's history, over a lease that lapsed ---

admin(q{SELECT grownext.queue_define('lease', '{"backoff_base": "1 s"}')});
my $job = at('01:00:00', q{SELECT grownext.enqueue('lease')});
at('01:00:01', q{SELECT count(*) FROM grownext.job_fetch('lease', 1, '10 s', 'first')});
at('01:00:12', q{SELECT _grownext.queue_lapse(100)});
at('01:01:00', q{SELECT _grownext.queue_promote('2030-01-01 01:01 UTC', 100)});
my $lease = at('01:01:01', q{SELECT lease_id FROM grownext.job_fetch('lease', 1, '10 s', 'second')});
at('01:01:02', "SELECT grownext.job_complete($job, $lease)");
is(sql("SET timezone = 'UTC'; SELECT attempts FROM grownext.job_get($job)"),
	'[{"error": "lease expired", "worker": "first", "attempt": 1, "failed_at": "2030-01-01T01:00:12+00:00", "started_at": "2030-01-01T01:00:01+00:00"}, '
	. '{"worker": "second", "attempt": 2, "started_at": "2030-01-01T01:01:01+00:00", "succeeded_at": "2030-01-01T01:01:02+00:00"}]',
	'each attempt, with its worker');

# --- a queue that is dropped, and more queues than are counted ---

admin(q{SELECT grownext.queue_drop('lease'); SELECT grownext.queue_define('lease')});
is(at('01:02:00', q{SELECT sum(enqueued) FROM grownext.queue_history('lease')}), '0', 'a dropped queue leaves no figures to the next of its name');
admin(q{SELECT grownext.queue_define('q' || n) FROM generate_series(1, 12) AS n});
at('02:00:00', q{SELECT grownext.enqueue('q' || n) FROM generate_series(1, 12) AS n});
is(at('02:00:00', q{SELECT count(*) FROM _grownext.queue_measured()}), '10', 'no more queues are counted than the setting allows');
like(at('02:00:00', q{SELECT state || ' ' || detail FROM grownext.status() WHERE item = 'metrics'}), qr/^degraded \d+ times were not counted/, 'and status says so');
tick('02:01:00');
at('02:01:00', q{SELECT grownext.enqueue('q' || n) FROM generate_series(11, 12) AS n});
is(sql(q{SELECT string_agg(queue, ' ' ORDER BY queue) FROM _grownext.queue_measured()}), 'q11 q12', 'places of what is written down are free for others');

# --- without preload ---

work('mail', 3, '02:01:00', '02:01:01', '02:01:02');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
is(sql(q{SELECT count(*) > 10, bool_or(wait_p50_ms IS NOT NULL) FROM grownext.queue_stats()}), 't|t', 'without preload, times are those of the outcomes');
is(sql(q{SELECT sum(enqueued) FROM grownext.queue_history('q1', '2030-01-01 01:00 UTC', '2030-01-01 03:00 UTC')}), '1', 'and the history is what was written down');

done_testing();
