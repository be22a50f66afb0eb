package GrowNext::Queue;

# Servers with queues that are worked, for tests of what handlers can do and survive.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# new_node(NAME, CONF): a preloaded server with an armed database "app", an administrator,
# a service, and two roles that own handlers
sub new_node
{
	my ($name, $conf) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	# as servers are by default
	$node->init(allows_streaming => 1);
	$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
	$node->append_conf('postgresql.conf', $conf || '');
	$node->start;
	$node->safe_psql('postgres', 'CREATE DATABASE app');
	sql($node, <<'SQL');
CREATE EXTENSION grownext;
CREATE ROLE queue_admin LOGIN IN ROLE grownext_admin;
CREATE ROLE queue_service LOGIN IN ROLE grownext_service;
CREATE ROLE queue_app LOGIN IN ROLE grownext_user;
CREATE ROLE queue_other LOGIN IN ROLE grownext_user;
CREATE SCHEMA app AUTHORIZATION queue_app;
CREATE SCHEMA other AUTHORIZATION queue_other;
SELECT grownext.setup('https://id.example', '{https://api.example}');
SQL
	return $node;
}

sub sql { my ($node, $sql) = @_; return $node->safe_psql('app', $sql); }

# as(NODE, ROLE, SQL): output; dies on the first error
sub as
{
	my ($node, $role, $sql) = @_;
	return $node->safe_psql('app', $sql, extra_params => [ '-U', $role ]);
}

# until_true(NODE, SQL): polls; dies when it stays false
sub until_true
{
	my ($node, $sql) = @_;
	$node->poll_query_until('app', $sql) or die "did not come true: $sql";
}

# settle(NODE, ID): the state that a job ends in
sub settle
{
	my ($node, $id) = @_;
	until_true($node, "SELECT (grownext.job_get($id)).state IN ('succeeded', 'dead', 'cancelled')");
	return sql($node, "SELECT (grownext.job_get($id)).state");
}

# result(NODE, ID, KEY): from the result of a job
sub result
{
	my ($node, $id, $key) = @_;
	return sql($node, "SELECT (grownext.job_get($id)).result ->> '$key'");
}

# kill_postmaster(NODE): as a power cut of the process would, and starts it again
sub kill_postmaster
{
	my ($node) = @_;
	my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

	$node->kill9;
	sleep(0.01) while kill(0, $pid);
	# its children need a moment to notice and to let go of the shared memory
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if $node->start(fail_ok => 1);
		$node->{_pid} = undef; # start() takes the stale pid file for a running server
		sleep(0.1);
	}
	die 'the server did not start again';
}

1;
