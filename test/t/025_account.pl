# Login links and second factors on a real server: their tokens, secrets and codes are
# nowhere but in the answers, and they survive a dump, a restart and a new master key.
use strict;
use warnings;

use Digest::SHA qw(hmac_sha1);
use File::Find;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

umask(0077);

my $key_file = PostgreSQL::Test::Utils::tempdir() . '/master.key';
my $ann = 'a1111111-1111-4111-8111-111111111111';

sub fresh_key
{
	my ($id) = @_;
	open(my $in, '<:raw', '/dev/urandom') or die $!;
	read($in, my $bytes, 32) == 32 or die 'no random bytes';
	return "$id:" . encode_base64($bytes, '') . "\n";
}

sub write_keys
{
	unlink($key_file);
	append_to_file($key_file, join('', @_));
	chmod(0600, $key_file) or die $!;
}

sub unbase32
{
	my ($text) = @_;
	my $bits = join('', map { sprintf('%05b', index('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', $_)) } split(//, $text));
	return pack('B*', substr($bits, 0, 8 * int(length($bits) / 8)));
}

# code(SECRET, STEPS): what an authenticator shows so many steps from now (RFC 6238); of
# this step or the next, which stay good when one begins meanwhile
sub code
{
	my ($secret, $steps) = @_;
	my $mac = hmac_sha1(pack('Q>', int(time() / 30) + $steps), unbase32($secret));
	return sprintf('%06d', (unpack('N', substr($mac, ord(substr($mac, 19)) & 15, 4)) & 0x7fffffff) % 1000000);
}

sub sqlstate
{
	my ($node, $database, $sql) = @_;
	my ($rc, $out, $err) = $node->psql($database, "\\set VERBOSITY sqlstate\n$sql", on_error_stop => 1);
	return $rc == 0 ? 'none' : $err =~ /ERROR:  (\w{5})/ ? $1 : $err;
}

# ---- nothing leaks ---------------------------------------------------------------

my $first = fresh_key('k1');
write_keys($first);
my $node = PostgreSQL::Test::Cluster->new('account');
$node->init;
my ($contrib, $library) = map { chomp(my $dir = `pg_config --$_`); $dir } qw(sharedir pkglibdir);
my @preload = ('grownext', (grep { -e "$library/$_.so" } qw(pg_stat_statements auto_explain)));
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = '@{[ join(',', @preload) ]}'
grownext.master_key_file = '$key_file'
log_statement = all
log_min_duration_statement = 0
log_min_messages = debug1
CONF
$node->append_conf('postgresql.conf', <<CONF) if grep { $_ eq 'auto_explain' } @preload;
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
auto_explain.log_verbose = on
auto_explain.log_nested_statements = on
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION grownext');
$node->safe_psql('app', 'CREATE EXTENSION pg_stat_statements')
	if -e "$contrib/extension/pg_stat_statements.control" && grep { $_ eq 'pg_stat_statements' } @preload;
$node->safe_psql('app', <<SQL);
SELECT * FROM grownext.setup('https://auth.example.com', ARRAY['my-api']);
SELECT grownext.user_create('ann\@example.com', id => '$ann');
SQL

# The answers are used where they come from, so that nobody types what is looked for.
my @link = split(/\n/, $node->safe_psql('app', <<SQL));
SELECT grownext.login_link_create('ann\@example.com');
SELECT token FROM _grownext.account_login_link AS l, grownext.login_link_deliver(l.id);
SELECT grownext.login_link_redeem(token) ->> 'session_id' FROM _grownext.account_login_link AS l, grownext.login_link_deliver(l.id);
SELECT grownext.login_link_create('nobody\@example.com');
SQL
is($link[0], $link[1], 'who delivers a link gets its token');
my $session = $link[2];
like($session, qr/^[0-9a-f-]{36}$/, 'it makes a session');
my $factor = decode_json($node->safe_psql('app', "SELECT grownext.totp_enroll('$ann')"));
my $used = code($factor->{secret}, 0);
is($node->safe_psql('app', "SELECT grownext.totp_verify('$ann', '$used')"), 't', 'a code activates a factor');
my @recovery = split(/\n/, $node->safe_psql('app', <<SQL));
SELECT codes[3] FROM (SELECT grownext.totp_recovery_codes('$ann') AS codes) AS c;
SELECT codes[1] || ' ' || grownext.totp_verify('$ann', codes[1]) FROM (SELECT grownext.totp_recovery_codes('$ann') AS codes OFFSET 0) AS c;
SELECT codes[2] || ' ' || (grownext.session_step_up(codes[2], '$session') ->> 'token_type') FROM (SELECT grownext.totp_recovery_codes('$ann') AS codes OFFSET 0) AS c;
SQL
like($recovery[1], qr/ true$/, 'a recovery code is right');
like($recovery[2], qr/ Bearer$/, 'another one steps a session up');

my %needle = (
	'link' => $link[0],
	'link of nobody' => $link[3],
	'secret' => $factor->{secret},
	'secret raw' => unbase32($factor->{secret}),
	'secret hex' => unpack('H*', unbase32($factor->{secret})),
	(map { ("recovery code $_" => $factor->{recovery_codes}[$_]) } 0 .. 9),
	(map { ("later recovery code $_" => $recovery[$_] =~ s/ .*//r) } 0 .. 2));
foreach my $name (grep { /recovery/ } keys %needle)
{
	$needle{"$name without hyphens"} = $needle{$name} =~ s/-//gr;
}
is((scalar grep { length($_) >= 12 } values %needle), scalar keys %needle, 'there is something to look for');

sub absent
{
	my ($where, $text) = @_;
	my @found = grep { index($text, $needle{$_}) >= 0 } sort keys %needle;
	is("@found", '', "no secret in $where");
}

absent('the server log', slurp_file($node->logfile));
absent('pg_stat_activity', $node->safe_psql('app', 'SELECT * FROM pg_stat_activity'));
absent('pg_stat_statements', $node->safe_psql('app', 'SELECT * FROM pg_stat_statements'))
	if grep { $_ eq 'pg_stat_statements' } @preload;
foreach my $view (split(/\n/, $node->safe_psql('app', "SELECT oid::regclass FROM pg_class WHERE relnamespace = 'grownext'::regnamespace AND relkind = 'v' ORDER BY 1")))
{
	absent("view $view", $node->safe_psql('app', "SELECT * FROM $view"));
}
my $dump = $node->basedir . '/app.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('app') ], 'pg_dump');
like(slurp_file($dump), qr/COPY _grownext\.account_totp/, 'the dump has the factors');
absent('the dump', slurp_file($dump));
$node->safe_psql('app', 'CHECKPOINT');
my %on_disk;
find(
	sub {
		return unless -f $_;
		my $data = slurp_file($_);
		$on_disk{$File::Find::name}++ foreach grep { index($data, $needle{$_}) >= 0 } keys %needle;
	},
	$node->data_dir);
is(join(' ', sort keys %on_disk), '', 'no secret anywhere in the data directory, WAL included');

# ---- they survive ------------------------------------------------------------------

my $open = $node->safe_psql('app', "SELECT grownext.login_link_create('ann\@example.com', '1 day')");
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dump.c", $node->connstr('app') ], 'pg_dump again');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('copy'), "$dump.c" ], 'pg_restore');
is($node->safe_psql('copy', "SELECT grownext.login_link_redeem('$open') ->> 'token_type'"), 'Bearer', 'a link is good in a restored database');
is($node->safe_psql('copy', "SELECT grownext.totp_verify('$ann', '" . code($factor->{secret}, 1) . "')"), 't', 'so is a factor');
is($node->safe_psql('copy', "SELECT state || recovery_codes FROM grownext.totp_factor"), 'active9', 'with its recovery codes');

$node->restart;
is($node->safe_psql('app', "SELECT grownext.totp_verify('$ann', '$used')"), 'f', 'a used step stays used over a restart');

# a new master key in front: everything is sealed again, and the old one can go
my $second = fresh_key('k2');
write_keys($second, $first);
cmp_ok($node->safe_psql('app', 'SELECT grownext.key_rewrap()'), '>=', 2, 'key_rewrap() finds what there is');
is($node->safe_psql('app', "SELECT string_agg(DISTINCT master_key, ' ') FROM _grownext.crypto_sealed_counts()"), 'k2', 'factors included');
write_keys($second);
$node->restart;
is($node->safe_psql('app', "SELECT grownext.login_link_redeem('$open') ->> 'token_type'"), 'Bearer', 'links made before are good after');
is($node->safe_psql('app', "SELECT grownext.totp_verify('$ann', '" . code($factor->{secret}, 1) . "')"), 't', 'and so is the factor');

# without a key nothing is judged, and nothing is used up
write_keys(fresh_key('k3'));
$node->restart;
my $link = "INSERT INTO _grownext.account_login_link SELECT gen_random_uuid(), '$ann', sha256(convert_to('gnl_' || repeat('A', 43), 'UTF8')), now(), now() + interval '1 hour'";
$node->safe_psql('app', $link);
foreach my $call ("totp_verify('$ann', '123456')", "totp_enroll('$ann')", "login_link_create('bob\@example.com')", "login_link_redeem('gnl_' || repeat('A', 43))")
{
	is(sqlstate($node, 'app', "SELECT grownext.$call"), 'NX017', "without the master key: $call");
}
is($node->safe_psql('app', "SELECT count(*) FROM _grownext.account_login_link WHERE user_id IS NOT NULL"), 1, 'the link is still there');

$node->stop;
done_testing();
