# Tenants with workers: an invitation is delivered by a handler, a deleted tenant is purged
# by the scheduler, whatever happens to it meanwhile, and everything that is open
# survives dump and restore.
use strict;
use warnings;

use IPC::Run;
use lib "$ENV{GN_SRC}/test/lib";
use GrowNext::Story;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = GrowNext::Story::new_node('tenant', allows_streaming => 1);
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', <<'SQL');
CREATE EXTENSION grownext;
CREATE ROLE t_admin LOGIN IN ROLE grownext_admin;
CREATE ROLE t_service LOGIN IN ROLE grownext_service;
CREATE ROLE t_owner LOGIN IN ROLE grownext_user;
CREATE SCHEMA app AUTHORIZATION t_service;
CREATE SCHEMA data AUTHORIZATION t_owner;
SQL

sub as
{
	my ($database, $role, $sql) = @_;
	return $node->safe_psql($database, $sql, extra_params => [ '-U', $role ]);
}

sub refused
{
	my ($database, $role, $sql, $code, $name) = @_;
	my ($rc, $out, $err) = $node->psql($database, $sql, extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);
	return like($err, qr/ERROR:  \Q$code\E/, $name);
}

my $acme = 'a0000000-0000-4000-8000-000000000001';
my $beta = 'a0000000-0000-4000-8000-000000000002';
my $gone = 'a0000000-0000-4000-8000-000000000003';
my ($ann, $bob, $cyd) = map { "b0000000-0000-4000-8000-00000000000$_" } 1 .. 3;

as('app', 't_admin', <<'SQL');
SELECT grownext.setup('https://id.example', '{https://api.example}');
SELECT grownext.queue_define('mail');
SELECT grownext.event_route('invitation.created', 'mail');
SELECT grownext.event_route('invitation.resent', 'mail');
SELECT grownext.queue_grant('mail', 't_service', 'work');
SQL
as('app', 't_service', <<SQL);
SELECT grownext.user_create('ann\@acme.example', id => '$ann');
SELECT grownext.user_create('bob\@bob.example', id => '$bob');
SELECT grownext.user_create('cyd\@cyd.example', id => '$cyd');
SELECT grownext.tenant_create('acme', 'Acme', '$ann', id => '$acme', external_id => 'crm-1');
SELECT grownext.tenant_create('beta', 'Beta', '$bob', id => '$beta', parent_id => '$acme');
SELECT grownext.tenant_create('gone', 'Gone', '$cyd', id => '$gone');
CREATE TABLE app.message (id int GENERATED ALWAYS AS IDENTITY, email text, token text, tenant_name text);
CREATE FUNCTION app.send(payload jsonb) RETURNS void LANGUAGE sql AS \$\$
    INSERT INTO app.message (email, token, tenant_name)
    SELECT (m).email, (m).token, (m).tenant_name
      FROM (SELECT grownext.invitation_message((payload -> 'data' ->> 'invitation_id')::uuid)) AS q (m);
\$\$;
SELECT grownext.queue_handle('mail', 'app.send(jsonb)');
SQL

# ---- an invitation is delivered, by a handler that asks for the token --------------

my ($id, $token) = split(/\|/, as('app', 't_service', "SELECT id, token FROM grownext.invitation_create('$acme', 'bob\@bob.example', 'admin')"));
ok($node->poll_query_until('app', 'SELECT count(*) = 1 FROM app.message'), 'the event reaches the handler');
is(as('app', 't_service', 'SELECT email, token, tenant_name FROM app.message'), "bob\@bob.example|$token|Acme", 'which sends address, token and name');
is($node->safe_psql('app', "SELECT count(*) FROM _grownext.queue_done AS d WHERE d::text LIKE '%$token%'"), '0', 'the token is in no job');
my $resent = as('app', 't_service', "SELECT token FROM grownext.invitation_resend('$id')");
ok($node->poll_query_until('app', "SELECT count(*) = 1 FROM app.message WHERE token = '$resent'"), 'sent again, with another token');
refused('app', 't_service', "SELECT grownext.invitation_accept('$token', '$bob')", 'NX011', 'the first token is worth nothing');

# ---- what is open survives dump and restore -----------------------------------------

as('app', 't_service', <<SQL);
SELECT grownext.tenant_update('$acme', '{"slug": "acme-two"}');
SELECT grownext.role_define('helper', '{reports.*}', '$acme');
SELECT grownext.member_add('$acme', '$cyd', 'helper');
SELECT grownext.ownership_offer('$acme', '$cyd');
SELECT grownext.domain_claim('$acme', 'acme.example');
SELECT grownext.domain_update('$acme', 'acme.example', '{"capture": "automatic_invitation"}');
SELECT grownext.domain_verify('$acme', 'acme.example');
SELECT grownext.tenant_suspend('$beta', 'unpaid');
SELECT grownext.tenant_delete('$gone', '1 hour');
SQL
as('app', 't_owner', <<'SQL');
CREATE TABLE data.note (id int, tenant_id uuid NOT NULL);
CREATE INDEX ON data.note (tenant_id);
SELECT * FROM grownext.tenant_isolate('data.note', options => '{"on_purge": "delete"}');
SQL
$node->safe_psql('app', "INSERT INTO data.note SELECT g, CASE WHEN g <= 45000 THEN '$gone' ELSE '$acme' END::uuid FROM generate_series(1, 45100) AS g");

