# What a job does takes effect exactly once, whatever is killed and when: executors and the
# postmaster are killed at random moments while jobs come in and run, and then counted.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $rounds = $ENV{GN_KILLS} || 20;
my $node = GrowNext::Queue::new_node('main', "restart_after_crash = on\ngrownext.executors = 3\n");

GrowNext::Queue::sql($node, <<'SQL');
CREATE TABLE app.wanted (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
CREATE TABLE app.effect (n bigint NOT NULL, job bigint NOT NULL, attempt int NOT NULL, deferred boolean NOT NULL);
ALTER TABLE app.wanted OWNER TO queue_app;
ALTER TABLE app.effect OWNER TO queue_app;
GRANT USAGE ON SCHEMA app TO queue_service;
GRANT INSERT, SELECT ON app.wanted TO queue_service;
SELECT grownext.queue_define('load', '{"backoff_base": "20 ms", "backoff_cap": "100 ms"}');
SELECT grownext.queue_grant('load', 'queue_app', 'work');
SQL

# The effect is written in three places of the job's transaction: by the handler, by the
# handler after a wait, and by a deferred trigger at commit. Some jobs fail first.
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE FUNCTION app.at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT NEW.deferred THEN
        INSERT INTO app.effect VALUES (NEW.n, NEW.job, NEW.attempt, true);
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER effect_at_commit AFTER INSERT ON app.effect DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION app.at_commit();
CREATE FUNCTION app.work(job grownext.job) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    n CONSTANT bigint := (job).payload ->> 'n';
BEGIN
    INSERT INTO app.effect VALUES (n, (job).id, (job).attempt, false);
    IF n % 7 = 0 AND (job).attempt = 1 THEN
        RAISE EXCEPTION 'not at the first attempt';
    ELSIF n % 11 = 0 THEN
        PERFORM pg_sleep(0.05);
    END IF;
    RETURN (job).payload;
END $$;
SELECT grownext.queue_handle('load', 'app.work(grownext.job)');
SQL

# Producers that never give up: one job in five is rolled back, one in five to a savepoint.
my $script = $node->basedir . '/produce.sql';
append_to_file($script, <<'SQL');
\set fate random(1, 5)
BEGIN;
\if :fate = 2
SAVEPOINT s;
SELECT grownext.enqueue('load', '{"n": -1}');
ROLLBACK TO s;
\endif
INSERT INTO app.wanted DEFAULT VALUES RETURNING n \gset
SELECT grownext.enqueue('load', jsonb_build_object('n', :n));
\if :fate = 1
ROLLBACK;
\else
COMMIT;
\endif
SQL
my $stop = $node->basedir . '/stop';
my $producer = fork();
die "fork: $!" unless defined $producer;
if ($producer == 0)
{
	open(STDOUT, '>', '/dev/null');
	open(STDERR, '>', '/dev/null');
	while (!-e $stop)
	{
		system('pgbench', '-n', '-c', '2', '-R', '150', '-T', '1', '-h', $node->host, '-p', $node->port,
			'-U', 'queue_service', '-f', $script, 'app');
		sleep(0.05);
	}
	exec('true');
}

# whatever happens here, the producer ends; it leaves by exec and does not come along here
END
{
	append_to_file($stop, '') if defined $stop;
}

my %killed;
for my $round (1 .. $rounds)
{
	GrowNext::Queue::until_true($node, "SELECT count(*) > 5 FROM _grownext.queue_done WHERE finished_at > pg_postmaster_start_time()");
	sleep(0.1 + rand(0.7));
	if ($round % 4 == 0)
	{
		GrowNext::Queue::kill_postmaster($node);
		$killed{postmaster}++;
		next;
	}
	my $what = $round % 4 == 3 ? 'scheduler' : 'executor';
	my $started = $node->safe_psql('app', "SELECT pid FROM grownext.workers() WHERE worker = '$what' AND database = 'app' AND pid IS NOT NULL ORDER BY random() LIMIT 1");
	my $launcher = $node->safe_psql('app', "SELECT pid FROM grownext.workers() WHERE worker = 'launcher'");
	next unless $started =~ /^\d+$/;
	$killed{$what}++ if kill('KILL', $started);
	# the crash of one process takes all others along; another launcher is there when that is over
	GrowNext::Queue::until_true($node, "SELECT EXISTS (SELECT FROM grownext.workers() WHERE worker = 'launcher' AND pid <> $launcher)");
}
append_to_file($stop, '');
waitpid($producer, 0);
note('killed: ' . join(', ', map { "$_ $killed{$_} times" } sort keys %killed));

GrowNext::Queue::until_true($node, 'SELECT count(*) = 0 FROM _grownext.queue_job');
my $count = GrowNext::Queue::sql($node, 'SELECT count(*) FROM app.wanted');
note("$count jobs were committed");
cmp_ok($count, '>', 100, 'there were jobs');
cmp_ok(($killed{executor} || 0) + ($killed{scheduler} || 0), '>', $rounds / 2, 'workers were killed');
is($killed{postmaster}, int($rounds / 4), 'the postmaster was killed');
is( GrowNext::Queue::sql($node, 'SELECT count(*) FROM app.wanted AS w WHERE NOT EXISTS (SELECT FROM app.effect AS e WHERE e.n = w.n AND NOT e.deferred)'),
	'0', 'no job is lost');
is( GrowNext::Queue::sql($node, 'SELECT count(*) FROM (SELECT n FROM app.effect GROUP BY n, deferred HAVING count(*) > 1) AS twice'),
	'0', 'no effect is doubled');
is( GrowNext::Queue::sql($node, 'SELECT count(*) FROM app.wanted AS w WHERE NOT EXISTS (SELECT FROM app.effect AS e WHERE e.n = w.n AND e.deferred)'),
	'0', 'what a deferred trigger did is neither');
is( GrowNext::Queue::sql($node, 'SELECT count(*) FROM app.effect AS e WHERE NOT EXISTS (SELECT FROM app.wanted AS w WHERE w.n = e.n)'),
	'0', 'what was rolled back never ran');
is( GrowNext::Queue::sql($node, "SELECT count(*) FROM app.wanted AS w WHERE (SELECT count(*) FROM _grownext.queue_done AS d JOIN app.effect AS e ON e.job = d.id AND NOT e.deferred WHERE e.n = w.n AND d.state = 'succeeded') <> 1"),
	'0', 'each job has one outcome');
is( GrowNext::Queue::sql($node, "SELECT count(*) FROM app.effect AS e WHERE NOT e.deferred AND e.attempt <> (SELECT d.failures + 1 FROM _grownext.queue_done AS d WHERE d.id = e.job)"),
	'0', 'the attempt that took effect is the last one');
is(GrowNext::Queue::sql($node, 'SELECT count(*) FROM _grownext.queue_dead'), '0', 'nothing died of a kill');
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:|terminated by signal (?!9)/, 'nothing else crashed');

$node->stop;
done_testing();
