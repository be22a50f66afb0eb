# Sessions and clients on real servers: what ends on the primary is refused on a hot
# standby in connections that are open, a standby writes nothing, a server that logs all it
# can tells no secret, and a restored database knows its clients and what was revoked.
use strict;
use warnings;

use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

umask(0077);

my $directory = PostgreSQL::Test::Utils::tempdir();
my $key_file = "$directory/master.key";
open(my $in, '<:raw', '/dev/urandom') or die $!;
read($in, my $bytes, 32) == 32 or die 'no random bytes';
append_to_file($key_file, 'k1:' . encode_base64($bytes, '') . "\n");

my $library = `pg_config --pkglibdir`;
chomp($library);
my $explain = -e "$library/auto_explain.so";

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'grownext" . ($explain ? ',auto_explain' : '') . "'\n");
$node->append_conf('postgresql.conf', "grownext.master_key_file = '$key_file'\ngrownext.mode = 'off'\n");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
my $ann = 'a1111111-1111-4111-8111-111111111111';
$node->safe_psql('app', <<SQL);
CREATE EXTENSION grownext;
SELECT count(*) FROM grownext.setup('https://auth.example.com', ARRAY['my-api']);
SELECT grownext.user_create('ann\@example.com', id => '$ann');
-- what a test holds, so that nothing secret is ever typed
CREATE TABLE held (name text PRIMARY KEY, value text);
CREATE FUNCTION held(name text) RETURNS text LANGUAGE sql AS 'SELECT value FROM held WHERE held.name = \$1';
CREATE FUNCTION binds(token text) RETURNS text LANGUAGE plpgsql AS \$\$
BEGIN
    PERFORM grownext.authenticate(token);
    RETURN 'bound';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END \$\$;
WITH s AS (SELECT n, grownext.session_create('$ann', attributes => '{"scope": "impersonate read"}') AS answer FROM generate_series(1, 3) AS n)
INSERT INTO held SELECT part || n, answer ->> key FROM s, (VALUES ('access', 'access_token'), ('refresh', 'refresh_token'), ('session', 'session_id')) AS v (part, key);
WITH c AS (SELECT * FROM grownext.client_create('reports', '{impersonate,read}', '{"grants": ["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"]}'))
INSERT INTO held SELECT 'client', client_id FROM c UNION ALL SELECT 'secret', client_secret FROM c;
INSERT INTO held SELECT 'token' || n, grownext.token('client_credentials', client_id => held('client'), client_secret => held('secret')) ->> 'access_token' FROM generate_series(1, 2) AS n;
SQL

# ---- a hot standby ---------------------------------------------------------------

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);

# one connection for all of it
my ($stdin, $stdout, $stderr) = ('', '', '');
my $timer = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
my $session = IPC::Run::start([ 'psql', '-XAtq', '-f', '-', '-d', $standby->connstr('app') ], '<', \$stdin, '>', \$stdout, '2>', \$stderr, $timer);
my $marks = 0;

sub on_standby
{
	my ($sql) = @_;
	$marks++;
	$stdin .= "$sql;\n\\echo mark $marks\n";
	pump $session until $stdout =~ /^mark $marks\n/m || $stderr =~ /FATAL|connection/;
	$stdout =~ s/\A(.*?)\n?mark $marks\n//s or die $stderr;
	return $1;
}

