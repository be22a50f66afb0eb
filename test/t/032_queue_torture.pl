# Executors and postmasters are killed at random under every kind of load: single and bulk
# enqueues, rollbacks, savepoints, prepared transactions, handlers that fail, retries, dead
# letters, workers outside with leases, cancels, pauses. At the end each job that was
# committed has one outcome, each success one effect, and nothing else has any.
#
# GN_TORTURE_KILLS: how many executors are killed, every tenth by SIGKILL, which restarts
# the server; GN_TORTURE_RESTARTS: how many postmasters; GN_SEED repeats a run's choices as
# far as the clock lets it. "make torture" kills 1,000 and 50.
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

my $kills = $ENV{GN_TORTURE_KILLS} || 40;
my $restarts = $ENV{GN_TORTURE_RESTARTS} // 2;
my $seed = $ENV{GN_SEED} || int(time());
srand($seed);
diag("GN_SEED=$seed");

my $node = GrowNext::Queue::new_node('torture', <<'CONF');
restart_after_crash = on
grownext.executors = 4
max_prepared_transactions = 20
log_min_messages = log
CONF

sub sql { return GrowNext::Queue::sql($node, shift); }
sub until_true { return GrowNext::Queue::until_true($node, shift); }

# A row of wanted is committed exactly if its job is. What kind it is decides what becomes
# of it.
sql(<<'SQL');
CREATE TABLE app.wanted (job bigint PRIMARY KEY, kind text NOT NULL, group_key text);
CREATE TABLE app.effect (seq bigint GENERATED ALWAYS AS IDENTITY, job bigint NOT NULL, began timestamptz NOT NULL, ended timestamptz NOT NULL);
CREATE INDEX ON app.effect (job);
CREATE TABLE app.cancelled (job bigint PRIMARY KEY);
GRANT USAGE ON SCHEMA app TO queue_service;
GRANT INSERT, SELECT ON app.wanted TO queue_service, queue_app;
GRANT INSERT, SELECT ON app.effect TO queue_service, queue_app;
SELECT grownext.queue_define(q, options || '{"backoff_base": "20 ms", "backoff_cap": "100 ms"}') FROM (VALUES
    ('load', '{}'::jsonb), ('pair', '{"concurrency": 2}'), ('line', '{"ordered": true}'), ('single', '{}'), ('outside', '{"max_attempts": 1000}')) AS d (q, options);
SELECT grownext.queue_grant(q, 'queue_app', 'work') FROM unnest('{load,pair,line,single}'::text[]) AS q;

-- n jobs, of which a few fail in their several ways
CREATE FUNCTION app.put(n int) RETURNS void LANGUAGE sql AS $$
    WITH k AS MATERIALIZED (
        SELECT (ARRAY['plain', 'plain', 'plain', 'plain', 'slow', 'flaky', 'doomed', 'discard', 'snooze'])[1 + floor(random() * 9)] AS kind
          FROM generate_series(1, n))
    INSERT INTO app.wanted SELECT grownext.enqueue('load', jsonb_build_object('kind', k.kind), priority => (random() * 3)::int,
        run_at => CASE WHEN random() < 0.2 THEN clock_timestamp() + random() * interval '2 s' END,
        max_attempts => CASE WHEN k.kind = 'doomed' THEN 2 END), k.kind FROM k
