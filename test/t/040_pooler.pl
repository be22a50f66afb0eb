# A real PgBouncer in transaction mode: two clients take turns on one server connection,
# and the caller of one transaction is never seen by the next, however the first ended.
# Statement mode has no transactions to bind a caller to, and says so.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($bouncer) = grep { -x } map { "$_/pgbouncer" } (split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin');
die 'pgbouncer is not installed: test/deps test' unless $bouncer;

my $acme = '11111111-1111-4111-8111-111111111111';
my $beta = '22222222-2222-4222-8222-222222222222';

my $node = PostgreSQL::Test::Cluster->new('pooled');
$node->init;
$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
$node->append_conf('postgresql.conf', "max_prepared_transactions = 5\n");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', <<SQL);
CREATE EXTENSION grownext;
CREATE ROLE back_end LOGIN IN ROLE grownext_service;
CREATE ROLE gateway LOGIN IN ROLE grownext_user;
SELECT grownext.gateway_trust('gateway');
CREATE TABLE note AS SELECT i, CASE i % 2 WHEN 0 THEN '$acme' ELSE '$beta' END::uuid AS tenant_id FROM generate_series(1, 10) AS i;
SELECT grownext.tenant_isolate('note');
GRANT SELECT ON note TO back_end, gateway;
SQL

# ---- the pooler --------------------------------------------------------------

my $running;

# pooler(MODE): starts one of its own and returns how to reach it and how to end it
sub pooler
{
	my ($mode) = @_;
	my $directory = PostgreSQL::Test::Utils::tempdir_short();
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $host = $node->host;
	my $server_port = $node->port;

	append_to_file("$directory/users", "\"back_end\" \"\"\n\"gateway\" \"\"\n");
	append_to_file("$directory/ini", <<INI);
[databases]
app = host=$host port=$server_port dbname=app

[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $directory
auth_type = trust
auth_file = $directory/users
logfile = $directory/log
pool_mode = $mode
default_pool_size = 1
query_wait_timeout = $PostgreSQL::Test::Utils::timeout_default
INI
	my $process = IPC::Run::start([ $bouncer, "$directory/ini" ], '>', \my $out, '2>', \my $err);
	my $reached;
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$reached = -S "$directory/.s.PGSQL.$port" and last;
		select(undef, undef, undef, 0.1);
	}
	$running = { process => $process };
	die "no pooler: " . slurp_file("$directory/log") unless $reached;
	return { process => $process, host => $directory, port => $port };
}

sub end_pooler
{
	my ($pooler) = @_;
	undef $running;
	$pooler->{process}->signal('TERM');
	eval { $pooler->{process}->finish };
}

END { end_pooler($running) if $running }

# client(POOLER, ROLE): a psql that stays connected
sub client
{
	my ($pooler, $role) = @_;
	my %client = (in => '', out => '', err => '');
	my $timeout = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);

	$client{timeout} = $timeout;
	$client{process} = IPC::Run::start(
		[ 'psql', '-X', '-A', '-t', '-q', '-v', 'VERBOSITY=sqlstate', '-d', "host=$pooler->{host} port=$pooler->{port} dbname=app user=$role" ],
		'<', \$client{in}, '>', \$client{out}, '2>', \$client{err}, $timeout);
	return \%client;
}

# ask(CLIENT, SQL): what it printed, errors as "ERROR: code"
sub ask
{
	my ($client, $sql) = @_;
	$client->{timeout}->start($PostgreSQL::Test::Utils::timeout_default);
	$client->{out} = $client->{err} = '';
	$client->{in} .= "$sql\n\\echo :LAST_ERROR_SQLSTATE /end\n\\warn /end\n";
	$client->{process}->pump until $client->{out} =~ m{/end\n} && $client->{err} =~ m{/end\n};
	my $out = $client->{out};
	$out =~ s{\S+ /end\n}{};
	my @errors = $client->{err} =~ /ERROR:\s+(\w{5})/g;
	return join(' ', (map { "ERROR $_" } @errors), grep { $_ ne '' } split /\n/, $out);
}

sub leave
{
	my ($client) = @_;
	$client->{in} .= "\\q\n";
	$client->{process}->finish;
}

my $who = "SELECT concat_ws(' of ', coalesce(grownext.current_subject(), 'nobody'), left(grownext.current_tenant()::text, 4)), (SELECT count(*) FROM note);";
my $nobody = 'nobody|0';

# ---- transaction mode --------------------------------------------------------

my $pooler = pooler('transaction');
my $ann = client($pooler, 'back_end');
my $bob = client($pooler, 'back_end');
my $pid = ask($ann, 'SELECT pg_backend_pid();');
is(ask($bob, 'SELECT pg_backend_pid();'), $pid, 'both clients share one server connection');

is(ask($ann, "BEGIN; SELECT grownext.act_as('ann', '$acme'); $who"), 'ann of 1111|5', 'a caller is bound in a transaction');
is(ask($ann, 'COMMIT;'), '', 'and committed');
is(ask($bob, $who), $nobody, 'the next client on the connection is nobody');
is(ask($bob, "BEGIN; SELECT grownext.act_as('bob', '$beta'); $who"), 'bob of 2222|5', 'until it binds its own caller');
is(ask($bob, 'ROLLBACK;'), '', 'and rolls back');
is(ask($ann, $who), $nobody, 'the first client is nobody again');

ask($ann, "BEGIN; SELECT grownext.act_as('ann', '$acme');");
is(ask($ann, 'SELECT 1 / 0;'), 'ERROR 22012', 'a transaction fails');
is(ask($ann, 'COMMIT;'), '', 'and ends');
is(ask($bob, $who), $nobody, 'nobody after a failed transaction');

