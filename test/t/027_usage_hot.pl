# A strict counter that serialises its tenant: sessions wait for each other's transactions,
# and the hundredth wait within a minute makes status() name the counter and the remedy;
# waits that are further apart, or that were rolled back, do not; with the remedy nobody
# waits any more.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $busy = 'ad100000-0000-4000-8000-000000000001';
my $calm = 'ad100000-0000-4000-8000-000000000002';
my $node = PostgreSQL::Test::Cluster->new('hot');
$node->init;
$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION grownext;
CREATE EXTENSION dblink;
SELECT grownext.product_define('app', 'App');
SELECT grownext.feature_define('calls', 'app', 'metered', '{"default": 100000, "period": "never"}');
SELECT grownext.tenant_create('busy', 'Busy', id => '$busy'), grownext.tenant_create('calm', 'Calm', id => '$calm');
SQL

# waits() lets one session wait for another so many times: the second has its consume under
# way, and is known to wait, before the first commits. Its clock stands still, or moves on
# by apart with each wait.
$node->safe_psql('postgres', <<'SQL');
CREATE PROCEDURE waits(tenant uuid, times int, apart interval, ends text DEFAULT 'COMMIT') LANGUAGE plpgsql AS $$
DECLARE
    consume CONSTANT text := format('SELECT (grownext.usage_consume(''calls'', tenant_id => %L)).allowed', tenant);
    begun CONSTANT timestamptz := clock_timestamp();
    waiter int;
BEGIN
    PERFORM dblink_connect(c, 'host=' || split_part(current_setting('unix_socket_directories'), ',', 1) || ' port=' || current_setting('port') || ' dbname=postgres')
       FROM unnest('{holder,waiter}'::text[]) AS c;
    SELECT p INTO waiter FROM dblink('waiter', 'SELECT pg_backend_pid()') AS r (p int);
    FOR i IN 1 .. times LOOP
        PERFORM dblink_exec('holder', 'BEGIN');
        PERFORM FROM dblink('holder', consume) AS r (allowed boolean);
        PERFORM dblink_exec('waiter', format('SET grownext.test_clock = %L', begun + i * apart));
        PERFORM dblink_exec('waiter', 'BEGIN');
        PERFORM dblink_send_query('waiter', consume);
        WHILE dblink_is_busy('waiter') = 1 AND NOT EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = waiter AND NOT l.granted) LOOP
            NULL;
        END LOOP;
        PERFORM dblink_exec('holder', 'COMMIT');
        PERFORM FROM dblink_get_result('waiter') AS r (allowed boolean);
        PERFORM FROM dblink_get_result('waiter') AS r (allowed boolean);
        PERFORM dblink_exec('waiter', ends);
    END LOOP;
    PERFORM dblink_disconnect(c) FROM unnest('{holder,waiter}'::text[]) AS c;
END
$$;
SQL

sub waits
{
	my ($tenant, $times, $apart, $ends) = @_;
	$node->safe_psql('postgres', "CALL waits('$tenant', $times, '$apart', '$ends')");
}

sub hot
{
	return $node->safe_psql('postgres', "SELECT state, detail FROM grownext.status() WHERE item = 'hot counter'");
}

sub used
{
	my $tenant = shift;
	return $node->safe_psql('postgres', "SELECT used FROM grownext.entitlement('calls', '$tenant')");
}

waits($busy, 60, '0', 'ROLLBACK');
is(used($busy), 60, 'sixty consumes stand, sixty that waited were rolled back');
waits($busy, 99, '0', 'COMMIT');
is(hot(), '', 'ninety-nine waits are not a hundred, and those that were rolled back do not count');
waits($calm, 110, '1 s', 'COMMIT');
is(hot(), '', 'a hundred and ten waits in two minutes are nothing to tell of');

# The same minute as the ninety-nine, or one that begins: a hundred more are enough for both.
waits($busy, 100, '0', 'COMMIT');
is(hot(), qq{degraded|sessions of tenant "$busy" wait for each other to consume "calls"}, 'a hundred waits within a minute are');
is(used($busy), 60 + 2 * 199, 'every consume that was committed is counted');

# The remedy, as it is told
my $hint = $node->safe_psql('postgres', "SELECT hint FROM grownext.status() WHERE item = 'hot counter'");
like($hint, qr/escrow/, 'status() names escrow');
my ($remedy) = $hint =~ /(SELECT .*)/;
$node->safe_psql('postgres', $remedy);
is(hot(), '', 'with the remedy status() is silent');
my ($code, $out, $err) = $node->psql('postgres', <<"SQL");
SELECT grownext.usage_consume('calls', tenant_id => '$busy');
SELECT dblink_connect('holder', 'host=' || split_part(current_setting('unix_socket_directories'), ',', 1) || ' port=' || current_setting('port') || ' dbname=postgres');
SELECT dblink_exec('holder', 'BEGIN');
SELECT * FROM dblink('holder', \$\$ SELECT (grownext.usage_consume('calls', tenant_id => '$busy')).allowed \$\$) AS r (allowed boolean);
SET lock_timeout = '5 s';
SELECT (grownext.usage_consume('calls', tenant_id => '$busy')).allowed;
SELECT dblink_exec('holder', 'COMMIT');
SQL
is($code, 0, 'and nobody waits for a transaction that consumed and is still open') or diag($err);
is(used($busy), 60 + 2 * 199 + 3, 'which is counted, too');

$node->stop;
done_testing();
