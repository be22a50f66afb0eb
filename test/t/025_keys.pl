# The life of signing keys on real servers: rotation and revocation under load, a standby
# that follows, a dump without its master key, a new master key, and a crash in the middle.
# GN_KEY_SECONDS: how long the load lasts (10).
use strict;
use warnings;

use IPC::Run;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

umask(0077);

my $seconds = $ENV{GN_KEY_SECONDS} || 10;
my $sessions = 8;
my $directory = PostgreSQL::Test::Utils::tempdir();
my $key_file = "$directory/master.key";

# the line of a fresh master key
sub fresh_key
{
	my ($id) = @_;
	open(my $in, '<:raw', '/dev/urandom') or die $!;
	read($in, my $bytes, 32) == 32 or die 'no random bytes';
	return "$id:" . encode_base64($bytes, '');
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
	my ($node, $sql) = @_;
	my ($rc, $out, $err) = $node->psql('app', "\\set VERBOSITY verbose\n$sql", on_error_stop => 1);
	return $rc == 0 ? 'none' : $err;
}

sub item
{
	my ($node, $item) = @_;
	return $node->safe_psql('app', "SELECT state || ': ' || detail FROM grownext.status() WHERE item = '$item'");
}

my $first = fresh_key('k1');
write_file($key_file, "$first\n");

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'grownext'
grownext.master_key_file = '$key_file'
grownext.tick_interval = 100ms
max_connections = 50
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', <<'SQL');
CREATE EXTENSION grownext;
SELECT grownext.setup('https://auth.example.com', ARRAY['my-api']);
SQL

# ---- rotation and revocation under load --------------------------------------------

# What every session checks, one transaction after the other: that a key signs, that its
# own token and one of another session count, unless their key was revoked; and that a key
# whose revocation had been committed when the statement began counts no more.
$node->safe_psql('app', <<'SQL');
CREATE TABLE held (slot int PRIMARY KEY, kid text, token text);
CREATE TABLE revoked (kid text PRIMARY KEY);
CREATE TABLE violation (what text);
CREATE TABLE tally (what text, amount bigint);

