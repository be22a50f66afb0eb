# API keys on real servers: a revocation reaches every open session, failures are
# remembered though the call fails, limits hold when sessions race, the last use is written
# without a hot row, and no key is found anywhere but where it was handed out.
use strict;
use warnings;

use File::Find;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'grownext'
max_prepared_transactions = 2
log_statement = all
log_min_duration_statement = 0
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', <<'SQL');
CREATE EXTENSION grownext;
SELECT grownext.user_create('ann@example.com', id => 'a1111111-1111-4111-8111-111111111111');
SELECT grownext.tenant_create('acme', 'Acme', 'a1111111-1111-4111-8111-111111111111', id => 'ac111111-1111-4111-8111-111111111111');
SQL

my $acme = "'ac111111-1111-4111-8111-111111111111'";
my @secrets;

# make(NAME, OPTIONS): id and text of a new key
sub make
{
	my ($name, $options) = @_;
	my ($id, $key) = split /\|/, $node->safe_psql('app', "SELECT * FROM grownext.api_key_create('$name', options => '" . ($options // '{}') . "', tenant_id => $acme)");
	push @secrets, $key;
	return ($id, $key);
}

# verdict(NODE, KEY, SETUP): what a session of its own says of the key
sub verdict
{
	my ($on, $key, $setup) = @_;
	return $on->safe_psql('app', ($setup // '') . "SELECT grownext.api_key_verify('$key') ->> 'code'");
}

# ---- no key where nobody typed it -----------------------------------------------------

my ($id, $key) = make('one');
like($key, qr/^gx_live_[0-9A-Za-z]{36}$/, 'a key');
make('two', '{"user_id": "a1111111-1111-4111-8111-111111111111", "rate_limit": {"limit": 5, "period": "1 hour"}}');
my (undef, $rolled) = split /\|/, $node->safe_psql('app', "SELECT * FROM grownext.api_key_reroll('$id')");
push @secrets, $rolled;
$node->psql('app', "SELECT grownext.api_key_create('one', tenant_id => $acme)");
$node->psql('app', "BEGIN READ ONLY; SELECT grownext.api_key_create('three', tenant_id => $acme)");
my $random = join('|', map { substr($_, 12, 20) } @secrets);
unlike(slurp_file($node->logfile), qr/$random/, 'no key in the log of the server, with every statement and parameter in it');
unlike($node->safe_psql('app', 'SELECT * FROM grownext.api_key; SELECT * FROM grownext.audit_event; SELECT * FROM pg_stat_activity'), qr/$random/, 'nor in any view');
my ($dump) = run_command([ 'pg_dump', '-h', $node->host, '-p', $node->port, 'app' ]);
like($dump, qr/COPY _grownext\.session_api_key /, 'the dump has the keys');
unlike($dump, qr/$random/, 'but not their text');
$node->safe_psql('app', 'CHECKPOINT');
my $found = 0;
find(sub { $found++ if -f $_ && slurp_file($_) =~ /$random/ }, $node->data_dir);
is($found, 0, 'nor has any file of the server, WAL included');

# an error does not log the statement that held a key
$node->append_conf('postgresql.conf', "log_statement = none\nlog_min_duration_statement = -1\n");
$node->reload;
my $offset = -s $node->logfile;
$node->psql('app', "SELECT grownext.authenticate_api_key('$key', 'admin')");
$node->psql('app', "SELECT grownext.authenticate_api_key('${key}x')");
my $log = slurp_file($node->logfile, $offset);
like($log, qr/API key lacks scope "admin".*API key is not valid/s, 'a refusal is logged');
unlike($log, qr/$random/, 'without the key');
$node->append_conf('postgresql.conf', "log_min_error_statement = panic\n");
$node->reload;

# ---- every open session sees a revocation -----------------------------------------------

my ($gone_id, $gone) = make('going');
my @open = map { $node->background_psql('app', on_error_stop => 0) } 1 .. 3;
$open[1]->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$open[2]->query_safe('BEGIN ISOLATION LEVEL SERIALIZABLE');
my $ask = "SELECT grownext.api_key_verify('$gone') ->> 'code'";
like($_->query_safe($ask), qr/^VALID$/m, 'an open session knows the key') foreach @open;
$node->safe_psql('app', "SELECT grownext.api_key_revoke('$gone_id')");
like($_->query_safe($ask), qr/^DISABLED$/m, 'its next statement refuses it, whatever snapshot it has') foreach @open;
$_->query_safe('ROLLBACK') foreach @open[ 1, 2 ];
my ($back_id, $back) = make('coming back');
$ask = "SELECT grownext.api_key_verify('$back') ->> 'code'";
like($_->query_safe($ask), qr/^VALID$/m, 'another key') foreach @open;
$open[0]->query_safe("BEGIN; SELECT grownext.api_key_revoke('$back_id')");
like($open[0]->query_safe($ask), qr/^DISABLED$/m, 'who revokes sees it at once');
like($open[1]->query_safe($ask), qr/^VALID$/m, 'others when it commits');
$open[0]->query_safe('ROLLBACK');
like($open[0]->query_safe($ask), qr/^VALID$/m, 'and nobody when it rolls back');
$node->safe_psql('app', "BEGIN; SELECT grownext.api_key_revoke('$back_id'); PREPARE TRANSACTION 'revoke'");
like($open[0]->query_safe($ask), qr/^VALID$/m, 'a prepared revocation is none yet');
$node->safe_psql('app', "COMMIT PREPARED 'revoke'");
like($open[0]->query_safe($ask), qr/^DISABLED$/m, 'it is when it is committed');
$_->quit foreach @open;

# ---- failures are remembered though the call fails ---------------------------------------------

my ($good_id, $good) = make('good');
my $still = "SET grownext.test_clock = '2030-01-01 00:00:00+00';";
my $error = '';
foreach (1 .. 11)
{
	(undef, undef, $error) = $node->psql('app', "$still BEGIN; SELECT grownext.authenticate_api_key('gx_live_guess$_')");
}
like($error, qr/too many failed attempts.*Try again at 2030-01-01 00:01:30/s, 'eleven sessions fail and roll back; the last one hears that they were too many');
is(verdict($node, 'gx_live_guess', $still), 'RATE_LIMITED', 'a guess is refused');
is(verdict($node, $good, $still), 'VALID', 'a good key is not');
is(verdict($node, 'gx_live_guess', "SET grownext.test_clock = '2030-01-01 00:01:30+00';"), 'NOT_FOUND', 'a guess may be made again at the time that was named');

# ---- a key's limit holds when sessions race ----------------------------------------------------

my (undef, $limited) = make('limited', '{"rate_limit": {"limit": 100, "period": "1 hour"}}');
$node->safe_psql('app', 'CREATE TABLE passed (code text)');
my $script = $node->basedir . '/race.sql';
append_to_file($script, "SET grownext.test_clock = '2030-01-01 00:00:00+00';\nINSERT INTO passed SELECT grownext.api_key_verify('$limited') ->> 'code' FROM generate_series(1, 10);\n");
$node->command_ok([ 'pgbench', '-n', '-c', '8', '-j', '2', '-t', '10', '-f', $script, '-h', $node->host, '-p', $node->port, 'app' ], 'eight sessions use one key');
is($node->safe_psql('app', "SELECT string_agg(code || '=' || n, ' ' ORDER BY code) FROM (SELECT code, count(*) AS n FROM passed GROUP BY code) AS p"),
	'RATE_LIMITED=700 VALID=100', 'as often as it may be used, and not once more');

# ---- the last use --------------------------------------------------------------------------------

$node->append_conf('postgresql.conf', "grownext.tick_interval = 100ms\n");
$node->reload;
$node->safe_psql('app', "SELECT * FROM grownext.setup('https://auth.example.com', ARRAY['my-api'])");
verdict($node, $good, 'BEGIN READ ONLY;');
ok($node->poll_query_until('app', "SELECT last_used_at > now() - interval '5 minutes' FROM grownext.api_key WHERE id = '$good_id'"),
	'the scheduler writes the last use, even one of a read-only transaction');
is($node->safe_psql('app', "BEGIN; SELECT grownext.api_key_verify('$good') ->> 'code'; SELECT count(pg_current_xact_id_if_assigned()); COMMIT"),
	"VALID\n0", 'who uses a key writes nothing himself');

# ---- standby ---------------------------------------------------------------------------------------

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is(verdict($standby, $good), 'VALID', 'a standby verifies');
is(verdict($standby, 'gx_live_guess', $still), 'NOT_FOUND', 'and counts failures by itself');
my $open = $standby->background_psql('app');
like($open->query_safe("SELECT grownext.api_key_verify('$good') ->> 'code'"), qr/^VALID$/m, 'an open session of the standby knows the key');
like($open->query_safe("BEGIN; SELECT grownext.authenticate_api_key('$good') ->> 'tenant_id'; SELECT grownext.current_tenant(); COMMIT"), qr/^ac111111.*^ac111111/ms, 'and binds it');
$node->safe_psql('app', "SELECT grownext.api_key_revoke('$good_id')");
$node->wait_for_catchup($standby);
like($open->query_safe("SELECT grownext.api_key_verify('$good') ->> 'code'"), qr/^DISABLED$/m, 'until it is revoked on the primary');
$open->quit;
$standby->stop;

# ---- dump and restore ---------------------------------------------------------------------------------

my ($kept_id, $kept) = make('kept', '{"addresses": ["0.0.0.0/0"], "rate_limit": {"limit": 5, "period": "1 day"}}');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
my $file = $node->basedir . '/app.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $file, 'app' ], 'pg_dump');
$node->command_ok([ 'pg_restore', '-1', '-d', 'restored', $file ], 'pg_restore');
is($node->safe_psql('restored', "SELECT grownext.api_key_verify('$kept', NULL, '192.0.2.7') ->> 'code'"), 'VALID', 'a restored database knows its keys');
is($node->safe_psql('restored', "SELECT string_agg(name || ' ' || state, ', ' ORDER BY name, created_at) FROM grownext.api_key WHERE name IN ('good', 'one')"),
	'good revoked, one retiring, one active', 'and which of them ended');
is($node->safe_psql('restored', "SELECT count(*) FROM grownext.api_key WHERE last_used_at IS NOT NULL") > 0, 1, 'and when they were used');

# ---- without preload -------------------------------------------------------------------------------------

my ($alone_id, $alone) = make('alone');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
my $used = "SELECT last_used_at IS NOT NULL FROM grownext.api_key WHERE id = '$alone_id'";
is(verdict($node, $alone, 'BEGIN READ ONLY;'), 'VALID', 'without preload a read-only transaction verifies');
is($node->safe_psql('app', $used), 'f', 'and leaves no trace');
is(verdict($node, $alone, 'BEGIN ISOLATION LEVEL REPEATABLE READ;'), 'VALID', 'so does one with a snapshot of its own');
is($node->safe_psql('app', $used), 'f', 'which an update could fail');
is(verdict($node, $alone), 'VALID', 'any other verifies');
is($node->safe_psql('app', $used), 't', 'and writes the last use itself');
my $before = $node->safe_psql('app', "SELECT xmin FROM _grownext.session_api_key_use WHERE key_id = '$alone_id'");
verdict($node, $alone);
is($node->safe_psql('app', "SELECT xmin FROM _grownext.session_api_key_use WHERE key_id = '$alone_id'"), $before, 'once in ten minutes');

# nobody waits for somebody who writes it
$node->safe_psql('app', "UPDATE _grownext.session_api_key_use SET last_used_at = '2001-01-01' WHERE key_id = '$alone_id'");
my $first = $node->background_psql('app');
$first->query_safe("BEGIN; SELECT grownext.api_key_verify('$alone')");
is($node->safe_psql('app', "SET lock_timeout = '10s'; SELECT grownext.api_key_verify('$alone') ->> 'code'"), 'VALID', 'two at once do not wait for each other');
$first->query_safe('ROLLBACK');
$first->quit;
is($node->safe_psql('app', "SELECT string_agg(DISTINCT grownext.api_key_verify('gx_live_guess' || i) ->> 'code', ' ') FROM generate_series(1, 20) AS i"),
	'NOT_FOUND RATE_LIMITED', 'failures are counted per session');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:|terminated by signal/, $_->name . ': nothing crashed') foreach $node, $standby;

done_testing();
