# The true story, with kill -9 of the postmaster twenty times at random moments.
use strict;
use warnings;

use lib "$ENV{GN_SRC}/test/lib";
use GrowNext::Story;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $rounds = $ENV{GN_CRASH_ROUNDS} || 20;
my $node = GrowNext::Story::new_node('crash', durable => 1);
$node->start;
GrowNext::Story::set_up($node, 'story');
GrowNext::Story::subscribe($node, 'story');

my @done;
my $next = 1;
my $delivered = 0;
my $seed = $ENV{GN_SEED} || time();
srand($seed);
diag("GN_SEED=$seed");

# A client that runs a script until its connection breaks. From a file: a pipe would
# break with it, and take this test along.
sub client
{
	my ($number, $script, $out) = @_;
	my $file = $node->basedir . "/client$number.sql";

	open(my $to, '>', $file) or die $!;
	print $to $script;
	close($to);
	$$out = '';
	return IPC::Run::start(
		[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('story') . ' user=story_service', '-f', $file ],
		'<', \undef, '>', $out, '2>', \my $ignored);
}

foreach my $round (1 .. $rounds)
{
	my (@clients, @out);
	# three clients work, one receives Stripe's events, until the postmaster dies under them
	foreach my $client (0 .. 2)
	{
		push @clients, client($client, join('', map { GrowNext::Story::unit_of_work($next++) } 1 .. 400), \$out[$client]);
	}
	my $deliveries = '';
	foreach my $i (1 .. 40)
	{
		my $body = GrowNext::Story::stripe_event('customer.subscription.updated', time() + $i, event => "evt_crash_${round}_$i");
		$deliveries .= GrowNext::Story::billing_call($body) . " \\g /dev/null\n\\echo delivered $i\n" foreach 1 .. 2;
	}
	push @clients, client(3, $deliveries, \$out[3]);

	# the random moment itself, counted from the first commit on
	$clients[0]->pump until $out[0] =~ /^done/m or not $clients[0]->pumpable;
	sleep(rand(1.5));
	$node->kill9;
	$_->finish foreach @clients;
	push @done, $out[$_] =~ /^done (\d+)$/mg foreach 0 .. 2;
	my %acknowledged = map { $_ => 1 } $out[3] =~ /^delivered (\d+)$/mg;

	GrowNext::Story::start_again($node);
	foreach my $i (sort keys %acknowledged)
	{
		$delivered++;
		next if $node->safe_psql('story', "SELECT count(*) FROM grownext.billing_event WHERE event_id = 'evt_crash_${round}_$i'") eq '1';
		fail("round $round: delivery $i was acknowledged and is lost");
	}
}
ok(GrowNext::Story::drained($node, 'story'), 'every job came to an outcome');
cmp_ok(scalar(@done), '>', $rounds, 'work was done: ' . scalar(@done) . ' transactions were acknowledged');
cmp_ok($delivered, '>', 0, "events came in: $delivered were acknowledged");
GrowNext::Story::invariants($node, 'story', \@done, "after $rounds kills");
is( $node->safe_psql('story', "SELECT count(*) FROM grownext.subscription WHERE tenant_id = '$GrowNext::Story::tenant'"),
	'1', 'many events, one subscription');
is( $node->safe_psql('story', 'SELECT count(*) FROM grownext.dead_letter'), '0', 'no job was given up');

$node->stop;
done_testing();
