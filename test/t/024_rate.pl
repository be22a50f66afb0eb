# Rate limits are counted in memory that all sessions share: exact when they race, whatever
# rolls back, on a standby too; bounded, and honest about it where nothing is preloaded.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'grownext'\ngrownext.rate_limit_memory = 64kB\n");
$node->start;
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(one two);
$node->safe_psql($_, 'CREATE EXTENSION grownext; CREATE TABLE taken (units bigint)') foreach qw(one two);

my $clock = "SET grownext.test_clock = '2030-01-01 00:00:00+00';";
my $left = "$clock SELECT (_grownext.core_rate_peek('race', 'k', 1000, '1 hour')).remaining";

# ---- races -------------------------------------------------------------------------

# Time stands still, so nothing comes back: eight sessions want 4000 of 1000.
my $race = $node->basedir . '/race.sql';
append_to_file($race, <<'SQL');
SET grownext.test_clock = '2030-01-01 00:00:00+00';
INSERT INTO taken SELECT count(*) FROM generate_series(1, 5) WHERE (_grownext.core_rate_take('race', 'k', 1000, '1 hour')).allowed;
SQL
$node->command_ok([ 'pgbench', '-n', '-c', '8', '-j', '2', '-t', '100', '-f', $race, '-h', $node->host, '-p', $node->port, 'one' ],
	'eight sessions want four times what there is');
is($node->safe_psql('one', 'SELECT sum(units) FROM taken'), '1000', 'together they got the burst, to the unit');
is($node->safe_psql('one', $left), '0', 'and nothing is left');
is($node->safe_psql('two', $left), '1000', 'another database has its own');

# ---- rollback and errors -------------------------------------------------------------

$node->safe_psql('one', "$clock BEGIN; SELECT _grownext.core_rate_take('back', 'k', 3, '1 hour'); ROLLBACK");
my ($code, undef, $error) = $node->psql('one',
	"$clock SELECT 1 / (1 - (_grownext.core_rate_take('back', 'k', 3, '1 hour')).allowed::int)");
like($error, qr/division by zero/, 'a statement takes a unit and fails');
is($node->safe_psql('one', "$clock SELECT (_grownext.core_rate_peek('back', 'k', 3, '1 hour')).remaining"),
	'1', 'what was taken stays taken, and the next session knows');

# ---- a full table ---------------------------------------------------------------------

my $facts = 'SELECT %s FROM _grownext.core_rate_facts()';
my $buckets = $node->safe_psql('one', sprintf($facts, 'buckets'));
cmp_ok($buckets, '>', 500, "64 kB hold $buckets buckets");
is($node->safe_psql('one', sprintf($facts, 'evicted')), '0', 'none had to give way so far');
is( $node->safe_psql('one', "$clock SELECT count(*) FROM generate_series(1, 20000) AS i WHERE (_grownext.core_rate_take('spray', i::text, 5, '1 minute')).allowed"),
	'20000', 'twenty thousand keys more than fill it, and none is an error');
is($node->safe_psql('one', sprintf($facts, 'used = buckets')), 't', 'it is full');
is($node->safe_psql('one', $left), '0', 'a limit that is used up for an hour is not pushed out by those that matter for seconds');
like($node->safe_psql('one', "$clock SELECT state, detail, hint FROM grownext.status() WHERE item = 'rate limits'"),
	qr/^degraded\|\d+ buckets gave way.*ALTER SYSTEM SET grownext\.rate_limit_memory = '128kB'/, 'and status says that buckets gave way');
is($node->safe_psql('one', "SET grownext.test_clock = '2030-01-01 05:00:00+00'; SELECT state FROM grownext.status() WHERE item = 'rate limits'"),
	'ok', 'until it has been well for an hour');

# ---- standby ----------------------------------------------------------------------------

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
is($standby->safe_psql('one', "$clock SELECT count(*) FROM generate_series(1, 9) WHERE (_grownext.core_rate_take('standby', 'k', 4, '1 hour')).allowed"),
	'4', 'a standby counts by itself');
$standby->stop;

# ---- a crash, and no preload --------------------------------------------------------------

$node->stop('immediate');
$node->start;
is($node->safe_psql('one', $left), '1000', 'a crash forgets');

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
is( $node->safe_psql('one', "$clock SELECT count(*) FROM generate_series(1, 2000) WHERE (_grownext.core_rate_take('race', 'k', 1000, '1 hour')).allowed; SELECT count(*) FROM generate_series(1, 9) WHERE (_grownext.core_failure_note('failed', 'k')).allowed"),
	"1000\n9", 'without preload a session counts its own');
is($node->safe_psql('one', $left), '1000', 'and the next one begins anew');
is($node->safe_psql('one', "SELECT count(*) FROM generate_series(1, 20000) AS i WHERE (_grownext.core_rate_take('spray', i::text, 5, '1 minute')).allowed"),
	'20000', 'its memory is bounded, too');
like($node->safe_psql('one', "SELECT state, detail, hint FROM grownext.status() WHERE item = 'rate limits'"),
	qr/^degraded\|.*per session.*\|ALTER SYSTEM SET shared_preload_libraries = 'grownext'/, 'status says what that means, and how to mend it');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:|terminated by signal/, $_->name . ': nothing crashed') foreach $node, $standby;

done_testing();
