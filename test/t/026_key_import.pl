# Keys that OpenSSL and Node made, taken from files of the server, and every way in which
# a file or its path is refused.
use strict;
use warnings;

use JSON::PP;
use MIME::Base64 qw(encode_base64);
use POSIX qw(mkfifo);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

umask(0077);

my $directory = PostgreSQL::Test::Utils::tempdir();
my $keys = "$directory/keys";
mkdir($keys) or die $!;
mkdir("$keys/sub") or die $!;
append_to_file("$directory/master.key", 'k1:' . encode_base64('0123456789abcdef0123456789abcdef', '') . "\n");

my $node = PostgreSQL::Test::Cluster->new('import');
$node->init;
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'grownext'
grownext.master_key_file = '$directory/master.key'
log_statement = all
log_min_duration_statement = 0
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', <<'SQL');
CREATE EXTENSION grownext;
SELECT grownext.setup('https://auth.example.com', ARRAY['my-api']);
CREATE ROLE keeper LOGIN IN ROLE grownext_admin;
SQL

# what psql was refused with: SQLSTATE and message
sub refusal
{
	my ($sql, %options) = @_;
	my ($rc, $out, $err) = $node->psql('app', "\\set VERBOSITY verbose\n$sql", on_error_stop => 1, %options);
	return 'none' if $rc == 0;
	return $err =~ /ERROR:  (\w{5}: .*)$/m ? $1 : $err;
}

is(refusal("SELECT grownext.key_import('key.pem')"), 'NX003: there is no directory to import keys from', 'without a directory nothing is imported');
like(refusal("SET grownext.key_directory = '/'"), qr/^55P02: /, 'no session says where it is');
is(refusal("ALTER SYSTEM SET grownext.key_directory = 'keys'"), '22023: invalid value for parameter "grownext.key_directory": "keys"', 'it is absolute');
$node->append_conf('postgresql.conf', "grownext.key_directory = '$keys'\n");
$node->reload;
$node->poll_query_until('app', "SELECT current_setting('grownext.key_directory') = '$keys'") or die 'no reload';
is(refusal("SELECT grownext.key_import('key.pem')", extra_params => [ '-U', 'keeper' ]), '42501: only a superuser may import a key from a file of the server', 'an admin imports nothing');
is(refusal("SELECT current_setting('grownext.key_directory')", extra_params => [ '-U', 'keeper' ]) =~ /^42501/ ? 1 : 0, 1, 'nor does he see where from');

# ---- what is taken -----------------------------------------------------------------

my @openssl = (
	[ 'rsa_pkcs8', 'RS256', 'openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:3072' ],
	[ 'rsa_pkcs1', 'RS256', 'openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 | openssl pkey -traditional' ],
	[ 'rsa_pss', 'PS256', 'openssl genpkey -quiet -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048' ],
	[ 'ec_sec1', 'ES256', 'openssl ecparam -name prime256v1 -genkey' ], # with its parameters before it
	[ 'ec_p384', 'ES384', 'openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384' ],
	[ 'ec_p521', 'ES512', 'openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521' ],
	[ 'ec_k1', 'ES256K', 'openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1' ],
	[ 'ed25519', 'EdDSA', 'openssl genpkey -algorithm ED25519' ]);
my $quiet = `openssl genpkey -help 2>&1` =~ /-quiet/; # OpenSSL 3.0 has not got it
my @secret; # what must be nowhere
foreach my $made (@openssl)
{
	my ($name, $alg, $command) = @$made;
	$command =~ s/-quiet // unless $quiet;
	system("( $command ) >'$keys/$name.pem' 2>/dev/null") == 0 or die "openssl: $name";
	my @lines = grep { length($_) > 40 } split /\n/, slurp_file("$keys/$name.pem") =~ s/-----BEGIN EC PARAMETERS.*?END EC PARAMETERS-----\n//sr;
	# RSA begins with its modulus, which is no secret
	push @secret, $name =~ /rsa/ ? @lines[ $#lines / 2 .. $#lines ] : @lines;
}

# Node writes JWKs of keys of its own, and tells what they are
my $write = <<'JS';
const crypto = require('crypto'), fs = require('fs'), dir = process.argv[1];
const make = (name, type, options, more) => fs.writeFileSync(`${dir}/${name}.jwk`,
  JSON.stringify({ ...crypto.generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), ...more }), { mode: 0o600 });
