# A restore, a clone, a point-in-time recovery are fenced; a promotion goes on.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use GrowNext::Workers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Workers::new_node('primary', has_archiving => 1);
GrowNext::Workers::arm($node, 'one');

sub identity { return GrowNext::Workers::status($_[0], $_[1], 'identity', $_[2] || 'state') }

# ---- fence() and unfence() ---------------------------------------------------

my ($rc, $out, $err) = $node->psql('one', "SELECT grownext.fence(NULL)");
like($err, qr/a fence needs a reason/, 'a fence has a reason');
$node->safe_psql('one', "BEGIN; SELECT grownext.fence('not really'); ROLLBACK");
ok(GrowNext::Workers::ticking($node, 'one'), 'a fence that rolls back stops nothing');
$node->safe_psql('one', "SELECT grownext.fence('maintenance')");
ok(GrowNext::Workers::gone($node, 'one'), 'a fence stops the workers');
$node->restart;
is(identity($node, 'one', 'detail'), 'fenced: maintenance', 'and outlives a restart');
ok(GrowNext::Workers::gone($node, 'one'), 'nobody comes back');
is( $node->safe_psql('one', "SELECT hint FROM grownext.setup('https://id.example', '{https://api.example}') WHERE step = 'identity'"),
	"SELECT grownext.unfence('why it may act again', pending => 'keep');", 'setup() does not lift it, and says what does');
$node->safe_psql('one', "SELECT grownext.unfence('done')");
ok(GrowNext::Workers::ticking($node, 'one'), 'unfence() brings them back');
is( $node->safe_psql('one', "SELECT string_agg(action, ' ' ORDER BY id) FROM grownext.audit_event WHERE action LIKE 'platform.%fenced'"),
	'platform.fenced platform.unfenced', 'both are in the audit log');

# ---- environment -------------------------------------------------------------

$node->append_conf('postgresql.conf', "grownext.environment = 'staging'\n");
$node->reload;
ok($node->poll_query_until('one', "SELECT state = 'failed' FROM grownext.status() WHERE item = 'identity'"),
	'another environment fences');
ok(GrowNext::Workers::gone($node, 'one'), 'the workers leave');
like(identity($node, 'one', 'detail'), qr/environment "", grownext\.environment is "staging"/, 'status() names both');
$node->append_conf('postgresql.conf', "grownext.environment = ''\n");
$node->reload;
ok(GrowNext::Workers::ticking($node, 'one'), 'the old one again: they are back');

# ---- dump and restore --------------------------------------------------------

my $dump = $node->basedir . '/one.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('one') ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '-1', '-d', $node->connstr('restored'), $dump ], 'pg_restore -1 beside the original');
like(identity($node, 'restored', 'detail'), qr/copy or restore of database "one"/, 'the restored database is fenced');
ok(GrowNext::Workers::gone($node, 'restored'), 'and has no worker');
$node->safe_psql('restored', "SELECT grownext.unfence('a restore drill', pending => 'skip')");
ok(GrowNext::Workers::ticking($node, 'restored'), 'after unfence() it works');
is($node->safe_psql('restored', "SELECT value FROM _grownext.core_option WHERE name = 'issuer'"),
	'"https://id.example"', 'what setup() stored came along');

# What a restore in place amounts to: the extension is new, the identity row is back.
$node->safe_psql('restored', <<'SQL');
CREATE TABLE kept AS SELECT * FROM _grownext.core_identity;
DROP EXTENSION grownext CASCADE;
CREATE EXTENSION grownext;
INSERT INTO _grownext.core_identity SELECT * FROM kept;
SQL
like(identity($node, 'restored', 'detail'), qr/created anew since setup\(\)/, 'a restore in place is fenced');
ok(GrowNext::Workers::gone($node, 'restored'), 'and its workers leave');
$node->safe_psql('postgres', 'DROP DATABASE restored');

# ---- standby and promotion ---------------------------------------------------

ok(GrowNext::Workers::ticking($node, 'one'), 'the primary ticks');
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is(identity($standby, 'one'), 'ok', 'standby: status() works');
is( $standby->safe_psql('one', "SELECT string_agg(item || '=' || state, ' ' ORDER BY item) FROM grownext.status() WHERE component = 'core'"),
	'executors=ok identity=ok launcher=off max_worker_processes=ok mode=ok preload=ok rate limits=ok recovery=ok scheduler=off version=ok worker slots=ok',
	'standby: nothing is wrong, nothing runs');
is($standby->safe_psql('one', "SELECT string_agg(worker || '=' || state, ' ') FROM grownext.workers()"), 'launcher=down', 'standby: no worker');
($rc, $out, $err) = $standby->psql('one', "SELECT grownext.fence('x')");
like($err, qr/read-only transaction/, 'standby: a writer gets one clear error');

$node->append_conf('postgresql.conf', "max_worker_processes = 40\n");
$node->restart;
ok( $standby->poll_query_until('one', "SELECT state = 'failed' AND detail LIKE '24, less than the primary''s 40%' FROM grownext.status() WHERE item = 'max_worker_processes'"),
	'standby: less max_worker_processes than the primary shows');
