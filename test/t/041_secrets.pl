# Secrets stay secret on a server that logs all it can: statements with their parameters,
# plans of nested statements with the values in them, parse trees. Every function that
# makes or takes a secret is called, with good values and with bad ones, and then the
# log and whatever else somebody may read is searched for every secret made on the way.
#
# No secret is typed: they go from function to function through a temporary table, so
# whatever is found was given away by the library.
use strict;
use warnings;

use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

umask(0077);

my $directory = PostgreSQL::Test::Utils::tempdir();

sub random_hex
{
	open(my $in, '<:raw', '/dev/urandom') or die $!;
	read($in, my $bytes, 32) == 32 or die 'no random bytes';
	return unpack('H*', $bytes);
}

# ---- what is called ----------------------------------------------------------
#
# function: as in the catalogue; a step is left out where there is none of that name.
# make:     SQL of one row, whose columns are secrets; they are held as NAME.COLUMN.
# call:     SQL that takes secrets, as held('NAME.COLUMN').
# refuse:   the same, of which each must end in an error; what was typed stands in it.
# A column named public_id is no secret; it is held, but not searched for.
# Steps run in this order, in one session, as a superuser unless "as" names a role.

my $user = 'a1111111-1111-4111-8111-111111111111';
my $other_user = 'a2222222-2222-4222-8222-222222222222';
my $tenant = 'b1111111-1111-4111-8111-111111111111';
my $admin = 'held_admin';
my $service = 'held_service';

