# Sixteen sessions consume, reserve and give back units of counters of all tiers, in
# transactions that abort, with savepoints, while quotas and tiers change, workers fold,
# reservations expire, backends are terminated, and one is killed so that the server recovers from a crash. What the
# application wrote down in the same transactions is the truth: counters and ledger equal
# it, no quota was ever passed, and whoever was denied had asked for more than was left.
# GN_TORTURE_OPERATIONS: how many operations; GN_SEED repeats a run's choices.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $sessions = 16;
my $operations = $ENV{GN_TORTURE_OPERATIONS} || 20_000;
my $each = int($operations / $sessions);
my $seed = $ENV{GN_SEED} || int(time());
my $tenant = 'ad000000-0000-4000-8000-000000000001';
srand($seed);
diag("GN_SEED=$seed");

my $node = PostgreSQL::Test::Cluster->new('oversell');
$node->init;
$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
$node->append_conf('postgresql.conf', <<'CONF');
restart_after_crash = on
deadlock_timeout = 20ms
max_connections = 60
CONF
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION grownext;
SELECT grownext.product_define('app', 'App');
-- a quota that is fixed, one that moves between 300 and 600, and tiers that change
SELECT grownext.feature_define('fixed.' || t, 'app', 'metered', format('{"default": 500, "period": "never", "tier": "%s"}', t)::jsonb),
       grownext.feature_define('moving.' || t, 'app', 'metered', format('{"default": 600, "period": "never", "tier": "%s", "shards": 5}', t)::jsonb)
  FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT grownext.feature_define('changing', 'app', 'metered', '{"default": 500, "period": "never"}');
SELECT grownext.tenant_create('oversell', 'Oversell', id => '$tenant');

CREATE TABLE feature AS SELECT f AS feature FROM unnest('{fixed.strict,fixed.escrow,fixed.soft,moving.strict,moving.escrow,moving.soft,changing}'::text[]) AS f;
CREATE TABLE truth (feature text NOT NULL, amount bigint NOT NULL);
CREATE TABLE wrong (feature text, amount bigint, result grownext.usage_result);
CREATE TABLE progress (session int PRIMARY KEY, done int NOT NULL, granted int NOT NULL, denied int NOT NULL, undone int NOT NULL);
INSERT INTO progress SELECT s, 0, 0, 0, 0 FROM generate_series(1, $sessions) AS s;
-- Something is used from the start, so that a return never takes what a reservation holds.
INSERT INTO truth SELECT f.feature, 200 FROM feature AS f WHERE (grownext.usage_consume(f.feature, 200, tenant_id => '$tenant')).allowed;

-- Commits or releases a reservation, unless somebody else did or it expired: what became of
-- it stands in its row.
CREATE FUNCTION settle(what text, amount bigint) RETURNS boolean LANGUAGE plpgsql AS \$\$
DECLARE
    reservation uuid := (SELECT r.id FROM _grownext.entitlement_reservation AS r JOIN _grownext.entitlement_feature AS f ON f.id = r.feature_id
                          WHERE r.holder_id = '$tenant' AND f.feature = what AND r.state = 'open' ORDER BY random() LIMIT 1);
BEGIN
    IF reservation IS NULL THEN
        RETURN false;
    ELSIF amount IS NULL THEN
        PERFORM grownext.usage_release(reservation);
    ELSE
        PERFORM grownext.usage_commit(reservation, amount);
    END IF;
    RETURN true;
EXCEPTION WHEN object_not_in_prerequisite_state OR SQLSTATE 'NX021' OR SQLSTATE 'NX040' THEN
    RETURN false;
END
\$\$;

-- One operation; what was granted is written down beside it.
CREATE FUNCTION operate(INOUT granted int, INOUT denied int) LANGUAGE plpgsql AS \$\$
DECLARE
    what text := (ARRAY(SELECT f.feature FROM feature AS f ORDER BY 1))[1 + floor(random() * 7)];
    units bigint := 1 + floor(random() * random() * 20);
    choice float8 := random();
    result grownext.usage_result;
BEGIN
    IF choice < 0.1 THEN
        IF grownext.usage_reserve(what, units, (ARRAY['1 second', '1 hour'])[1 + floor(random() * 2)]::interval, tenant_id => '$tenant') IS NOT NULL THEN
            granted := granted + 1;
        ELSE
            denied := denied + 1;
        END IF;
        RETURN;
    ELSIF choice < 0.2 THEN
        IF settle(what, CASE WHEN random() < 0.5 THEN units END) THEN
            granted := granted + 1;
        ELSE
            denied := denied + 1;
        END IF;
        RETURN;
    ELSIF choice < 0.5 THEN
        result := grownext.usage_return(what, units, tenant_id => '$tenant');
        units := -units;
    ELSE
        result := grownext.usage_consume(what, units, tenant_id => '$tenant');
        IF NOT result.allowed AND result.remaining >= units
           OR result.allowed AND result.used > result.quota THEN
            INSERT INTO wrong VALUES (what, units, result);
        END IF;
    END IF;
    IF result.allowed THEN
        INSERT INTO truth VALUES (what, units);
        granted := granted + 1;
    ELSE
        denied := denied + 1;
    END IF;
