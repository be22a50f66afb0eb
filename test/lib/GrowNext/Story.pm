package GrowNext::Story;

# The world of the true story, for tests that crash, dump and restore it: a node
# with the extension set up, a tenant with a plan, an application table, and a
# handler; a unit of work that does everything in one transaction; and the
# invariants that hold whatever was killed.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use File::Copy qw(copy);
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our $webhook_secret = 'whsec_test_of_the_true_story';
our $tenant = '7d6f3f0e-6b0a-4c6e-9a57-0d6c3a5f1a11';
our $customer = 'cus_story';
our $quota = 100000;

# new_node(NAME): a preloaded server with a master key outside its data directory
sub new_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $key = $options{key} || $node->basedir . '/master.key';

	$node->init(%options);
	$node->append_conf('postgresql.conf', slurp_file("$ENV{GN_SRC}/test/grownext.conf"));
	# a crash is only a crash when what was committed had been written
	$node->append_conf('postgresql.conf', "fsync = on\nfull_page_writes = on\nlog_statement = none\n") if $options{durable};
	make_key($key) unless -e $key;
	$node->append_conf('postgresql.conf', "grownext.master_key_file = '$key'\n");
	return $node;
}

sub make_key
{
	my ($file) = @_;
	my $random = '';
	open(my $in, '<:raw', '/dev/urandom') or die $!;
	read($in, $random, 32) == 32 or die 'no random bytes';
	close($in);
	umask(0077);
	append_to_file($file, 'story:' . encode_base64($random, '') . "\n");
	chmod(0600, $file) or die $!;
}

# set_up(NODE, DATABASE): everything but the subscription
sub set_up
{
	my ($node, $database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, <<'SQL');
CREATE EXTENSION grownext;
DO $$
BEGIN
    IF to_regrole('story_admin') IS NULL THEN
        CREATE ROLE story_admin LOGIN IN ROLE grownext_admin;
        CREATE ROLE story_service LOGIN IN ROLE grownext_service;
        CREATE ROLE story_owner LOGIN IN ROLE grownext_user;
        CREATE ROLE story_app LOGIN IN ROLE grownext_user;
    END IF;
END $$;
CREATE SCHEMA app AUTHORIZATION story_owner;
SQL
	as($node, $database, 'story_admin', <<SQL);
SELECT grownext.setup('https://id.story.example', '{https://api.story.example}');
SELECT grownext.secret_set('stripe-webhook', '$webhook_secret');
SELECT grownext.billing_provider_define('stripe', 'stripe-webhook');
SELECT grownext.product_define('reports', 'Reports');
SELECT grownext.feature_define('reports.export', 'reports', 'boolean');
SELECT grownext.feature_define('reports.renders', 'reports', 'metered');
SELECT grownext.bundle_define('pro', '{"reports.export": true, "reports.renders": {"quota": $quota, "period": "month"}}');
SELECT grownext.billing_price_map('stripe', 'price_pro', 'pro');
SELECT grownext.queue_define('render');
SELECT grownext.queue_grant('render', 'story_service', 'enqueue');
SELECT grownext.queue_grant('render', 'story_owner', 'work');
SQL
	as($node, $database, 'story_service', <<SQL);
SELECT grownext.user_create('ada\@story.example', 'Ada', id => '5a1f0d0e-0000-4000-8000-00000000ada0');
SELECT grownext.tenant_create('story', 'Story GmbH', owner_id => '5a1f0d0e-0000-4000-8000-00000000ada0', id => '$tenant');
SQL
	as($node, $database, 'story_admin', "SELECT grownext.billing_customer_link('stripe', '$customer', '$tenant')");
	as($node, $database, 'story_owner', <<'SQL');
CREATE TABLE app.report (id bigint PRIMARY KEY, tenant_id uuid NOT NULL DEFAULT grownext.current_tenant(), title text NOT NULL);
CREATE TABLE app.rendering (report_id bigint NOT NULL, tenant_id uuid NOT NULL DEFAULT grownext.current_tenant(), actor text NOT NULL DEFAULT grownext.current_actor(), rendered_by name NOT NULL DEFAULT session_user);
SELECT grownext.tenant_isolate('app.report');
SELECT grownext.tenant_isolate('app.rendering');
GRANT USAGE ON SCHEMA app TO story_service;
GRANT SELECT, INSERT ON app.report, app.rendering TO story_service;
-- inserts only what it can see: a handler outside its tenant's context renders nothing and fails
CREATE FUNCTION app.render(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.rendering (report_id) SELECT id FROM app.report WHERE id = (payload ->> 'report')::bigint;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'report % is not to be seen', payload ->> 'report';
    END IF;
    PERFORM grownext.audit_append('report.rendered', 'report:' || (payload ->> 'report'));
END $$;
SELECT grownext.queue_handle('render', 'app.render(jsonb)');
SQL
}

# as(NODE, DATABASE, ROLE, SQL): output; dies on the first error
sub as
{
	my ($node, $database, $role, $sql) = @_;
	return $node->safe_psql($database, $sql, extra_params => [ '-U', $role ]);
}

# stripe_event(TYPE, CREATED, %CHANGES): the bytes of an event
sub stripe_event
{
	my ($type, $created, %change) = @_;
	my $name = $type eq 'customer.subscription.deleted' ? $type : 'customer.subscription.created';
	my $body = slurp_file("$ENV{GN_SRC}/test/fixtures/stripe/$name.json");
	my $id = $change{event} || sprintf('evt_story_%d_%d', $$, ++our $events);

	$body =~ s/"id": *"evt_[^"]*"/"id": "$id"/;
	$body =~ s/"type": *"customer\.subscription\.[a-z]+"/"type": "$type"/;
	$body =~ s/("api_version": *"[^"]*",\s*"created": *)\d+/$1$created/;
	$body =~ s/"customer": *"cus_[^"]*"/"customer": "$customer"/g;
	$body =~ s/"sub_[^"]*"/"sub_story"/g;
	$body =~ s/"id": *"price_[^"]*"/"id": "price_pro"/g;
	$body =~ s/"metadata": *\{[^}]*\}/"metadata": {}/g;
	$body =~ s/("current_period_end": *)\d+/$1 . ($created + 30 * 86400)/ge;
	return $body;
}