my $all = "SELECT string_agg(name || ' ' || binds(value), ', ' ORDER BY name) FROM held WHERE name ~ '^(access|token)'";
is(on_standby($all), 'access1 bound, access2 bound, access3 bound, token1 bound, token2 bound', 'a standby binds what the primary made');
is(on_standby("SELECT grownext.token('client_credentials', client_id => held('client'), client_secret => held('secret')) ? 'access_token'"), 't', 'and lets a client in');
is(on_standby("SELECT grownext.token_introspect(held('token1')) ->> 'active', grownext.token_introspect(held('refresh1')) ->> 'active'"), 'true|true', 'and answers for tokens');
on_standby('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
$node->safe_psql('app', "SELECT grownext.session_revoke(held('session1')::uuid, 'signed out'); SELECT grownext.token_revoke(held('token1')); SELECT grownext.session_switch_tenant(held('session2')::uuid, grownext.tenant_create('acme', 'Acme', owner_id => '$ann'))");
$node->wait_for_catchup($standby);
is(on_standby($all), 'access1 NX013, access2 NX013, access3 bound, token1 NX013, token2 bound', 'what ends on the primary is refused in an open transaction of the standby');
on_standby('COMMIT');
is(on_standby("SELECT grownext.token_introspect(held('token1')) ->> 'active', grownext.token_introspect(held('refresh1')) ->> 'active'"), 'false|false', 'and inactive');
$node->safe_psql('app', "SELECT grownext.client_disable(held('client'))");
$node->wait_for_catchup($standby);
is(on_standby($all), 'access1 NX013, access2 NX013, access3 bound, token1 NX013, token2 NX013', 'a client that is disabled as well');
$node->safe_psql('app', "SELECT grownext.client_enable(held('client')); UPDATE _grownext.session_use SET used_at = used_at - interval '1 hour'");
$node->wait_for_catchup($standby);
is(on_standby("SELECT binds(held('access3'))"), 'bound', 'a use that is due to be noted is not, on a standby');
$stdin .= "\\q\n";
finish $session;
$standby->stop;

# ---- a server that logs all it can -------------------------------------------------

$node->append_conf('postgresql.conf', <<CONF);
log_statement = all
log_min_duration_statement = 0
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
log_min_messages = debug1
CONF
$node->append_conf('postgresql.conf', <<CONF) if $explain;
auto_explain.log_min_duration = 0
auto_explain.log_verbose = on
auto_explain.log_nested_statements = on
CONF
$node->reload;
my $offset = -s $node->logfile;
my $exchange = 'urn:ietf:params:oauth:grant-type:token-exchange';
my $access_type = 'urn:ietf:params:oauth:token-type:access_token';
$node->safe_psql('app', <<SQL);
-- Answers go from function to function as plain expressions: a statement of the test's own would tell them.
DO \$do\$
DECLARE
    client text; secret text; secret2 text; answer jsonb; access text; refresh text; r grownext.client_credentials;
BEGIN
    r := grownext.client_create('quiet', '{impersonate,read}', '{"grants": ["client_credentials", "$exchange"]}');
    client := r.client_id;
    secret := r.client_secret;
    r := grownext.client_rotate_secret(client);
    secret2 := r.client_secret;
    answer := grownext.token('client_credentials', client_id => client, client_secret => secret);
    access := answer ->> 'access_token';
    ASSERT access IS NOT NULL, 'client_credentials';
    answer := grownext.token('client_credentials', client_id => client, client_secret => secret || 'x');
    ASSERT answer ->> 'error' = 'invalid_client', 'a wrong secret';
    answer := grownext.token_introspect(access, client_id => client, client_secret => secret2);
    ASSERT answer ->> 'active' = 'true', 'introspection';
    answer := grownext.token('$exchange', subject_token => access, subject_token_type => '$access_type', client_id => client, client_secret => secret2);
    ASSERT answer ? 'access_token', 'exchange';
    answer := grownext.token('$exchange', subject_token => '$ann', subject_token_type => 'urn:grownext:token-type:user', actor_token => access, actor_token_type => '$access_type', reason => 'x', ticket => 'y');
    ASSERT answer ? 'access_token', 'impersonation';
    answer := grownext.session_create('$ann');
    refresh := answer ->> 'refresh_token';
    answer := grownext.session_switch_tenant((answer ->> 'session_id')::uuid, NULL);
    answer := grownext.token('refresh_token', refresh);
    ASSERT answer ? 'access_token', 'refresh';
    answer := grownext.token_introspect(refresh);
    ASSERT answer ->> 'active' = 'true', 'introspection of a refresh token';
    answer := grownext.session_refresh(refresh || 'x');
    answer := grownext.token_introspect(refresh || 'x');
    ASSERT (grownext.token_revoke(access) IS NULL) IS NOT NULL AND (grownext.token_revoke(refresh) IS NULL) IS NOT NULL;
    answer := grownext.token_introspect(refresh);
    ASSERT answer ->> 'active' = 'false', 'revocation';
END
\$do\$;
SQL
my $log = slurp_file($node->logfile, $offset);
like($log, qr/session_client_failure/, 'nested statements are in the log') if $explain;
unlike($log, qr/gns_[A-Za-z0-9_-]{10}/, 'no client secret is');
unlike($log, qr/gnr_[A-Za-z0-9_-]{10}/, 'no refresh token');
unlike($log, qr/eyJ[A-Za-z0-9_-]{10}/, 'no access token');
my $views = $node->safe_psql('app', 'SELECT * FROM grownext.client; SELECT * FROM grownext.session; SELECT * FROM grownext.audit_event');
unlike($views, qr/gns_|gnr_|eyJ/, 'nor in a view');

# ---- dump and restore --------------------------------------------------------------

$node->append_conf('postgresql.conf', "log_statement = none\nlog_min_duration_statement = -1\nlog_min_messages = warning\n");
$node->append_conf('postgresql.conf', "auto_explain.log_min_duration = -1\n") if $explain;
$node->reload;
my $file = "$directory/app.dump";
$node->command_ok([ 'pg_dump', '-Fc', '-f', $file, 'app' ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '-j', '4', '-d', 'restored', $file ], 'pg_restore');
is($node->safe_psql('restored', $all), 'access1 NX013, access2 NX013, access3 bound, token1 NX013, token2 NX013', 'a restored database knows what was revoked');
is($node->safe_psql('restored', "SELECT grownext.token('client_credentials', client_id => held('client'), client_secret => held('secret')) ? 'access_token'"), 't', 'and its clients');
is($node->safe_psql('restored', "SELECT grownext.session_refresh(held('refresh3')) ? 'access_token'"), 't', 'and sessions go on');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:|terminated by signal/, $_->name . ': nothing crashed') foreach $node, $standby;

done_testing();
