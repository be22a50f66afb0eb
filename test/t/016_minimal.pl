# With wal_level = minimal a crash repeats no id, though the sequence was used in the
# transaction that made it.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('minimal');
$node->init;
$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
$node->append_conf('postgresql.conf', "wal_level = minimal\nmax_wal_senders = 0\n");
$node->start;
is($node->safe_psql('postgres', 'SHOW wal_level'), 'minimal', 'the server writes as little WAL as it can');

my $append = "SELECT grownext.audit_append('thing.made')";
my $enqueue = "SELECT grownext.enqueue('work')";
my $newest = <<'SQL';
SELECT (SELECT max(id) FROM grownext_audit.event), (SELECT max(id) FROM _grownext.queue_job)
SQL

# What a database's first transactions may be; each ends with both sequences in use.
my $set_up = "SELECT grownext.setup('https://id.example', '{https://api.example}'); SELECT grownext.queue_define('work')";
my %first = (
	# the log's sequence is made by the first event
	steps => [ 'CREATE EXTENSION grownext', $set_up, $append, $enqueue ],
	# both are made, and used, in one transaction
	once => [ "BEGIN; CREATE EXTENSION grownext; $set_up; $append; $enqueue; $append; $enqueue; COMMIT" ],
	# with the making and the first use in a savepoint, after one that was rolled back
	savepoint => [
		"BEGIN; SAVEPOINT a; CREATE EXTENSION grownext; $set_up; $append; $enqueue; ROLLBACK TO a; SAVEPOINT b; "
		  . "CREATE EXTENSION grownext; $set_up; $append; $enqueue; RELEASE b; $append; $enqueue; COMMIT" ],
	# a sequence that is set anew is new storage, too
	restarted => [
		'CREATE EXTENSION grownext', $set_up, $append, $enqueue,
		"BEGIN; ALTER SEQUENCE _grownext.queue_job_id RESTART 1000; $enqueue; COMMIT" ]);

foreach my $database (sort keys %first)
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, $_) foreach @{ $first{$database} };
	# ids that a crash could hand out again
	$node->safe_psql($database, "$append; $enqueue") foreach 1 .. 3;
}
my %before = map { $_ => $node->safe_psql($_, $newest) } keys %first;

$node->stop('immediate');
$node->start;

foreach my $database (sort keys %first)
{
	my ($event, $job) = split /\|/, $before{$database};
	is($node->safe_psql($database, $newest), $before{$database}, "$database: after a crash every event and job is there");
	my ($rc, $out, $err) = $node->psql($database, $append);
	cmp_ok($out || 0, '>', $event, "$database: the next event has a new id") or diag($err);
	($rc, $out, $err) = $node->psql($database, $enqueue);
	cmp_ok($out || 0, '>', $job, "$database: and so has the next job") or diag($err);
}

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
