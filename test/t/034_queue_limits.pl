# What happens at the limits of a queue: a handler that is gone or may not be called, all
# executors busy, a clock that is set back, a queue that is dropped with jobs in flight, a
# payload that is too large.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Queue::new_node('limits', "grownext.executors = 1\n");

sub sql { return GrowNext::Queue::sql($node, shift); }
sub app { return GrowNext::Queue::as($node, 'queue_app', shift); }
sub service { return GrowNext::Queue::as($node, 'queue_service', shift); }
sub until_true { return GrowNext::Queue::until_true($node, shift); }
sub error_of { my ($rc, $out, $err) = $node->psql('app', shift); return $err; }

sql(<<'SQL');
SELECT grownext.queue_define(q, '{"backoff_base": "1 h", "backoff_cap": "1 h"}') FROM unnest('{work,outside}'::text[]) AS q;
SELECT grownext.queue_grant('work', 'queue_app', 'work');
SQL
app(<<'SQL');
CREATE TABLE app.ran (n int, at timestamptz);
CREATE FUNCTION app.work(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(coalesce((payload ->> 'sleep')::float8, 0));
    INSERT INTO app.ran VALUES ((payload ->> 'n')::int, clock_timestamp());
END $$;
SELECT grownext.queue_handle('work', 'app.work(jsonb)');
SQL

# --- a handler that cannot run costs the attempt, says why, and the next one runs ---

my $n = 0;
for my $case (
	[ 'is dropped', 'ALTER FUNCTION app.work(jsonb) RENAME TO gone', 'ALTER FUNCTION app.gone(jsonb) RENAME TO work',
		'42883: handler app.work of queue "work" does not exist' ],
	[ 'is somebody else\'s', 'ALTER FUNCTION app.work(jsonb) OWNER TO queue_other', 'ALTER FUNCTION app.work(jsonb) OWNER TO queue_app',
		'42501: handler app.work of queue "work" is not owned by role "queue_app"' ],
	[ 'may not be executed', 'REVOKE EXECUTE ON FUNCTION app.work(jsonb) FROM PUBLIC, queue_app', 'GRANT EXECUTE ON FUNCTION app.work(jsonb) TO queue_app',
		'42501: role "queue_app" may not execute handler app.work of queue "work"' ],
	[ 'may not write its table', 'ALTER TABLE app.ran OWNER TO queue_other', 'ALTER TABLE app.ran OWNER TO queue_app', '42501: permission denied for table ran' ],
	[ 'has a role that is gone', 'ALTER ROLE queue_app RENAME TO queue_gone', 'ALTER ROLE queue_gone RENAME TO queue_app',
		'42704: role "queue_app", which works queue "work", does not exist' ])
{
	my ($name, $break, $mend, $error) = @$case;
	$n++;
	sql($break);
	my $job = service(qq{SELECT grownext.enqueue('work', '{"n": $n}')});
	until_true("SELECT (grownext.job_get($job)).last_error IS NOT NULL");
	is(sql("SELECT state, last_error, jsonb_array_length(attempts) FROM grownext.job_get($job)"), "scheduled|$error|1", "a handler that $name: the attempt fails and says so");
	sql($mend);
	$job = service(qq{SELECT grownext.enqueue('work', '{"n": $n}')});
	is(GrowNext::Queue::settle($node, $job), 'succeeded', 'and once that is mended, jobs run');
}
sql(q{SELECT grownext.queue_purge('work')});

# --- all executors are busy ---

my $long = service(q{SELECT grownext.enqueue('work', '{"n": 100, "sleep": 600}')});
until_true("SELECT (grownext.job_get($long)).state = 'running'");
my $next = service(q{SELECT grownext.enqueue('work', '{"n": 101}')});
is(sql("SELECT (grownext.job_get($next)).state"), 'ready', 'when all executors are busy a job waits');
is(sql(q{SELECT ready, running, oldest_ready_age > '0' FROM grownext.queue_stats('work')}), '1|1|t', 'the figures show it');
is(sql(q{SET grownext.test_clock = '2100-01-01'; SELECT state, hint FROM grownext.status() WHERE component = 'queue' AND item = 'work' AND detail LIKE 'the oldest ready job waits%'}),
	'degraded|See grownext.workers(); raise grownext.executors if they are all busy.', 'after five minutes status() says so, and what to do');
is(sql(q{SELECT count(*) FROM grownext.workers() WHERE worker = 'executor' AND database = 'app'}), '1', 'no more executors start than there may be');
service(qq{SELECT grownext.job_cancel($long)});
is(GrowNext::Queue::settle($node, $next), 'succeeded', 'it runs when one is free');
is(sql("SELECT attempt FROM grownext.job_get($next)"), '1', 'uncharged');

# --- the clock is set back ---

# What a session does whose clock is ahead looks to the executors and the scheduler, whose
# clock is right, as if theirs had been set back since.
my $ahead = "SET grownext.test_clock = '2100-01-01 12:00:00+00';";
my $ready = sql(qq{$ahead SELECT grownext.enqueue('work', '{"n": 200}')});
my $due = sql(qq{$ahead SELECT grownext.enqueue('work', '{"n": 201}', run_at => '2100-01-01 12:05:00+00')});
my $leased = sql(qq{$ahead SELECT grownext.enqueue('outside')});
my $lease = sql(qq{$ahead SELECT lease_id FROM grownext.job_fetch('outside', 1, '1 minute')});
is(GrowNext::Queue::settle($node, $ready), 'succeeded', 'what was ready when the clock was set back runs, though it comes from the future');
is(GrowNext::Queue::settle($node, service(q{SELECT grownext.enqueue('work', '{"n": 202}')})), 'succeeded', 'new jobs run');
sql('SELECT _grownext.queue_tick(now())');
is(sql("SELECT (grownext.job_get($due)).state"), 'scheduled', 'what is due later waits');
is(sql("SELECT (grownext.job_get($leased)).state"), 'running', 'a lease lasts longer');
is(sql("SELECT grownext.job_complete($leased, $lease)"), 'succeeded', 'and its job is completed');
is(sql("SELECT finished_at < enqueued_at, deadline_missed FROM grownext.job_get($ready)"), 't|f', 'the history has the times as the clock told them');
is(sql(q{SELECT min(least(wait_p50_ms, run_p50_ms)) >= 0 FROM grownext.queue_stats('work')}), 't', 'no figure is below zero');
sql("SELECT _grownext.queue_tick('2100-01-01 12:06:00+00')");
is(GrowNext::Queue::settle($node, $due), 'succeeded', 'when its time has come the scheduled one runs');
is(sql('SELECT n, count(*) FROM app.ran WHERE n >= 200 GROUP BY n ORDER BY n'), "200|1\n201|1\n202|1", 'each ran once');

# --- a queue is dropped with jobs in flight ---

sql(q{SELECT grownext.queue_pause('work')});
sql(q{SELECT grownext.enqueue('work')});
like(error_of(q{SELECT grownext.queue_drop('work')}), qr/ERROR:  queue "work" still has 1 jobs/, 'a queue with jobs is not dropped');
like(error_of(q{SELECT grownext.queue_drop('work')}), qr/HINT:.*queue_purge/s, 'and the hint says how');
sql(q{SELECT grownext.queue_purge('work')});
sql(q{SELECT grownext.enqueue('outside')});
$lease = sql(q{SELECT lease_id FROM grownext.job_fetch('outside', 1, '1 h')});
is(sql(q{SELECT grownext.queue_purge('outside')}), '0', 'a purge leaves what an outside worker has');
like(error_of(q{SELECT grownext.queue_drop('outside')}), qr/still has 1 jobs/, 'and a drop is refused');
is(sql(qq{SELECT grownext.job_complete(id, $lease) FROM _grownext.queue_live WHERE queue = 'outside'}), 'succeeded', 'until it is completed');
is(error_of(q{SELECT grownext.queue_drop('outside')}), '', 'then the queue goes');
like(error_of(q{SELECT grownext.enqueue('outside')}), qr/queue "outside" does not exist/, 'and nobody enqueues into it');

# --- payloads ---

sql(q{SELECT grownext.queue_resume('work')});
like(error_of(q{SELECT grownext.enqueue('work', to_jsonb(repeat('x', 1048576)))}), qr/ERROR:  payload of a job exceeds 1 MB/, 'a payload that is too large is refused');
like(error_of(q{SELECT grownext.enqueue_many('work', ARRAY['{}', to_jsonb(repeat('x', 1048576))])}), qr/ERROR:  payload of a job exceeds 1 MB/, 'one of many, too');
is(sql(q{SELECT count(*) FROM _grownext.queue_live}), '0', 'and then nothing was enqueued');
my $large = service(q{SELECT grownext.enqueue('work', jsonb_build_object('n', 300, 'x', repeat('x', 1048500)))});
is(GrowNext::Queue::settle($node, $large), 'succeeded', 'one of 1 MB runs');

$node->stop;
done_testing();
