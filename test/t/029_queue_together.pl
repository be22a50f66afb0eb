# Several jobs in one transaction: none sees anything of the one before it, who may be
# another tenant's; when one fails each of the others takes effect once, and nobody else is
# charged; what is killed in the middle runs again.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# A clock that stands: jobs take no time, so how many are taken together is certain: 1, 2, 4 ...
my $node = GrowNext::Queue::new_node('main', <<'CONF');
grownext.executors = 1
restart_after_crash = on
CONF
GrowNext::Queue::sql($node, "ALTER DATABASE app SET grownext.test_clock = '2030-01-01 00:00:00+00'");

sub sql { return GrowNext::Queue::sql($node, shift); }
sub admin { return GrowNext::Queue::as($node, 'queue_admin', shift); }
sub service { return GrowNext::Queue::as($node, 'queue_service', shift); }
sub until_true { return GrowNext::Queue::until_true($node, shift); }

my $seed = $ENV{GN_SEED} || time();
srand($seed);
note("GN_SEED=$seed");

# over(QUEUE): waits until no job of the queue is left
sub over { until_true("SELECT NOT EXISTS (SELECT FROM _grownext.queue_job WHERE queue = '$_[0]')"); return; }

my @tenant = map { "$_$_$_$_$_$_$_$_-0000-4000-8000-000000000000" } 1, 2;

admin(<<'SQL');
SELECT grownext.queue_define(q, '{"max_attempts": 1}') FROM unnest('{look,one}'::text[]) AS q;
SELECT grownext.queue_define(q, '{"backoff_base": "10 ms", "backoff_cap": "10 ms"}') FROM unnest('{many,killed,share}'::text[]) AS q;
SELECT grownext.queue_grant(q, 'queue_app', 'work') FROM unnest('{look,one,many,killed,share}'::text[]) AS q;
SQL
GrowNext::Queue::as($node, 'queue_app', <<"SQL");
CREATE TABLE app.secret (tenant_id uuid);
INSERT INTO app.secret VALUES ('$tenant[0]'), ('$tenant[1]'), ('$tenant[1]');
ALTER TABLE app.secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON app.secret USING (tenant_id = grownext.current_tenant());
SELECT lo_from_bytea(424242, 'secret');
SQL
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE SEQUENCE app.counter;
CREATE TABLE app.checked (a int UNIQUE DEFERRABLE INITIALLY IMMEDIATE);
INSERT INTO app.checked VALUES (1);
CREATE TABLE app.late (a int);
CREATE TABLE app.fired (subject text, tenant_id uuid);
CREATE FUNCTION app.fire() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.fired VALUES (grownext.current_subject(), grownext.current_tenant());
    SET work_mem = '88MB';
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON app.late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.fire();

-- What a statement gives, or the name of its error.
CREATE FUNCTION app.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE statement INTO answer;
    RETURN coalesce(answer, '');
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;
CREATE FUNCTION app.look(job grownext.job) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    seen jsonb;
BEGIN
    IF (job).payload ? 'idle' THEN
        RETURN NULL;
    END IF;
    seen := jsonb_build_object(
        'xid', pg_current_xact_id(),
        'who', format('%s %s', current_user, session_user),
        'subject', grownext.current_subject(),
        'claim', grownext.claims() ->> 'tenant_id',
        'job', (grownext.current_job()).id = (job).id,
        'secrets', (SELECT count(*) FROM app.secret),
        'work_mem', current_setting('work_mem'),
        'invented', current_setting('app.invented', true),
        'search_path', current_setting('search_path'),
        'read_only', current_setting('transaction_read_only'),
        'commit', current_setting('synchronous_commit'),
        'prepared', (SELECT count(*) FROM pg_prepared_statements),
        'cursors', (SELECT count(*) FROM pg_cursors),
        'locks', (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid < 3),
        'temporary', to_regclass('pg_temp.leftover'),
        'sequence', app.try('SELECT lastval()'),
        'object', app.try('SELECT loread(0, 6)'),
        'constraint', app.try('INSERT INTO app.checked VALUES (1)'),
        'random', random(),
        'late', statement_timestamp() > now() AND clock_timestamp() >= statement_timestamp(),
        'at', statement_timestamp());
    IF (job).payload ? 'do' THEN
        EXECUTE (job).payload ->> 'do';
    END IF;
    RETURN seen;
