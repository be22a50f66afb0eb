# Tables that count for a limit are dumped and restored: no row is counted twice, none is
# forgotten, and the limit holds afterwards, after a crash too.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $acme = 'a4000000-0000-4000-8000-000000000001';
my $node = PostgreSQL::Test::Cluster->new('limit');
$node->init;
$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE origin');
$node->safe_psql('origin', qq{
	CREATE EXTENSION grownext;
	SELECT grownext.product_define('app', 'App');
	SELECT grownext.feature_define('projects.max', 'app', 'limit');
	SELECT grownext.bundle_define('five', '{"projects.max": 5}');
	SELECT grownext.tenant_create('limit-acme', 'Acme', id => '$acme', bundle => 'five');
	CREATE TABLE project (id int, tenant_id uuid);
	CREATE TABLE "odd ""name" ("te'nant" uuid, id int) PARTITION BY RANGE (id);
	CREATE TABLE part_one PARTITION OF "odd ""name" FOR VALUES FROM (0) TO (10);
	CREATE TABLE part_two PARTITION OF "odd ""name" FOR VALUES FROM (10) TO (20);
	SELECT grownext.limit_protect('project', 'projects.max'), grownext.limit_protect('"odd ""name"', 'projects.max', 'te''nant');
	INSERT INTO project VALUES (1, '$acme'), (2, '$acme'), (3, NULL);
	INSERT INTO "odd ""name" VALUES ('$acme', 1), ('$acme', 11);
});

# What the counter says, whether counting anew says the same, and what the limit lets in.
sub holds
{
	my ($database, $where) = @_;

	is($node->safe_psql($database, "SELECT used, quota FROM grownext.entitlement('projects.max', '$acme')"), '4|5', "$where: every row is counted once");
	is($node->safe_psql($database, "SELECT grownext.limit_recount('projects.max')"), '0', "$where: counted anew, it is the same");
	is($node->safe_psql($database, "SELECT count(*) FROM grownext.status() WHERE item = 'limit'"), '0', "$where: every trigger is there");
	my ($rc, $out, $err) = $node->psql($database, "INSERT INTO part_two VALUES ('$acme', 12), ('$acme', 13)");
	like($err, qr/the limit of "projects.max" is reached/, "$where: the limit holds");
	($rc, $out, $err) = $node->psql($database, "BEGIN; DELETE FROM project WHERE id = 1; INSERT INTO part_two VALUES ('$acme', 12), ('$acme', 13); ROLLBACK");
	is($err, '', "$where: what goes makes room");
}

holds('origin', 'before');
my $dir = $node->basedir;
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/origin.dump", $node->connstr('origin') ], 'pg_dump -Fc');
$node->command_ok([ 'pg_dump', '-Fd', '-j', '2', '-f', "$dir/origin.dir", $node->connstr('origin') ], 'pg_dump -Fd -j 2');
$node->command_ok([ 'pg_dump', '-f', "$dir/origin.sql", $node->connstr('origin') ], 'pg_dump, plain');
my %restore = (
	whole => [ [ 'pg_restore', '--exit-on-error', '-d', 'DATABASE', "$dir/origin.dump" ] ],
	parallel => [ [ 'pg_restore', '-j', '2', '--exit-on-error', '-d', 'DATABASE', "$dir/origin.dir" ] ],
	plain => [ [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'DATABASE', '-f', "$dir/origin.sql" ] ],
	# the triggers are there before the rows come, and are told to stand aside
	schema_first => [
		[ 'pg_restore', '--schema-only', '--exit-on-error', '-d', 'DATABASE', "$dir/origin.dump" ],
		[ 'pg_restore', '--data-only', '--exit-on-error', '-d', 'DATABASE', "$dir/origin.dump" ]
	]);
foreach my $how (sort keys %restore)
{
	$node->safe_psql('postgres', "CREATE DATABASE $how");
	foreach my $step (@{ $restore{$how} })
	{
		local $ENV{PGOPTIONS} = '-c session_replication_role=replica' if grep { $_ eq '--data-only' } @$step;
		my @command = map { $_ eq 'DATABASE' ? $node->connstr($how) : $_ } @$step;
		$node->command_ok(\@command, "$how: @command[0, 1]");
	}
	holds($how, $how);
}

# Counter and rows are of one transaction, and come back together.
$node->stop('immediate');
$node->start;
holds('origin', 'after a crash');
$node->stop;
done_testing();