CREATE FUNCTION kid_of(token text) RETURNS text LANGUAGE sql AS $$
    SELECT convert_from(decode(rpad(translate(h, '-_', '+/'), (length(h) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb ->> 'kid'
      FROM split_part(token, '.', 1) AS h
$$;

CREATE PROCEDURE judge(token text, whose text) LANGUAGE plpgsql AS $$
DECLARE
    before CONSTANT boolean := EXISTS (SELECT FROM revoked AS r WHERE r.kid = kid_of(judge.token));
    found CONSTANT grownext.token_info := grownext.jwt_inspect(judge.token);
BEGIN
    IF before AND found.active THEN
        INSERT INTO violation VALUES ('a token of a revoked key was accepted, of ' || whose);
    ELSIF NOT found.active AND NOT EXISTS (SELECT FROM revoked AS r WHERE r.kid = kid_of(judge.token)) THEN
        INSERT INTO violation VALUES (format('a valid token was refused, of %s: %s', whose, found.error));
    END IF;
END $$;

CREATE PROCEDURE work(slot int, seconds numeric) LANGUAGE plpgsql AS $$
DECLARE
    until CONSTANT timestamptz := clock_timestamp() + make_interval(secs => work.seconds);
    others text[];
    token text;
    done bigint := 0;
BEGIN
    WHILE clock_timestamp() < until LOOP
        SELECT coalesce(array_agg(r.kid), '{}') INTO others FROM revoked AS r;
        token := grownext.jwt_mint('ann');
        IF kid_of(token) = ANY (others) THEN
            INSERT INTO violation VALUES ('a revoked key signed');
        END IF;
        CALL judge(token, 'its own');
        INSERT INTO held VALUES (slot, kid_of(token), token)
        ON CONFLICT ON CONSTRAINT held_pkey DO UPDATE SET kid = EXCLUDED.kid, token = EXCLUDED.token;
        COMMIT;
        SELECT h.token INTO token FROM held AS h ORDER BY random() LIMIT 1;
        CALL judge(token, 'another session');
        COMMIT;
        done := done + 2;
    END LOOP;
    INSERT INTO tally VALUES ('checks', done);
END $$;

-- every second another key; of every third the one before is revoked, of every fifth the
-- one that signs, in the transaction that makes its successor
CREATE PROCEDURE rotate(seconds numeric) LANGUAGE plpgsql AS $$
DECLARE
    until CONSTANT timestamptz := clock_timestamp() + make_interval(secs => rotate.seconds);
    old text;
    turns bigint := 0;
BEGIN
    WHILE clock_timestamp() < until LOOP
        turns := turns + 1;
        SELECT k.kid INTO old FROM grownext.signing_key AS k WHERE k.purpose = 'access' AND k.state = 'active';
        IF turns % 3 = 2 THEN
            PERFORM grownext.key_create();
            COMMIT;
        END IF;
        PERFORM grownext.key_rotate(force => true);
        IF turns % 5 = 4 THEN
            COMMIT;
            SELECT k.kid INTO old FROM grownext.signing_key AS k WHERE k.purpose = 'access' AND k.state = 'active';
            PERFORM grownext.key_revoke(old, 'stolen'), grownext.key_rotate();
            INSERT INTO revoked VALUES (old);
        ELSIF turns % 3 = 0 THEN
            PERFORM grownext.key_revoke(old, 'stolen');
            INSERT INTO revoked VALUES (old);
        END IF;
        COMMIT;
        PERFORM pg_sleep(1); -- the pace
    END LOOP;
    INSERT INTO tally VALUES ('rotations', turns);
END $$;
SQL

my @runs = map {
	my ($in, $out, $err) = ('', '', '');
	{
		run => IPC::Run::start([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('app'), '-c', 'SET client_min_messages = warning', '-c', $_ ],
			'<', \$in, '>', \$out, '2>', \$err),
		error => \$err,
	}
} ((map { "CALL work($_, $seconds)" } 1 .. $sessions), "CALL rotate($seconds)");
foreach my $i (0 .. $#runs)
{
	$runs[$i]{run}->finish;
	is(${ $runs[$i]{error} }, '', $i < $sessions ? "session $i never was without a key" : 'keys rotated all the while');
}
is($node->safe_psql('app', 'SELECT what, count(*) FROM violation GROUP BY what'), '', 'no valid token was refused, no revoked key counted');
my $checks = $node->safe_psql('app', "SELECT sum(amount) FROM tally WHERE what = 'checks'");
cmp_ok($checks, '>', 100 * $sessions, "$checks tokens were judged");
cmp_ok($node->safe_psql('app', "SELECT sum(amount) FROM tally WHERE what = 'rotations'"), '>=', $seconds / 2, 'many rotations came to pass');
cmp_ok($node->safe_psql('app', 'SELECT count(*) FROM revoked'), '>', 1, 'and revocations');
is($node->safe_psql('app', "SELECT count(*) FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active'"), '1', 'one key is active');

# kill_backend(PID, RUN): kills a backend and ends its client. The server is back once it has
# another checkpointer; just after the kill it may still answer, and crash then.
sub kill_backend
{
	my ($pid, $run) = @_;
	my $since = "SELECT backend_start FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
	my $before = $node->safe_psql('app', $since);
	kill('KILL', $pid);
	eval { $run->finish };
	$node->poll_query_until('app', "SELECT backend_start > '$before' FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
		or die 'the server did not come back';
}

# ---- a crash in the middle ----------------------------------------------------------

$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->restart;
my $crashes = 5;
my $one_active = 0;
my $signs = 0;
foreach my $round (1 .. $crashes)
{
	my ($in, $out, $err) = ('', '', '');
	my $run = IPC::Run::start([ 'psql', '-X', '-q', '-At', '-d', $node->connstr('app') ], '<', \$in, '>', \$out, '2>', \$err);
	$in = "SELECT pg_backend_pid();\n" . "SELECT grownext.key_rotate(force => true);\n" x 2000;
	$run->pump until $out =~ /^(\d+)\n.{43}\n/m or not $run->pumpable;
	my ($pid) = $out =~ /^(\d+)$/m;
	sleep(rand(0.1)); # the random moment
	kill_backend($pid, $run);
	my ($last) = (split /\n/, $out)[-1];
	$one_active++ if $node->safe_psql('app', "SELECT count(*) FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active'") eq '1';
	$signs++ if $node->safe_psql('app', "SELECT (grownext.jwt_inspect(grownext.jwt_mint('ann'))).active") eq 't';
}
is($one_active, $crashes, 'kill -9 during a rotation leaves exactly one active key');
is($signs, $crashes, 'and it signs');

# ---- a standby ----------------------------------------------------------------------

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
my $error_of = sub { "SELECT coalesce((grownext.jwt_inspect('$_[0]')).error, 'active')" };
my $old = $node->safe_psql('app', "SELECT grownext.jwt_mint('ann')");
$node->wait_for_catchup($standby);
my $open = $standby->background_psql('app');
like($open->query_safe($error_of->($old)), qr/^active$/m, 'a standby verifies');
$node->safe_psql('app', "SELECT grownext.key_create()");
my $next = $node->safe_psql('app', "SELECT grownext.key_rotate(force => true); SELECT grownext.jwt_mint('ann')") =~ s/.*\n//sr;
$node->wait_for_catchup($standby);
like($open->query_safe($error_of->($next)), qr/^active$/m, 'an open session of it verifies with a key that was made since');
like($open->query_safe($error_of->($old)), qr/^active$/m, 'and with the one that retired');
$node->safe_psql('app', "SELECT grownext.key_revoke(kid_of('$old'), 'stolen')");
$node->wait_for_catchup($standby);
like($open->query_safe($error_of->($old)), qr/^revoked_key$/m, 'until it is revoked on the primary');
$node->safe_psql('app', q[SELECT grownext.token_profile_define('access', '{"audiences": ["new-api"]}')]);
$node->wait_for_catchup($standby);
like($open->query_safe($error_of->($next)), qr/^wrong_audience$/m, 'a profile changes there, too');
$node->safe_psql('app', q[SELECT grownext.token_profile_define('access', '{}')]);
$node->wait_for_catchup($standby);
like($open->query_safe($error_of->($next)), qr/^active$/m, 'and back');
like(item($standby, 'signing key'), qr/^ok:/, 'its status looks at its own master key');
like($open->query_safe('SELECT count(*) FROM grownext.token_profile, grownext.jwks(), grownext.discovery()'), qr/^\d+$/m, 'what can be read is there to be read');
$open->quit;
$standby->stop;

# ---- keys that rotate by themselves --------------------------------------------------

# the scheduler runs the pass; the age of the key is made up
$node->safe_psql('app', q[SELECT grownext.key_policy_define('access', '{"rotate_after": "30 days", "publish_before": "1 hour"}')]);
my $signing = $node->safe_psql('app', "SELECT kid FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active'");
$node->safe_psql('app', "UPDATE _grownext.jwt_key SET activated_at = now() - interval '29 days 23 hours 30 minutes' WHERE kid = '$signing'; DELETE FROM _grownext.jwt_key WHERE purpose = 'access' AND state = 'standby'");
$node->restart; # a new scheduler looks at once
ok($node->poll_query_until('app', "SELECT count(*) = 1 FROM grownext.signing_key WHERE purpose = 'access' AND state = 'standby'"),
	'a key that is about to be due gets its successor published');
is($node->safe_psql('app', "SELECT kid FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active'"), $signing, 'and signs on meanwhile');
$node->safe_psql('app', "UPDATE _grownext.jwt_key SET published_at = now() - interval '2 hours' WHERE purpose = 'access' AND state = 'standby'; UPDATE _grownext.jwt_key SET activated_at = now() - interval '31 days' WHERE kid = '$signing'");
$node->restart;
ok($node->poll_query_until('app', "SELECT count(*) = 1 FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active' AND kid <> '$signing'"),
	'published for long enough, it signs');
is($node->safe_psql('app', "SELECT state FROM grownext.signing_key WHERE kid = '$signing'"), 'retiring', 'and the old one retires');
$node->safe_psql('app', "UPDATE _grownext.jwt_key SET accepted_until = now() - interval '40 days' WHERE kid = '$signing'");
$node->restart;
ok($node->poll_query_until('app', "SELECT NOT EXISTS (SELECT FROM grownext.signing_key WHERE kid = '$signing')"), 'long after its last token it is forgotten');
like(item($node, 'key rotation'), qr/^ok: next for purpose "access" at /, 'status says when the next one comes');

# ---- another master key ---------------------------------------------------------------

$node->safe_psql('app', "SELECT grownext.secret_set('s' || i, 'value') FROM generate_series(1, 20) AS i; SELECT grownext.key_rotate('email')");
my $second = fresh_key('k2');
write_file($key_file, "$second\n$first\n");
like(item($node, 'sealed values'), qr/^degraded: (\d+) of \1 are sealed under "k1", not under the current master key "k2"$/, 'status says what is sealed under an older key');
is($node->safe_psql('app', 'SELECT grownext.key_rewrap(5)'), '5', 'some are sealed again');
like(item($node, 'sealed values'), qr/^degraded: /, 'the others are not');
# killed in the middle, it starts again where it committed
my ($in, $out, $err) = ('', '', '');
my $run = IPC::Run::start([ 'psql', '-X', '-q', '-At', '-d', $node->connstr('app') ], '<', \$in, '>', \$out, '2>', \$err);
$in = "SELECT pg_backend_pid(); BEGIN; SELECT grownext.key_rewrap(); SELECT 'waits';\n";
$run->pump until $out =~ /waits/ or not $run->pumpable;
my ($pid) = $out =~ /^(\d+)$/m;
$in = "\\q\n";
kill_backend($pid, $run);
like(item($node, 'sealed values'), qr/^degraded: /, 'a rewrap that was killed has done nothing');
cmp_ok($node->safe_psql('app', 'SELECT grownext.key_rewrap()'), '>', '15', 'the next one does it all');
is($node->safe_psql('app', 'SELECT grownext.key_rewrap()'), '0', 'and another one has nothing to do');
like(item($node, 'sealed values'), qr/^ok: all \d+ are sealed under the current master key "k2"$/, 'status is content');
write_file($key_file, "$second\n");
like(item($node, 'master key'), qr/^ok: /, 'the old line is not needed any more');
is($node->safe_psql('app', "SELECT (grownext.jwt_inspect(grownext.jwt_mint('ann'))).active"), 't', 'keys sign');
is($node->safe_psql('app', "SELECT (grownext.jwt_inspect(grownext.jwt_mint('ann', purpose => 'email'), purpose => 'email')).active"), 't', 'those of other purposes, too');

# ---- dump and restore -------------------------------------------------------------------

$node->safe_psql('app', q[SELECT grownext.token_profile_define('email', '{"ttl": "1 hour", "audiences": ["mail"]}')]);
my $file = "$directory/app.dump";
$node->command_ok([ 'pg_dump', '-Fc', '-f', $file, 'app' ], 'pg_dump');
my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init;
$restored->append_conf('postgresql.conf', "shared_preload_libraries = 'grownext'\n");
$restored->start;
$restored->safe_psql('postgres', 'CREATE DATABASE app');
$restored->command_ok([ 'pg_restore', '-1', '-d', 'app', $file ], 'pg_restore');
like(item($restored, 'master key'), qr/^failed: no master key is configured$/, 'without a master key the restored database says so');
like(item($restored, 'signing key'), qr/^failed: .* cannot sign: master key "k2" is missing or another one$/, 'and which key cannot sign');
like(refused($restored, "SELECT grownext.jwt_mint('ann')"), qr/ NX017: /, 'it refuses to sign');
like(refused($restored, "SELECT grownext.key_rotate(force => true)"), qr/ NX017: /, 'and to make a new key');
like(refused($restored, "SELECT grownext.key_rewrap()"), qr/ NX017: /, 'and to seal anything again');
my $other_file = "$directory/restored.key";
write_file($other_file, fresh_key('k2') . "\n");
$restored->append_conf('postgresql.conf', "grownext.master_key_file = '$other_file'\n");
$restored->reload;
ok($restored->poll_query_until('app', "SELECT current_setting('grownext.master_key_file') <> ''"), 'it gets a master key');
like(item($restored, 'master key'), qr/^failed: "k2" is not the one that this database was sealed with$/, 'which is another one');
like(refused($restored, "SELECT grownext.jwt_mint('ann')"), qr/ NX017: master key "k2" is not the one that this database was sealed with/, 'so it refuses to sign');
write_file($other_file, fresh_key('k9') . "\n");
like(item($restored, 'master key'), qr/^failed: none of the keys at hand is known to this database, which needs "k2"$/, 'one with another name is no better');
like(refused($restored, "SELECT grownext.jwt_mint('ann')"), qr/ NX017: master key "k2" is missing/, 'it refuses to sign');
write_file($other_file, "$second\n");
like(item($restored, 'master key'), qr/^ok: /, 'with the right one it is well');
is($restored->safe_psql('app', "SELECT (grownext.jwt_inspect(grownext.jwt_mint('ann'))).active"), 't', 'and signs');
is($restored->safe_psql('app', "SELECT ttl, audiences FROM grownext.token_profile WHERE purpose = 'email'"), '01:00:00|{mail}', 'profiles came along');
is($restored->safe_psql('app', "SELECT rotate_after, publish_before FROM grownext.key_policy"), '30 days|01:00:00', 'and policies');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:/, $_->name . ': nothing crashed but what was killed') foreach $node, $standby, $restored;

done_testing();