make('rsa', 'rsa', { modulusLength: 2048 }, { use: 'sig' });
make('ps512', 'rsa', { modulusLength: 2048 }, { alg: 'PS512' });
make('p256', 'ec', { namedCurve: 'P-256' }, { kid: 'of their own' });
make('p521', 'ec', { namedCurve: 'P-521' });
make('okp', 'ed25519');
make('x25519', 'x25519');
const p256 = JSON.parse(fs.readFileSync(`${dir}/p256.jwk`)), okp = JSON.parse(fs.readFileSync(`${dir}/okp.jwk`));
const write = (name, jwk) => fs.writeFileSync(`${dir}/${name}.jwk`, JSON.stringify(jwk), { mode: 0o600 });
write('mismatch', { ...p256, d: crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }).d });
write('mismatch_okp', { ...okp, d: crypto.generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' }).d });
write('public', { ...p256, d: undefined });
write('encryption', { ...p256, use: 'enc' });
write('set', { keys: [p256] });
write('hmac', { kty: 'oct', alg: 'HS256', k: crypto.randomBytes(32).toString('base64url') });
write('hmac_short', { kty: 'oct', alg: 'HS256', k: 'c2hvcnQ' });
write('hmac_any', { kty: 'oct', k: crypto.randomBytes(64).toString('base64url') });
JS
run_log([ 'node', '-e', $write, $keys ]) or die 'node';
my @node = ([ 'rsa', 'RS256' ], [ 'ps512', 'PS512' ], [ 'p256', 'ES256' ], [ 'p521', 'ES512' ], [ 'okp', 'EdDSA' ], [ 'hmac', 'HS256' ]);
foreach my $made (@node)
{
	my $jwk = decode_json(slurp_file("$keys/$made->[0].jwk"));
	push @secret, grep { defined && length($_) > 30 } @$jwk{qw(d p q dp dq qi k)};
}

foreach my $made ((map { [ "$_->[0].pem", $_->[1] ] } @openssl), (map { [ "$_->[0].jwk", $_->[1] ] } @node))
{
	my ($file, $alg) = @$made;
	my $purpose = 'of_' . ($file =~ s/\./_/r);
	my $out = $node->safe_psql('app', <<SQL);
SELECT grownext.key_import('$file', '$purpose') AS kid \\gset
SELECT alg, state, provider, public_jwk ?| ARRAY['d', 'p', 'q', 'dp', 'dq', 'qi', 'k'] FROM grownext.signing_key WHERE kid = :'kid';
SELECT grownext.key_rotate('$purpose') = kid FROM grownext.signing_key WHERE purpose = '$purpose';
SELECT active, header ->> 'alg' FROM grownext.jwt_inspect(grownext.jwt_mint('ann', purpose => '$purpose'), purpose => '$purpose');
SQL
	is($out, "$alg|standby|local|f\nt\nt|$alg", "$file is taken for $alg, and signs once it is active");
}
is($node->safe_psql('app', "SELECT kid = grownext.jwk_thumbprint(public_jwk) FROM grownext.signing_key WHERE purpose = 'of_p256_jwk'"), 't', 'its kid is its thumbprint, whatever it was before');
is($node->safe_psql('app', "SELECT count(*) FROM jsonb_array_elements(grownext.jwks('of_hmac_jwk') -> 'keys')"), '0', 'a symmetric key is published nowhere');
is($node->safe_psql('app', "SELECT grownext.key_rotate('of_rsa_pkcs8_pem', force => true); SELECT alg, length(public_jwk ->> 'n') FROM grownext.signing_key WHERE purpose = 'of_rsa_pkcs8_pem' AND state = 'active'") =~ s/.*\n//sr,
	'RS256|512', 'the key that is made after it is as large');

# another implementation verifies what an imported key signed, with the key that it made
my $verify = <<'JS';
const crypto = require('crypto'), fs = require('fs'), [, dir, token] = process.argv, [h, p, s] = token.split('.');
console.log(crypto.verify('sha256', Buffer.from(`${h}.${p}`), { key: crypto.createPublicKey(fs.readFileSync(`${dir}/ec_sec1.pem`)), dsaEncoding: 'ieee-p1363' }, Buffer.from(s, 'base64url')));
JS
my $token = $node->safe_psql('app', "SELECT grownext.jwt_mint('ann', purpose => 'of_ec_sec1_pem')");
my ($said) = run_command([ 'node', '-e', $verify, $keys, $token ]);
is($said, 'true', 'who has the public part of the file verifies');

# a profile decides what an RSA key signs, and which keys are not for it
$node->safe_psql('app', q[SELECT grownext.token_profile_define('pss', '{"alg": "PS384"}')]);
system("openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 >'$keys/more.pem' 2>/dev/null") == 0 or die 'openssl';
is($node->safe_psql('app', "SELECT grownext.key_import('more.pem', 'pss') AS kid \\gset\nSELECT alg FROM grownext.signing_key WHERE kid = :'kid'"), 'PS384', 'the profile chooses');
system("openssl genpkey -algorithm ED25519 >'$keys/sub/ed.pem'") == 0 or die 'openssl';
is(refusal("SELECT grownext.key_import('sub/ed.pem', 'pss')"), '22023: keys of purpose "pss" must be of algorithm PS384, not EdDSA', 'or refuses');
like($node->safe_psql('app', "SELECT grownext.key_import('sub/ed.pem', 'deep')"), qr/^.{43}$/, 'a file may lie deeper');
like(refusal("SELECT grownext.key_import('sub/ed.pem', 'deep')"), qr/^42710: signing key ".*" exists already$/, 'but is taken once');
$node->safe_psql('app', "SELECT grownext.key_revoke(kid, 'lost') FROM grownext.signing_key WHERE purpose = 'deep'");
like(refusal("SELECT grownext.key_import('sub/ed.pem', 'deep')"), qr/^42710: /, 'and not again once it was revoked');
is($node->safe_psql('app', "SELECT count(*) FROM grownext.audit_event WHERE action = 'key.created' AND change::text LIKE '%imported%'"), @openssl + @node + 2, 'the audit log has each');

# ---- what is refused ---------------------------------------------------------------

system("openssl genpkey -algorithm X25519 >'$keys/x.pem'") == 0 or die 'openssl';
system("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP256r1 >'$keys/brain.pem'") == 0 or die 'openssl';
system("openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 >'$keys/small.pem' 2>/dev/null") == 0 or die 'openssl';
system("openssl pkey -in '$keys/ed25519.pem' -aes256 -passout pass:word >'$keys/encrypted.pem'") == 0 or die 'openssl';
system("openssl pkey -in '$keys/ed25519.pem' -pubout >'$keys/public.pem'") == 0 or die 'openssl';
append_to_file("$keys/two.pem", slurp_file("$keys/ec_k1.pem") . slurp_file("$keys/ec_p384.pem"));
append_to_file("$keys/cut.pem", substr(slurp_file("$keys/ec_p384.pem"), 0, 80) . "\n-----END PRIVATE KEY-----\n");
append_to_file("$keys/text.pem", "no key at all\n");
append_to_file("$keys/nul.pem", "\0" . slurp_file("$keys/ec_k1.pem"));
append_to_file("$keys/empty.pem", '');
append_to_file("$keys/large.pem", 'x' x 65537);
append_to_file("$keys/open.pem", slurp_file("$keys/ec_k1.pem"));
chmod(0640, "$keys/open.pem") or die $!;
append_to_file("$keys/deep.jwk", '{"kty":' x 10000);
append_to_file("$directory/outside.pem", slurp_file("$keys/ec_k1.pem"));
symlink('../outside.pem', "$keys/link.pem") or die $!;
symlink('sub', "$keys/way") or die $!;
symlink($directory, "$keys/out") or die $!;
mkfifo("$keys/pipe.pem", 0600) or die $!;

my %refused = (
	'x.pem' => 'its type or curve is not supported',
	'brain.pem' => 'its type or curve is not supported',
	'small.pem' => qr/2048/,
	'encrypted.pem' => 'it is encrypted: decrypt it first',
	'public.pem' => 'it holds no private key',
	'two.pem' => 'it holds more than one key',
	'cut.pem' => 'it is not a private key that libcrypto can read',
	'text.pem' => 'it holds no private key',
	'nul.pem' => 'it is neither PEM nor a JWK',
	'empty.pem' => 'it is neither PEM nor a JWK',
	'large.pem' => 'it is larger than 64 KiB',
	'open.pem' => 'others than its owner may read or write it',
	'x25519.jwk' => qr/./,
	'mismatch.jwk' => 'its private part does not belong to its public part',
	'mismatch_okp.jwk' => 'its x does not belong to its d',
	'public.jwk' => 'it has no private part',
	'encryption.jwk' => qr/use/,
	'set.jwk' => 'it is a set; one key signs',
	'hmac_short.jwk' => qr/./,
	'hmac_any.jwk' => 'a symmetric key must say its alg',
	'deep.jwk' => qr/./,
	'link.pem' => 'a step of its path is a link, or no directory',
	'way/ed.pem' => 'a step of its path is a link, or no directory',
	'out/outside.pem' => 'a step of its path is a link, or no directory',
	'text.pem/ed.pem' => 'a step of its path is a link, or no directory',
	'pipe.pem' => 'it is not a regular file',
	'sub' => 'it is not a regular file',
	'../outside.pem' => 'no step of it may be "." or ".."',
	'sub/../../outside.pem' => 'no step of it may be "." or ".."',
	'./ed25519.pem' => 'no step of it may be "." or ".."',
	"$directory/outside.pem" => 'it must be relative to grownext.key_directory',
	'sub//ed.pem' => 'a step of it is empty',
	'sub/' => 'a step of it is empty',
	'' => 'a step of it is empty',
	'x' x 2000 => 'it is too long');
my $before = $node->safe_psql('app', 'SELECT count(*) FROM grownext.signing_key');
foreach my $file (sort keys %refused)
{
	my $why = $refused{$file};
	$why = ref($why) ? $why : qr/\Q$why\E$/;
	like(refusal("SELECT grownext.key_import('$file')"), qr/^22023: key file ".*" cannot be used: .*$why/, 'refused: ' . substr($file, 0, 60));
}
is(refusal("SELECT grownext.key_import('nothing.pem')"), '58P01: could not read key file "nothing.pem": No such file or directory', 'nothing is nothing');
is(refusal("SELECT grownext.key_import($_)"), '22004: a key is imported from a file, for a purpose', "refused: $_") foreach 'NULL', "'ed25519.pem', NULL";
like(refusal("SELECT grownext.key_import('more.pem', 'Not A Purpose')"), qr/^22023: a key's purpose/, 'refused: a purpose that is none');
is($node->safe_psql('app', 'SELECT count(*) FROM grownext.signing_key'), $before, 'nothing of it is left');

# ---- and nothing of a key is anywhere ---------------------------------------------------

my $log = slurp_file($node->logfile);
cmp_ok(scalar(@secret), '>', 40, scalar(@secret) . ' pieces of keys to look for');
is(scalar(grep { index($log, $_) >= 0 } @secret), 0, 'none is in the server log');
my ($dump) = run_command([ 'pg_dump', '-h', $node->host, '-p', $node->port, 'app' ]);
is(scalar(grep { index($dump, $_) >= 0 } @secret), 0, 'nor in a dump');
is($node->safe_psql('app', 'SELECT count(*) FROM pg_ls_waldir()') > 0 ? 1 : 0, 1, 'the server is well');
unlike($log, qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');

done_testing();