END
\$\$;

-- A session's share, a transaction at a time; it goes on where an earlier one was cut off.
CREATE PROCEDURE torture(number int, operations int) LANGUAGE plpgsql AS \$\$
DECLARE
    finished int := (SELECT p.done FROM progress AS p WHERE p.session = number);
    count int;
    yes int;
    no int;
    undo int;
BEGIN
    WHILE finished < operations LOOP
        count := 1 + floor(random() * 3)::int;
        yes := 0;
        no := 0;
        undo := 0;
        BEGIN
            FOR i IN 1 .. count LOOP
                BEGIN
                    SELECT o.granted, o.denied INTO yes, no FROM operate(yes, no) AS o;
                    IF random() < 0.1 THEN
                        RAISE EXCEPTION USING ERRCODE = 'UN001', MESSAGE = 'a savepoint that is rolled back';
                    END IF;
                EXCEPTION WHEN SQLSTATE 'UN001' THEN
                    undo := undo + 1;
                END;
            END LOOP;
        EXCEPTION WHEN deadlock_detected THEN
            undo := undo + 1;
        END;
        finished := finished + count;
        IF random() < 0.1 THEN
            ROLLBACK;
            undo := undo + 1;
        END IF;
        UPDATE progress AS p SET done = finished, granted = p.granted + yes, denied = p.denied + no, undone = p.undone + undo
         WHERE p.session = number;
        COMMIT;
    END LOOP;
END
\$\$;
SQL

# psql from a file: a pipe would break with the connection, and take this test along.
sub session_start
{
	my ($name, $sql) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";
	open(my $out, '>', $file) or die "$file: $!";
	print $out $sql;
	close $out;
	return IPC::Run::start([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $file ],
		'<', '/dev/null', '>', "$file.out", '2>&1');
}

# What changes the world meanwhile, a change in a transaction of its own.
my @changes = (
	sub { "SELECT grownext.entitlement_grant('$tenant', 'moving.' || t, to_jsonb(" . (300 + int(rand(301))) . ")) FROM unnest('{strict,escrow,soft}'::text[]) AS t" },
	sub { "SELECT grownext.feature_define('changing', 'app', 'metered', '{\"default\": 500, \"period\": \"never\", \"tier\": \"" . (qw(strict escrow))[ rand 2 ] . "\"}')" },
	sub { "SELECT _grownext.entitlement_tick(now())" });

# The sum of the running sessions, their processes, or nothing while the server recovers.
sub ask
{
	my ($sql) = @_;
	my ($out, $err);
	# not by a pipe: see session_start()
	my $ran = IPC::Run::run([ 'psql', '-X', '-q', '-At', '-d', $node->connstr('postgres'), '-c', $sql ], '<', '/dev/null', '>', \$out, '2>', \$err);
	chomp $out;
	return $ran ? $out : undef;
}

my %running;
my ($terminated, $killed, $changed) = (0, 0, 0);
my $began = time();
my $deadline = time() + 60 + $operations / 200;
my $done = 0;
while (time() < $deadline)
{
	for my $number (1 .. $sessions)
	{
		if ($running{$number} && !$running{$number}->pumpable)
		{
			eval { $running{$number}->finish };
			my $said = slurp_file("$PostgreSQL::Test::Utils::tmp_check/session$number.sql.out");
			die $said if $said =~ /ERROR/;
			delete $running{$number};
		}
	}
	my $progress = ask('SELECT sum(done), string_agg(session::text, \' \') FILTER (WHERE done < ' . $each . ') FROM progress');
	next unless defined $progress;
	my ($sum, $open) = split /\|/, $progress;
	$done = $sum;
	last if $open eq '';
	$running{$_} ||= session_start("session$_", "SET application_name = 'torture'; CALL torture($_, $each);") for split / /, $open;
	# after each tenth of the work a backend is terminated, half-way one is killed
	if ($killed == 0 && $done > $operations / 2)
	{
		my $pid = ask("SELECT pid FROM pg_stat_activity WHERE application_name = 'torture' ORDER BY random() LIMIT 1");
		$killed += kill('KILL', $pid) if $pid;
	}
	elsif ($done > $operations * ($terminated + 1) / 10)
	{
		my $hit = ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'torture' ORDER BY random() LIMIT 1");
		$terminated++ if defined $hit && $hit eq 't';
	}
	ask($changes[ $changed++ % @changes ]->());
}
cmp_ok($done, '>=', $sessions * $each, 'every session did its share');
ok($terminated > 0 && $killed == 1, "$terminated backends were terminated and one was killed");
diag(sprintf('%d operations in %d s, %d a second', $done, time() - $began, $done / (time() - $began)));
diag($node->safe_psql('postgres', "SELECT format('%s granted, %s denied, %s undone', sum(granted), sum(denied), sum(undone)) FROM progress") . ", $changed changes");