END $$;
SELECT grownext.queue_handle('look', 'app.look(grownext.job)');
SQL

# --- what can be undone is undone, within the transaction ---

my @soft = (
	q{SET work_mem = '99MB'},
	q{SET LOCAL search_path = app},
	q{SELECT set_config('app.invented', 'leftover', false)},
	q{SET synchronous_commit = remote_apply},
	q{SELECT set_config('request.jwt.claims', '{"sub": "eve"}', false)},
	q{PREPARE leftover AS SELECT 1},
	q{DECLARE leftover CURSOR WITH HOLD FOR SELECT 1},
	q{SELECT nextval('app.counter')},
	q{SELECT lo_open(424242, 262144)},
	q{SET CONSTRAINTS ALL DEFERRED},
	q{SELECT setseed(0.5)},
	q{SET TRANSACTION READ ONLY},
	q{INSERT INTO app.late VALUES (1)},
	q{CREATE OR REPLACE FUNCTION app.other() RETURNS int LANGUAGE sql AS 'SELECT 1'});
my @hard = (
	q{CREATE TEMP TABLE leftover (a int)},
	q{CREATE FUNCTION pg_temp.leftover() RETURNS int LANGUAGE sql AS 'SELECT 1'},
	q{SELECT pg_advisory_xact_lock(1)},
	q{SELECT pg_advisory_lock(2), pg_advisory_lock_shared(2, 3)},
	q{SELECT pg_try_advisory_xact_lock_shared(4, 5)},
	q{SELECT pg_advisory_unlock_all()},
	q{NOTIFY leftover},
	q{SELECT pg_notify('leftover', '')});

my $known = sql('SELECT setseed(0.5) \g /dev/null' . "\nSELECT random()");
my @statements = ("SELECT grownext.queue_pause('look')", "SELECT count(grownext.enqueue('look', '{\"idle\": true}')) FROM generate_series(1, 63)");
foreach my $do (@soft, @hard)
{
	my $quoted = $do =~ s/'/''/gr;
	push @statements,
		"BEGIN; SELECT grownext.act_as('ada', '$tenant[0]')",
		"SELECT 'id ' || grownext.enqueue('look', jsonb_build_object('do', '$quoted')); COMMIT",
		"BEGIN; SELECT grownext.act_as('bob', '$tenant[1]')",
		"SELECT 'id ' || grownext.enqueue('look'); COMMIT";
}
push @statements, "SELECT 'id ' || grownext.enqueue('look')", "SELECT grownext.queue_resume('look')";
my @ids = GrowNext::Queue::as($node, 'postgres', join(";\n", @statements)) =~ /^id (\d+)$/mg;
over('look');

my %clean = (
	who => 'queue_app queue_app',
	subject => 'bob',
	claim => $tenant[1],
	job => 'true',
	secrets => 2,
	work_mem => sql('SHOW work_mem'),
	invented => '',
	search_path => sql('SHOW search_path'),
	read_only => 'off',
	commit => 'off',
	prepared => 0,
	cursors => 0,
	locks => 0,
	temporary => '',
	sequence => '55000',
	object => '42704',
	constraint => '23505',
	late => 'true');

