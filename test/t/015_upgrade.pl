# Upgrades: every released version ends up as a fresh install does. Skew: the library
# serves the SQL of the previous version and refuses newer SQL.
use strict;
use warnings;

use File::Copy qw(copy);
use FindBin;
use lib "$FindBin::Bin/../lib";
use GrowNext::Workers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($current) = slurp_file("$GrowNext::Workers::source/grownext.control") =~ /^default_version\s*=\s*'([^']+)'/m;
my $node = GrowNext::Workers::new_node('upgrade');
my $extensions = $node->config_data('--sharedir') . '/extension';
plan skip_all => "$extensions is not writable, which installing a made-up version needs" unless -w $extensions;

sub write_file
{
	my ($file, $text) = @_;
	open(my $out, '>', $file) or die "$file: $!";
	print $out $text;
	close($out) or die "$file: $!";
}

sub fingerprint
{
	my ($database) = @_;
	return $node->safe_psql($database, slurp_file("$GrowNext::Workers::source/test/fingerprint.sql"));
}

# same(DATABASE, NAME): as a fresh install, or the lines that differ
sub same
{
	my ($database, $name) = @_;
	my %fresh = map { $_ => 1 } split /\n/, fingerprint('fresh');
	my %found = map { $_ => 1 } split /\n/, fingerprint($database);
	my @differ = ((map { "- $_" } grep { !$found{$_} } sort keys %fresh), (map { "+ $_" } grep { !$fresh{$_} } sort keys %found));
	ok(!@differ, $name) or diag(join "\n", map { substr $_, 0, 300 } @differ[ 0 .. (@differ > 20 ? 20 : $#differ) ]);
}

$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql('fresh', 'CREATE EXTENSION grownext');
cmp_ok(scalar(split /\n/, fingerprint('fresh')), '>', 200, 'the fingerprint sees the extension');

# ---- a previous version, made up: a column, a function and a body were different ----

my $previous = '0.0.9';
my $script = slurp_file("$extensions/grownext--$current.sql");
$script =~ s/^    trusted_by +name +NOT NULL DEFAULT session_user,\n//m or die 'core_gateway has changed';
$script =~ s/^(CREATE OR REPLACE FUNCTION grownext\.workers\(\))/
CREATE FUNCTION _grownext.core_retired() RETURNS void LANGUAGE sql AS 'SELECT';
$1/m or die;
$script =~ s/^CREATE OR REPLACE FUNCTION _grownext\.core_preload_hint.*?^COMMENT [^\n]*\n//ms or die;
$script =~ s/_grownext\.core_preload_hint\([^)]*\)/'from an older version'/g;
my $deltas = PostgreSQL::Test::Utils::tempdir();
write_file("$deltas/$previous--$current.sql", <<'SQL');
ALTER TABLE _grownext.core_gateway ADD COLUMN trusted_by name NOT NULL DEFAULT session_user;
DROP FUNCTION _grownext.core_retired();
SQL
write_file("$deltas/0.0.8--$previous.sql", "SELECT 1 / 0; -- not for who comes from $previous\n");
my $upgrade = "grownext--$previous--$current.sql";
my $built = PostgreSQL::Test::Utils::tempdir();
my $config = $node->config_data('--bindir') . '/pg_config';
command_ok([ 'make', '-s', '-C', $built, '-f', "$GrowNext::Workers::source/Makefile", "PG_CONFIG=$config", "UPGRADE_DIR=$deltas", $upgrade, "grownext--0.0.8--$current.sql" ],
	'make builds the upgrade scripts');
unlike(slurp_file("$built/$upgrade"), qr/1 \/ 0|CREATE TABLE _grownext/, 'from its version on, and no table twice');
like(slurp_file("$built/grownext--0.0.8--$current.sql"), qr/1 \/ 0.*ADD COLUMN trusted_by/s, 'in the order of the versions');

my @made = ("$extensions/grownext--$previous.sql", "$extensions/$upgrade");
END { unlink @made if @made }
write_file($made[0], $script);
copy("$built/$upgrade", $made[1]) or die $!;

# ---- the library with the SQL of the previous version ------------------------

$node->safe_psql('postgres', 'CREATE DATABASE old');
$node->safe_psql('old', "CREATE EXTENSION grownext VERSION '$previous'");
GrowNext::Workers::set_up($node, 'old');
ok(GrowNext::Workers::ticking($node, 'old'), 'the library serves the SQL of the previous version');
is( $node->safe_psql('old', "SELECT concat_ws(' | ', state, detail, hint) FROM grownext.status() WHERE component = 'core' AND item = 'version'"),
	"degraded | library $current, SQL $previous | ALTER EXTENSION grownext UPDATE;",
	'status() asks for the update');
$node->safe_psql('old', 'CREATE ROLE gate; CREATE ROLE boss IN ROLE grownext_admin');
$node->safe_psql('old', "SELECT grownext.gateway_trust('gate'); GRANT EXECUTE ON FUNCTION grownext.status() TO gate; REVOKE EXECUTE ON FUNCTION grownext.workers() FROM grownext_monitor");

# ---- ALTER EXTENSION UPDATE --------------------------------------------------

$node->safe_psql('old', 'BEGIN; ALTER EXTENSION grownext UPDATE; ROLLBACK');
ok(GrowNext::Workers::ticking($node, 'old'), 'an update that rolls back disturbs nobody');
$node->safe_psql('old', 'ALTER EXTENSION grownext UPDATE');
ok(GrowNext::Workers::ticking($node, 'old'), 'ALTER EXTENSION UPDATE with workers running');
is(GrowNext::Workers::status($node, 'old', 'version'), 'ok', 'status() is content');
is($node->safe_psql('old', 'SELECT role_name FROM _grownext.core_gateway'), 'gate', 'data is kept');
is($node->safe_psql('old', "SELECT has_function_privilege('gate', 'grownext.status()', 'EXECUTE')"), 't', 'and what the DBA granted');
$node->safe_psql('old', 'REVOKE EXECUTE ON FUNCTION grownext.status() FROM gate');
same('old', 'the catalogue is that of a fresh install');

# ---- every release -----------------------------------------------------------

foreach my $file (glob "$GrowNext::Workers::source/test/released/grownext--*.sql")
{
	my ($version) = $file =~ /grownext--(.+)\.sql$/;
	my $database = "v$version" =~ tr/./_/r;
	unless (-e "$extensions/grownext--$version.sql")
	{
		copy($file, "$extensions/grownext--$version.sql") or die $!;
		push @made, "$extensions/grownext--$version.sql";
	}
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, "CREATE EXTENSION grownext VERSION '$version'");
	$node->safe_psql($database, 'ALTER EXTENSION grownext UPDATE');
	same($database, "$version upgraded is as a fresh install");
}

# ---- SQL that is newer than the library --------------------------------------

$node->safe_psql('old', "UPDATE pg_extension SET extversion = '99.1' WHERE extname = 'grownext'");
my ($rc, $out, $err) = $node->psql('old', "\\set VERBOSITY verbose\nSELECT grownext.setup('https://id.example', '{https://api.example}')");
like($err, qr/NX004.*newer than the loaded library.*HINT:  Install the library of version 99\.1 and restart the server/s, 'newer SQL is refused, with the way out');
is( $node->safe_psql('old', "SELECT concat_ws(' | ', state, hint) FROM grownext.status() WHERE component = 'core' AND item = 'version'"),
	'failed | Install the library of version 99.1 and restart the server.', 'status() does not raise, and says so');
$node->restart;
ok($node->poll_query_until('old', "SELECT count(*) = 1 FROM grownext.workers() WHERE state = 'version skew' AND last_error LIKE '%newer than the loaded library%'"),
	'workers() shows why nobody works there');
is(GrowNext::Workers::pid($node, 'scheduler', 'old'), '', 'nobody does');
$node->safe_psql('old', "UPDATE pg_extension SET extversion = '$current' WHERE extname = 'grownext'");
$node->restart;
ok(GrowNext::Workers::ticking($node, 'old'), 'with the fitting library it is served again');

$node->stop;
is(GrowNext::Workers::lines($node, qr/PANIC|TRAP:|terminated by signal/), 0, 'nothing crashed');
done_testing();