ask($ann, "BEGIN; SAVEPOINT s; SELECT grownext.act_as('ann', '$acme'); RELEASE s;");
is(ask($ann, "$who COMMIT;"), 'ann of 1111|5', 'bound in a savepoint that was released');
is(ask($bob, $who), $nobody, 'nobody after it');

# a statement of its own is a transaction of its own
is(ask($ann, "SELECT grownext.act_as('ann', '$acme');"), '', 'bound outside a transaction block');
is(ask($ann, $who), $nobody, 'the caller is gone with the statement');
is(ask($bob, $who), $nobody, 'for the other client too');

# several statements in one message are one transaction
is(ask($ann, "SELECT grownext.act_as('ann', '$acme') \\; SELECT grownext.current_subject();"), 'ann', 'a message of several statements is a transaction');
is(ask($bob, $who), $nobody, 'that ends with the message');

# what a session leaves behind, such as a prepared statement, carries nobody
is(ask($ann, "BEGIN; SELECT grownext.act_as('ann', '$acme'); PREPARE who AS $who"), '', 'a statement is prepared for a caller');
is(ask($ann, 'EXECUTE who; COMMIT;'), 'ann of 1111|5', 'and run for him');
is(ask($bob, 'EXECUTE who;'), $nobody, 'run by the next client it finds nobody');
is(ask($bob, "BEGIN; SELECT grownext.act_as('bob', '$beta'); EXECUTE who; COMMIT;"), 'bob of 2222|5', 'or that client\'s own caller');
is(ask($ann, 'EXECUTE who; DEALLOCATE who;'), $nobody, 'and never the one who prepared it');

# a cursor that is held shows what its caller saw, and binds nobody
ask($ann, "BEGIN; SELECT grownext.act_as('ann', '$acme'); DECLARE held CURSOR WITH HOLD FOR SELECT grownext.current_subject() FROM note; COMMIT;");
is(ask($bob, $who), $nobody, 'a held cursor binds nobody');
is(ask($ann, 'CLOSE held;'), '', 'it is closed');

# two-phase commit
ask($ann, "BEGIN; SELECT grownext.act_as('ann', '$acme'); PREPARE TRANSACTION 'two';");
is(ask($bob, $who), $nobody, 'a transaction that was prepared leaves nobody behind');
is(ask($bob, "BEGIN; SELECT grownext.act_as('bob', '$beta'); $who COMMIT;"), 'bob of 2222|5', 'and stands in nobody\'s way');
is(ask($bob, "COMMIT PREPARED 'two';"), '', 'whoever commits it');
is(ask($bob, $who), $nobody, 'is not its caller');

# claims of a gateway, SET LOCAL as it should and SET as it should not
my $first = client($pooler, 'gateway');
my $second = client($pooler, 'gateway');
is(ask($first, "BEGIN; SET LOCAL request.jwt.claims = '{\"sub\": \"ann\", \"tenant_id\": \"$acme\"}'; SELECT grownext.pre_request(); $who COMMIT;"),
	'ann of 1111|5', 'a gateway\'s request is bound');
is(ask($second, "BEGIN; SELECT grownext.pre_request(); $who COMMIT;"), $nobody, 'the next, anonymous one is nobody\'s');
is(ask($second, "BEGIN; SET LOCAL request.jwt.claims = '{\"sub\": \"bob\", \"tenant_id\": \"$beta\"}'; SELECT grownext.pre_request(); $who COMMIT;"),
	'bob of 2222|5', 'and the one after that its own caller\'s');
is(ask($first, "SET request.jwt.claims = '{\"sub\": \"ann\", \"tenant_id\": \"$acme\"}';"), '', 'a gateway leaves claims in the session');
is(ask($second, $who), $nobody, 'without pre_request() they are nobody\'s');
is(ask($second, "BEGIN; SET LOCAL request.jwt.claims = '{\"sub\": \"bob\", \"tenant_id\": \"$beta\"}'; SELECT grownext.pre_request(); $who COMMIT;"),
	'bob of 2222|5', 'and a request that brings its own is not mistaken for them');
is(ask($second, 'RESET request.jwt.claims;'), '', 'they are taken away');

# the server connection dies under a caller
my $admin_pid = ask($ann, "BEGIN; SELECT grownext.act_as('ann', '$acme'); SELECT pg_backend_pid();");
$node->safe_psql('app', "SELECT pg_terminate_backend($admin_pid, 30000)");
is(ask($bob, $who), $nobody, 'a client that gets a new server connection is nobody');

leave($_) foreach $bob, $first, $second;
eval { leave($ann) };
end_pooler($pooler);

# ---- statement mode ----------------------------------------------------------

$pooler = pooler('statement');

# once(SQL...): a client that comes, says this and leaves
sub once
{
	my ($out, $err);
	IPC::Run::run([ 'psql', '-X', '-A', '-t', '-q', '-v', 'VERBOSITY=sqlstate', (map { ('-c', $_) } @_), '-d', "host=$pooler->{host} port=$pooler->{port} dbname=app user=back_end" ],
		'>', \$out, '2>', \$err);
	return ($out, $err);
}

my ($out, $err) = once('BEGIN', "SELECT grownext.act_as('ann', '$acme')", $who);
like($err, qr/FATAL:\s+08P01/, 'statement mode refuses a transaction block');
unlike($out, qr/ann/, 'and binds nobody');
($out, $err) = once("SELECT grownext.act_as('ann', '$acme')", $who);
like($err, qr/WARNING:\s+25P01/, 'a caller bound without one is warned');
like($out, qr/^nobody\|0$/m, 'and forgotten');
end_pooler($pooler);

$node->stop;
done_testing();
