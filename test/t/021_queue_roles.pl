# A handler has the rights of its role and the context of its job, whatever it tries, and
# leaves nothing to the job that the same process runs next.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# One executor: every job meets what the one before left behind.
my $node = GrowNext::Queue::new_node('main', "grownext.executors = 1\n");

sub service { return GrowNext::Queue::as($node, 'queue_service', shift); }

# run(QUEUE, PAYLOAD): enqueues, waits for success, returns the job's id
sub run
{
	my ($queue, $payload, $state) = @_;
	my $job = service("SELECT grownext.enqueue('$queue', '$payload')");
	is(GrowNext::Queue::settle($node, $job), $state || 'succeeded', "queue $queue: the job comes to its outcome")
		or diag(GrowNext::Queue::sql($node, "SELECT last_error FROM grownext.job_get($job)"));
	return $job;
}

GrowNext::Queue::as($node, 'queue_admin', <<'SQL');
SELECT grownext.queue_define(q, '{"max_attempts": 1, "timeout": "20 s"}') FROM unnest('{hostile,deferred,parallel,look,leave,stubborn}'::text[]) AS q;
SELECT grownext.queue_grant(q, 'queue_app', 'work') FROM unnest('{hostile,deferred,parallel,leave,stubborn}'::text[]) AS q;
SELECT grownext.queue_grant('look', 'queue_other', 'work');
SQL

# --- escapes ---

my %attempt = (
	'SET ROLE postgres' => '42501',
	'SET ROLE grownext_owner' => '42501',
	'SET LOCAL ROLE NONE' => '42501',
	'RESET ROLE' => '42501',
	'SET SESSION AUTHORIZATION postgres' => '42501',
	'SET SESSION AUTHORIZATION DEFAULT' => '42501',
	'RESET SESSION AUTHORIZATION' => '42501',
	"SELECT set_config('role', 'postgres', true)" => '42501',
	"SELECT set_config('session_authorization', 'postgres', true)" => '42501',
	"SELECT set_config('grownext.context', '00', true)" => '42501',
	"SELECT set_config('grownext.test_clock', '2001-01-01', true)" => '42501',
	"SET session_replication_role = replica" => '42501',
	"SELECT grownext.enqueue('hostile')" => '42501',
	"SELECT grownext.enqueue('grownext.billing')" => '42501',
	"SELECT grownext.act_as('eve')" => '42501',
	'SELECT * FROM _grownext.queue_job' => '42501',
	"SELECT _grownext.queue_put_internal('grownext.billing', '{}')" => '42501',
	'SELECT pg_terminate_backend(pg_backend_pid())' => '42501',
	'SELECT pg_cancel_backend(pg_backend_pid())' => '42501',
	"COPY app.seen TO PROGRAM 'cat'" => '42501',
	"SELECT pg_read_file('PG_VERSION')" => '42501',
	'CREATE ROLE eve SUPERUSER' => '42501',
	'ALTER ROLE queue_app SUPERUSER' => '42501',
	'COMMIT' => '0A000',
	'LISTEN events' => '0A000',
	'DISCARD ALL' => '25001');
