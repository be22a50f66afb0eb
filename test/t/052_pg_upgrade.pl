# pg_upgrade brings everything over, the new cluster does nothing by itself, and after
# unfence() the story goes on. From one major version to the same, if there is one only.
use strict;
use warnings;

use Cwd qw(getcwd);
use lib "$ENV{GN_SRC}/test/lib";
use GrowNext::Story;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $old = GrowNext::Story::new_node('old');
$old->start;
GrowNext::Story::set_up($old, 'story');
GrowNext::Story::subscribe($old, 'story');

sub work
{
	my ($on, @numbers) = @_;
	my ($rc, $out, $err) = $on->psql('story', join('', map { GrowNext::Story::unit_of_work($_) } @numbers),
		extra_params => [ '-U', 'story_service' ], on_error_stop => 1);
	is($rc, 0, "transactions @numbers[0, -1] commit") or diag($err);
}

work($old, 1 .. 20);
GrowNext::Story::drained($old, 'story');
my $token = GrowNext::Story::as($old, 'story', 'story_service',
	"SELECT grownext.session_create('5a1f0d0e-0000-4000-8000-00000000ada0', '$GrowNext::Story::tenant') ->> 'access_token'");
# jobs that wait when the server is stopped, in a queue that is not paused when it comes back
GrowNext::Story::as($old, 'story', 'story_admin', "SELECT grownext.queue_pause('render')");
work($old, 21 .. 40);
# a database without the extension, one that was never set up, and one whose extension
# has gone and left its audit log
$old->safe_psql('postgres', "CREATE DATABASE $_") foreach 'plain', 'bare', 'orphan';
$old->safe_psql('bare', 'CREATE EXTENSION grownext');
$old->safe_psql('orphan', "CREATE EXTENSION grownext; SELECT grownext.audit_append('thing.made'); SELECT grownext.audit_append('thing.kept'); DROP EXTENSION grownext CASCADE");

# From here on nothing changes but by pg_upgrade.
$old->append_conf('postgresql.conf', "grownext.mode = off\n");
$old->reload;
ok($old->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('grownext scheduler', 'grownext executor')"), 'the workers have left');
GrowNext::Story::as($old, 'story', 'story_admin', "SELECT grownext.queue_resume('render')");
my $before = GrowNext::Story::contents($old, 'story');
like($before, qr/_grownext\.queue_job\|20 /, 'jobs wait');
like($before, qr/grownext_audit\.event\|\d{2,} /, 'and there is a log');
my $newest = $old->safe_psql('story', 'SELECT max(id) FROM grownext_audit.event');
$old->stop;

my $new = GrowNext::Story::new_node('new', key => $old->basedir . '/master.key');
my $bin = $new->config_data('--bindir');
my @upgrade = ('pg_upgrade', '-b', $bin, '-B', $bin, '-d', $old->data_dir, '-D', $new->data_dir,
	'-s', $new->host, '-p', $old->port, '-P', $new->port);
# it writes a script where it is started
my $here = getcwd();
chdir($new->basedir) or die $!;
command_ok([ @upgrade, '--check' ], 'pg_upgrade --check');
command_ok([ @upgrade ], 'pg_upgrade');
chdir($here) or die $!;
$new->start;

is(GrowNext::Story::contents($new, 'story'), $before, 'every row is there, and every sequence where it was');
is( $new->safe_psql('story', "SELECT state || ': ' || detail FROM grownext.status() WHERE component = 'core' AND item = 'identity'"),
	'failed: fenced: set up in another cluster, as "story" (restore, copy or pg_upgrade)', 'the database is fenced, and status() says why');
ok($new->poll_query_until('story', "SELECT count(*) = 1 FROM grownext.workers() WHERE database = 'story' AND worker = 'scheduler' AND state = 'fenced'"),
	'a scheduler came, saw and left');
is($new->safe_psql('story', 'SELECT count(*) FROM app.rendering'), '20', 'no job ran');
is( $new->safe_psql('story', q{SELECT string_agg(tgname || ' ' || tgenabled::text, ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'grownext_audit.event'::regclass}),
	'event_append_only A, event_no_truncate A', 'the audit log has its triggers');
my ($rc, $out, $err) = $new->psql('story', 'DELETE FROM grownext_audit.event');
like($err, qr/the audit log cannot be changed/, 'and its guard');
is($new->safe_psql('story', "SELECT grownext.jwt_verify('$token') ->> 'tenant_id'"), $GrowNext::Story::tenant, 'a token from before verifies');

GrowNext::Story::as($new, 'story', 'story_admin', "SELECT grownext.unfence('pg_upgrade')");
ok(GrowNext::Story::drained($new, 'story'), 'after unfence() the jobs that waited run');
work($new, 41 .. 50);
ok(GrowNext::Story::drained($new, 'story'), 'and new ones');
GrowNext::Story::invariants($new, 'story', [ 1 .. 50 ], 'upgraded and unfenced');
cmp_ok($new->safe_psql('story', 'SELECT min(id) FROM grownext_audit.event WHERE action = \'platform.unfenced\''), '>', $newest, 'ids of events go on');

is($new->safe_psql('bare', "SELECT state FROM grownext.status() WHERE component = 'core' AND item = 'identity'"), 'off', 'a database that was never set up still is not');
is($new->safe_psql('orphan', 'SELECT string_agg(action, \' \' ORDER BY id) FROM grownext_audit.event'), 'thing.made thing.kept', 'a log without its extension came along');
$new->safe_psql('orphan', 'CREATE EXTENSION grownext');
is($new->safe_psql('orphan', "SELECT grownext.audit_append('thing.adopted')"), '3', 'and is adopted');

$new->stop;
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:|terminated by signal/, $_->name . ': nothing crashed') foreach $old, $new;
done_testing();