# each table of tenants as one line
my $digests = <<'SQL';
SELECT format('SELECT %L, count(*), md5(string_agg(t::text, '' '' ORDER BY t::text)) FROM _grownext.%I AS t', c.relname, c.relname)
  FROM pg_class AS c WHERE c.relnamespace = '_grownext'::regnamespace AND c.relkind = 'r' AND starts_with(c.relname, 'tenant_') ORDER BY 1
SQL

sub contents
{
	my ($database) = @_;
	return join("\n", map { $node->safe_psql($database, $_) } split(/\n/, $node->safe_psql($database, $digests)));
}

my $before = contents('app');
like($before, qr/tenant_$_\|[1-9]/, "the digest covers tenant_$_") foreach qw(tenant slug parent role member ownership_offer invitation domain);
my $dump = $node->basedir . '/tenant.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('app') ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('copy'), $dump ], 'pg_restore');
is(contents('copy'), $before, 'every row is there');
is(as('copy', 't_service', "SELECT slug, moved FROM grownext.slug_resolve('acme')"), 'acme-two|t', 'a former slug leads on');
is(as('copy', 't_service', "SELECT token FROM grownext.invitation_message('$id')"), $resent, 'an invitation can still be written');
is(as('copy', 't_service', "SELECT grownext.invitation_accept('$resent', '$bob')"), $acme, 'and accepted');
is(as('copy', 't_service', "SELECT grownext.ownership_accept((SELECT id FROM grownext.ownership_offer)); SELECT role FROM grownext.member WHERE tenant_id = '$acme' AND user_id = '$cyd'") =~ s/^\n//r,
	'owner', 'an offered ownership too');
is(as('copy', 't_service', "SELECT string_agg(slug || ' ' || state, ',' ORDER BY slug) FROM grownext.tenant"), 'acme-two active,beta suspended,gone closing', 'states are as they were');
refused('copy', 't_service', "SELECT grownext.tenant_update('$acme', '{\"parent_id\": \"$beta\"}')", '22023', 'the hierarchy is known');
is($node->safe_psql('copy', "SELECT relation::regclass, column_name, action FROM _grownext.tenant_purge_targets()"), 'data.note|tenant_id|delete', 'what a purge takes along came with its table');

# ---- the scheduler purges, and nobody but it --------------------------------------------

as('copy', 't_service', "SELECT grownext.tenant_delete('$gone', '0')");
as('app', 't_service', "SELECT grownext.tenant_delete('$gone', '0')");
# killed as it likes, it goes on with what is left
foreach my $round (1 .. 3)
{
	my $pid = $node->safe_psql('app', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'grownext scheduler' AND datname = 'app'");
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") if $pid;
	$node->poll_query_until('app', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'grownext scheduler' AND datname = 'app'")
		or die 'the scheduler did not come back';
}
ok($node->poll_query_until('app', "SELECT count(*) = 0 FROM grownext.tenant WHERE id = '$gone'"), 'a tenant whose grace is over is purged');
is($node->safe_psql('app', "SELECT tenant_id, count(*) FROM data.note GROUP BY 1"), "$acme|100", 'with its rows, and no others');
is($node->safe_psql('app', "SELECT count(*) FROM grownext.audit_event WHERE tenant_id = '$gone' AND action = 'tenant.purged'"), '1', 'once');
is($node->safe_psql('app', "SELECT count(*) FROM _grownext.tenant_tenant WHERE purge_error IS NOT NULL"), '0', 'without a complaint');
is($node->safe_psql('copy', "SELECT state, (SELECT count(*) FROM data.note WHERE tenant_id = '$gone') FROM grownext.tenant WHERE id = '$gone'"),
	'closing|45000', 'in the restored database, which is not armed, nothing happened');
as('copy', 't_admin', "SELECT grownext.unfence('restored on purpose')");
ok($node->poll_query_until('copy', "SELECT count(*) = 0 FROM grownext.tenant WHERE id = '$gone'"), 'until somebody armed it');
is($node->safe_psql('copy', "SELECT count(*) FROM data.note"), '100', 'with the rows');

# ---- on a standby a permission is gone as soon as its end is replayed, in a session that asked before

$node->backup('standby');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'standby', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
my ($answers, $errors) = ('', '');
my $session = IPC::Run::start([ 'psql', '-XAtq', '-U', 't_service', '-d', $standby->connstr('app'),
	'-c', 'BEGIN ISOLATION LEVEL REPEATABLE READ',
	'-c', "SELECT grownext.act_as('$cyd', '$acme')",
	'-c', "SELECT 'before: ' || grownext.has_permission('reports.read')",
	'-c', "DO \$\$ BEGIN WHILE grownext.has_permission('reports.read') AND clock_timestamp() < now() + interval '60 s' LOOP PERFORM pg_sleep(0.01); END LOOP; END \$\$",
	'-c', "SELECT 'after: ' || grownext.has_permission('reports.read')" ],
	'<', \undef, '>', \$answers, '2>', \$errors, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
$session->pump until $answers =~ /before/;
as('app', 't_service', "SELECT grownext.member_remove('$acme', '$cyd')");
$session->finish;
like($answers, qr/before: true\s+after: false/, 'a permission ends on a standby, in a repeatable read transaction too') or diag($errors);

$_->stop foreach $standby, $node;
done_testing();
