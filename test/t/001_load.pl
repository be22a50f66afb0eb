# The library loads with and without shared_preload_libraries; the extension comes and goes.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($control) = slurp_file("grownext.control") =~ /^default_version\s*=\s*'([^']+)'/m;

foreach my $preload (0, 1)
{
	my $how = $preload ? 'with preload' : 'without preload';
	my $node = PostgreSQL::Test::Cluster->new($preload ? 'preloaded' : 'plain');
	$node->init;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'grownext'\n") if $preload;
	$node->start;

	$node->safe_psql('postgres', 'CREATE EXTENSION grownext');
	is($node->safe_psql('postgres', 'SELECT grownext.extension_version()'),
		$control, "$how: the library is of the version that the control file names");
	is( $node->safe_psql('postgres', "SELECT extversion FROM pg_extension WHERE extname = 'grownext'"),
		$control, "$how: and so is the SQL");

	$node->restart;
	is($node->safe_psql('postgres', 'SELECT grownext.current_tenant() IS NULL'),
		't', "$how: a new session after a restart has no context");

	$node->safe_psql('postgres', 'DROP EXTENSION grownext');
	is( $node->safe_psql('postgres', "SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%grownext%'"),
		'0', "$how: DROP EXTENSION takes its schemas along");
	is( $node->safe_psql('postgres', "SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_extension'::regclass
			AND refobjid NOT IN (SELECT oid FROM pg_extension)"),
		'0', "$how: and leaves no dependency behind");

	$node->safe_psql('postgres', 'CREATE EXTENSION grownext');
	is($node->safe_psql('postgres', 'SELECT grownext.extension_version()'),
		$control, "$how: CREATE EXTENSION works again after DROP, with the roles that are there");

	# What takes workers says so, with the hint; what does not, works.
	$node->safe_psql('postgres', "SELECT grownext.queue_define('load')");
	$node->safe_psql('postgres', "SELECT grownext.enqueue('load')");
	my ($registered, $none, $refused) = $node->psql('postgres', <<'SQL');
\set VERBOSITY verbose
CREATE ROLE load_owner;
CREATE FUNCTION load_job(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
ALTER FUNCTION load_job OWNER TO load_owner;
SELECT grownext.queue_handle('load', 'load_job(jsonb)', run_as => 'load_owner');
SQL
	if ($preload)
	{
		is($refused, '', "$how: a handler is registered");
	}
	else
	{
		like($refused, qr/ERROR:  NX001: .*\nHINT:  .*shared_preload_libraries/s, "$how: a handler is refused, with the hint");
	}

	# The library answers in a database without its SQL, and DROP has no session to stumble over.
	$node->safe_psql('postgres', 'CREATE DATABASE bare');
	my ($rc, $out, $err) = $node->psql('bare', "LOAD 'grownext'; SELECT grownext.extension_version()");
	isnt($rc, 0, "$how: a database without the extension has no functions");
	like($err, qr/schema "grownext" does not exist/, "$how: and says so");

	$node->stop;
	my $log = slurp_file($node->logfile);
	unlike($log, qr/PANIC|TRAP:|terminated by signal/, "$how: nothing crashed");
}

done_testing();
