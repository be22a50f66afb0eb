package GrowNext::Workers;

# Servers with workers, for tests that kill, move and copy what workers live on.

use strict;
use warnings;

use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our $source = dirname(__FILE__) . '/../../..'; # the tree

# new_node(NAME, init options): a preloaded server, started
sub new_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	# as servers are by default
	$node->init(allows_streaming => 1, %options);
	$node->append_conf('postgresql.conf', slurp_file("$source/test/grownext.conf"));
	$node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
	$node->start;
	return $node;
}

# arm(NODE, DATABASE...): each created, set up and ticking
sub arm
{
	my ($node, @databases) = @_;

	foreach my $database (@databases)
	{
		$node->safe_psql('postgres', "CREATE DATABASE $database");
		$node->safe_psql($database, 'CREATE EXTENSION grownext');
		set_up($node, $database);
	}
	ticking($node, $_) or die "no scheduler in $_" foreach @databases;
}

sub set_up
{
	my ($node, $database) = @_;
	$node->safe_psql($database, "SELECT grownext.setup('https://id.example', '{https://api.example}')");
}

# pid(NODE, WORKER, DATABASE): of a worker, or the empty string
sub pid
{
	my ($node, $worker, $database) = @_;
	my $where = defined $database ? "datname = '$database'" : 'true';

	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'grownext $worker' AND $where LIMIT 1");
}

# ticking(NODE, DATABASE): its scheduler has made a pass that began after this call
sub ticking
{
	my ($node, $database) = @_;
	my $now = $node->safe_psql($database, 'SELECT clock_timestamp()');

	return $node->poll_query_until($database,
		"SELECT count(*) = 1 FROM grownext.workers() WHERE worker = 'scheduler' AND database = '$database' AND pid IS NOT NULL AND last_tick_at > '$now'"
	);
}

# state(NODE, DATABASE, WORKER): as workers() tells it
sub state
{
	my ($node, $database, $worker) = @_;
	return $node->safe_psql($database,
		"SELECT state FROM grownext.workers() WHERE worker = '$worker' AND (database = '$database' OR database IS NULL)");
}

# status(NODE, DATABASE, ITEM): its state, and with a column that
sub status
{
	my ($node, $database, $item, $column) = @_;
	$column ||= 'state';
	return $node->safe_psql($database,
		"SELECT $column FROM grownext.status() WHERE component = 'core' AND item = '$item'");
}

# gone(NODE, DATABASE): no worker of ours has a session there
sub gone
{
	my ($node, $database) = @_;
	return $node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'grownext %' AND datname = '$database'");
}

# lines(NODE, PATTERN): how many lines of the server log match
sub lines
{
	my ($node, $pattern) = @_;
	return scalar grep { /$pattern/ } split /\n/, slurp_file($node->logfile);
}

1;