ok( $standby->poll_query_until('one', "SELECT state = 'degraded' FROM grownext.status() WHERE item = 'recovery'"),
	'standby: and that replay pauses for it');
$standby->append_conf('postgresql.conf', "max_worker_processes = 40\n");
$standby->restart;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));

$node->stop('immediate');
$standby->promote;
ok(GrowNext::Workers::ticking($standby, 'one'), 'promotion: the workers start, nobody has to be told');
is(identity($standby, 'one'), 'ok', 'it kept its identity');
ok($standby->poll_query_until('one', 'SELECT timeline = 2 FROM _grownext.core_identity'), 'and adopted the timeline');

# a second promotion that nobody adopted in between
$standby->append_conf('postgresql.conf', "grownext.mode = off\n");
$standby->restart;
$standby->backup('second');
my $third = PostgreSQL::Test::Cluster->new('third');
$third->init_from_backup($standby, 'second', has_streaming => 1);
$third->start;
$standby->wait_for_catchup($third, 'replay', $standby->lsn('insert'));
$standby->stop;
$third->promote;
my $fourth = PostgreSQL::Test::Cluster->new('fourth');
$third->backup('third');
$fourth->init_from_backup($third, 'third', has_streaming => 1);
$fourth->start;
$third->wait_for_catchup($fourth, 'replay', $third->lsn('insert'));
$third->stop;
$fourth->promote;
is($fourth->safe_psql('one', 'SELECT i.timeline || s.timeline::text FROM _grownext.core_identity AS i, _grownext.core_server_identity() AS s'),
	'24', 'two promotions further');
is(identity($fourth, 'one'), 'ok', 'it still is the same database');
$fourth->append_conf('postgresql.conf', "grownext.mode = on\n");
$fourth->reload;
ok(GrowNext::Workers::ticking($fourth, 'one'), 'and is served');
$fourth->stop;

# ---- point-in-time recovery --------------------------------------------------

$node->start;
ok(GrowNext::Workers::ticking($node, 'one'), 'the old primary, started alone, goes on');
$node->backup('pitr');
$node->safe_psql('one', "SELECT pg_create_restore_point('before'); CREATE TABLE after ()");
$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
$node->safe_psql('one', 'SELECT pg_create_restore_point($$later$$)');
my $rewound = PostgreSQL::Test::Cluster->new('rewound');
$rewound->init_from_backup($node, 'pitr', has_restoring => 1, standby => 0);
$rewound->append_conf('postgresql.conf', "recovery_target_name = 'before'\nrecovery_target_timeline = 'current'\nrecovery_target_action = promote\n");
$node->stop;
$rewound->start;
$rewound->poll_query_until('one', 'SELECT NOT pg_is_in_recovery()');
is(identity($rewound, 'one', 'detail'), 'fenced: point-in-time recovery since setup()', 'point-in-time recovery is fenced');
ok(GrowNext::Workers::gone($rewound, 'one'), 'nobody works there');
is($rewound->safe_psql('one', "SELECT to_regclass('after') IS NULL"), 't', '(it really was rewound)');
$rewound->safe_psql('one', "SELECT grownext.unfence('we chose this state')");
ok(GrowNext::Workers::ticking($rewound, 'one'), 'until unfence()');
is(identity($rewound, 'one'), 'ok', 'then it is armed');
$rewound->stop;

foreach my $n ($node, $standby, $third, $fourth, $rewound)
{
	is(GrowNext::Workers::lines($n, qr/PANIC|TRAP:|terminated by signal/), 0, $n->name . ': nothing crashed');
}

# ---- without preload ---------------------------------------------------------

my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init;
$plain->start;
$plain->safe_psql('postgres', 'CREATE EXTENSION grownext');
is( $plain->safe_psql('postgres', "SELECT state || ' ' || hint FROM grownext.setup('https://id.example', '{https://api.example}') WHERE step = 'workers'"),
	"off ALTER SYSTEM SET shared_preload_libraries = 'grownext'; then restart the server.", 'without preload setup() works and says what is missing');
is(GrowNext::Workers::status($plain, 'postgres', 'preload'), 'off', 'status() works');
is(GrowNext::Workers::status($plain, 'postgres', 'identity'), 'ok', 'the database is armed');
is($plain->safe_psql('postgres', 'SELECT count(*) FROM grownext.workers()'), '0', 'workers() has nothing to show');
$plain->safe_psql('postgres', "SELECT grownext.fence('x'); SELECT grownext.unfence('x')");
$plain->append_conf('postgresql.conf', "shared_preload_libraries = 'auto_explain'\n");
$plain->restart;
is( GrowNext::Workers::status($plain, 'postgres', 'preload', 'hint'),
	"ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', 'grownext'; then restart the server.",
	'the hint keeps what is preloaded already');
$plain->append_conf('postgresql.conf', "shared_preload_libraries = 'grownext'\n");
$plain->restart;
ok(GrowNext::Workers::ticking($plain, 'postgres'), 'preloaded, it is served without another setup()');
$plain->stop;
done_testing();
