# The audit log outlives dumps, restores and the extension, and two first users at once.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tenant = '11111111-1111-4111-8111-111111111111';
my $node = PostgreSQL::Test::Cluster->new('audit');
$node->init;
$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
$node->start;
my $dir = $node->basedir;

# answer(DATABASE, SQL): the value, or the SQLSTATE of the error
sub answer
{
	my ($database, $sql) = @_;
	my ($rc, $out, $err) = $node->psql($database, "\\set VERBOSITY sqlstate\n$sql", on_error_stop => 1);
	return $rc == 0 ? $out : $err =~ /ERROR:  (\w{5})/ ? $1 : $err;
}

sub append
{
	my ($database, $action) = @_;
	return answer($database, "SELECT grownext.audit_append('$action', 'thing:1', '{\"n\": 1}', '$tenant')");
}

my $fingerprint = q{SELECT md5(string_agg(e::text, ';' ORDER BY id)) FROM grownext_audit.event AS e WHERE id <= 3};

# adopted(DATABASE, HOW, NEXT): what is true of a log that came back
sub adopted
{
	my ($database, $how, $next) = @_;
	is(append($database, 'thing.restored'), $next, "$how: ids go on");
	is( $node->safe_psql($database, q{SELECT string_agg(relowner::regrole::text, ' ') FROM pg_class WHERE relnamespace = 'grownext_audit'::regnamespace AND relkind IN ('r', 'S')}),
		'grownext_owner grownext_owner', "$how: the log belongs to the owner");
	is( $node->safe_psql($database, q{SELECT string_agg(tgname || ' ' || tgenabled::text, ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'grownext_audit.event'::regclass}),
		'event_append_only A, event_no_truncate A', "$how: both triggers fire always");
	is(answer($database, "SET session_replication_role = replica; DELETE FROM grownext_audit.event"),
		'NX050', "$how: nothing can be deleted");
	is(answer($database, 'TRUNCATE grownext_audit.event'), 'NX050', "$how: nor truncated");
	is(answer($database, 'DROP EXTENSION grownext'), '2BP01', "$how: the extension does not go unasked");
	is( $node->safe_psql($database, q{SELECT state FROM _grownext.audit_status() WHERE item = 'log'}),
		'ok', "$how: status says ok");
}

# Two first users: the second waits for the first, whatever becomes of it.
foreach my $end ('COMMIT', 'ROLLBACK')
{
	my $database = lc "race_$end";
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION grownext');
	my $first = $node->background_psql($database);
	my $second = $node->background_psql($database);
	$first->query_safe("BEGIN; SELECT _grownext.audit_write('first.use', NULL, NULL, NULL, NULL);");
	$second->query_until(qr/started/, "\\echo started\nSELECT 'written ' || _grownext.audit_write('second.use', NULL, NULL, NULL, NULL);\n");
	ok( $node->poll_query_until($database, "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = '$database' AND wait_event_type = 'Lock'"),
		"$end: the second of two first users waits");
	$first->query_safe($end);
	like($second->query("SELECT 'done';"), qr/done/, "$end: and comes through");
	is( $node->safe_psql($database, q{SELECT string_agg(action, ' ' ORDER BY id) FROM grownext.audit_event}),
		$end eq 'COMMIT' ? 'first.use second.use' : 'second.use', "$end: with every committed event in the log");
	$first->quit;
	$second->quit;
}

# A database with three events, two of them with an idempotency key.
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', 'CREATE EXTENSION grownext');
append('source', 'thing.made');
answer('source', "SELECT grownext.audit_append('thing.paid', tenant_id => '$tenant', idempotency_key => 'k')");
answer('source', q{SELECT _grownext.audit_write('platform.changed', 'x', NULL, '{"a": 1}', '{"a": [2, "ä"]}')});
my $expected = $node->safe_psql('source', $fingerprint);

# The ways to dump and restore it, each without a single error.
my %restore = (
	'plain' => sub {
		my ($database) = @_;
		$node->command_ok([ 'pg_dump', '-f', "$dir/plain.sql", 'source' ], 'plain: dumped');
		$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $database, '-f', "$dir/plain.sql" ], 'plain: restored');
	},
	'one transaction' => sub {
		my ($database) = @_;
		$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom.dump", 'source' ], 'one transaction: dumped');
		$node->command_ok([ 'pg_restore', '-1', '--exit-on-error', '-d', $database, "$dir/custom.dump" ], 'one transaction: restored');
	},
	'parallel' => sub {
		my ($database) = @_;
		$node->command_ok([ 'pg_dump', '-Fd', '-j', '2', '-f', "$dir/dump", 'source' ], 'parallel: dumped');
		$node->command_ok([ 'pg_restore', '-j', '2', '--exit-on-error', '-d', $database, "$dir/dump" ], 'parallel: restored');
	},
	'without owners' => sub {
		my ($database) = @_;
		$node->command_ok([ 'pg_restore', '--no-owner', '--no-acl', '--exit-on-error', '-d', $database, "$dir/custom.dump" ], 'without owners: restored');
	});