# Invariants -----------------------------------------------------------------------

is($node->safe_psql('postgres', 'SELECT * FROM wrong'), '', 'nobody was denied what was left, and nobody was granted more');
my $counters = <<'SQL';
SELECT f.feature, c.used, coalesce(t.amount, 0) + coalesce(r.amount, 0) AS truth, coalesce(h.amount, 0) AS ledger
  FROM _grownext.entitlement_counter AS c
  JOIN _grownext.entitlement_feature AS f ON f.id = c.feature_id
  LEFT JOIN (SELECT feature, sum(amount) AS amount FROM truth GROUP BY 1) AS t ON t.feature = f.feature
  LEFT JOIN (SELECT feature_id, sum(CASE WHEN state = 'open' THEN amount ELSE committed END) AS amount
               FROM _grownext.entitlement_reservation GROUP BY 1) AS r ON r.feature_id = f.id
  LEFT JOIN (SELECT feature_id, sum(amount) AS amount FROM _grownext.entitlement_usage_history GROUP BY 1) AS h ON h.feature_id = f.id
SQL
is($node->safe_psql('postgres', "SELECT count(*) FROM ($counters) AS c"), 7, 'every counter was used');
is($node->safe_psql('postgres', "SELECT * FROM ($counters) AS c WHERE used <> truth OR ledger <> truth"), '',
	'counters and ledger equal what the application wrote down');
is($node->safe_psql('postgres', "SELECT * FROM ($counters) AS c WHERE used > CASE WHEN feature LIKE 'moving%' THEN 600 ELSE 500 END AND feature NOT LIKE '%soft'"), '',
	'no quota was passed');
is($node->safe_psql('postgres', 'SELECT * FROM _grownext.entitlement_usage WHERE used < 0 OR shard > 0 AND used > allowance'), '', 'no shard is used beyond its allowance');
is($node->safe_psql('postgres', "SELECT change -> 'after' ->> 'feature', change -> 'after' ->> 'percent', count(*) FROM grownext.audit_event WHERE action = 'usage.threshold_reached' GROUP BY 1, 2 HAVING count(*) > 1"),
	'', 'no threshold was told twice');
is($node->safe_psql('postgres', "SELECT count(*) FROM grownext.audit_event WHERE action = 'usage.threshold_reached' AND target IN ('feature:fixed.strict', 'feature:fixed.escrow') AND change -> 'after' ->> 'percent' = '80'"),
	2, 'and the first one of each exact counter was');

like($node->safe_psql('postgres', "SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM _grownext.entitlement_reservation"),
	qr/committed expired (open )?released/, 'reservations ended in every way');
$node->safe_psql('postgres', "SELECT _grownext.entitlement_tick(now() + interval '1 day')");
is($node->safe_psql('postgres', "SELECT count(*) FROM _grownext.entitlement_reservation WHERE state = 'open'"), 0, 'a pass gives back what expired reservations hold, in every tier');
is($node->safe_psql('postgres', "SELECT * FROM ($counters) AS c WHERE used <> truth OR ledger <> truth"), '', 'to the unit');

# all that is left can be had, a unit at a time, and not one more
for my $feature (qw(fixed.strict fixed.escrow changing))
{
	is($node->safe_psql('postgres', <<"SQL"), '500|500|f', "$feature: all of the quota can be used, and no more");
WITH RECURSIVE taken AS (
    SELECT 0 AS n, grownext.usage_consume('$feature', 1, tenant_id => '$tenant') AS r
    UNION ALL
    SELECT n + 1, grownext.usage_consume('$feature', 1, tenant_id => '$tenant') FROM taken WHERE (r).allowed)
SELECT (r).used, (r).quota, (r).allowed FROM taken ORDER BY n DESC LIMIT 1
SQL
}
$node->safe_psql('postgres', 'SELECT _grownext.entitlement_tick(now())');
is($node->safe_psql('postgres', 'SELECT * FROM _grownext.entitlement_usage_event'), '', 'a pass folds every event');
is($node->safe_psql('postgres', "SELECT * FROM ($counters) AS c WHERE used <> ledger"), '', 'and counters and ledger are equal still');
$node->stop;
done_testing();
