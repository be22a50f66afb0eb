# Keys, tokens and secrets on real servers: nothing leaks, a standby follows, a restored
# database without its master key says so, and the key may come from a command.
use strict;
use warnings;

use File::Find;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

umask(0077);

my $directory = PostgreSQL::Test::Utils::tempdir();
my $key_file = "$directory/master.key";

# the line of a fresh master key
sub fresh_key
{
	my ($id) = @_;
	open(my $in, '<:raw', '/dev/urandom') or die $!;
	read($in, my $bytes, 32) == 32 or die 'no random bytes';
	return ($bytes, "$id:" . encode_base64($bytes, ''));
}

sub write_file
{
	my ($file, $text) = @_;
	unlink($file);
	append_to_file($file, $text);
	chmod(0600, $file) or die $!;
}

# psql that must fail: the SQLSTATE and the rest of what it said
sub refused
{
	my ($node, $database, $sql) = @_;
	my ($rc, $out, $err) = $node->psql($database, "\\set VERBOSITY verbose\n$sql", on_error_stop => 1);
	return $rc == 0 ? 'none' : $err;
}

# item(NODE, DATABASE): state of the master key
sub master_key_state
{
	my ($node, $database) = @_;
	return $node->safe_psql($database,
		"SELECT string_agg(state, ' ') FROM _grownext.crypto_status() WHERE item = 'master key'");
}

# What a program that is not ours finds in a sealed value, given the master key: the
# private parts, so that we know what to look for. It is the format's second reader, too.
my $unseal = <<'JS';
const crypto = require('crypto');
const rows = JSON.parse(process.argv[1]), master = Buffer.from(process.argv[2], 'hex');
for (const { purpose, sealed } of rows) {
  const data = Buffer.from(sealed, 'hex'), header = data.subarray(0, 2 + data[1]), nonce = data.subarray(2 + data[1], 14 + data[1]);
  const key = crypto.hkdfSync('sha256', master, Buffer.alloc(0), `grownext seal 1 ${purpose}`, 32);
  const open = crypto.createDecipheriv('aes-256-gcm', Buffer.from(key), nonce).setAAD(Buffer.concat([header, Buffer.from(purpose)])).setAuthTag(data.subarray(-16));
  console.log(Buffer.concat([open.update(data.subarray(14 + data[1], -16)), open.final()]).toString('hex'));
}
JS

# ---- nothing leaks ---------------------------------------------------------------

my ($master, $line) = fresh_key('k1');
write_file($key_file, "$line\n");

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
my $contrib = `pg_config --sharedir`;
chomp($contrib);
my $statements = -e "$contrib/extension/pg_stat_statements.control";
my $library = `pg_config --pkglibdir`;
chomp($library);
my $explain = -e "$library/auto_explain.so";
my $preload = join(',', 'grownext', $statements ? 'pg_stat_statements' : (), $explain ? 'auto_explain' : ());
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = '$preload'
grownext.master_key_file = '$key_file'
log_statement = all
log_min_duration_statement = 0
log_min_messages = debug1
CONF
$node->append_conf('postgresql.conf', <<CONF) if $explain;
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
auto_explain.log_verbose = on
auto_explain.log_nested_statements = on
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION grownext');
$node->safe_psql('app', 'CREATE EXTENSION pg_stat_statements') if $statements;

