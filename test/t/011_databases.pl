# Workers get out of the way of commands that need a database without sessions.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use GrowNext::Workers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Workers::new_node('databases');
GrowNext::Workers::arm($node, 'home', 'one');

sub scheduler { return GrowNext::Workers::pid($node, 'scheduler', $_[0]) }

# ---- CREATE DATABASE ... TEMPLATE --------------------------------------------

my $before = scheduler('one');
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE one');
pass('a served database can be copied');
ok(GrowNext::Workers::ticking($node, 'one'), 'its scheduler comes back');
isnt(scheduler('one'), $before, 'it had left');
ok( $node->poll_query_until('home', "SELECT state = 'fenced' FROM grownext.workers() WHERE database = 'copy'"),
	'the copy is fenced, and workers() shows it');
is(GrowNext::Workers::pid($node, 'scheduler', 'copy'), '', 'no worker stays in it');
is(GrowNext::Workers::status($node, 'copy', 'identity'), 'failed', 'status() of the copy says so');
like(GrowNext::Workers::status($node, 'copy', 'identity', 'detail'), qr/copy or restore of database "one"/, 'and whose copy it is');
like(GrowNext::Workers::status($node, 'copy', 'identity', 'hint'), qr/grownext\.unfence\(/, 'and how to let it act');
is( $node->safe_psql('copy', "SELECT string_agg(step || '=' || state, ' ') FROM grownext.setup('https://id.example', '{https://api.example}') WHERE step IN ('identity', 'workers')"),
	'identity=other_database workers=off', 'setup() does not arm a copy by accident');
$node->safe_psql('copy', "SELECT grownext.unfence('a database of its own now')");
ok(GrowNext::Workers::ticking($node, 'copy'), 'after unfence() it is served');

# ---- ALTER DATABASE RENAME ---------------------------------------------------

$node->safe_psql('postgres', 'ALTER DATABASE copy RENAME TO renamed');
ok(GrowNext::Workers::ticking($node, 'renamed'), 'a renamed database stays armed');
ok( $node->poll_query_until('renamed', "SELECT database_name = 'renamed' FROM _grownext.core_identity"),
	'and its identity learns the name');
$node->safe_psql('postgres', 'BEGIN; ALTER DATABASE renamed RENAME TO never; ROLLBACK');
ok(GrowNext::Workers::ticking($node, 'renamed'), 'a rename that rolls back leaves it served');

# ---- ALTER DATABASE SET TABLESPACE -------------------------------------------

my $space = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$space'");
$node->safe_psql('postgres', 'ALTER DATABASE renamed SET TABLESPACE elsewhere');
ok(GrowNext::Workers::ticking($node, 'renamed'), 'a served database can be moved to a tablespace, and stays armed');

# ---- what fails unblocks -----------------------------------------------------

my ($rc, $out, $err) = $node->psql('postgres', 'CREATE DATABASE home TEMPLATE renamed');
like($err, qr/already exists/, 'a copy that fails');
ok(GrowNext::Workers::ticking($node, 'renamed'), 'leaves the template served');

$node->safe_psql('postgres', 'CREATE ROLE stranger LOGIN CREATEDB');
$before = scheduler('renamed');
foreach my $command ('DROP DATABASE renamed', 'ALTER DATABASE renamed RENAME TO mine', 'CREATE DATABASE mine TEMPLATE renamed',
	'ALTER DATABASE renamed SET TABLESPACE pg_default')
{
	($rc, $out, $err) = $node->psql('postgres', $command, extra_params => [ '-U', 'stranger' ]);
	like($err, qr/must be owner|permission denied/, "a stranger may not: $command");
}
is(scheduler('renamed'), $before, 'and disturbs no worker by trying');

# ---- DROP DATABASE -----------------------------------------------------------

$node->safe_psql('postgres', 'DROP DATABASE renamed');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_database WHERE datname = 'renamed'"), '0', 'a served database can be dropped');
ok( $node->poll_query_until('home', "SELECT count(*) = 0 FROM grownext.workers() WHERE worker <> 'launcher' AND coalesce(database, '-') NOT IN ('one', 'home')"),
	'and workers() forgets it');
$node->safe_psql('postgres', 'CREATE DATABASE renamed TEMPLATE one');
$node->safe_psql('postgres', 'DROP DATABASE renamed WITH (FORCE)');
pass('copied and dropped with force');

# ---- again and again, while workers come and go ------------------------------

foreach my $round (1 .. 10)
{
	$node->safe_psql('postgres', 'CREATE DATABASE churn TEMPLATE one');
	$node->safe_psql('churn', "SELECT grownext.unfence('churn')") if $round % 2;
	$node->safe_psql('postgres', 'DROP DATABASE churn');
}
pass('ten copies made and dropped at once');
ok(GrowNext::Workers::ticking($node, 'one'), 'the template is served');
ok(GrowNext::Workers::ticking($node, 'home'), 'and so is its neighbour');

# A lost race is no crash, and is not retried in a hurry.
cmp_ok(GrowNext::Workers::lines($node, qr/FATAL/), '<=', 5, 'hardly a line in the log');
$node->stop;
is(GrowNext::Workers::lines($node, qr/PANIC|TRAP:|terminated by signal/), 0, 'nothing crashed');
done_testing();
