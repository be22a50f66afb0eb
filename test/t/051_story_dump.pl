# A database is dumped after the story and restored in every way: everything is
# there, nothing runs until unfence(), and then the story goes on.
use strict;
use warnings;

use lib "$ENV{GN_SRC}/test/lib";
use GrowNext::Story;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Story::new_node('origin');
my $key = $node->basedir . '/master.key';
$node->start;
GrowNext::Story::set_up($node, 'story');
GrowNext::Story::subscribe($node, 'story');

sub work
{
	my ($on, $database, @numbers) = @_;
	my ($rc, $out, $err) = $on->psql($database, join('', map { GrowNext::Story::unit_of_work($_) } @numbers),
		extra_params => [ '-U', 'story_service' ], on_error_stop => 1);
	is($rc, 0, "$database: transactions @numbers[0, -1] commit") or diag($err);
}

work($node, 'story', 1 .. 20);
GrowNext::Story::drained($node, 'story');
my $token = GrowNext::Story::as($node, 'story', 'story_service',
	"SELECT grownext.session_create('5a1f0d0e-0000-4000-8000-00000000ada0', '$GrowNext::Story::tenant') ->> 'access_token'");
# jobs that wait when the dump is made
GrowNext::Story::as($node, 'story', 'story_admin', "SELECT grownext.queue_pause('render')");
work($node, 'story', 21 .. 40);

my $before = GrowNext::Story::contents($node, 'story');
like($before, qr/tenant_tenant\|1 /, 'the digest covers the tenant');
like($before, qr/grownext_audit\.event\|\d{2,} /, 'the digest covers the audit log');

my $dir = $node->basedir;
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/story.dump", $node->connstr('story') ], 'pg_dump -Fc');
$node->command_ok([ 'pg_dump', '-Fd', '-j', '2', '-f', "$dir/story.dir", $node->connstr('story') ], 'pg_dump -Fd -j 2');
$node->command_ok([ 'pg_dump', '-f', "$dir/story.sql", $node->connstr('story') ], 'pg_dump, plain');

my $other = GrowNext::Story::new_node('other', key => $key);
$other->start;
$node->command_ok([ 'pg_dumpall', '-g', '-f', "$dir/globals.sql", '-d', $node->connstr('postgres') ], 'pg_dumpall -g');
# the superuser is there already
$other->psql('postgres', slurp_file("$dir/globals.sql"), on_error_stop => 0);

my %restore = (
	'pg_restore -1' => sub { my ($on, $db) = @_; [ 'pg_restore', '-1', '--exit-on-error', '-d', $on->connstr($db), "$dir/story.dump" ] },
	'pg_restore' => sub { my ($on, $db) = @_; [ 'pg_restore', '--exit-on-error', '-d', $on->connstr($db), "$dir/story.dump" ] },
	'pg_restore -j 2' => sub { my ($on, $db) = @_; [ 'pg_restore', '-j', '2', '--exit-on-error', '-d', $on->connstr($db), "$dir/story.dir" ] },
	'psql -1' => sub { my ($on, $db) = @_; [ 'psql', '-X', '-q', '-1', '-v', 'ON_ERROR_STOP=1', '-d', $on->connstr($db), '-f', "$dir/story.sql" ] },
);
my $count = 0;
foreach my $on ($node, $other)
{
	foreach my $how (sort keys %restore)
	{
		my $database = 'copy' . ++$count;
		my $where = $on->name . ", $how";

		$on->safe_psql('postgres', "CREATE DATABASE $database");
		$on->command_ok($restore{$how}->($on, $database), "$where: restores without an error");
		is(GrowNext::Story::contents($on, $database), $before, "$where: every row is there");
		is( $on->safe_psql($database, "SELECT state = 'ok' FROM grownext.status() WHERE component = 'core' AND item = 'identity'"),
			'f', "$where: status() says that nothing acts here");
		is($on->safe_psql($database, "SELECT count(*) FROM app.rendering"), '20', "$where: no pending job ran");
	}
}

# In a foreign cluster with the master key: nothing until unfence, then the story goes on.
my $copy = 'copy' . $count;
GrowNext::Story::as($other, $copy, 'story_admin', "SELECT grownext.queue_resume('render')");
is( $other->safe_psql($copy, "SELECT count(*) FROM grownext.workers() WHERE database = '$copy' AND worker = 'executor'"),
	'0', 'no executor serves the restored database, though jobs are ready');
GrowNext::Story::as($other, $copy, 'story_admin', "SELECT grownext.unfence('restored on purpose')");
ok(GrowNext::Story::drained($other, $copy), 'after unfence() the pending jobs run');
work($other, $copy, 41 .. 50);
ok(GrowNext::Story::drained($other, $copy), 'and new ones too');
GrowNext::Story::invariants($other, $copy, [ 1 .. 50 ], 'restored and unfenced');
is( $other->safe_psql($copy, "SELECT grownext.jwt_verify('$token') ->> 'tenant_id'"),
	$GrowNext::Story::tenant, 'a token from before the dump verifies: its key came along, sealed');
unlike(slurp_file("$dir/story.sql"), qr/\Q$GrowNext::Story::webhook_secret\E/, 'no secret is in the dump');

# Without the master key the restored database says so and refuses to sign.
my $keyless = GrowNext::Story::new_node('keyless');
unlink($keyless->basedir . '/master.key');
GrowNext::Story::make_key($keyless->basedir . '/master.key');
$keyless->start;
$keyless->psql('postgres', slurp_file("$dir/globals.sql"), on_error_stop => 0);
$keyless->safe_psql('postgres', 'CREATE DATABASE story');
$keyless->command_ok($restore{'pg_restore -1'}->($keyless, 'story'), 'restores beside another master key');
is( $keyless->safe_psql('story', "SELECT count(*) > 0 FROM grownext.status() WHERE component = 'crypto' AND state = 'failed'"),
	't', 'status() says that the master key is another');
my ($rc, $out, $err) = $keyless->psql('story', "SELECT grownext.jwt_mint('ada')", extra_params => [ '-v', 'VERBOSITY=verbose', '-U', 'story_service' ]);
like($err, qr/NX017/, 'and nothing is signed');

$_->stop foreach $node, $other, $keyless;
done_testing();