foreach my $how ('plain', 'one transaction', 'parallel', 'without owners')
{
	(my $database = "restored_$how") =~ s/\W/_/g;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$restore{$how}->($database);
	is($node->safe_psql($database, $fingerprint), $expected, "$how: every event is back, byte for byte");
	is( answer($database, 'SELECT count(*) FROM grownext.audit_event'),
		$how eq 'without owners' ? 'NX003' : '3', "$how: the view shows them, or says what to do");
	adopted($database, $how, 4);
	is($node->safe_psql($database, 'SELECT count(*) FROM grownext.audit_event'), '4', "$how: and one more");
	is( answer($database, "SELECT grownext.audit_append('thing.paid', tenant_id => '$tenant', idempotency_key => 'k')"),
		'2', "$how: the idempotency key still stands for its event");
}

# Without the extension: the log alone is dumped and restored, and adopted by CREATE EXTENSION.
is(answer('source', 'DROP EXTENSION grownext CASCADE'), '', 'CASCADE drops the extension');
is($node->safe_psql('source', $fingerprint), $expected, 'and leaves the log');
$node->safe_psql('postgres', 'CREATE DATABASE orphan');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/orphan.dump", 'source' ], 'orphan: dumped');
$node->command_ok([ 'pg_restore', '-1', '--exit-on-error', '-d', 'orphan', "$dir/orphan.dump" ], 'orphan: restored');
foreach my $database ('source', 'orphan')
{
	$node->safe_psql($database, 'CREATE EXTENSION grownext');
	is($node->safe_psql($database, 'SELECT count(*) FROM grownext.audit_event'), '3', "$database: a new installation reads the log");
	adopted($database, $database, 4);
}

# A dump of an extension whose log was never used brings none along.
$node->safe_psql('postgres', 'CREATE DATABASE unused');
$node->safe_psql('unused', 'CREATE EXTENSION grownext');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/unused.dump", 'unused' ], 'unused: dumped');
$node->safe_psql('postgres', 'CREATE DATABASE unused_restored');
$node->command_ok([ 'pg_restore', '-1', '--exit-on-error', '-d', 'unused_restored', "$dir/unused.dump" ], 'unused: restored');
is(append('unused_restored', 'thing.made'), '1', 'unused: the first event makes the log');

# A copy made with TEMPLATE, whose privileges are not copied, goes on too.
$node->safe_psql('postgres', 'CREATE DATABASE template_copy TEMPLATE unused');
is(append('template_copy', 'thing.made'), '1', 'copy: the first event makes the log');

# An extension that writes an event while it is being made does not own the log.
$node->safe_psql('postgres', 'CREATE DATABASE other_script TEMPLATE unused');
my $share = $node->config_data('--sharedir') . '/extension';
SKIP:
{
	skip 'the installation is not ours to write to', 2 unless -w $share;
	append_to_file("$share/gn_test_first_user.control", "default_version = '1'\n");
	append_to_file("$share/gn_test_first_user--1.sql", "SELECT _grownext.audit_write('first.use', NULL, NULL, NULL, NULL);\n");
	$node->safe_psql('other_script', 'CREATE EXTENSION gn_test_first_user');
	$node->safe_psql('other_script', 'DROP EXTENSION gn_test_first_user CASCADE');
	is( $node->safe_psql('other_script', 'SELECT action FROM grownext.audit_event'), 'first.use', 'an extension that was the first user goes, and the log stays');
	is(append('other_script', 'thing.made'), '2', 'and goes on');
	unlink("$share/gn_test_first_user.control", "$share/gn_test_first_user--1.sql");
}

# What is left to a superuser where the hooks are off: the triggers, until somebody takes them.
my %without = ("grownext.audit_enforce = off" => 'switched off', "shared_preload_libraries = ''" => 'not preloaded');
foreach my $setting (sort keys %without)
{
	my $how = $without{$setting};
	$node->append_conf('postgresql.conf', "$setting\n");
	$node->restart;
	is( $node->safe_psql('source', q{SELECT state FROM _grownext.audit_status() WHERE item = 'guard'}),
		'degraded', "$how: status says so");
	is(answer('source', "SET session_replication_role = replica; UPDATE grownext_audit.event SET actor = 'x'"),
		'NX050', "$how: the triggers refuse changes, as a replica too");
	is(answer('source', 'SET session_replication_role = replica; TRUNCATE grownext_audit.event'), 'NX050', "$how: and TRUNCATE");
	is(answer('source', 'ALTER TABLE grownext_audit.event DISABLE TRIGGER ALL'), '', "$how: a superuser can disable them");
	is( $node->safe_psql('source', q{SELECT state FROM _grownext.audit_status() WHERE item = 'log'}),
		'degraded', "$how: which status shows");
	like(append('source', 'thing.made'), qr/^\d+$/, "$how: the next event");
	is(answer('source', 'DELETE FROM grownext_audit.event'), 'NX050', "$how: enables them again");
	my $events = $node->safe_psql('source', 'SELECT count(*) FROM grownext.audit_event');
	$node->safe_psql('source', 'CREATE TABLE child () INHERITS (grownext_audit.event); INSERT INTO child SELECT * FROM grownext_audit.event');
	is($node->safe_psql('source', 'SELECT count(*) FROM grownext.audit_event'), $events, "$how: rows of a child table are no events");
	is( $node->safe_psql('source', q{SELECT state || ': ' || hint FROM _grownext.audit_status() WHERE item = 'log'}),
		'degraded: ALTER TABLE public.child NO INHERIT grownext_audit.event;  -- DETACH PARTITION, if it is one', "$how: and status shows it");
	$node->safe_psql('source', 'DROP TABLE child');
}

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
