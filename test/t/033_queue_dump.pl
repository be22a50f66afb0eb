# A database is dumped while jobs come in and run. Every job that was pending at the dump's
# snapshot is in the dump, every outcome is there with its effect, and nothing else is; in
# the copy the pending ones run, once they are told to.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = GrowNext::Queue::new_node('dump', "grownext.executors = 3\nmax_prepared_transactions = 4\n");

sub sql { return GrowNext::Queue::sql($node, shift); }

sql(<<'SQL');
CREATE TABLE app.wanted (job bigint PRIMARY KEY);
CREATE TABLE app.effect (job bigint NOT NULL);
CREATE INDEX ON app.effect (job);
GRANT USAGE ON SCHEMA app TO queue_service;
GRANT INSERT, SELECT ON app.wanted, app.effect TO queue_service, queue_app;
SELECT grownext.queue_define(q, '{"backoff_base": "20 ms", "backoff_cap": "100 ms"}') FROM unnest('{load,held,outside}'::text[]) AS q;
SELECT grownext.queue_grant(q, 'queue_app', 'work') FROM unnest('{load,held}'::text[]) AS q;
SELECT grownext.queue_pause('held');
SQL
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE FUNCTION app.work(job grownext.job) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.effect VALUES ((job).id);
    IF (job).id % 7 = 0 AND (job).attempt = 1 THEN
        RAISE EXCEPTION 'not at the first attempt';
    END IF;
    PERFORM pg_sleep(0.005 * ((job).id % 5 / 4));
END $$;
SELECT grownext.queue_handle(q, 'app.work(grownext.job)') FROM unnest('{load,held}'::text[]) AS q;
SQL

# Jobs that run at once, scheduled ones, those of a paused queue, bulk, leases.
my $script = $node->basedir . '/produce.sql';
append_to_file($script, <<'SQL');
\set kind random(1, 20)
BEGIN;
\if :kind = 1
INSERT INTO app.wanted SELECT grownext.enqueue('load', '{"later": true}', run_at => now() + interval '1 hour');
\elif :kind <= 3
INSERT INTO app.wanted SELECT grownext.enqueue('held', priority => :kind);
\elif :kind <= 5
INSERT INTO app.wanted SELECT unnest(grownext.enqueue_many('load', array_fill('{}'::jsonb, ARRAY[30])));
\elif :kind <= 8
INSERT INTO app.wanted SELECT grownext.enqueue('outside') FROM generate_series(1, 3);
\elif :kind <= 10
INSERT INTO app.effect SELECT unnest(grownext.job_complete_many(array_agg(f.id), array_agg(f.lease_id))) FROM grownext.job_fetch('outside', 2, '1 h') AS f;
\elif :kind = 11
SELECT count(*) FROM grownext.job_fetch('outside', 1, '1 h');
\else
INSERT INTO app.wanted SELECT grownext.enqueue('load');
\endif
COMMIT;
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
		system('pgbench', '-n', '-c', '3', '-R', '60', '-T', '1', '-h', $node->host, '-p', $node->port, '-U', 'queue_service', '-f', $script, 'app');
	}
	exec('true');
}
END
{
	append_to_file($stop, '') if defined $stop;
}

# what is pending, and in how many ways the rest ended
my $pending = "SELECT string_agg(format('%s %s', l.queue, l.id), ', ' ORDER BY l.id) FROM _grownext.queue_live AS l";
my $wrong = <<'SQL';
SELECT w.job, s.state, e.effects FROM app.wanted AS w
  LEFT JOIN LATERAL grownext.job_get(w.job) AS s ON true
 CROSS JOIN LATERAL (SELECT count(*) AS effects FROM app.effect AS x WHERE x.job = w.job) AS e
 WHERE s.state IS NULL OR e.effects <> (s.state = 'succeeded')::int ORDER BY 1 LIMIT 5
SQL

# the number of jobs that came and went while a dump was made
my $moved = 0;
for my $round (1 .. 2)
{
	GrowNext::Queue::until_true($node, "SELECT count(*) > $round * 60 FROM _grownext.queue_done");
	my $file = $node->basedir . "/round$round.dump";
	my $holder = $node->background_psql('app');
	$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $snapshot = $holder->query_safe('SELECT pg_export_snapshot()');
	my $ids = $holder->query_safe($pending);
	my $before = sql('SELECT count(*) FROM _grownext.queue_done');
	# the snapshot is old when the dump begins, and executors go on all the while
	GrowNext::Queue::until_true($node, "SELECT count(*) > $before + 20 FROM _grownext.queue_done");
	$node->command_ok([ 'pg_dump', '-Fc', "--snapshot=$snapshot", '-f', $file, '-d', $node->connstr('app') ], "round $round: pg_dump under load");
	$moved += sql('SELECT count(*) FROM _grownext.queue_done') - $before;
	is($holder->query_safe($pending), $ids, "round $round: the snapshot shows the same jobs still");
	$holder->query_safe('COMMIT');
	$holder->quit;
	$node->safe_psql('postgres', "CREATE DATABASE round$round");
	$node->command_ok([ 'pg_restore', '-1', '-d', $node->connstr("round$round"), $file ], "round $round: restored");
	is($node->safe_psql("round$round", $pending), $ids, "round $round: every job that was pending is in it, and no other");
	isnt($ids, '', "round $round: there were some");
	is($node->safe_psql("round$round", $wrong), '', "round $round: each job has its outcome and effect, or neither");
	is($node->safe_psql("round$round", 'SELECT count(*) FROM (SELECT id FROM _grownext.queue_live UNION ALL SELECT id FROM _grownext.queue_done UNION ALL SELECT id FROM _grownext.queue_dead) AS j WHERE NOT EXISTS (SELECT FROM app.wanted AS w WHERE w.job = j.id)'),
		'0', "round $round: and there is none that nobody wanted");
}
append_to_file($stop, '');
waitpid($producer, 0);
cmp_ok($moved, '>', 40, "$moved jobs ended between the snapshots and the ends of the dumps");

# The original has lost nothing by it. What still runs would be seen by job_get(), and its
# effect not by the query.
GrowNext::Queue::until_true($node, q{SELECT s.ready + s.running = 0 FROM grownext.queue_stats('load') AS s});
is(sql($wrong), '', 'in the original, too');

# Unarmed until told; then all that is due runs.
is($node->safe_psql('round2', "SELECT count(*) FROM grownext.workers() WHERE database = 'round2' AND worker = 'executor'"), '0', 'no executor serves a copy');
$node->safe_psql('round2', "SELECT grownext.queue_resume('held'); SELECT grownext.unfence('test')");
$node->poll_query_until('round2', "SELECT count(*) = 0 FROM _grownext.queue_live AS l WHERE l.queue IN ('load', 'held') AND l.run_at <= now()") or die;
is($node->safe_psql('round2', $wrong), '', 'until unfence(); then the pending ones run, each once');
is($node->safe_psql('round2', "SELECT count(*) > 0 FROM _grownext.queue_live WHERE queue = 'load' AND state = 'scheduled'"), 't', 'and what is scheduled waits for its time');
$node->stop;
done_testing();