my $statements = join(', ', map { my $s = $_; $s =~ s/'/''/g; "'$s'" } sort keys %attempt);

GrowNext::Queue::as($node, 'queue_app', <<SQL);
CREATE TABLE app.seen (place text, statement text, outcome text, who text);
CREATE FUNCTION app.try_all(place text) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
    statement text;
BEGIN
    FOREACH statement IN ARRAY ARRAY[$statements] LOOP
        BEGIN
            EXECUTE statement;
            INSERT INTO app.seen VALUES (place, statement, 'went through');
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO app.seen VALUES (place, statement, SQLSTATE);
        END;
    END LOOP;
    INSERT INTO app.seen VALUES (place, 'who', format('%s %s %s', current_user, session_user, current_setting('is_superuser')), coalesce(grownext.current_subject(), 'nobody'));
END \$\$;
CREATE FUNCTION app.hostile(payload jsonb) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
    PERFORM set_config('request.jwt.claims', '{"sub": "eve", "tenant_id": "44444444-4444-4444-8444-444444444444"}', true);
    PERFORM app.try_all('handler');
END \$\$;
SELECT grownext.queue_handle('hostile', 'app.hostile(jsonb)');

CREATE TABLE app.note (n int);
CREATE FUNCTION app.at_commit() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
    PERFORM app.try_all('commit');
    SET work_mem = '77MB';
    EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT app.try_all(''cursor'')';
    RETURN NULL;
END \$\$;
CREATE CONSTRAINT TRIGGER note_at_commit AFTER INSERT ON app.note DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.at_commit();
CREATE FUNCTION app.deferred(payload jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO app.note VALUES (1)';
SELECT grownext.queue_handle('deferred', 'app.deferred(jsonb)');
SQL

my $tenant = '33333333-3333-4333-8333-333333333333';
foreach my $case ([ 'hostile', 'handler' ], [ 'deferred', 'commit' ])
{
	my ($queue, $place) = @$case;
	my $job = service("BEGIN; SELECT grownext.act_as('ada', '$tenant') \\g /dev/null\nSELECT grownext.enqueue('$queue'); COMMIT;");
	is(GrowNext::Queue::settle($node, $job), 'succeeded', "$place: the hostile job runs")
		or diag(GrowNext::Queue::sql($node, "SELECT last_error FROM grownext.job_get($job)"));
	my %seen = map { split(/\|/, $_, 2) } split(/\n/,
		GrowNext::Queue::sql($node, "SELECT statement, outcome FROM app.seen WHERE place = '$place'"));
	is($seen{$_}, $attempt{$_}, "$place: refused: $_") foreach sort keys %attempt;
	is( GrowNext::Queue::sql($node, "SELECT outcome, who FROM app.seen WHERE place = '$place' AND statement = 'who'"),
		'queue_app queue_app off|ada', "$place: it still is its role, for the enqueuer");
}
is(GrowNext::Queue::sql($node, "SELECT count(*) FROM app.seen WHERE place = 'cursor'"), '0', 'a held cursor does not run after the job');
is(GrowNext::Queue::sql($node, "SELECT count(*) FROM pg_roles WHERE rolname = 'eve' OR (rolname = 'queue_app' AND rolsuper)"), '0', 'nobody became more');

# --- parallel workers of a handler are the same role for the same caller ---

GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE TABLE app.big AS SELECT i FROM generate_series(1, 20000) AS i;
ALTER TABLE app.big SET (parallel_workers = 2);
ANALYZE app.big;
CREATE FUNCTION app.parallel(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    who text;
BEGIN
    SET LOCAL parallel_setup_cost = 0;
    SET LOCAL parallel_tuple_cost = 0;
    SET LOCAL min_parallel_table_scan_size = 0;
    SET LOCAL parallel_leader_participation = off;
    SELECT string_agg(DISTINCT format('%s %s %s', current_user, session_user, grownext.current_subject()), ',') INTO who
      FROM app.big WHERE i % 2 = 0 AND grownext.current_subject() IS NOT NULL;
    RETURN jsonb_build_object('who', who, 'rows', (SELECT count(*) FROM app.big WHERE grownext.current_subject() = 'ada' AND session_user = 'queue_app'));
END $$;
SELECT grownext.queue_handle('parallel', 'app.parallel(jsonb)');
SQL
my $parallel = service("BEGIN; SELECT grownext.act_as('ada', '$tenant') \\g /dev/null\nSELECT grownext.enqueue('parallel'); COMMIT;");
is(GrowNext::Queue::settle($node, $parallel), 'succeeded', 'a handler may use parallel workers');
is(GrowNext::Queue::result($node, $parallel, 'who'), 'queue_app queue_app ada', 'parallel workers are the same role for the same caller');
is(GrowNext::Queue::result($node, $parallel, 'rows'), '20000', 'and see the same');

# --- nothing is left to the next job, which may be another role's ---

GrowNext::Queue::as($node, 'queue_other', <<'SQL');
CREATE FUNCTION other.last() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN lastval();
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    RETURN 'none';
END $$;
CREATE FUNCTION other.look(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object(
        'who', current_user || ' ' || session_user,
        'subject', coalesce(grownext.current_subject(), 'nobody'),
        'settings', (SELECT string_agg(name || '=' || setting, ' ') FROM pg_settings
                      WHERE name IN ('work_mem', 'search_path', 'statement_timeout', 'default_transaction_read_only') AND source = 'session'),
        'name', current_setting('application_name'),
        'invented', coalesce(current_setting('app.invented', true), ''),
        'temporary', to_regclass('pg_temp.leftover') IS NOT NULL,
        'temporary_function', to_regproc('pg_temp.leftover') IS NOT NULL,
        'prepared', (SELECT count(*) FROM pg_prepared_statements),
        'cursors', (SELECT count(*) FROM pg_cursors),
        'locks', (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid < 3),
        'sequence', other.last(),
        'pid', pg_backend_pid())
$$;
SELECT grownext.queue_handle('look', 'other.look(jsonb)');
SQL
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE SEQUENCE app.counter;
CREATE FUNCTION app.leave(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    SET work_mem = '99MB';
    SET search_path = app;
    SET statement_timeout = '1ms';
    PERFORM set_config('application_name', 'leftover', false);
    PERFORM set_config('app.invented', 'leftover', false);
    SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY;
    CREATE TEMP TABLE leftover (a int);
    CREATE FUNCTION pg_temp.leftover() RETURNS int LANGUAGE sql AS 'SELECT 1';
    EXECUTE 'PREPARE leftover AS SELECT 1';
    EXECUTE 'DECLARE leftover CURSOR WITH HOLD FOR SELECT 1';
    PERFORM pg_advisory_lock(1), pg_advisory_lock(1), pg_advisory_lock_shared(2);
    PERFORM nextval('app.counter');
    INSERT INTO app.note VALUES (2);
    IF payload ? 'fail' THEN
        RAISE EXCEPTION 'as ordered';
    END IF;
    RETURN jsonb_build_object('pid', pg_backend_pid());
END $$;
SELECT grownext.queue_handle('leave', 'app.leave(jsonb)');
SQL
my $pid;
foreach my $payload ('{}', '{"fail": true}')
{
	my $left = run('leave', $payload, $payload eq '{}' ? 'succeeded' : 'dead');
	my $look = run('look', '{}');
	my %clean = (
		who => 'queue_other queue_other',
		subject => 'nobody',
		settings => '',
		name => 'grownext executor',
		invented => '',
		temporary => 'false',
		temporary_function => 'false',
		prepared => '0',
		cursors => '0',
		locks => '0',
		sequence => 'none');

	$pid = GrowNext::Queue::result($node, $left, 'pid') || $pid;
	is(GrowNext::Queue::result($node, $look, 'pid'), $pid, "$payload: the same process runs the next job");
	my %found = map { split(/\|/, $_, 2) } split(/\n/,
		GrowNext::Queue::sql($node, "SELECT key, coalesce(value, '') FROM jsonb_each_text((SELECT result FROM grownext.job_get($look)))"));
	is($found{$_}, $clean{$_}, "$payload: nothing is left: $_") foreach sort keys %clean;
}

# --- a handler that catches its time limit is ended all the same, and charged ---

GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE FUNCTION app.stubborn(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        BEGIN
            PERFORM pg_sleep(60);
        EXCEPTION WHEN query_canceled THEN
            NULL;
        END;
    END LOOP;
END $$;
SELECT grownext.queue_handle('stubborn', 'app.stubborn(jsonb)');
SQL
GrowNext::Queue::as($node, 'queue_admin', q{SELECT grownext.queue_define('stubborn', '{"max_attempts": 1, "timeout": "100 ms"}')});
my $stubborn = run('stubborn', '{}', 'dead');
is( GrowNext::Queue::sql($node, "SELECT last_error FROM grownext.job_get($stubborn)"),
	'57014: timed out after 100 ms', 'a handler that catches its time limit is ended');
run('look', '{}');

$node->stop;
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