my @steps = (
	{
		function => 'setup',
		call => [
			"SELECT count(*) FROM grownext.setup('https://auth.example.com', ARRAY['my-api'])",
			"SELECT grownext.user_create('ann\@example.com', id => '$user')",
			"SELECT grownext.user_create('bob\@example.com', id => '$other_user')",
			"SELECT grownext.tenant_create('acme', 'Acme', owner_id => '$user', id => '$tenant')",
		],
	},
	{
		function => 'secret_set',
		make => { typed => "SELECT 'whsec_' || held_random() AS value" },
		call => [
			"SELECT grownext.secret_set('from-file', file => '$directory/secret')",
			"SELECT grownext.secret_set('from-value', held('typed.value'))",
			"SELECT grownext.secret_set('from-value', held('typed.value') || '2')",
		],
		refuse => [
			"SELECT grownext.secret_set('Not A Name', held('typed.value'))",
			"SELECT grownext.secret_set(held('typed.value'), 'x')",
			"SELECT grownext.secret_set('too-long', repeat(held('typed.value'), 100000))",
			"SELECT grownext.secret_set('both', held('typed.value'), '$directory/secret')",
			"SELECT grownext.secret_set(NULL, held('typed.value'))",
			"SELECT grownext.secret_set('in-a-file', file => held('typed.value'))",
		],
	},
	{
		function => 'billing_provider_define',
		as => $admin,
		call => ["SELECT grownext.billing_provider_define('stripe', 'from-value')"],
		refuse => ["SELECT grownext.billing_provider_define('stripe', held('typed.value'))"],
	},
	{
		function => 'billing_webhook',
		as => $service,
		call => [
			"SELECT grownext.billing_webhook('stripe', jsonb_build_object('Stripe-Signature', 't=1,v1=' || encode(sha256(held('typed.value')::bytea), 'hex')), convert_to(held('typed.value'), 'UTF8'))",
		],
	},
	{
		function => 'key_create',
		call => [ "SELECT grownext.key_create()", "SELECT grownext.key_rotate('email')", "SELECT grownext.key_rotate(force => true)" ],
	},
	{
		function => 'session_create',
		as => $service,
		make => {
			session => "SELECT s ->> 'access_token' AS access, s ->> 'refresh_token' AS refresh FROM grownext.session_create('$user', '$tenant', '{\"scope\": \"read\"}') AS s",
			lonely => "SELECT s ->> 'access_token' AS access, s ->> 'refresh_token' AS refresh FROM grownext.session_create('$other_user') AS s",
		},
	},
	{
		function => 'session_refresh',
		as => $service,
		make => { refreshed => "SELECT s ->> 'access_token' AS access, s ->> 'refresh_token' AS refresh FROM grownext.session_refresh(held('session.refresh')) AS s" },
		call => [
			"SELECT grownext.session_refresh(held('session.refresh')) IS NOT NULL", # the parent, within the grace
			"SELECT grownext.session_refresh(held('session.refresh') || 'x') ->> 'error'",
			"SELECT grownext.session_refresh(repeat(held('session.refresh'), 1000)) ->> 'error'",
			"SELECT grownext.session_refresh(held('session.access')) ->> 'error'",
			# a token that was used before its parent: reuse, which is audited
			"SELECT grownext.session_refresh(s ->> 'refresh_token') IS NOT NULL FROM grownext.session_refresh(held('lonely.refresh')) AS s",
			"SELECT grownext.session_refresh(held('lonely.refresh')) ->> 'error'",
		],
	},
	{
		function => 'session_switch_tenant',
		as => $service,
		make => { switched => "SELECT s ->> 'access_token' AS access, s ->> 'refresh_token' AS refresh FROM grownext.session_switch_tenant((SELECT id FROM grownext.session WHERE user_id = '$user' AND revoked_at IS NULL LIMIT 1), '$tenant') AS s" },
	},
	{
		function => 'jwt_mint',
		as => $service,
		make => { minted => "SELECT grownext.jwt_mint('$user', '{\"scope\": \"read\"}') AS token" },
		refuse => ["SELECT grownext.jwt_mint('$user', jsonb_build_object('sub', held('minted.token')))"],
	},
	{
		function => 'jwt_verify',
		as => $service,
		call => [
			"SELECT grownext.jwt_verify(held('minted.token')) IS NOT NULL",
			"SELECT grownext.jwt_inspect(held('minted.token')) IS NOT NULL",
			"SELECT grownext.jwt_inspect(held('minted.token') || 'x') IS NOT NULL",
			"SELECT grownext.jws_verify(held('minted.token'), grownext.jwks()) IS NOT NULL",
			"SELECT count(*) FROM (SELECT grownext.authenticate(held('session.access'))) AS a",
		],
		refuse => [
			"SELECT grownext.jwt_verify(held('minted.token') || 'x')",
			"SELECT grownext.jwt_verify(repeat(held('minted.token'), 100))",
			"SELECT grownext.jwt_verify('x.' || held('minted.token'))",
			"SELECT grownext.authenticate(held('minted.token') || 'x')",
			"SELECT grownext.authenticate(held('lonely.access'))",
			"SELECT grownext.jws_verify(held('minted.token'), to_jsonb(held('minted.token')))",
		],
	},
	{
		function => 'pre_request',
		call => [
			"SELECT grownext.gateway_trust('postgres')",
			"DO \$do\$ BEGIN PERFORM set_config('request.headers', jsonb_build_object('authorization', 'Bearer ' || held('minted.token'))::text, true), set_config('request.jwt.claims', grownext.jwt_verify(held('minted.token'))::text, true); PERFORM grownext.pre_request(); PERFORM grownext.audit_append('tested', 'the gate'); END \$do\$",
		],
		refuse => [
			"DO \$do\$ BEGIN PERFORM set_config('request.jwt.claims', held('minted.token'), true); PERFORM grownext.pre_request(); END \$do\$",
			"DO \$do\$ BEGIN PERFORM set_config('request.jwt.claims', jsonb_build_object('tenant_id', held('minted.token'))::text, true); PERFORM grownext.pre_request(); END \$do\$",
		],
	},
	{
		function => 'jws_sign',
		as => $service,
		make => {
			shared => "SELECT translate(rtrim(encode(sha256(held('typed.value')::bytea) || sha256(held('typed.value')::bytea), 'base64'), E'=\\n'), E'+/\\n', '-_') AS k",
			signed => "SELECT grownext.jws_sign('payload', jsonb_build_object('kty', 'oct', 'alg', 'HS256', 'k', held('shared.k'))) AS jws",
		},
		refuse => [
			"SELECT grownext.jws_sign('payload', jsonb_build_object('kty', held('shared.k'), 'alg', 'HS256', 'k', held('shared.k')))",
			"SELECT grownext.jws_sign('payload', jsonb_build_object('kty', 'oct', 'alg', 'ES256', 'k', held('shared.k')))",
			"SELECT grownext.jws_sign('payload', jsonb_build_object('kty', 'oct', 'alg', 'HS256', 'k', held('shared.k') || '='))",
			"SELECT grownext.jws_sign('payload', to_jsonb(held('shared.k')))",
		],
	},
	{
		function => 'key_import',
		make => { pasted => "SELECT '-----BEGIN PRIVATE KEY----- ' || held_random() AS pem, held_random() AS d" },
		call => ["SELECT grownext.key_import('good.pem', 'imported')"],
		refuse => [
			"SELECT grownext.key_import('broken.pem', 'imported')",
			"SELECT grownext.key_import(held('pasted.pem'), 'imported')",
			"SELECT grownext.key_import(jsonb_build_object('kty', 'OKP', 'd', held('pasted.d'))::text, 'imported')",
		],
	},
	{
		function => 'invitation_create',
		as => $service,
		make => { invitation => "SELECT id AS public_id, token FROM grownext.invitation_create('$tenant', 'bob\@example.com')" },
		refuse => ["SELECT grownext.invitation_create('$tenant', held('typed.value'))"],
	},
	{
		function => 'invitation_resend',
		as => $service,
		make => { resent => "SELECT id AS public_id, token FROM grownext.invitation_resend(held('invitation.public_id')::uuid)" },
		call => ["SELECT grownext.invitation_message(held('invitation.public_id')::uuid)"],
	},
	{
		function => 'invitation_accept',
		as => $service,
		call => ["SELECT grownext.invitation_accept(held('resent.token'), '$other_user')"],
		refuse => [
			"SELECT grownext.invitation_accept(held('resent.token'), '$other_user')",
			"SELECT grownext.invitation_accept(held('invitation.token'), '$other_user')",
			"SELECT grownext.invitation_accept(held('resent.token') || 'x', '$other_user')",
			"SELECT grownext.invitation_accept(repeat(held('resent.token'), 1000), '$other_user')",
		],
	},
	{
		function => 'login_link_create',
		as => $service,
		make => { link => "SELECT grownext.login_link_create('ann\@example.com') AS token", second_link => "SELECT grownext.login_link_create('ann\@example.com') AS token" },
	},
	{
		function => 'login_link_redeem',
		as => $service,
		make => { by_link => "SELECT s ->> 'access_token' AS access, s ->> 'refresh_token' AS refresh FROM grownext.login_link_redeem(held('link.token')) AS s" },
		call => [
			"SELECT grownext.login_link_redeem(held('link.token')) ->> 'error'",
			"SELECT grownext.login_link_redeem(held('second_link.token') || 'x') ->> 'error'",
			"SELECT grownext.login_link_redeem(repeat(held('second_link.token'), 1000)) ->> 'error'",
		],
		refuse => ["SELECT grownext.login_link_redeem(held('second_link.token'), to_jsonb(held('second_link.token')))"],
	},
	{
		function => 'totp_enroll',
		as => $service,
		make => {
			factor => "SELECT e ->> 'secret' AS secret, e ->> 'uri' AS uri, e -> 'recovery_codes' ->> 0 AS recovery, e -> 'recovery_codes' ->> 9 AS last_recovery FROM grownext.totp_enroll('$user') AS e",
		},
	},
	{
		function => 'totp_verify',
		as => $service,
		call => [
			"SELECT grownext.totp_verify('$user', held('factor.secret'))",
			"SELECT grownext.totp_verify('$user', public.totp_code(held('factor.secret')))",
			"SELECT grownext.totp_verify('$user', held('factor.recovery'))",
		],
	},
	{
		function => 'totp_recovery_codes',
		as => $service,
		make => { renewed => "SELECT c[1] AS first, c[10] AS last FROM grownext.totp_recovery_codes('$user') AS c" },
	},
	{
		function => 'session_step_up',
		as => $service,
		make => { stepped => "SELECT s ->> 'access_token' AS access FROM grownext.session_step_up(held('renewed.first'), (SELECT id FROM grownext.session WHERE user_id = '$user' AND revoked_at IS NULL LIMIT 1)) AS s WHERE s ? 'access_token'" },
	},
	{
		function => 'session_elevate',
		as => $service,
		make => { elevated => "SELECT s ->> 'access_token' AS access FROM grownext.session_elevate((SELECT id FROM grownext.session WHERE user_id = '$user' AND revoked_at IS NULL LIMIT 1), 'aal2', '{pwd}') AS s WHERE s ? 'access_token'" },
	},
	{
		function => 'api_key_create',
		as => $service,
		make => { api => "SELECT k.api_key AS key FROM grownext.api_key_create('robot', '{read}', tenant_id => '$tenant') AS k" },
	},
	{
		function => 'api_key_verify',
		as => $service,
		call => [
			"SELECT grownext.api_key_verify(held('api.key'), 'read')",
			"SELECT grownext.api_key_verify(held('api.key'), 'write')",
			"SELECT grownext.api_key_verify(held('api.key') || 'x')",
			"SELECT grownext.api_key_verify(repeat(held('api.key'), 1000))",
		],
	},
	{
		function => 'authenticate_api_key',
		as => $service,
		call => ["SELECT count(*) FROM (SELECT grownext.authenticate_api_key(held('api.key'), 'read')) AS a"],
		refuse => [ "SELECT grownext.authenticate_api_key(held('api.key') || 'x')", "SELECT grownext.authenticate_api_key(held('api.key'), 'write')", "SELECT grownext.authenticate_api_key(held('session.access'))" ],
	},
	{
		function => 'api_key_reroll',
		as => $service,
		make => { rerolled => "SELECT k.api_key AS key FROM grownext.api_key_reroll((SELECT id FROM grownext.api_key LIMIT 1)) AS k" },
	},
	{
		function => 'client_create',
		as => $admin,
		make => { client => "SELECT c.client_id AS public_id, c.client_secret AS secret FROM grownext.client_create('robot', '{read,impersonate}', '{\"grants\": [\"client_credentials\", \"urn:ietf:params:oauth:grant-type:token-exchange\"]}') AS c" },
	},
	{
		function => 'token',
		as => $service,
		make => {
			by_client => "SELECT t ->> 'access_token' AS access FROM grownext.token('client_credentials', client_id => held('client.public_id'), client_secret => held('client.secret'), scope => 'read') AS t",
			by_refresh => "SELECT t ->> 'access_token' AS access, t ->> 'refresh_token' AS refresh FROM grownext.token('refresh_token', refresh_token => held('refreshed.refresh')) AS t",
		},
		call => [
			"SELECT grownext.token('client_credentials', client_id => held('client.public_id'), client_secret => held('client.secret') || 'x') ->> 'error'",
			"SELECT grownext.token(held('client.secret')) ->> 'error'",
			"SELECT grownext.token('refresh_token', refresh_token => held('by_client.access')) ->> 'error'",
			"SELECT grownext.token('urn:ietf:params:oauth:grant-type:token-exchange', client_id => held('client.public_id'), client_secret => held('client.secret'), subject_token => held('by_refresh.access'), subject_token_type => 'urn:ietf:params:oauth:token-type:access_token') IS NOT NULL",
			"SELECT grownext.token('client_credentials', client_assertion_type => 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer', client_assertion => held('by_client.access')) ->> 'error'",
		],
	},
	{
		function => 'token_introspect',
		as => $service,
		call => [
			"SELECT grownext.token_introspect(held('by_client.access')) IS NOT NULL",
			"SELECT grownext.token_introspect(held('by_refresh.refresh')) IS NOT NULL",
			"SELECT grownext.token_introspect(held('by_client.access'), client_id => held('client.public_id'), client_secret => held('client.secret')) IS NOT NULL",
		],
	},
	{
		function => 'client_rotate_secret',
		as => $admin,
		make => { rotated => "SELECT c.client_secret AS secret FROM grownext.client_rotate_secret(held('client.public_id')) AS c" },
	},
	{
		function => 'token_revoke',
		as => $service,
		call => [ "SELECT grownext.token_revoke(held('by_client.access'))", "SELECT grownext.token_revoke(held('by_refresh.refresh'))", "SELECT grownext.token_revoke(held('client.secret'))" ],
	},
);

