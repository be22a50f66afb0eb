# A job that crashes the server does so three times, and is a dead letter then; those that
# ran beside it are charged nothing. What ran is in a file that no copy of the server acts
# on, and that may be damaged.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use File::Copy qw(copy);
use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $conf = "restart_after_crash = on\ngrownext.executors = 3\n";
my $node = GrowNext::Queue::new_node('poison', $conf);
my $file = 'pg_stat_tmp/grownext.running';

sub sql { return GrowNext::Queue::sql($node, shift); }
sub until_true { return GrowNext::Queue::until_true($node, shift); }

# A handler can kill nobody. An unwise superuser's function can: the shell's parent is the
# executor.
sql(<<'SQL');
CREATE FUNCTION app.crash() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID; cat >/dev/null';
END $$;
CREATE TABLE app.crashing (yes boolean NOT NULL);
INSERT INTO app.crashing VALUES (true);
CREATE TABLE app.gate (open boolean NOT NULL);
INSERT INTO app.gate VALUES (false);
CREATE TABLE app.effect (n int NOT NULL, began timestamptz NOT NULL, ended timestamptz NOT NULL);
ALTER TABLE app.effect OWNER TO queue_app;
GRANT SELECT ON app.crashing, app.gate TO queue_app;
SELECT grownext.queue_define('mixed', '{"max_attempts": 5}');
SELECT grownext.queue_grant('mixed', 'queue_app', 'work');
SQL
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE FUNCTION app.work(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    began CONSTANT timestamptz := clock_timestamp();
BEGIN
    IF payload ? 'crash' AND (SELECT yes FROM app.crashing) THEN
        PERFORM app.crash();
    END IF;
    WHILE payload ? 'gate' AND NOT (SELECT open FROM app.gate) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    PERFORM pg_sleep((payload ->> 'sleep')::float8);
    INSERT INTO app.effect VALUES ((payload ->> 'n')::int, began, clock_timestamp());
END $$;
SELECT grownext.queue_handle('mixed', 'app.work(jsonb)');
SQL

# Neighbours that need some time, so that each crash comes upon some of them.
my $poison = sql(<<'SQL');
BEGIN;
SELECT count(grownext.enqueue('mixed', jsonb_build_object('n', n, 'sleep', 0.4))) FROM generate_series(1, 4) AS n \gset
SELECT grownext.enqueue('mixed', '{"n": 0, "crash": true, "sleep": 0}');
SELECT count(grownext.enqueue('mixed', jsonb_build_object('n', n, 'sleep', 0.4))) FROM generate_series(5, 8) AS n \gset
COMMIT;
SQL
until_true('SELECT count(*) = 1 FROM _grownext.queue_dead');
until_true('SELECT count(*) = 0 FROM _grownext.queue_job');
is(sql("SELECT state, last_error FROM grownext.job_get($poison)"), 'dead|NX032: the server crashed 3 times while the job ran',
	'a job that crashes the server is a dead letter');
is(scalar(() = slurp_file($node->logfile) =~ /terminated by signal 9/g), 3, 'after three crashes');
is(sql('SELECT string_agg(n::text, \' \' ORDER BY n) FROM app.effect'), '1 2 3 4 5 6 7 8', 'its neighbours ran, each once');
is(sql("SELECT count(*) FROM _grownext.queue_done WHERE failures > 0 OR attempts <> '[]'"), '0', 'and no attempt was charged to them');
is(sql("SELECT count(*) FROM _grownext.queue_suspect WHERE job_id <> $poison"), '0', 'none is a suspect');
like(slurp_file($node->logfile), qr/the server crashed while job $poison ran, for the 3\. time/, 'the log tells');

sql("UPDATE app.crashing SET yes = false");
is(sql("SELECT grownext.job_redrive('mixed')"), '1', 'once it is mended it is redriven');
is(GrowNext::Queue::settle($node, $poison), 'succeeded', 'with its crashes forgotten');
is(sql('SELECT count(*) FROM _grownext.queue_suspect'), '0', 'and is no suspect any more');

# The file as a crash would leave it, with two jobs in hand.
sql('TRUNCATE app.effect');
sql(q{SELECT grownext.enqueue('mixed', jsonb_build_object('n', n, 'sleep', 0.1, 'gate', true)) FROM generate_series(1, 2) AS n});
until_true(q{SELECT running = 2 FROM grownext.queue_stats('mixed')});
until_true(q{SELECT count(*) = 2 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'grownext job % of queue mixed%'});
my $saved = $node->basedir . '/running';
copy($node->data_dir . "/$file", $saved) or die "copy: $!";
$node->backup('copy');
ok(-e $node->data_dir . "/$file", 'the file is there');
ok(!-e $node->backup_dir . "/copy/$file", 'and in no base backup');

# A signal to the postmaster alone: the executors are told to quit, so nobody is a suspect.
$node->stop('immediate');
$node->start;
sql('UPDATE app.gate SET open = true');
until_true('SELECT count(*) = 2 FROM app.effect');
is(sql('SELECT count(*) FROM _grownext.queue_suspect'), '0', 'an immediate stop makes nobody a suspect');
$node->stop;

# replace_file(NODE, CHANGE): the saved file, changed, in the place of the server's
sub replace_file
{
	my ($target, $change) = @_;
	my $content = slurp_file($saved);
	$content = $change->($content);
	open(my $out, '>:raw', $target->data_dir . "/$file") or die "open: $!";
	print $out $content;
	close $out;
}
sub log_since { my ($target, $offset) = @_; return slurp_file($target->logfile, $offset); }

# Two were in hand and nobody knows which one it was. The jobs are over: nothing comes of it.
my $offset = -s $node->logfile;
replace_file($node, sub { shift });
$node->start;
sql(q{SELECT grownext.enqueue('mixed', '{"n": 3, "sleep": 0}')});
until_true('SELECT count(*) = 3 FROM app.effect');
is(sql('SELECT count(*) FROM _grownext.queue_suspect'), '0', 'jobs that are over are no suspects');
unlike(log_since($node, $offset), qr/grownext\.running|server crashed/, 'and not worth a line in the log');
$node->stop;

# Damage.
for my $damage (
	[ 'rubbish', sub { 'rubbish' x 2000 }, qr/file "pg_stat_tmp\/grownext\.running" is damaged and was ignored/ ],
	[ 'an empty file', sub { '' }, qr/is damaged and was ignored/ ],
	[ 'a file cut short', sub { substr(shift, 0, -100) }, qr/is damaged and was ignored/ ],
	[ 'a header that is not whole', sub { my $c = shift; substr($c, 17, 1) ^= "\x01"; $c }, qr/is damaged and was ignored/ ],
	[ 'entries that are not whole', sub { my $c = shift; substr($c, 32, length($c) - 32) =~ tr/\x00-\xff/\x02-\xff\x00\x01/; $c },
		qr/\d+ damaged entries of file "pg_stat_tmp\/grownext\.running" were ignored/ ])
{
	my ($name, $change, $expected) = @$damage;
	$offset = -s $node->logfile;
	replace_file($node, $change);
	$node->start;
	like(log_since($node, $offset), $expected, "$name is ignored");
	my $id = sql(q{SELECT grownext.enqueue('mixed', '{"n": 4, "sleep": 0}')});
	is(GrowNext::Queue::settle($node, $id), 'succeeded', 'and jobs run');
	is(sql('SELECT count(*) FROM _grownext.queue_suspect'), '0', 'without a suspect');
	$node->stop;
}

# Another system, and a server that was promoted: the two jobs are still to be run there.
my $foreign = PostgreSQL::Test::Cluster->new('foreign');
$foreign->init;
$foreign->append_conf('postgresql.conf', "shared_preload_libraries = 'grownext'\n");
replace_file($foreign, sub { shift });
$foreign->start;
like(slurp_file($foreign->logfile), qr/is of another database system and was ignored/, 'the file of another system is ignored');
$foreign->stop;

# of_copy(NAME, CHANGE): a server from the backup, in which the two jobs were in hand
sub of_copy
{
	my ($name, $change, %how) = @_;
	my $copy = PostgreSQL::Test::Cluster->new($name);
	$copy->init_from_backup($node, 'copy', %how);
	replace_file($copy, $change);
	$copy->start;
	return $copy;
}
# open_gate(NODE): the two jobs end
sub open_gate
{
	my ($copy) = @_;
	GrowNext::Queue::sql($copy, 'UPDATE app.gate SET open = true');
	GrowNext::Queue::until_true($copy, 'SELECT count(*) = 2 FROM app.effect');
}
my $standby = of_copy('standby', sub { shift }, has_streaming => 1);
$standby->promote;
open_gate($standby);
like(slurp_file($standby->logfile), qr/on timeline 1 crashed are ignored on timeline 2/, 'a promoted server ignores what ran on another timeline');
is(GrowNext::Queue::sql($standby, 'SELECT count(*) FROM _grownext.queue_suspect'), '0', 'and has no suspects');
$standby->stop;

# On the same timeline the file counts: both are suspects, neither is charged, and they run
# one at a time.
my $same = of_copy('same', sub { shift });
open_gate($same);
is(GrowNext::Queue::sql($same, 'SELECT a.ended <= b.began FROM app.effect AS a, app.effect AS b WHERE a.began < b.began'), 't', 'of two suspects one runs at a time');
is(GrowNext::Queue::sql($same, 'SELECT count(*) FROM _grownext.queue_suspect'), '0', 'and both are cleared');
is(GrowNext::Queue::sql($same, "SELECT count(*) FROM _grownext.queue_done WHERE failures > 0"), '0', 'uncharged');
unlike(slurp_file($same->logfile), qr/the server crashed while job/, 'nobody knows which one it was');
$same->stop;

# Two jobs in one transaction, as executors may run them: the one that had begun last is
# charged, its neighbour is a suspect.
sub crc32c
{
	my $crc = 0xffffffff;
	for my $byte (unpack('C*', shift))
	{
		$crc ^= $byte;
		$crc = $crc & 1 ? ($crc >> 1) ^ 0x82f63b78 : $crc >> 1 for 1 .. 8;
	}
	return $crc ^ 0xffffffff;
}
my @together;
sub one_entry
{
	my ($content) = @_;
	my ($head, $size) = (24, unpack('x4 L', $content));
	my @running = grep { unpack('L', substr($content, $_, 4)) == 1 } map { $head + $_ * $size } 0 .. (length($content) - $head) / $size - 1;
	@together = map { unpack('q', substr($content, $_ + 32, 8)) } @running;
	substr($content, $running[1], $size) = "\0" x $size;
	substr($content, $running[0] + 16, 4) = pack('L', 2);
	substr($content, $running[0] + 32, 16) = pack('q2', @together);
	substr($content, $running[0] + 4, 4) = pack('L', crc32c(substr($content, $running[0] + 8, 24 + 16)));
	return $content;
}
my $both = of_copy('both', \&one_entry);
is(scalar(@together), 2, 'two jobs were in hand');
open_gate($both);
like(slurp_file($both->logfile), qr/the server crashed while job $together[1] ran, for the 1\. time/, 'of two jobs in a transaction the last one is charged');
unlike(slurp_file($both->logfile), qr/the server crashed while job $together[0] ran/, 'the other is not');
is(GrowNext::Queue::sql($both, 'SELECT a.ended <= b.began FROM app.effect AS a, app.effect AS b WHERE a.began < b.began'), 't', 'but it is a suspect as well');
is(GrowNext::Queue::sql($both, 'SELECT count(*) FROM _grownext.queue_suspect'), '0', 'until it has succeeded');
$both->stop;

done_testing();