# billing_call(BODY, SECRET): the SQL of one delivery, signed now
sub billing_call
{
	my ($body, $secret) = @_;
	my $now = time();
	my $signature = hmac_sha256_hex("$now.$body", $secret || $webhook_secret);

	return sprintf(
		"SELECT grownext.billing_webhook('stripe', jsonb_build_object('Stripe-Signature', 't=%d,v1=%s'), decode('%s', 'base64'))",
		$now, $signature, encode_base64($body, ''));
}

# subscribe(NODE, DATABASE): the event comes in, and a job applies it
sub subscribe
{
	my ($node, $database) = @_;
	my $body = stripe_event('customer.subscription.created', time() - 60);

	as($node, $database, 'story_service', billing_call($body));
	$node->poll_query_until($database, "SELECT grownext.entitled('reports.export', '$tenant')")
		or die 'the subscription was not applied';
}

# unit_of_work(N): one transaction of the application; prints "done N" once committed
sub unit_of_work
{
	my ($n) = @_;
	return <<SQL;
BEGIN;
SELECT grownext.act_as('5a1f0d0e-0000-4000-8000-00000000ada0', '$tenant') \\g /dev/null
INSERT INTO app.report (id, title) VALUES ($n, 'report $n');
SELECT grownext.usage_require('reports.renders') \\g /dev/null
SELECT grownext.audit_append('report.requested', 'report:$n') \\g /dev/null
SELECT grownext.enqueue('render', '{"report": $n}') \\g /dev/null
COMMIT;
\\echo done $n
SQL
}

# drained(NODE, DATABASE): every job of the story came to an outcome
sub drained
{
	my ($node, $database) = @_;
	return $node->poll_query_until($database,
		"SELECT coalesce(sum(ready + running + scheduled), 0) = 0 FROM grownext.queue_stats()");
}

