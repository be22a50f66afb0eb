# Eight sessions draw on one balance of many grants, with aborts, savepoints, refunds and
# reservations, while grants are given and voided: receipts, grants and balance agree, no
# grant is overdrawn, denied means burnt; a crash and a standby know the same.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tenant = 'ab000000-0000-4000-8000-000000000001';
my $node = PostgreSQL::Test::Cluster->new('credit');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
# a crash is only a crash when what was committed had been written
$node->append_conf('postgresql.conf', "fsync = on\nfull_page_writes = on\n");
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION grownext;
CREATE ROLE credit_service LOGIN IN ROLE grownext_service;
SELECT grownext.product_define('app', 'App');
SELECT grownext.feature_define('token', 'app', 'credit');
SELECT grownext.bundle_define('pro', '{"token": {"amount": 300, "period": "never"}}');
SELECT grownext.tenant_create('credit', 'Credit', id => '$tenant', bundle => 'pro');
SELECT grownext.credit_grant('$tenant', 'token', 20, priority => g % 3) FROM generate_series(1, 35) AS g;
CREATE TABLE held (id uuid NOT NULL);
CREATE TABLE drawn (n int NOT NULL);
GRANT ALL ON held, drawn TO credit_service;
SQL

sub number
{
	return $node->safe_psql('postgres', shift);
}

# Balance, grants and receipts of all tenants, and what the application wrote down.
sub agrees
{
	my $when = shift;
	my $burnt = number('SELECT burnt FROM _grownext.entitlement_balance');
	is(number('SELECT sum(burnt) FROM _grownext.entitlement_credit'), $burnt, "$when: grants add up to the balance");
	is(number('SELECT sum(amount) FROM _grownext.entitlement_burn'), $burnt, "$when: so do receipts");
	is(number("SELECT (SELECT sum(n) FROM drawn) + (SELECT coalesce(sum(amount), 0) FROM _grownext.entitlement_reservation WHERE state = 'open')"),
		$burnt, "$when: and what was drawn, with what is reserved");
	is(number('SELECT count(*) FROM _grownext.entitlement_credit AS c WHERE c.burnt <> (SELECT coalesce(sum(b.amount), 0) FROM _grownext.entitlement_burn AS b WHERE b.credit_id = c.id)'),
		0, "$when: each grant is its receipts");
	is(number("SELECT count(*) FROM _grownext.entitlement_burn AS b WHERE b.refund_of IS NULL AND b.returned <>
		(SELECT coalesce(-sum(r.amount), 0) FROM _grownext.entitlement_burn AS r WHERE r.refund_of = b.id)"), 0, "$when: each line is its refunds");
	return;
}

my $script = $node->basedir . '/draw.sql';
append_to_file($script, <<"SQL");
\\set n random(1, 7)
\\set fate random(1, 10)
BEGIN;
INSERT INTO drawn SELECT :n FROM grownext.usage_consume('token', :n, NULL, '$tenant') AS c WHERE c.allowed;
SAVEPOINT s;
INSERT INTO drawn SELECT 25 FROM grownext.usage_consume('token', 25, NULL, '$tenant') AS c WHERE c.allowed;
\\if :fate < 9
ROLLBACK TO s;
\\endif
\\if :fate = 3
INSERT INTO drawn SELECT -:n FROM grownext.usage_return('token', :n, NULL, '$tenant') AS c WHERE c.allowed;
\\endif
\\if :fate = 5
SELECT grownext.credit_grant('$tenant', 'token', 5, priority => 1);
\\endif
\\if :fate = 10
ROLLBACK;
\\else
COMMIT;
\\endif
SQL
my $reserve = $node->basedir . '/reserve.sql';
append_to_file($reserve, <<"SQL");
\\set n random(1, 9)
\\set fate random(1, 5)
SELECT coalesce(grownext.usage_reserve('token', :n, tenant_id => '$tenant')::text, '') AS id \\gset
SELECT ':id' <> '' AS reserved \\gset
\\if :reserved
BEGIN;
\\if :fate = 1
SELECT grownext.usage_release(':id');
\\elif :fate = 2
SELECT grownext.usage_commit(':id', 1);
INSERT INTO drawn VALUES (1);
\\elif :fate < 5
SELECT grownext.usage_commit(':id');
INSERT INTO drawn VALUES (:n);
\\endif
COMMIT;
\\endif
SQL
sub fight
{
	my ($transactions, @files) = @_;
	return [ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', $transactions, '-U', 'credit_service',
		'-h', $node->host, '-p', $node->port, (map { ('-f', $_) } @files), 'postgres' ];
}
command_ok(fight(60, $script, $reserve), '8 sessions draw on one balance');
agrees('after the fight');
is(number('SELECT count(*) FROM grownext.credit WHERE burnt > amount OR burnt < 0'), 0, 'no grant is overdrawn');

# Denied means burnt: one by one, the rest goes to the last unit.
my $left = number("SELECT remaining FROM grownext.entitlement('token', '$tenant')");
$node->safe_psql('postgres', "SELECT grownext.credit_grant('$tenant', 'token', 400)");
my $single = $node->basedir . '/single.sql';
append_to_file($single, "INSERT INTO drawn SELECT 1 FROM grownext.usage_consume('token', tenant_id => '$tenant') AS c WHERE c.allowed;\n");
command_ok(fight(int(($left + 400) / 8) + 20, $single), '8 sessions want more than there is');
is(number("SELECT remaining FROM grownext.entitlement('token', '$tenant')"), 0, 'and get all of it');
is(number("SELECT grownext.entitled('token', '$tenant')"), 'f', 'nothing is left');
agrees('burnt out');

# Open reservations expire in the background: the scheduler does it.
cmp_ok(number("SELECT count(*) FROM _grownext.entitlement_reservation WHERE state = 'open'"), '>', 0, 'some are open');
$node->safe_psql('postgres', "UPDATE _grownext.entitlement_reservation SET expires_at = created_at WHERE state = 'open'");
$node->safe_psql('postgres', 'SELECT _grownext.entitlement_tick(_grownext.core_now())');
is(number("SELECT count(*) FROM _grownext.entitlement_reservation WHERE state = 'open'"), 0, 'none is, after a pass');
agrees('expired');

# A crash: what was committed is burnt, what was not is not; a standby says the same.
my $open = $node->background_psql('postgres');
$node->safe_psql('postgres', "SELECT grownext.credit_grant('$tenant', 'token', 10); INSERT INTO drawn SELECT 4 FROM grownext.usage_require('token', 4, tenant_id => '$tenant')");
my $before = number("SELECT used, quota FROM grownext.entitlement('token', '$tenant')");
$open->query_safe("BEGIN; SELECT grownext.usage_consume('token', 3, tenant_id => '$tenant')");
$node->stop('immediate');
$node->start;
eval { $open->quit };
is(number("SELECT used, quota FROM grownext.entitlement('token', '$tenant')"), $before, 'after a crash');
agrees('after a crash');
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', "SELECT used, quota FROM grownext.entitlement('token', '$tenant')"), $before, 'on a standby');

done_testing();
