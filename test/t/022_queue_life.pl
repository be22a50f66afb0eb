# When jobs run and when they wait: limits, order, pause, fence, kill, dump, no preload.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Queue::new_node('main', "restart_after_crash = on\ngrownext.executors = 4\n");

sub sql { return GrowNext::Queue::sql($node, shift); }
sub service { return GrowNext::Queue::as($node, 'queue_service', shift); }
sub until_true { return GrowNext::Queue::until_true($node, shift); }

GrowNext::Queue::as($node, 'queue_admin', <<'SQL');
SELECT grownext.queue_define('limited', '{"concurrency": 2}');
SELECT grownext.queue_define('ordered', '{"ordered": true, "backoff_base": "10 ms", "backoff_cap": "10 ms"}');
SELECT grownext.queue_define('slow', '{"timeout": "1 h", "max_attempts": 2}');
SELECT grownext.queue_define('quick');
SELECT grownext.queue_grant(q, 'queue_app', 'work') FROM unnest('{limited,ordered,slow,quick}'::text[]) AS q;
SQL
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE TABLE app.ran (queue text, n int, grp text, began timestamptz, ended timestamptz);
CREATE FUNCTION app.work(job grownext.job) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    began CONSTANT timestamptz := clock_timestamp();
BEGIN
    PERFORM pg_sleep(coalesce(((job).payload ->> 'sleep')::float8, 0));
    IF ((job).payload ->> 'failures')::int >= (job).attempt THEN
        RAISE EXCEPTION 'as ordered';
    END IF;
    INSERT INTO app.ran VALUES ((job).queue, ((job).payload ->> 'n')::int, (job).group_key, began, clock_timestamp());
END $$;
SELECT grownext.queue_handle(q, 'app.work(grownext.job)') FROM unnest('{limited,ordered,slow,quick}'::text[]) AS q;
SQL

# --- concurrency ---

service(q{SELECT grownext.enqueue('limited', '{"sleep": 0.03}') FROM generate_series(1, 30)});
service(q{SELECT grownext.enqueue('quick', '{"sleep": 0.01}') FROM generate_series(1, 10)});
until_true(q{SELECT count(*) = 40 FROM app.ran WHERE queue IN ('limited', 'quick')});
is( sql(q{SELECT max((SELECT count(*) FROM app.ran AS o WHERE o.queue = 'limited' AND o.began <= r.began AND o.ended > r.began)) FROM app.ran AS r WHERE r.queue = 'limited'}),
	'2', 'of a queue with concurrency 2, two jobs run at a time');

# --- order ---

service(q{SELECT grownext.enqueue_many('ordered', array_agg(jsonb_build_object('n', n, 'sleep', 0.002 * (n % 3), 'failures', CASE WHEN n % 10 = 0 THEN 2 ELSE 0 END) ORDER BY n),
	group_keys => array_agg((n % 4)::text ORDER BY n)) FROM generate_series(1, 60) AS n});
until_true(q{SELECT count(*) = 60 FROM app.ran WHERE queue = 'ordered'});
is( sql(q{SELECT count(*) FROM app.ran AS a JOIN app.ran AS b USING (queue, grp) WHERE queue = 'ordered' AND a.n < b.n AND a.ended > b.began}),
	'0', 'within a group of an ordered queue jobs run one by one, in order, over failures');
cmp_ok(sql(q{SELECT count(*) FROM app.ran AS a JOIN app.ran AS b USING (queue) WHERE queue = 'ordered' AND a.grp <> b.grp AND a.n < b.n AND a.ended > b.began}),
	'>', 0, 'and groups run beside each other');

# --- a running job is seen; killed, it is ready again and not charged ---

my $slow = service(q{SELECT grownext.enqueue('slow', '{"sleep": 600, "n": 1}')});
until_true("SELECT (grownext.job_get($slow)).state = 'running'");
is(sql(q{SELECT ready || ' ' || running FROM grownext.queue_stats('slow')}), '0 1', 'figures count it as running');
is(service("SELECT grownext.enqueue('slow', unique_key => 'k') > 0"), 't', 'others come in');
my ($rc, $out, $err) = $node->psql('app', q{SELECT grownext.queue_drop('slow')});
like($err, qr/still has \d jobs/, 'its queue is not dropped');
my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE query LIKE 'grownext job % of queue slow%' AND state = 'active'});
like($pid, qr/^\d+$/, 'pg_stat_activity says who runs it');
sql("SELECT pg_terminate_backend($pid)");
until_true("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
until_true("SELECT (grownext.job_get($slow)).state = 'running'");
is(sql("SELECT attempt || ' ' || attempts FROM grownext.job_get($slow)"), '1 []', 'a terminated executor charges nothing');
$pid = sql(q{SELECT pid FROM pg_stat_activity WHERE query LIKE 'grownext job % of queue slow%' AND state = 'active'});
kill('KILL', $pid);
$node->poll_query_until('app', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
until_true("SELECT (grownext.job_get($slow)).state = 'running'");
is(sql("SELECT attempt || ' ' || attempts FROM grownext.job_get($slow)"), '1 []', 'nor does a killed one');
sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'grownext job % of queue slow%' AND state = 'active'});
until_true("SELECT (grownext.job_get($slow)).state = 'scheduled'");
is(sql("SELECT last_error FROM grownext.job_get($slow)"), '57014: canceling statement due to user request', 'pg_cancel_backend ends the attempt');
is(service("SELECT grownext.job_cancel($slow)"), 't', 'between attempts it is cancelled');

# --- a handler that frees every advisory lock breaks nothing ---

GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE OR REPLACE FUNCTION app.unlock(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_unlock_all();
    PERFORM pg_sleep(0.3);
    INSERT INTO app.ran VALUES ('unlock', (payload ->> 'n')::int);
    IF payload ? 'fail' AND (grownext.current_job()).attempt = 1 THEN
        RAISE EXCEPTION 'as ordered';
    END IF;
END $$;
SELECT grownext.queue_handle('ordered', 'app.unlock(jsonb)');
SQL
my $unlock = service(q{SELECT grownext.enqueue('ordered', '{"n": 1, "fail": true}')});
until_true("SELECT (grownext.job_get($unlock)).state = 'running'");
is(GrowNext::Queue::settle($node, $unlock), 'succeeded', 'a handler frees all advisory locks');
is(sql(q{SELECT count(*) FROM app.ran WHERE queue = 'unlock'}), '1', 'and runs exactly once all the same');

# --- pause ---

sql(q{SELECT grownext.queue_pause('quick')});
my $paused = service(q{SELECT grownext.enqueue('quick', '{"n": 1}')});
my $other = service(q{SELECT grownext.enqueue('limited', '{"n": 2}')});
GrowNext::Queue::settle($node, $other);
is(sql("SELECT (grownext.job_get($paused)).state"), 'ready', 'a paused queue starts nothing');
is( sql(q{SELECT state || ': ' || hint FROM grownext.status() WHERE component = 'queue' AND item = 'quick'}),
	q{degraded: SELECT grownext.queue_resume('quick');}, 'status says so and how to end it');
sql(q{SELECT grownext.queue_resume('quick')});
is(GrowNext::Queue::settle($node, $paused), 'succeeded', 'a resumed queue goes on');

# --- fence ---

sql(q{SELECT grownext.fence('test')});
my $fenced = service(q{SELECT grownext.enqueue('quick', '{"n": 3}')});
until_true(q{SELECT count(*) = 0 FROM grownext.workers() WHERE worker = 'executor' AND database = 'app' AND pid IS NOT NULL});
is(sql("SELECT (grownext.job_get($fenced)).state"), 'ready', 'a fenced database takes jobs and runs none');
sql(q{SELECT grownext.unfence('test', pending => 'skip')});
is(sql("SELECT state || ', ' || last_error FROM grownext.job_get($fenced)"), 'cancelled, skipped by unfence()', 'what waited can be skipped');
my $after = service(q{SELECT grownext.enqueue('quick', '{"n": 4}')});
is(GrowNext::Queue::settle($node, $after), 'succeeded', 'an unfenced database goes on');

# --- dump and restore ---

sql(q{SELECT grownext.queue_pause('limited')});
my $ready = service(q{SELECT grownext.enqueue('limited', '{"n": 1005}', unique_key => 'd', tenant_id => '33333333-3333-4333-8333-333333333333')});
my $later = service(q{SELECT grownext.enqueue('quick', '{"n": 6}', run_at => now() + interval '1 h')});
my $dead = service(q{SELECT grownext.enqueue('slow', '{"failures": 9}', max_attempts => 1)});
GrowNext::Queue::settle($node, $dead);
GrowNext::Queue::as($node, 'queue_admin', q{SELECT grownext.event_route('x.happened', 'quick')});
my $dump = $node->basedir . '/app.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('app') ], 'a database with jobs is dumped');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '-1', '-d', $node->connstr('copy'), $dump ], 'and restored');
is( $node->safe_psql('copy', "SELECT string_agg((grownext.job_get(j)).state, ' ') FROM unnest(ARRAY[$ready, $later, $dead, $after]) AS j"),
	'ready scheduled dead succeeded', 'every job is where it was');
is( $node->safe_psql('copy', q{SELECT count(*) FROM grownext.queue WHERE handler IS NOT NULL}),
	sql(q{SELECT count(*) FROM grownext.queue WHERE handler IS NOT NULL}), 'every queue has its handler');
cmp_ok($node->safe_psql('copy', q{SELECT grownext.enqueue('quick')}), '>', $dead, 'ids go on');
$node->safe_psql('copy', q{SELECT grownext.queue_resume('limited'); SELECT grownext.job_redrive('slow')});
is($node->safe_psql('copy', "SELECT (grownext.job_get($ready)).state"), 'ready', 'nothing runs in the copy');
$node->safe_psql('copy', q{SELECT grownext.unfence('test', pending => 'keep')});
$node->poll_query_until('copy', "SELECT (grownext.job_get($ready)).state = 'succeeded'") or die;
is($node->safe_psql('copy', 'SELECT count(*) FROM app.ran WHERE n = 1005'), '1', 'until it is told to');
is(sql('SELECT count(*) FROM app.ran WHERE n = 1005'), '0', 'and the original is not touched');
$node->safe_psql('postgres', 'DROP DATABASE copy');

# --- without preload ---

$node->stop;
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->start;
my $waiting = service(q{SELECT grownext.enqueue('quick', '{"n": 7}')});
is(sql("SELECT (grownext.job_get($waiting)).state"), 'ready', 'without preload jobs come in and wait');
is( sql(q{SELECT state || ': ' || detail FROM grownext.status() WHERE component = 'queue' AND item = 'executors'}),
	'degraded: enqueue works and rows wait; no handler runs', 'and status says so');
$node->stop;
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'grownext'");
$node->start;
is(GrowNext::Queue::settle($node, $waiting), 'succeeded', 'with preload they run');

$node->stop;
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:/, 'nothing crashed but what was killed');
done_testing();