# ---- a server that tells all it knows ----------------------------------------

my $master = random_hex();
append_to_file("$directory/master.key", 'k1:' . encode_base64(pack('H*', $master), '') . "\n");
my $from_file = 'whsec_' . random_hex();
append_to_file("$directory/secret", "$from_file\n");

mkdir "$directory/keys" or die $!;
run_log([ 'openssl', 'genpkey', '-algorithm', 'ed25519', '-out', "$directory/keys/good.pem" ]) or die 'no key';
my ($private) = slurp_file("$directory/keys/good.pem") =~ /^([A-Za-z0-9+\/=]{60,})$/m or die 'no key in the file';
append_to_file("$directory/keys/broken.pem", slurp_file("$directory/keys/good.pem") =~ s/^M/\*/mr);

my $node = PostgreSQL::Test::Cluster->new('talkative');
$node->init;
my $contrib = `pg_config --sharedir`;
my $library = `pg_config --pkglibdir`;
chomp($contrib, $library);
my $statements = -e "$contrib/extension/pg_stat_statements.control";
my $explain = -e "$library/auto_explain.so";
my $crypto = -e "$contrib/extension/pgcrypto.control";
plan skip_all => 'pg_stat_statements, auto_explain and pgcrypto are not installed' unless $statements && $explain && $crypto;
$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'grownext, pg_stat_statements, auto_explain'
grownext.master_key_file = '$directory/master.key'
grownext.key_directory = '$directory/keys'
log_statement = all
log_duration = on
log_min_duration_statement = 0
log_min_messages = debug1
log_min_error_statement = debug5
log_error_verbosity = verbose
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
debug_print_parse = on
debug_print_rewritten = on
debug_print_plan = on
debug_pretty_print = off
plan_cache_mode = force_custom_plan
pg_stat_statements.track = all
pg_stat_statements.track_utility = on
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
auto_explain.log_verbose = on
auto_explain.log_triggers = on
auto_explain.log_settings = on
auto_explain.log_nested_statements = on
CONF
$node->append_conf('postgresql.conf', "auto_explain.log_parameter_max_length = -1\n") if $node->pg_version >= 16;
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', <<SQL);
SET debug_print_parse = off; SET debug_print_rewritten = off; SET debug_print_plan = off;
CREATE EXTENSION grownext;
CREATE EXTENSION pg_stat_statements;
CREATE EXTENSION pgcrypto;
CREATE ROLE $admin IN ROLE grownext_admin;
CREATE ROLE $service IN ROLE grownext_service, grownext_user, grownext_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA grownext TO $admin, $service;
SQL

