# Streams: no entry is skipped and none comes twice after its acknowledgement, over kills,
# two phases, a dump into another cluster and a promotion; the space comes back, and not
# behind a snapshot; readers wait without one.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Queue::new_node('stream', "max_prepared_transactions = 4\nrestart_after_crash = on\n");
my $take = <<'SQL';
CREATE FUNCTION public.take(stream text, consumer text, count int DEFAULT 100) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    got text;
    last bigint;
BEGIN
    SELECT string_agg(r.payload #>> '{}', ' ' ORDER BY r.position), max(r.position) INTO got, last FROM grownext.stream_read(stream, consumer, count) AS r;
    IF last IS NOT NULL THEN
        PERFORM grownext.stream_ack(stream, consumer, last);
    END IF;
    RETURN got;
END $$;
CREATE FUNCTION public.entries(stream text, consumer text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(r.payload #>> '{}', ' ' ORDER BY r.position) FROM grownext.stream_read(stream, consumer) AS r
$$;
SQL

sub sql { return GrowNext::Queue::sql($node, shift); }
sub until_true { return GrowNext::Queue::until_true($node, shift); }

sql($take);
sql(q{SELECT grownext.stream_define('s'), grownext.stream_define('other'), grownext.stream_define('waited')});

# --- two phases ---

sql(q{SELECT grownext.stream_append('s', '"a"')});
sql(q{BEGIN; SELECT grownext.stream_append('s', '"b"'); PREPARE TRANSACTION 'b'});
sql(q{BEGIN; SELECT grownext.stream_append('s', '"c"'); PREPARE TRANSACTION 'c'});
sql(q{SELECT grownext.stream_append('s', '"d"')});
sql(q{SELECT grownext.stream_append('other', '"x"')});
is(sql(q{SELECT public.take('s', 'a')}), 'a', 'what is prepared holds up what is behind it');
is(sql(q{SELECT public.take('other', 'a')}), 'x', 'and no other stream');
sql(q{BEGIN; SELECT grownext.stream_append('s', '"e"'); COMMIT});
is(sql(q{SELECT public.take('s', 'a')}), '', 'its session goes on, and it stays');
GrowNext::Queue::kill_postmaster($node);
is(sql(q{SELECT public.take('s', 'a')}), '', 'also over a crash');
is(sql(q{SELECT public.take('other', 'b')}), 'x', 'and still no other stream');
sql(q{ROLLBACK PREPARED 'c'});
is(sql(q{SELECT public.take('s', 'a')}), '', 'one of two is over');
sql(q{COMMIT PREPARED 'b'});
is(sql(q{SELECT public.take('s', 'a')}), 'b d e', 'then all that committed comes, in its order');
sql(q{BEGIN; SELECT public.take('s', 'b', 2); PREPARE TRANSACTION 'reader'});
is(sql(q{SELECT public.take('s', 'b')}), '', 'a reader that is prepared has its consumer to itself');
GrowNext::Queue::kill_postmaster($node);
is(sql(q{SELECT public.take('s', 'b')}), '', 'over a crash');
sql(q{COMMIT PREPARED 'reader'});
is(sql(q{SELECT public.take('s', 'b')}), 'd e', 'and what it acknowledged stays so');

# --- writers and readers under kills ---

sql(q{SELECT grownext.stream_define('load'); CREATE TABLE public.written (n int, w int); CREATE TABLE public.seen (consumer text, position bigint, n int, w int, at bigserial)});

# A writer commits entry and row together, out of order with the others; a reader the same.
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/write.sql", <<'SQL');
\set n random(1, 1000000000)
BEGIN;
SELECT grownext.stream_append('load', jsonb_build_object('n', :n, 'w', :client_id));
SELECT pg_sleep(random() * 0.004);
INSERT INTO public.written VALUES (:n, :client_id);
COMMIT;
SQL
append_to_file("$dir/read.sql", <<'SQL');
\set c random(1, 2)
BEGIN;
WITH r AS (SELECT * FROM grownext.stream_read('load', 'c' || :c, 20)),
kept AS (INSERT INTO public.seen SELECT 'c' || :c, position, (payload ->> 'n')::int, (payload ->> 'w')::int FROM r ORDER BY position)
SELECT coalesce(max(position), 0) AS upto FROM r \gset
SELECT grownext.stream_ack('load', 'c' || :c, :upto);
COMMIT;
SQL

sub start_load
{
	my %load;
	foreach my $script ('write', 'read')
	{
		my $out = '';
		$load{$script} = { out => \$out };
		$load{$script}{run} = IPC::Run::start(
			[ 'pgbench', '-n', '-c', '4', '-j', '1', '-T', '60', '-f', "$dir/$script.sql", '-h', $node->host, '-p', $node->port, 'app' ],
			'<', \undef, '>&', \$out);
	}
	return \%load;
}

foreach my $round (1 .. 4)
{
	my $before = sql('SELECT count(*) FROM public.seen');
	my $load = start_load();
	until_true("SELECT count(*) > $before + 200 FROM public.seen");
	if ($round % 2)
	{
		GrowNext::Queue::kill_postmaster($node);
	}
	else
	{
		my $victim = sql(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' AND xact_start IS NOT NULL ORDER BY random() LIMIT 1});
		kill('KILL', $victim) if $victim;
		# the server restarts without its clients
		$node->poll_query_until('app', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'});
	}
	IPC::Run::kill_kill($_->{run}) foreach values %$load;
	until_true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'});
}
sql(q{DO $$ BEGIN FOR c IN 1 .. 2 LOOP LOOP
	INSERT INTO public.seen SELECT 'c' || c, r.position, (payload ->> 'n')::int, (payload ->> 'w')::int FROM grownext.stream_read('load', 'c' || c, 1000) AS r ORDER BY r.position;
	EXIT WHEN NOT FOUND;
	PERFORM grownext.stream_ack('load', 'c' || c, (SELECT max(s.position) FROM public.seen AS s WHERE s.consumer = 'c' || c));
END LOOP; END LOOP; END $$});
cmp_ok(sql('SELECT count(*) FROM public.written'), '>', 200, 'entries under four kills: ' . sql('SELECT count(*) FROM public.written'));
foreach my $consumer ('c1', 'c2')
{
	is(sql("SELECT count(*) FROM (SELECT n, w FROM public.written EXCEPT ALL SELECT n, w FROM public.seen WHERE consumer = '$consumer') AS x"), '0', "$consumer misses none");
	is(sql("SELECT count(*) FROM (SELECT n, w FROM public.seen WHERE consumer = '$consumer' EXCEPT ALL SELECT n, w FROM public.written) AS x"), '0', "$consumer has none twice, and none that was rolled back");
	is(sql("SELECT count(*) FROM (SELECT position < lag(position) OVER (ORDER BY at) AS back FROM public.seen WHERE consumer = '$consumer') AS x WHERE back"), '0', "$consumer has them in order");
}

# --- what an outside reader has seen is on disk ---

my $position = sql(q{SET synchronous_commit = off; SELECT grownext.stream_append('s', '"async"')});
sql(q{SET synchronous_commit = off; SELECT public.entries('s', 'c')});
GrowNext::Queue::kill_postmaster($node);
like(sql(q{SELECT public.entries('s', 'c')}), qr/async$/, 'an entry that was read is there after a crash');

# --- waiting ---

sub start_waiting
{
	my ($timeout) = @_;
	my %session = (out => '');
	$session{run} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('app'), '-c', "CALL grownext.stream_wait('waited', 'a', '$timeout', NULL)" ],
		'<', \undef, '>', \$session{out});
	return \%session;
}

sub finish_waiting { my ($session) = @_; IPC::Run::finish($session->{run}); chomp($session->{out}); return $session->{out}; }

my $waiting = q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL grownext.stream_wait%' AND wait_event_type = 'Extension'};
is(sql(q{CALL grownext.stream_wait('waited', 'a', '0', NULL)}), 'f', 'nothing to read');
is(sql(q{CALL grownext.stream_wait('waited', 'a', '10 ms', NULL)}), 'f', 'nor a moment later');
my @waiters = map { start_waiting('10 min') } 1 .. 2;
until_true("SELECT ($waiting) = 2");
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL grownext.stream_wait%' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)}), '0', 'who waits holds no snapshot');
sql(q{SELECT grownext.stream_append('waited', '1')});
is(finish_waiting($_), 't', 'an entry wakes all who wait') foreach @waiters;
sql(q{SELECT public.take('waited', 'a')});
my $late = $node->background_psql('app');
$late->query_safe(q{BEGIN; SELECT grownext.stream_append('waited', '"late"')});
my $waiter = start_waiting('10 min');
until_true("SELECT ($waiting) = 1");
sql(q{SELECT grownext.stream_append('waited', '2')});
$late->query_safe('ROLLBACK');
is(finish_waiting($waiter), 't', 'so does the end of what it waited behind');
sql(q{SELECT public.take('waited', 'a')});

# --- a dump into another cluster, a promotion ---

sql(q{SELECT grownext.stream_define('moved', '{"retention": null}'), grownext.stream_define('ring')});
sql(q{SELECT grownext.stream_append_many(s, '{1,2,3,4}') FROM unnest('{moved,ring}'::text[]) AS s});
sql(q{SELECT public.take(s, 'a', 2) FROM unnest('{moved,ring}'::text[]) AS s});
$late->query_safe(q{BEGIN; SELECT grownext.stream_append('ring', '"under way"')});
sql(q{SELECT grownext.stream_append('ring', '5')});
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/app.dump", $node->connstr('app') ], 'pg_dump while an appender is under way');
$late->query_safe('COMMIT');
my $other = PostgreSQL::Test::Cluster->new('other');
$other->init;
$other->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
$other->start;
# transaction ids that are nowhere near
$other->safe_psql('postgres', 'DO $$ BEGIN FOR i IN 1 .. 2000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$');
$other->safe_psql('postgres', 'CREATE ROLE queue_app; CREATE ROLE queue_other; CREATE ROLE queue_admin; CREATE ROLE queue_service; CREATE DATABASE app');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $other->connstr('app'), "$dir/app.dump" ], 'pg_restore');
my ($rc, $out, $err) = $other->psql('app', q{SELECT public.take('ring', 'a')});
like($err, qr/fenced|NX002|NX003/i, 'a restored database hands out nothing until it is told to');
$other->safe_psql('app', q{SELECT grownext.unfence('test')});
is($other->safe_psql('app', q{SELECT public.take('ring', 'a')}), '3 4 5', 'cursors go on where they were; what was not committed never was');
is($other->safe_psql('app', q{SELECT public.take('moved', 'a')}), '3 4', 'so do those of streams that keep everything');
$other->safe_psql('app', q{SELECT grownext.stream_append('ring', '6')});
is($other->safe_psql('app', q{SELECT public.take('ring', 'a')}), '6', 'new entries come behind');
$other->stop;
is(sql(q{SELECT public.take('ring', 'a')}), '3 4 under way 5', 'and at home in the order of their positions');

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = off\n");
$standby->start;
sql(q{SELECT grownext.stream_append_many('ring', '{7,8}'), public.take('ring', 'a', 1)});
sql(q{BEGIN; SELECT grownext.stream_append('ring', '9'); PREPARE TRANSACTION 'nine'});
sql(q{SELECT grownext.stream_append('ring', '10')});
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('app', q{SELECT lag > 0 FROM grownext.stream_stats('ring') WHERE consumer = 'a'}), 't', 'a standby has the figures');
foreach my $call (q{SELECT grownext.stream_read('ring', 'a')}, q{SELECT grownext.stream_ack('ring', 'a', 1)}, q{CALL grownext.stream_wait('ring', 'a', '1 s', NULL)})
{
	($rc, $out, $err) = $standby->psql('app', $call);
	like($err, qr/cannot execute stream_\w+\(\) (in a read-only transaction|during recovery)/, "not on a standby: $call");
}
$standby->promote;
is($standby->safe_psql('app', q{SELECT public.take('ring', 'a')}), '8', 'a promoted server goes on, and not past what was prepared');
$standby->safe_psql('app', q{COMMIT PREPARED 'nine'});
is($standby->safe_psql('app', q{SELECT public.take('ring', 'a')}), '9 10', 'which comes when it is committed');
$standby->stop;
sql(q{ROLLBACK PREPARED 'nine'});