# every table of the extension, of the audit log and of the application, as one digest each
my $digests = <<'SQL';
SELECT CASE c.relkind
       WHEN 'S' THEN format('SELECT %L, last_value FROM %s', c.oid::regclass, c.oid::regclass)
       ELSE format('SELECT %L, (SELECT count(*) || '' '' || coalesce(md5(string_agg(t::text, '' '' ORDER BY t::text)), '''') FROM %s AS t %s)', c.oid::regclass, c.oid::regclass,
            -- queues of the platform itself are made by the install script, not restored
            CASE WHEN c.relname = 'queue_queue' THEN 'WHERE NOT starts_with(queue, ''grownext.'')' END) END
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname IN ('_grownext', 'grownext_audit', 'app') AND c.relkind IN ('r', 'S')
   AND c.oid::regclass::text NOT IN ('_grownext.core_identity', '_grownext.stream_segment')
 ORDER BY c.oid::regclass::text
SQL

# contents(NODE, DATABASE): the digests of all its tables, and where its sequences are
sub contents
{
	my ($on, $database) = @_;
	my @queries = split(/\n/, $on->safe_psql($database, $digests));
	return join("\n", map { $on->safe_psql($database, $_) } @queries);
}

# invariants(NODE, DATABASE, [N...], WHEN): what must hold whatever was killed
sub invariants
{
	my ($node, $database, $done, $when) = @_;
	my $list = join(',', @$done) || '-1';

	is( $node->safe_psql($database, "SELECT count(*) FROM unnest('{$list}'::bigint[]) AS n WHERE n <> -1 AND NOT EXISTS (SELECT FROM app.report WHERE id = n)"),
		'0', "$when: no acknowledged row is lost");
	is( $node->safe_psql($database, "SELECT count(*) FROM app.report AS r WHERE (SELECT count(*) FROM app.rendering AS x WHERE x.report_id = r.id) <> 1"),
		'0', "$when: every report was rendered exactly once");
	is( $node->safe_psql($database, "SELECT count(*) FROM app.rendering AS x WHERE NOT EXISTS (SELECT FROM app.report AS r WHERE r.id = x.report_id)"),
		'0', "$when: nothing was rendered that was not committed");
	is( $node->safe_psql($database, "SELECT count(*) FROM app.report AS r WHERE (SELECT count(*) FROM grownext.audit_event AS e WHERE e.action = 'report.requested' AND e.target = 'report:' || r.id) <> 1"),
		'0', "$when: every report has exactly one audit event");
	is( $node->safe_psql($database, "SELECT count(*) FROM grownext.audit_event AS e WHERE e.action = 'report.requested' AND NOT EXISTS (SELECT FROM app.report AS r WHERE e.target = 'report:' || r.id)"),
		'0', "$when: no audit event without its report");
	is( $node->safe_psql($database, "SELECT count(*) FROM app.report AS r WHERE (SELECT count(*) FROM grownext.audit_event AS e WHERE e.action = 'report.rendered' AND e.target = 'report:' || r.id) <> 1"),
		'0', "$when: every rendering has exactly one audit event");
	is( $node->safe_psql($database, "SELECT (grownext.entitlement('reports.renders', '$tenant')).used = (SELECT count(*) FROM app.report)"),
		't', "$when: the quota was charged for exactly these");
	is( $node->safe_psql($database, "SELECT count(*) FROM app.rendering WHERE actor <> '5a1f0d0e-0000-4000-8000-00000000ada0' OR tenant_id <> '$tenant' OR rendered_by <> 'story_owner'"),
		'0', "$when: each as a role that is no superuser, for its tenant, in the enqueuer's name");
	is( $node->safe_psql($database, "SELECT count(*) FROM grownext.billing_event WHERE state NOT IN ('applied', 'ignored')"),
		'0', "$when: no billing event is half applied");
}

# start_again(NODE): starts after a kill; the dead postmaster's children need a moment to notice
sub start_again
{
	my ($node) = @_;
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if $node->start(fail_ok => 1);
		select(undef, undef, undef, 0.1);
		$node->stop('fast', fail_ok => 1); # forgets the process id that the stale file names
	}
	die 'the server did not start again';
}

1;
