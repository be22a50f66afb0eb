# A transaction that is prepared keeps workers away from a database for no longer than it lasts.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use GrowNext::Workers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Workers::new_node('prepared', conf => "max_prepared_transactions = 5\n");
GrowNext::Workers::arm($node, 'one');

foreach my $end ('COMMIT', 'ROLLBACK')
{
	my ($from, $to) = $end eq 'COMMIT' ? ('one', 'renamed') : ('renamed', 'one');

	# The session is gone before its transaction is.
	$node->safe_psql('postgres', "BEGIN; ALTER DATABASE $from RENAME TO $to; PREPARE TRANSACTION 'rename'");
	ok(GrowNext::Workers::gone($node, $from), "$end: the workers are out of the way");
	$node->safe_psql('postgres', "$end PREPARED 'rename'");
	ok(GrowNext::Workers::ticking($node, 'renamed'), "$end: and come back when it is over");
}

$node->stop;
is(GrowNext::Workers::lines($node, qr/PANIC|TRAP:|terminated by signal/), 0, 'nothing crashed');
done_testing();
