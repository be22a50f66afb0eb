# Schedules on a real server: they fire on time, by themselves; no fire is lost or made
# twice when the postmaster is killed around fire times, when a standby is promoted, when
# the database is fenced, dumped and restored.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use GrowNext::Workers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

# The tick interval is as long as can be: whatever comes in time, comes because the
# scheduler knows when.
my $node = GrowNext::Queue::new_node('main', "grownext.tick_interval = '1 min'\n");
sub sql { return GrowNext::Queue::sql($node, @_) }
sub service { return GrowNext::Queue::as($node, 'queue_service', @_) }
sub until_true { return GrowNext::Queue::until_true($node, @_) }

sql(<<'SQL');
SELECT grownext.queue_define('q');
SELECT grownext.queue_grant('q', 'queue_app', 'work');
SQL
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE TABLE app.effect (schedule text NOT NULL, nominal_at timestamptz NOT NULL, tenant_id uuid, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION app.work(payload jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO app.effect (schedule, nominal_at, tenant_id)
    VALUES (payload -> '_schedule' ->> 'name', (payload -> '_schedule' ->> 'nominal_at')::timestamptz, grownext.current_tenant())
$$;
SELECT grownext.queue_handle('q', 'app.work(jsonb)');
SQL

# --- a definition wakes the scheduler at commit, and fires come on time ---

service(q{SELECT grownext.schedule_define('quick', '* * * * * *', 'q',
	options => '{"overlap": "allow", "catch_up": "all", "tenant_id": "33333333-3333-4333-8333-333333333333"}')});
until_true(q{SELECT count(*) >= 4 FROM app.effect});
is(sql(q{SELECT count(*) FROM app.effect WHERE tenant_id = '33333333-3333-4333-8333-333333333333'}), sql('SELECT count(*) FROM app.effect'),
	'a schedule fires by itself, for the tenant named');
cmp_ok(sql(q{SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY late) < interval '500 ms' FROM grownext.schedule_fire WHERE schedule = 'quick'}),
	'eq', 't', 'and on time, not when the tick interval is over');
is(sql(q{SELECT count(*) FROM grownext.schedule_fire WHERE late < interval '0'}), '0', 'never early');

# --- the postmaster is killed, again and again, around fire times ---

foreach my $round (1 .. 8)
{
	my $fires = sql(q{SELECT count(*) FROM grownext.schedule_fire});
	until_true("SELECT count(*) > $fires FROM grownext.schedule_fire");
	# somewhere in the second up to the next nominal time, and just after it
	sleep(0.13 * $round);
	GrowNext::Queue::kill_postmaster($node);
}
# dealt with: all nominal times up to a moment after the last restart
my $upto = sql(q{SELECT date_trunc('second', clock_timestamp())});
until_true("SELECT max(nominal_at) > '$upto' FROM grownext.schedule_fire WHERE schedule = 'quick'");
service(q{SELECT grownext.schedule_pause('quick')});
until_true(q{SELECT ready + running + scheduled = 0 FROM grownext.queue_stats('q')});
my $span = q{(SELECT min(nominal_at) AS first, max(nominal_at) AS last FROM grownext.schedule_fire WHERE schedule = 'quick') AS span};
is( sql("SELECT count(*) FROM $span, grownext.cron_next('* * * * * *', first - interval '1 s', count => 10000) AS n WHERE n <= last
	AND NOT EXISTS (SELECT FROM grownext.schedule_fire AS f WHERE f.schedule = 'quick' AND f.nominal_at = n AND f.job_id IS NOT NULL)"),
	'0', 'every second of all the time, downtimes included, had its fire');
is(sql(q{SELECT count(*) FROM (SELECT FROM app.effect GROUP BY schedule, nominal_at HAVING count(*) > 1) AS x}), '0', 'none had two');
is( sql(q{SELECT count(*) FROM grownext.schedule_fire AS f WHERE NOT EXISTS (SELECT FROM app.effect AS e WHERE e.schedule = f.schedule AND e.nominal_at = f.nominal_at)}),
	'0', 'and every fire took effect');
is(sql(q{SELECT count(*) FROM app.effect}), sql(q{SELECT count(*) FROM grownext.schedule_fire}), 'exactly once');

# --- a fence keeps everything from firing; afterwards it is caught up, as the policy says ---

service(q{SELECT grownext.schedule_define('fenced', '* * * * * *', 'q', options => '{"overlap": "allow"}')});
until_true(q{SELECT count(*) > 0 FROM grownext.schedule_fire WHERE schedule = 'fenced'});
sql(q{SELECT grownext.fence('test')});
ok(GrowNext::Workers::gone($node, 'app'), 'a fence');
my $before = sql(q{SELECT count(*) FROM grownext.schedule_fire WHERE schedule = 'fenced'});
# two nominal times have passed once the clock says so
my $later = sql(q{SELECT clock_timestamp() + interval '2.5 s'});
until_true("SELECT clock_timestamp() > '$later'");
is(sql(q{SELECT count(*) FROM grownext.schedule_fire WHERE schedule = 'fenced'}), $before, 'nothing fires behind it');
sql(q{SELECT grownext.unfence('test')});
until_true("SELECT count(*) > 0 FROM grownext.schedule_fire WHERE schedule = 'fenced' AND outcome = 'missed'");
is( sql(q{SELECT count(*) FROM grownext.schedule_fire AS f, LATERAL (SELECT min(l.nominal_at) AS at FROM grownext.schedule_fire AS l
	WHERE l.schedule = 'fenced' AND l.nominal_at > f.nominal_at AND l.outcome <> 'missed') AS later
	WHERE f.schedule = 'fenced' AND f.outcome = 'missed' AND later.at IS NULL}), '0', 'after it, the last one stands for those before it');
service(q{SELECT grownext.schedule_pause('fenced')});

# --- a dump has the schedules, and what was restored fires nothing ---

service(q{SELECT grownext.schedule_resume('quick')});
my $resumed = sql('SELECT clock_timestamp()');
my $dump = $node->basedir . '/app.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('app') ], 'a dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '-1', '-d', $node->connstr('copy'), $dump ], 'and its restore');
my $restored = $node->safe_psql('copy', q{SELECT count(*) || ' ' || max(nominal_at) FROM grownext.schedule_fire WHERE schedule = 'quick'});
my $fires = sql(q{SELECT max(nominal_at) FROM grownext.schedule_fire});
until_true("SELECT max(nominal_at) > timestamptz '$fires' + interval '1 s' FROM grownext.schedule_fire");
is($node->safe_psql('copy', q{SELECT count(*) || ' ' || max(nominal_at) FROM grownext.schedule_fire WHERE schedule = 'quick'}), $restored, 'the copy fires nothing');
is($node->safe_psql('copy', q{SELECT string_agg(name || ' ' || (paused_at IS NOT NULL), ', ' ORDER BY name) FROM grownext.schedule}), 'fenced true, quick false', 'and has every schedule');
$node->safe_psql('copy', q{SELECT grownext.unfence('a drill', pending => 'skip')});
$node->poll_query_until('copy', q{SELECT count(*) > 0 FROM grownext.schedule_fire WHERE detail = 'skipped by unfence()'}) or die;
ok($node->poll_query_until('copy', q{SELECT next_at > clock_timestamp() - interval '1 s' FROM grownext.schedule WHERE name = 'quick'}), 'told to skip, it goes on from now');
is($node->safe_psql('copy', q{SELECT count(*) FROM grownext.schedule_fire WHERE outcome = 'caught_up'}), '0', 'without what was due');
$node->safe_psql('postgres', 'DROP DATABASE copy WITH (FORCE)');

