# A job that runs is cancelled: its handler is interrupted, nobody else's is, and it is not
# tried again. And a handler tells how far it is.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = $ENV{GN_CANCELS} || 40;
my $node = GrowNext::Queue::new_node('main', "grownext.executors = 1\n");

sub sql { return GrowNext::Queue::sql($node, shift); }
sub service { return GrowNext::Queue::as($node, 'queue_service', shift); }
sub until_true { return GrowNext::Queue::until_true($node, shift); }

sql(q{SELECT grownext.queue_define('work', '{"backoff_base": "10 ms", "backoff_cap": "10 ms"}'); SELECT grownext.queue_grant('work', 'queue_app', 'work')});
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE TABLE app.ran (n int);
CREATE FUNCTION app.work(job grownext.job) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    payload CONSTANT jsonb := (job).payload;
BEGIN
    INSERT INTO app.ran VALUES ((payload ->> 'n')::int);
    IF payload ? 'report' THEN
        PERFORM grownext.job_progress((job).id, payload -> 'report');
    END IF;
    FOR i IN 1 .. coalesce((payload ->> 'stubborn')::int, 1) LOOP
        BEGIN
            PERFORM pg_sleep((payload ->> 'sleep')::float8);
        EXCEPTION WHEN query_canceled THEN
            IF NOT payload ? 'stubborn' THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END $$;
SELECT grownext.queue_handle('work', 'app.work(grownext.job)');
SQL

my $executor = q{SELECT pid FROM grownext.workers() WHERE worker = 'executor' AND database = 'app' AND pid IS NOT NULL};

# --- a running job ---

my $job = service(q{SELECT grownext.enqueue('work', '{"sleep": 600, "n": 1, "report": {"percent": 30}}')});
until_true("SELECT progress = '{\"percent\": 30}' FROM grownext.job_get($job)");
pass('progress is seen while the handler runs, before its transaction ends');
my $pid = sql($executor);
is(service("SELECT grownext.job_cancel($job)"), 't', 'a running job is cancelled');
is(GrowNext::Queue::settle($node, $job), 'cancelled', 'its handler is interrupted');
is(sql("SELECT concat_ws(' ', attempt, last_error, progress) FROM grownext.job_get($job)"), '0 cancelled by job_cancel()', 'it is not tried again, and progress is forgotten');
is(sql('SELECT count(*) FROM app.ran'), '0', 'what it did is rolled back');
is(sql($executor), $pid, 'its executor lives');
is(service("SELECT grownext.job_cancel($job)"), 'f', 'what is over is not cancelled');

# --- nothing happens before the commit ---

$job = service(q{SELECT grownext.enqueue('work', '{"sleep": 1, "n": 2}')});
until_true("SELECT (grownext.job_get($job)).state = 'running'");
service("BEGIN; SELECT grownext.job_cancel($job); ROLLBACK");
is(GrowNext::Queue::settle($node, $job), 'succeeded', 'a cancellation that is rolled back interrupts nothing');

# --- a handler that goes on ---

$job = service(q{SELECT grownext.enqueue('work', '{"sleep": 600, "stubborn": 1000, "n": 3}')});
until_true("SELECT (grownext.job_get($job)).state = 'running'");
is(service("SELECT grownext.job_cancel($job)"), 't', 'one that catches interrupts is cancelled');
is(GrowNext::Queue::settle($node, $job), 'cancelled', 'it is interrupted again, and then its process ends');
isnt(sql($executor), $pid, 'which was that of the others');
until_true('SELECT count(*) = 0 FROM _grownext.queue_cancel');
pass('no mark is left');

# --- the next job is never hit ---

my (@first, @second);
foreach my $round (1 .. $rounds)
{
	my $sleep = sprintf('%.4f', rand(0.03));
	push @first, service("SELECT grownext.enqueue('work', '{\"sleep\": $sleep, \"n\": 100}')");
	push @second, service("SELECT grownext.enqueue('work', '{\"sleep\": 0.01, \"n\": 200}')");
	service("SELECT grownext.job_cancel($first[-1])");
}
GrowNext::Queue::settle($node, $_) foreach @first, @second;
my %became;
$became{ sql("SELECT state FROM grownext.job_get($_)") }++ foreach @first;
note('cancelled at random: ' . join(', ', map { "$became{$_} $_" } sort keys %became));
is($became{succeeded} // 0, sql('SELECT count(*) FROM app.ran WHERE n = 100'), 'a cancelled job did nothing, the others succeeded once');
is(($became{cancelled} // 0) + ($became{succeeded} // 0), $rounds, 'nothing else became of any');
my $ids = join(',', @second);
is(sql("SELECT count(*) FROM unnest(ARRAY[$ids]) AS i, grownext.job_get(i) AS g WHERE g.state = 'succeeded' AND g.attempt = 1 AND g.last_error IS NULL"),
	$rounds, 'the jobs behind them were not touched');

# --- cancelled, and then the executor is killed ---

$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->reload;
$job = service(q{SELECT grownext.enqueue('work', '{"sleep": 600, "stubborn": 1000, "n": 4}')});
until_true("SELECT (grownext.job_get($job)).state = 'running'");
service("SELECT grownext.job_cancel($job)");
kill('KILL', sql($executor));
until_true("SELECT (grownext.job_get($job)).state = 'cancelled'");
is(sql('SELECT count(*) FROM app.ran WHERE n = 4'), '0', 'a cancellation survives a crash');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:/, 'nothing crashed but what was killed');
$node->stop;
done_testing();