# seen(ID): what the job saw
sub seen
{
	my ($id) = @_;
	is(sql("SELECT concat_ws(' ', state, last_error) FROM grownext.job_get($id)"), 'succeeded', "job $id succeeded");
	return map { split(/\|/, $_, 2) } split(/\n/,
		sql("SELECT key, coalesce(value, '') FROM jsonb_each_text((SELECT result FROM grownext.job_get($id)))"));
}
foreach my $do (@soft, @hard)
{
	my %left = seen(shift @ids);
	my %found = seen(shift @ids);
	my $hard = grep { $_ eq $do } @hard;

	is($found{$_}, $clean{$_}, "after $do: $_") foreach sort keys %clean;
	isnt($found{random}, $known, "after $do: random");
	isnt($found{at}, $left{at}, "after $do: a statement of its own");
	is($found{xid} eq $left{xid} ? 1 : 0, $hard ? 0 : 1, "after $do: " . ($hard ? 'another transaction' : 'the same transaction'));
}
my %nobody = seen(shift @ids);
is($nobody{subject}, '', 'a job without context has none');
is($nobody{secrets}, 0, 'and sees nothing');
is(sql('SELECT string_agg(subject || tenant_id, chr(32)) FROM app.fired'), "ada$tenant[0]", 'a deferred trigger fired once, for its own job');

# --- one fails ---

GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE TABLE app.effect (queue text, n int);
CREATE FUNCTION app.work(job grownext.job) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.effect VALUES ((job).queue, ((job).payload ->> 'n')::int);
    IF (job).attempt <= coalesce(((job).payload ->> 'fails')::int, 0) THEN
        RAISE EXCEPTION 'as ordered';
    END IF;
    PERFORM pg_sleep(coalesce(((job).payload ->> 'sleep')::float8, 0));
    RETURN to_jsonb(pg_current_xact_id());
END $$;
SELECT grownext.queue_handle(q, 'app.work(grownext.job)') FROM unnest('{one,many,killed,share}'::text[]) AS q;
SQL
my $k = 1 + int(rand(16));
service("SELECT count(grownext.enqueue('one', jsonb_build_object('n', i))) FROM generate_series(101, 115) AS i");
over('one');
sql("BEGIN; SELECT count(grownext.enqueue('one', jsonb_build_object('n', i, 'fails', (i = $k)::int))) FROM generate_series(1, 16) AS i; COMMIT");
over('one');
is(sql("SELECT string_agg(payload ->> 'n', ',') FROM _grownext.queue_dead WHERE queue = 'one'"), $k, "of sixteen jobs number $k fails, and no other");
is(sql("SELECT count(*) || ' ' || count(DISTINCT n) || ' ' || bool_or(n = $k) FROM app.effect WHERE n < 100"), '15 15 false', 'the others take effect once');
is(sql("SELECT count(*) FROM _grownext.queue_done WHERE queue = 'one' AND (failures > 0 OR attempts <> '[]')"), '0', 'and nobody else is charged');
is( sql("SELECT sum(started) || ' ' || sum(succeeded) || ' ' || sum(failed) || ' ' || sum(dead) FROM _grownext.queue_measured(NULL) WHERE queue = 'one'"),
	'31 30 1 1', 'nothing is counted twice');

# --- weights ---