my $secret = 'whsec_' . unpack('H*', (fresh_key('x'))[0]);
write_file("$directory/secret", "$secret\n");
my $out = $node->safe_psql('app', <<SQL);
SELECT count(*) FROM grownext.setup('https://auth.example.com', ARRAY['my-api']);
SELECT grownext.secret_set('stripe', file => '$directory/secret');
SELECT grownext.user_create('ann\@example.com', id => 'a1111111-1111-4111-8111-111111111111');
SELECT grownext.session_create('a1111111-1111-4111-8111-111111111111');
SELECT grownext.key_create();
SELECT grownext.key_rotate('email');
SQL
my ($answer) = $out =~ /^(\{"expires_in.*\})$/m;
$answer = decode_json($answer);
my $access = $answer->{access_token};

my $rows = $node->safe_psql('app', <<'SQL');
SELECT json_agg(json_build_object('purpose', purpose, 'sealed', encode(sealed, 'hex')))
  FROM (SELECT 'jwt_key ' || kid || ' ' || alg AS purpose, sealed FROM _grownext.jwt_key
        UNION ALL SELECT 'crypto_root ' || name, sealed FROM _grownext.crypto_root
        UNION ALL SELECT 'crypto_secret ' || name || ' ' || version, sealed FROM _grownext.crypto_secret) AS s
SQL
my ($plain, $error);
ok(IPC::Run::run([ 'node', '-e', $unseal, $rows, unpack('H*', $master) ], '>', \$plain, '2>', \$error),
	'another implementation opens what was sealed') or diag($error);
my @plain = split /\n/, $plain;
is(scalar @plain, 5, 'three signing keys, a root key and a secret');
ok((grep { pack('H*', $_) eq $secret } @plain), 'one of them is the secret from the file');

# every way in which a value may be written
my %needle;
foreach my $value ($master, (map { pack('H*', $_) } @plain))
{
	my $name = substr(unpack('H*', $value), 0, 8);
	my $base64 = encode_base64($value, '');
	$needle{"$name raw"} = $value;
	$needle{"$name hex"} = unpack('H*', $value);
	$needle{"$name HEX"} = uc unpack('H*', $value);
	$needle{"$name base64"} = $base64 =~ s/=+$//r;
	$needle{"$name base64url"} = $base64 =~ tr{+/=}{-_}dr;
}
my %in_server = (%needle, 'access token' => $access, 'refresh token' => $answer->{refresh_token});

sub absent
{
	my ($where, $text, %needles) = @_;
	my @found = grep { index($text, $needles{$_}) >= 0 } sort keys %needles;
	is("@found", '', "no secret in $where");
}

absent('the server log', slurp_file($node->logfile), %in_server);
absent('pg_stat_activity', $node->safe_psql('app', 'SELECT * FROM pg_stat_activity'), %in_server);
absent('pg_stat_statements', $node->safe_psql('app', 'SELECT * FROM pg_stat_statements'), %in_server)
	if $statements;
absent('pg_settings', $node->safe_psql('app', 'SELECT * FROM pg_settings'), %in_server);
foreach my $view (
	split /\n/,
	$node->safe_psql('app',
		"SELECT oid::regclass FROM pg_class WHERE relnamespace = 'grownext'::regnamespace AND relkind = 'v' ORDER BY 1"))
{
	absent("view $view", $node->safe_psql('app', "SELECT * FROM $view"), %in_server);
}
my ($dump) = run_command([ 'pg_dump', '-h', $node->host, '-p', $node->port, 'app' ]);
like($dump, qr/COPY _grownext\.jwt_key/, 'the dump has the keys');
absent('the dump', $dump, %in_server);
$node->safe_psql('app', 'CHECKPOINT');
my %on_disk;
find(
	sub {
		return unless -f $_;
		my $data = slurp_file($_);
		$on_disk{$_}++ foreach grep { index($data, $needle{$_}) >= 0 } keys %needle;
	},
	$node->data_dir);
is(join(' ', sort keys %on_disk), '', 'no secret anywhere in the data directory, WAL included');

# an error while a secret is an argument does not log the statement
$node->append_conf('postgresql.conf', "log_statement = none\nlog_min_duration_statement = -1\n");
$node->append_conf('postgresql.conf', "auto_explain.log_min_duration = -1\n") if $explain;
$node->reload;
my $typed = 'typed_' . unpack('H*', (fresh_key('x'))[0]);
my $offset = -s $node->logfile;
$node->psql('app', "SELECT grownext.secret_set('Not A Name', '$typed')");
$node->psql('app', "BEGIN READ ONLY; SELECT grownext.secret_set('name', '$typed')");
my $log = slurp_file($node->logfile, $offset);
like($log, qr/a secret's name must be/, 'the refusal is logged');
like($log, qr/read-only transaction/, 'so is one that comes from below');
unlike($log, qr/$typed/, 'but not the statement with the value');

# ---- standby ---------------------------------------------------------------------

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
my $token = $node->safe_psql('app', "SELECT grownext.jwt_mint('ann')");
my $session = $node->safe_psql('app', "SELECT grownext.session_create('a1111111-1111-4111-8111-111111111111') ->> 'access_token'");
my $error_of = sub { "SELECT coalesce((grownext.jwt_inspect('$_[0]')).error, 'active')" };
$node->wait_for_catchup($standby);
is($standby->safe_psql('app', $error_of->($token)), 'active', 'a standby verifies');
is($standby->safe_psql('app', "BEGIN; SELECT grownext.authenticate('$session') IS NOT NULL; SELECT grownext.current_user_id()"),
	"t\na1111111-1111-4111-8111-111111111111", 'and binds a session');
is($standby->safe_psql('app', 'SELECT (grownext.jwt_inspect(grownext.jwt_mint(\'ann\'))).active'),
	't', 'and mints, with the key of the primary');
is(master_key_state($standby, 'app'), 'ok', 'its master key is tested');

# keys change on the primary; a connection to the standby that is open sees it
my $open = $standby->background_psql('app');
my $query = sub { return $open->query_safe($_[0]) };
like($query->($error_of->($token)), qr/^active$/m, 'an open session of the standby verifies');
my $fresh = $node->safe_psql('app', "SELECT grownext.key_rotate(force => true); SELECT grownext.jwt_mint('ann')") =~ s/.*\n//sr;
$node->wait_for_catchup($standby);
like($query->($error_of->($fresh)), qr/^active$/m, 'a key that came later is known to it');
$node->safe_psql('app', "SELECT grownext.key_revoke(kid, 'stolen') FROM grownext.signing_key WHERE purpose = 'access' AND state = 'retiring'");
$node->safe_psql('app', "SELECT grownext.session_revoke_all('a1111111-1111-4111-8111-111111111111')");
$node->wait_for_catchup($standby);
like($query->($error_of->($token)), qr/^revoked_key$/m, 'a revoked key is revoked there');
$open->quit;
like(refused($standby, 'app', "SELECT grownext.authenticate('$session')"), qr/NX01[13]/, 'and so is a revoked session');

# the standby's own file counts on the standby
$standby->append_conf('postgresql.conf', "grownext.master_key_file = '$directory/lost.key'\n");
$standby->reload;
ok( $standby->poll_query_until('app', "SELECT current_setting('grownext.master_key_file') = '$directory/lost.key'"),
	'the standby looks elsewhere for its key');
is(master_key_state($standby, 'app'), 'failed', 'and says that it is not there');
is(master_key_state($node, 'app'), 'ok', 'while the primary has it');
is($standby->safe_psql('app', $error_of->($fresh)), 'active', 'it verifies all the same');
$standby->stop;

# ---- dump and restore ------------------------------------------------------------

my $file = "$directory/app.dump";
$node->command_ok([ 'pg_dump', '-Fc', '-f', $file, 'app' ], 'pg_dump');
my ($other, $other_line) = fresh_key('k1');
my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init;
$restored->append_conf('postgresql.conf',
	"shared_preload_libraries = 'grownext'\ngrownext.master_key_file = '$directory/restored.key'\n");
write_file("$directory/restored.key", "$other_line\n");
$restored->start;
$restored->safe_psql('postgres', 'CREATE DATABASE app');
my $list = "$directory/app.list";
my ($toc) = run_command([ 'pg_restore', '-l', $file ]);
write_file($list, join('', map { "$_\n" } grep { !/pg_stat_statements/ } split /\n/, $toc));
$restored->command_ok([ 'pg_restore', '-1', '-L', $list, '-d', 'app', $file ], 'pg_restore in one transaction');
is(master_key_state($restored, 'app'), 'failed', 'with another master key the restored database says so');
like(refused($restored, 'app', "SELECT grownext.jwt_mint('ann')"), qr/NX017.*not the one that this database was sealed with/s, 'and refuses to sign');
like(refused($restored, 'app', "SELECT * FROM grownext.setup('https://auth.example.com', ARRAY['my-api'])"), qr/NX017/, 'setup makes no new key in its place');
is($restored->safe_psql('app', $error_of->($fresh)), 'active', 'tokens still verify');
write_file("$directory/restored.key", '');
like(refused($restored, 'app', "SELECT grownext.jwt_mint('ann')"), qr/NX017.*holds no key/s, 'without one it refuses, too');
write_file("$directory/restored.key", "$line\n");
is(master_key_state($restored, 'app'), 'ok', 'with the original one it is well');
is($restored->safe_psql('app', "SELECT (grownext.jwt_inspect(grownext.jwt_mint('ann'))).active"), 't', 'and signs');
is($restored->safe_psql('app', "SELECT count(*) FROM grownext.session WHERE revoked_at IS NOT NULL"), '2', 'sessions came along, with their end');
$restored->stop;

# ---- a command -------------------------------------------------------------------

my $command = PostgreSQL::Test::Cluster->new('command');
$command->init;
write_file("$directory/say", "#!/bin/sh\necho run >>'$directory/runs'\necho '$line'\n");
chmod(0700, "$directory/say");
$command->append_conf('postgresql.conf', "shared_preload_libraries = 'grownext'\n");
$command->start;
$command->safe_psql('postgres', 'CREATE DATABASE bare');
$command->safe_psql('bare', 'CREATE EXTENSION grownext');
is(master_key_state($command, 'bare'), 'off', 'without any master key that part of the platform is off');
like(refused($command, 'bare', "SELECT grownext.secret_set('a', 'b')"),
	qr/NX017.*no master key is configured.*openssl rand -base64 32.*ALTER SYSTEM SET grownext\.master_key_file/s,
	'and the error says how to make one');
$command->stop;
$command->append_conf('postgresql.conf',
	"grownext.master_key_command = '$directory/say'\n");
$command->start;
$command->safe_psql('postgres', 'CREATE DATABASE app');
$command->safe_psql('app', 'CREATE EXTENSION grownext');
$command->safe_psql('app', "SELECT * FROM grownext.setup('https://auth.example.com', ARRAY['my-api'])");
is($command->safe_psql('app', "SELECT (grownext.jwt_inspect(grownext.jwt_mint('ann'))).active"), 't', 'a key from the command signs');
is(slurp_file("$directory/runs"), "run\n", 'the command ran once');
is(master_key_state($command, 'app'), 'ok', 'and status is content');
write_file("$directory/say", "#!/bin/sh\nexit 3\n");
chmod(0700, "$directory/say");
$command->restart;
is(master_key_state($command, 'app'), 'failed', 'a command that fails is reported');
like(refused($command, 'app', "SELECT grownext.jwt_mint('ann')"), qr/NX017.*Mend the command/s, 'with what to do');
like(slurp_file($command->logfile), qr/master_key_command gave no master key: it failed/, 'and in the server log');
$command->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$command->restart;
like(refused($command, 'app', "SELECT grownext.jwt_mint('ann')"), qr/NX017.*shared_preload_libraries/s, 'without preload only a file works');
$command->append_conf('postgresql.conf', "grownext.master_key_file = '$key_file'\n");
$command->restart;
is($command->safe_psql('app', "SELECT (grownext.jwt_inspect(grownext.jwt_mint('ann'))).active"), 't', 'and a file does');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:|terminated by signal/, $_->name . ': nothing crashed')
	foreach $node, $standby, $restored, $command;

done_testing();