# --- a standby goes on where the primary was ---

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('app', q{SELECT count(*) FROM grownext.status() WHERE component = 'schedule' AND item = 'schedules'}), '1', 'status() answers on a standby');
my ($rc, $out, $err) = $standby->psql('app', q{SELECT grownext.schedule_run('quick')});
like($err, qr/read-only transaction/, 'a standby fires nothing');
$node->stop('immediate');
$standby->promote;
my $promoted = $standby->safe_psql('app', q{SELECT date_trunc('second', clock_timestamp())});
$standby->poll_query_until('app', "SELECT max(nominal_at) > '$promoted' FROM grownext.schedule_fire WHERE schedule = 'quick'") or die;
$standby->safe_psql('app', q{SELECT grownext.schedule_pause('quick')});
$standby->poll_query_until('app', q{SELECT ready + running + scheduled = 0 FROM grownext.queue_stats('q')}) or die;
is( $standby->safe_psql('app', "SELECT count(*) FROM grownext.cron_next('* * * * * *', '$resumed', count => 10000) AS n
	WHERE n <= (SELECT max(nominal_at) FROM grownext.schedule_fire WHERE schedule = 'quick')
	AND NOT EXISTS (SELECT FROM app.effect AS e WHERE e.schedule = 'quick' AND e.nominal_at = n)"),
	'0', 'after the promotion, every second since has had its effect');
is($standby->safe_psql('app', q{SELECT count(*) FROM (SELECT FROM app.effect GROUP BY schedule, nominal_at HAVING count(*) > 1) AS x}), '0', 'and repeats nothing');
$standby->stop;

done_testing();