admin(<<'SQL');
SELECT grownext.queue_define('heavy', '{"weight": 3}'), grownext.queue_define('light');
SELECT grownext.queue_grant(q, 'queue_app', 'work') FROM unnest('{heavy,light}'::text[]) AS q;
SQL
GrowNext::Queue::as($node, 'queue_app', q{SELECT grownext.queue_handle(q, 'app.work(grownext.job)') FROM unnest('{heavy,light}'::text[]) AS q});
admin("BEGIN; SELECT grownext.queue_pause(q), cardinality(grownext.enqueue_many(q, array_fill('{}'::jsonb, ARRAY[3000]))) FROM unnest('{heavy,light}'::text[]) AS q; COMMIT");
admin("BEGIN; SELECT grownext.queue_resume(q) FROM unnest('{heavy,light}'::text[]) AS q; COMMIT");
over('heavy');
over('light');
# The clock stands, so shares are by number; a turn is up to 128 jobs.
my $light = sql(<<'SQL');
SELECT count(*) FROM _grownext.queue_done
 WHERE queue = 'light' AND (result #>> '{}')::bigint < (SELECT max((result #>> '{}')::bigint) FROM _grownext.queue_done WHERE queue = 'heavy')
SQL
note("$light light jobs ran while 3000 heavy ones did");
cmp_ok(abs($light - 1000), '<=', 128, 'a queue of weight 3 gets three times the jobs of one of weight 1');

# --- a thousand that fail at random ---

sql('ALTER DATABASE app RESET grownext.test_clock');
$node->append_conf('postgresql.conf', "grownext.executors = 3\n");
$node->restart;
my @fails = map { rand() < 0.1 ? 1 + int(rand(3)) : 0 } 1 .. 1000;
my $sum = 0;
$sum += $_ foreach @fails;
my $list = join(',', @fails);
service("SELECT cardinality(grownext.enqueue_many('many', array_agg(jsonb_build_object('n', f.n, 'fails', f.k) ORDER BY f.n))) FROM unnest('{$list}'::int[]) WITH ORDINALITY AS f (k, n)");
over('many');
is(sql("SELECT count(*) || ' ' || count(DISTINCT n) FROM app.effect WHERE queue = 'many'"), '1000 1000', 'each of a thousand jobs takes effect once');
my @enqueued = split(/\n/, sql("SELECT failures || ' ' || jsonb_array_length(attempts) FROM _grownext.queue_done WHERE queue = 'many' ORDER BY id"));
is(join(',', @enqueued), join(',', map { "$_ $_" } @fails), 'each attempt that failed is charged and kept, and no other');
is(sql("SELECT sum(started) || ' ' || sum(succeeded) || ' ' || sum(failed) FROM grownext.queue_history('many')"), (1000 + $sum) . " 1000 $sum", 'figures are exact');

# --- no more than a fair share ---

service("SELECT cardinality(grownext.enqueue_many('share', array_fill('{}'::jsonb, ARRAY[500])))");
over('share');
until_true("SELECT count(*) = 3 FROM grownext.workers() WHERE worker = 'executor' AND database = 'app' AND pid IS NOT NULL");
until_true("SELECT count(*) = 3 FROM pg_stat_activity WHERE backend_type = 'grownext executor' AND state = 'idle' AND wait_event_type IN ('Extension', 'Activity')");
service(q{SELECT cardinality(grownext.enqueue_many('share', array_fill('{"sleep": 2}'::jsonb, ARRAY[3])))});
over('share');
is(sql("SELECT max(started_at) < min(finished_at) FROM (SELECT * FROM _grownext.queue_done WHERE queue = 'share' ORDER BY id DESC LIMIT 3) AS d"), 't', 'three jobs, three idle executors: one each');

# --- killed in the middle ---

service("SELECT cardinality(grownext.enqueue_many('killed', (SELECT array_agg(jsonb_build_object('n', n, 'sleep', 0.0005)) FROM generate_series(1, 6000) AS n)))");
foreach my $round (1 .. 4)
{
	until_true("SELECT count(*) > " . 300 * $round . " FROM _grownext.queue_done WHERE queue = 'killed'");
	my $launcher = sql("SELECT pid FROM grownext.workers() WHERE worker = 'launcher'");
	my $pid = sql("SELECT min(pid) FROM grownext.workers() WHERE worker = 'executor' AND database = 'app' AND pid IS NOT NULL");
	kill('KILL', $pid) if $pid;
	until_true("SELECT EXISTS (SELECT FROM grownext.workers() WHERE worker = 'launcher' AND pid <> $launcher)");
}
over('killed');
is(sql("SELECT count(*) || ' ' || count(DISTINCT n) FROM app.effect WHERE queue = 'killed'"), '6000 6000', 'each job takes effect once, whatever is killed');
is(sql("SELECT count(*) || ' ' || sum(failures) FROM _grownext.queue_done WHERE queue = 'killed'"), '6000 0', 'and nobody is charged for it');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:/, 'nothing crashed but what was killed');
$node->stop;
done_testing();