$$;
CREATE FUNCTION app.put_many(n int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO app.wanted SELECT j, 'outside' FROM unnest(grownext.enqueue_many('outside', array_fill('{"kind": "outside"}'::jsonb, ARRAY[n]))) AS j
$$;
CREATE FUNCTION app.put_line(g int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO app.wanted SELECT grownext.enqueue('line', '{"kind": "line"}', group_key => 'g' || g), 'line', 'g' || g
$$;
CREATE FUNCTION app.put_pair() RETURNS void LANGUAGE sql AS $$
    INSERT INTO app.wanted SELECT grownext.enqueue('pair', '{"kind": "slow"}'), 'pair'
$$;
CREATE FUNCTION app.put_single(k int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO app.wanted SELECT grownext.enqueue('single', '{"kind": "plain"}', unique_key => k::text,
        unique_mode => CASE WHEN random() < 0.5 THEN 'keep' ELSE 'replace' END), 'single' ON CONFLICT DO NOTHING
$$;

-- A worker outside: it fetches, and what it does is in the transaction that completes.
CREATE PROCEDURE app.work_outside() LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[];
    leases bigint[];
    choice CONSTANT float8 := random();
BEGIN
    SELECT array_agg(f.id), array_agg(f.lease_id) INTO ids, leases FROM grownext.job_fetch('outside', 5, '500 ms', 'torture') AS f;
    COMMIT;
    IF ids IS NULL THEN
        PERFORM pg_sleep(0.02);
    ELSIF choice < 0.1 THEN -- forgets them
    ELSIF choice < 0.2 THEN
        PERFORM grownext.job_fail(i, l, 'not now', retry_in => '10 ms') FROM unnest(ids, leases) AS u (i, l);
    ELSE
        IF choice < 0.3 THEN -- is late
            PERFORM pg_sleep(0.6);
        ELSIF choice < 0.5 THEN
            ids := grownext.job_extend(ids, leases, '5 s');
            leases := leases[1:cardinality(ids)];
        END IF;
        INSERT INTO app.effect (job, began, ended)
        SELECT u, now(), now() FROM unnest(grownext.job_complete_many(ids, leases)) AS u;
        IF choice > 0.9 THEN
            ROLLBACK;
        END IF;
    END IF;
    COMMIT;
END $$;
SQL

GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE FUNCTION app.work(job grownext.job) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    kind CONSTANT text := (job).payload ->> 'kind';
    began CONSTANT timestamptz := clock_timestamp();
BEGIN
    IF kind = 'slow' THEN
        PERFORM pg_sleep(0.02 + random() * 0.05);
    END IF;
    INSERT INTO app.effect (job, began, ended) VALUES ((job).id, began, clock_timestamp());
    IF kind = 'doomed' OR kind = 'flaky' AND (job).attempt = 1 THEN
        RAISE EXCEPTION 'meant to fail';
    ELSIF kind = 'discard' THEN
        RAISE EXCEPTION USING ERRCODE = 'NX032', MESSAGE = 'meant to be dead';
    ELSIF kind = 'snooze' AND random() < 0.5 THEN
        RAISE EXCEPTION USING ERRCODE = 'NX033', MESSAGE = 'not yet', DETAIL = '20 ms';
    END IF;
END $$;
SELECT grownext.queue_handle(q, 'app.work(grownext.job)') FROM unnest('{load,pair,line,single}'::text[]) AS q;
SQL

# ---- load ----

my %script = (
	'put@20' => "BEGIN;\nSELECT app.put(1);\nCOMMIT;\n",
	'several@4' => "\\set n random(2, 20)\nBEGIN;\nSELECT app.put(:n);\nCOMMIT;\n",
	'rollback@4' => "BEGIN;\nSELECT app.put(3);\nROLLBACK;\n",
	'savepoint@4' => "BEGIN;\nSELECT app.put(1);\nSAVEPOINT s;\nSELECT app.put(2);\nSELECT app.put_line(1);\nROLLBACK TO s;\nSELECT app.put(1);\nSAVEPOINT t;\nSELECT app.put(1);\nRELEASE t;\nCOMMIT;\n",
	'many@4' => "SELECT app.put_many(10);\n",
	'line@8' => "\\set g random(1, 4)\nSELECT app.put_line(:g);\n",
	'pair@6' => "SELECT app.put_pair();\n",
	'single@8' => "\\set k random(1, 5)\nSELECT app.put_single(:k);\n",
	'prepare@4' => "\\set n random(1, 1000000000)\nBEGIN;\nSELECT app.put(2);\nSELECT app.put_many(2);\nPREPARE TRANSACTION 't:n';\n");
my @mix;
for my $name (sort keys %script)
{
	my ($base, $weight) = split /@/, $name;
	append_to_file($node->basedir . "/$base.sql", $script{$name});
	push @mix, '-f', $node->basedir . "/$base.sql\@$weight";
}
append_to_file($node->basedir . '/work.sql', "CALL app.work_outside();\n");
my $stop = $node->basedir . '/stop';

# in a process of its own, which starts pgbench again whenever it lost its server
sub keep_busy
{
	my ($clients, @arguments) = @_;
	my $pid = fork();
	die "fork: $!" unless defined $pid;
	return $pid if $pid;
	open(STDOUT, '>', '/dev/null');
	open(STDERR, '>', '/dev/null');
	for (my $turn = $seed; !-e $stop; $turn++)
	{
		system('pgbench', '-n', '-c', $clients, '-T', '2', "--random-seed=$turn", '-h', $node->host, '-p', $node->port, '-U', 'queue_service', @arguments, 'app');
		sleep(0.05);
	}
	exec('true');
}
END
{
	append_to_file($stop, '') if defined $stop;
}
my @busy = (keep_busy(4, '-R', 60, @mix), keep_busy(2, '-f', $node->basedir . '/work.sql'));

# ---- kills ----

# the answer, or nothing while the server recovers
sub ask
{
	my ($out, $err);
	my $ran = IPC::Run::run([ 'psql', '-X', '-q', '-At', '-d', $node->connstr('app'), '-c', shift ], '<', '/dev/null', '>', \$out, '2>', \$err);
	die $err if $err =~ /syntax error|does not exist/ && $err !~ /prepared transaction/;
	chomp $out;
	return $ran ? $out : undef;
}

# What is decided elsewhere and later: three of four prepared transactions are committed.
my $prepared = 0;
sub settle_prepared
{
	my ($all) = @_;
	my $gids = ask('SELECT gid FROM pg_prepared_xacts' . ($all ? '' : " WHERE prepared < now() - interval '100 ms'"));
	for my $gid (split /\n/, $gids // '')
	{
		my $commit = rand() < 0.75;
		$prepared += $commit if defined ask(($commit ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid'");
	}
}

# Who cancels notes it first, in a transaction of its own.
sub cancel_some
{
	ask(<<'SQL');
WITH chosen AS (SELECT l.id FROM _grownext.queue_live AS l WHERE l.queue IN ('load', 'outside') ORDER BY random() LIMIT 3)
INSERT INTO app.cancelled SELECT id FROM chosen ON CONFLICT DO NOTHING
SQL
	ask('SELECT grownext.job_cancel(job) FROM (SELECT job FROM app.cancelled ORDER BY job DESC LIMIT 3) AS c');
}

sub disturb
{
	my $choice = rand();
	if ($choice < 0.3) { settle_prepared() }
	elsif ($choice < 0.6) { cancel_some() }
	elsif ($choice < 0.7) { ask("SELECT grownext.queue_pause('" . (qw(load pair line outside))[ rand 4 ] . "')") }
	elsif ($choice < 0.85) { ask("SELECT grownext.queue_resume(q) FROM unnest('{load,pair,line,outside}'::text[]) AS q") }
	elsif ($choice < 0.95) { ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type IN ('client backend', 'grownext scheduler') AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1") }
}

sub launcher { return ask("SELECT pid FROM grownext.workers() WHERE worker = 'launcher' AND pid IS NOT NULL") }

my %killed = (TERM => 0, KILL => 0, postmaster => 0);
my $busy_kills = 0;
my $began = time();
my $deadline = $began + 60 + $kills * 2 + $restarts * 20;
while ($killed{TERM} + $killed{KILL} < $kills && time() < $deadline)
{
	my $done = $killed{TERM} + $killed{KILL};
	if ($killed{postmaster} < $restarts && $done >= ($killed{postmaster} + 1) * $kills / ($restarts + 1))
	{
		GrowNext::Queue::kill_postmaster($node);
		$killed{postmaster}++;
		cancel_some();
		next;
	}
	disturb() if rand() < 0.2;
	my $executors = ask("SELECT pid, state = 'active' FROM pg_stat_activity WHERE backend_type = 'grownext executor' AND datname = 'app'");
	my @executors = split /\n/, $executors // '';
	unless (@executors)
	{
		disturb();
		sleep(0.02);
		next;
	}
	my ($pid, $active) = split /\|/, $executors[ rand @executors ];
	sleep(rand(0.03));
	if ($done % 10 == 9)
	{
		my $launcher = launcher() || next;
		next unless kill('KILL', $pid);
		$killed{KILL}++;
		# the crash of one process takes all others along; another launcher is there when that is over
		until_true("SELECT EXISTS (SELECT FROM grownext.workers() WHERE worker = 'launcher' AND pid <> $launcher)");
	}
	else
	{
		next unless kill('TERM', $pid);
		$killed{TERM}++;
	}
	$busy_kills++ if $active eq 't';
}
my $seconds = time() - $began;
append_to_file($stop, '');
waitpid($_, 0) for @busy;
diag(sprintf('%d executors terminated, %d killed (%d of all in a job), %d postmasters killed, in %d s', @killed{qw(TERM KILL)}, $busy_kills, $killed{postmaster}, $seconds));
is($killed{TERM} + $killed{KILL}, $kills, 'executors were killed');
is($killed{postmaster}, $restarts, 'and postmasters');

# ---- the end ----

settle_prepared(1);
sql("SELECT grownext.queue_resume(q) FROM unnest('{load,pair,line,outside}'::text[]) AS q");
my $rest = time() + 300;
while (sql('SELECT count(*) FROM _grownext.queue_live') ne '0' && time() < $rest)
{
	sql("CALL app.work_outside();\n" x 50);
}
cmp_ok($prepared, '>', 0, "$prepared prepared transactions were committed by others");
is(sql('SELECT count(*) FROM pg_prepared_xacts'), '0', 'and none is left');
is(sql('SELECT state, count(*) FROM _grownext.queue_live GROUP BY state'), '', 'every job came to its end');
sql(<<'SQL');
CREATE TABLE app.verdict AS
    SELECT w.*, s.state, s.attempt, s.attempts, s.last_error, (SELECT count(*) FROM app.effect AS e WHERE e.job = w.job) AS effects,
           EXISTS (SELECT FROM app.cancelled AS c WHERE c.job = w.job) AS cancelled
      FROM app.wanted AS w LEFT JOIN LATERAL grownext.job_get(w.job) AS s ON true;
SQL
diag(sql(q{SELECT string_agg(format('%s %s: %s', kind, state, n), ', ' ORDER BY kind, state) FROM (SELECT kind, state, count(*) AS n FROM app.verdict GROUP BY 1, 2) AS v}));
cmp_ok(sql('SELECT count(DISTINCT kind) FROM app.verdict'), '==', 10, 'there were jobs of every kind');

cmp_ok(sql("SELECT count(*) FROM app.verdict WHERE state = 'cancelled'"), '>', 0, 'some were cancelled');

# wrong(CONDITION, CLAIM): no job is as the condition says
sub wrong
{
	my ($condition, $claim) = @_;
	is(sql("SELECT job, kind, state, attempt, effects, last_error FROM app.verdict WHERE $condition ORDER BY job LIMIT 5"), '', $claim);
}
wrong("state IS NULL OR state NOT IN ('succeeded', 'dead', 'cancelled')", 'no job that was committed is lost');
wrong("effects > 1", 'no effect is doubled');
wrong("state = 'succeeded' AND effects = 0", 'none is missing');
wrong("state <> 'succeeded' AND effects > 0", 'what failed or was cancelled has none');
is(sql('SELECT count(*) FROM app.effect AS e WHERE NOT EXISTS (SELECT FROM app.wanted AS w WHERE w.job = e.job)'), '0', 'what was rolled back never ran');
is(sql(<<'SQL'), '0', 'and is not there');
SELECT count(*) FROM (SELECT id FROM _grownext.queue_done UNION ALL SELECT id FROM _grownext.queue_dead) AS o
 WHERE NOT EXISTS (SELECT FROM app.wanted AS w WHERE w.job = o.id)
SQL
is(sql('SELECT count(*) FROM (SELECT id FROM _grownext.queue_done UNION ALL SELECT id FROM _grownext.queue_dead) AS o GROUP BY id HAVING count(*) > 1'), '', 'no job has two outcomes');
wrong("state = 'cancelled' AND NOT cancelled", 'nobody was cancelled but by us');
# one that happened to run at three crashes is taken for their cause
my $suspected = "last_error LIKE 'NX032: the server crashed%'";
wrong("state = 'dead' AND kind NOT IN ('doomed', 'discard') AND NOT $suspected", 'nothing died of a kill');
wrong("state = 'succeeded' AND kind IN ('doomed', 'discard')", 'what is to fail fails');
wrong("state = 'dead' AND kind = 'doomed' AND NOT $suspected AND (attempt <> 2 OR jsonb_array_length(attempts) <> 2 OR last_error <> 'P0001: meant to fail')",
	'after its attempts, which are kept');
wrong("state = 'succeeded' AND kind = 'flaky' AND attempt <> 2", 'a retry is charged once, and a kill is not');
wrong("state = 'succeeded' AND kind IN ('plain', 'slow', 'snooze', 'line', 'pair', 'single') AND attempt <> 1", 'nor is it to jobs that do not fail');
is(sql(<<'SQL'), '0', 'an ordered group ran in the order of its commits');
SELECT count(*) FROM (SELECT e.job, lag(e.job) OVER (PARTITION BY w.group_key ORDER BY e.seq) AS before
                        FROM app.effect AS e JOIN app.wanted AS w ON w.job = e.job AND w.kind = 'line') AS o WHERE before > job
SQL
is(sql(<<'SQL'), '0', 'one at a time');
SELECT count(*) FROM (SELECT e.began, lag(e.ended) OVER (PARTITION BY w.group_key ORDER BY e.seq) AS before
                        FROM app.effect AS e JOIN app.wanted AS w ON w.job = e.job AND w.kind = 'line') AS o WHERE before > began
SQL
cmp_ok(sql(<<'SQL'), '<=', 2, 'a queue with a concurrency of two ran two at most');
SELECT max(n) FROM (SELECT sum(step) OVER (ORDER BY at, step) AS n
                      FROM app.effect AS e JOIN app.wanted AS w ON w.job = e.job AND w.kind = 'pair', LATERAL (VALUES (e.began, 1), (e.ended, -1)) AS s (at, step)) AS x
SQL
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:|terminated by signal (?!9)/, 'nothing else crashed');
$node->stop;
done_testing();