# --- space: by passes that are called here ---

$late->quit;
$node->append_conf('postgresql.conf', "grownext.mode = off\n");
$node->restart;
$late = $node->background_psql('app');
my $segment = sql(q{SELECT segment FROM _grownext.stream_segment WHERE state = 'open'});
my $rows = "SELECT count(*) > 0 FROM _grownext.stream_entry_$segment";
my $state = "SELECT state FROM _grownext.stream_segment WHERE segment = $segment";
sql(q{SELECT grownext.stream_append('ring', '"last"')});
sql(q{SELECT _grownext.stream_rotate('2100-01-01')});
is(sql($state), 'closed', 'a segment is closed');
sql(q{SELECT _grownext.stream_reclaim('2100-01-01')});
is(sql($state), 'closed', 'it stays so as long as a stream has something there');
my $dump = $node->background_psql('app');
$dump->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
sql(q{SELECT _grownext.stream_trim_due('2100-01-01', 100000)});
sql(q{SELECT _grownext.stream_reclaim('2100-01-01')});
is(sql($state), 'settled', 'then it is settled');
sql(q{SELECT _grownext.stream_reclaim('2100-01-01')});
is(sql($state), 'settled', 'and not truncated behind a snapshot that was taken before');
is($dump->query_safe($rows), 't', 'which has all that was there');
$dump->query_safe('COMMIT');
# somebody who chose the segment while it was open
$late->query_safe("BEGIN; INSERT INTO _grownext.stream_entry_$segment SELECT id, _grownext.core_nextval('_grownext.stream_position'), '2200-01-01', NULL, NULL, '\"straggler\"', NULL FROM _grownext.stream_stream WHERE stream = 'ring'");
sql(q{SELECT _grownext.stream_reclaim('2100-01-01')});
is(sql($state), 'settled', 'nor under a writer, who waits for nobody');
$late->query_safe('COMMIT');
sql(q{SELECT _grownext.stream_reclaim('2100-01-01')});
is(sql($state), 'closed', 'what came late is seen');
is(sql(q{SELECT public.take('ring', 'late')}), 'straggler', 'and read');
sql(q{SELECT _grownext.stream_trim_due('2300-01-01', 100000)});
sql(q{SELECT _grownext.stream_reclaim('2300-01-01')});
sql(q{SELECT _grownext.stream_reclaim('2300-01-01')});
is(sql("$state UNION ALL SELECT ($rows)::text"), "free\nfalse", 'in the end it is truncated');
sql(q{SELECT grownext.stream_append('ring', '"again"')});
is(sql(q{SELECT public.take('ring', 'late')}), 'again', 'and readers go on');

# --- without preload: everything but waiting ---

$late->quit;
$dump->quit;
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
sql(q{SELECT grownext.stream_append('s', '"p"')});
$late = $node->background_psql('app');
$late->query_safe(q{BEGIN; SAVEPOINT a; SELECT grownext.stream_append('s', '"q"'); ROLLBACK TO a; SELECT grownext.stream_append('s', '"r"')});
sql(q{SELECT grownext.stream_append('s', '"t"')});
like(sql(q{SELECT public.take('s', 'a')}), qr/p$/, 'without preload, too, nobody passes what is under way');
$late->query_safe('COMMIT');
is(sql(q{SELECT public.take('s', 'a')}), 'r t', 'and nothing is missed');
($rc, $out, $err) = $node->psql('app', q{CALL grownext.stream_wait('s', 'a', '1 s', NULL)});
like($err, qr/shared_preload_libraries/, 'but nobody waits');
$late->quit;
$node->stop;
done_testing();