# ---- it runs -----------------------------------------------------------------

my %exists = map { $_ => 1 } split /\n/,
	$node->safe_psql('app', "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'grownext'::regnamespace");

# held(NAME) reads, random comes from the server; what is held is a temporary table's
my $script = <<'SQL';
CREATE TEMP TABLE holding (name text, value text);
CREATE FUNCTION pg_temp.hold(name text, secrets jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO holding SELECT $1 || '.' || key, value FROM jsonb_each_text($2) $$;
GRANT ALL ON holding TO PUBLIC;
CREATE FUNCTION public.held(text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT h.value FROM holding AS h WHERE h.name = $1); END $$;
-- RFC 6238 with SHA-1 and six digits; it must not tell what it is given, either
CREATE FUNCTION public.totp_code(secret text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
SET auto_explain.log_min_duration = -1 SET debug_print_parse = off SET debug_print_rewritten = off SET debug_print_plan = off AS $$
DECLARE
    bits CONSTANT text := (SELECT string_agg((strpos('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', c) - 1)::bit(5)::text, '' ORDER BY n)
                             FROM unnest(string_to_array(secret, NULL)) WITH ORDINALITY AS x (c, n));
    key CONSTANT bytea := (SELECT string_agg(set_byte('\x00', 0, substring(bits FROM i * 8 + 1 FOR 8)::bit(8)::int), '' ORDER BY i) FROM generate_series(0, 19) AS i);
    mac CONSTANT bytea := public.hmac(int8send(floor(extract(epoch FROM clock_timestamp()) / 30)::bigint), key, 'sha1');
    place CONSTANT int := get_byte(mac, 19) & 15;
BEGIN
    RETURN lpad(((((get_byte(mac, place) & 127)::bigint << 24) + (get_byte(mac, place + 1) << 16) + (get_byte(mac, place + 2) << 8) + get_byte(mac, place + 3)) % 1000000)::text, 6, '0');
END $$;
CREATE FUNCTION public.held_random() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT encode(sha256(gen_random_uuid()::text::bytea), 'hex') $$;
SQL
my $expected_errors = 0;
foreach my $step (grep { $exists{ $_->{function} } } @steps)
{
	$script .= "SET ROLE $step->{as};\n" if $step->{as};
	foreach my $name (sort keys %{ $step->{make} || {} })
	{
		$script .= "\\set ON_ERROR_STOP on\nINSERT INTO holding SELECT '$name.' || s.key, s.value FROM ($step->{make}{$name}) AS made, LATERAL jsonb_each_text(to_jsonb(made)) AS s;\n";
	}
	$script .= "\\set ON_ERROR_STOP on\n$_ \\g /dev/null\n" foreach @{ $step->{call} || [] };
	foreach my $statement (@{ $step->{refuse} || [] })
	{
		$expected_errors++;
		$script .= "\\set ON_ERROR_STOP off\n$statement \\g /dev/null\n\\warn REFUSED :LAST_ERROR_SQLSTATE :ERROR $step->{function}\n";
	}
	$script .= "RESET ROLE;\n" if $step->{as};
}
$script .= "\\set ON_ERROR_STOP on\nSELECT name || E'\\t' || value FROM holding;\n";
my ($rc, $out, $err) = $node->psql('app', $script);
is($rc, 0, 'every step went as planned') or diag($err);
my @refused = $err =~ /^(?:psql:\S+ )?REFUSED (\S+) (\S+) \S+$/mg;
is(scalar(grep { $_ eq 'true' } @refused), $expected_errors, 'every bad call was refused') or diag($err);

my %secret = map { split /\t/, $_, 2 } grep { /\t/ } split /\n/, $out;
cmp_ok(scalar(keys %secret), '>=', 8, 'secrets were made: ' . join(' ', sort keys %secret));
delete @secret{ grep { /\.public_id$/ } keys %secret };
is(join(' ', grep { length($secret{$_}) < 14 } sort keys %secret), '', 'each long enough to be found');
$secret{'the stored secret from a file'} = $from_file;
$secret{'the imported key'} = $private;

# ---- the search --------------------------------------------------------------

# every way in which a value may be written; the end of a token is its signature
my %needle = ('the master key' => $master, 'the master key, base64' => encode_base64(pack('H*', $master), '') =~ s/=+$//r);
foreach my $name (keys %secret)
{
	my $value = $secret{$name};
	$needle{$name} = $value;
	$needle{"$name, its end"} = substr($value, -24) if length($value) > 24;
	$needle{"$name, hex"} = unpack('H*', $value);
	$needle{"$name, base64"} = substr(encode_base64($value, ''), 0, 40);
	# a constant in a printed tree, whose first four bytes are its length
	$needle{"$name, in a tree"} = join(' ', unpack('c*', substr($value, 0, 32)));
}

# the server breaks the lines of trees and messages
sub joined { return $_[0] =~ s/\s+/ /gr }

sub absent
{
	my ($where, $text) = @_;
	$text = joined($text);
	my @found = grep { index($text, $needle{$_}) >= 0 } sort keys %needle;
	cmp_ok(length($text), '>', 0, "$where: there is something to search");
	is(join('; ', @found), '', "$where: no secret");
	foreach my $found (@found)
	{
		my $at = index($text, $needle{$found});
		diag("$found:\n" . substr($text, $at > 1500 ? $at - 1500 : 0, 1700));
		last;
	}
}

# what searches must be able to find
$node->safe_psql('app', "SELECT 'a canary that was typed'");
$node->safe_psql('app', 'CREATE FUNCTION nested(a text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM concat(a, now()); END $$; SELECT nested(lower(\'CANARY\'))');
my $log = joined(slurp_file($node->logfile));
ok(index($log, 'a canary that was typed') >= 0, 'the log has what is typed');
my $canary = join(' ', unpack('c*', 'a canary that was typed'));
ok(index($log, $canary) >= 0, 'and constants in trees');
ok(index($log, "Output: concat('canary'::text, now())") >= 0, 'and values in plans of nested statements');

absent('the server log', slurp_file($node->logfile));
absent('pg_stat_activity', $node->safe_psql('app', 'SELECT * FROM pg_stat_activity'));
absent('pg_stat_statements', $node->safe_psql('app', 'SELECT * FROM pg_stat_statements'));
absent('pg_settings', $node->safe_psql('app', 'SELECT * FROM pg_settings'));
absent('pg_prepared_statements and cursors', 'x' . $node->safe_psql('app', 'SELECT * FROM pg_prepared_statements; SELECT * FROM pg_cursors'));
absent('what psql was told', $err);
foreach my $relation (
	split /\n/,
	$node->safe_psql('app',
		"SELECT oid::regclass FROM pg_class WHERE relkind IN ('r', 'v', 'm', 'p') AND relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname LIKE '%grownext%') ORDER BY 1"))
{
	absent("$relation", 'x' . $node->safe_psql('app', "SELECT to_jsonb(r) FROM $relation AS r"));
}
absent('status()', $node->safe_psql('app', 'SELECT * FROM grownext.status()'));
absent('workers()', $node->safe_psql('app', 'SELECT * FROM grownext.workers()'));
my ($dump) = run_command([ 'pg_dump', '-h', $node->host, '-p', $node->port, 'app' ]);
like($dump, qr/COPY _grownext\.jwt_key/, 'the dump has the keys');
absent('the dump', $dump);

# ---- the table is complete ---------------------------------------------------

# Whatever takes or returns what sounds like a secret stands in the table above, or here
# with the reason why it is none.
my %harmless = map { $_ => 1 } (
	'jwks', 'discovery', 'jwk_thumbprint', # public by nature
	'jwt_inspect', 'jws_verify', 'authenticate', # called by the step of jwt_verify
	'key_rotate', 'key_revoke', # named by kid
	'secret_drop', # named by name
	'key_policy_define', 'token_profile_define', 'key_rewrap', # named by purpose; what they seal anew they keep
	'api_key_revoke', 'login_link_deliver', 'totp_disable', # named by id
	'usage_consume', 'usage_require', 'usage_return', 'audit_append', 'enqueue', 'enqueue_many', # idempotency and job keys
	'session_revoke', 'session_revoke_all', 'billing_customer_link', # named by id
	'credit_grant', 'usage_record', 'usage_reserve', # idempotency keys
);
my $named = join(',', map { "'$_'" } map { $_->{function} } @steps);
my $missing = $node->safe_psql('app', <<SQL);
SELECT string_agg(DISTINCT p.proname, ' ' ORDER BY p.proname) FROM pg_proc AS p
 WHERE p.pronamespace IN ('grownext'::regnamespace, 'grownext_api'::regnamespace)
   AND p.proname || ' ' || pg_get_function_arguments(p.oid) || ' ' || pg_get_function_result(p.oid)
       ~* '(token|secret|credential|password|api_key|_key|key_|code|totp|link|jwt|recovery|session_)'
   AND p.proname NOT IN ($named)
SQL
is(join(' ', grep { !$harmless{$_} } split / /, $missing), '', 'every function that deals with secrets was called');

$node->stop;
done_testing();
