# The caller's context in background workers: a job has its enqueuer's, in the parallel
# workers of its queries too, and no claims that it sets itself, although the executor
# logs in as a role that is a trusted gateway.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $acme = '11111111-1111-4111-8111-111111111111';
my $beta = '22222222-2222-4222-8222-222222222222';
my $node = GrowNext::Queue::new_node('bound', '');

sub sql { return GrowNext::Queue::sql($node, shift); }

# the worst case: every session of the bootstrap superuser is a gateway's, and no gate is asked
sql(q{SELECT grownext.gateway_trust(rolname) FROM pg_roles WHERE oid = 10});
sql(q{INSERT INTO _grownext.core_option VALUES ('require_pre_request', 'false')});
GrowNext::Queue::as($node, 'queue_admin', q{SELECT grownext.queue_define('work'); SELECT grownext.queue_grant('work', 'queue_app', 'work')});
GrowNext::Queue::as($node, 'queue_app', <<SQL);
CREATE TABLE app.item AS SELECT i, CASE i % 4 WHEN 0 THEN '$acme' ELSE '$beta' END::uuid AS tenant_id FROM generate_series(1, 100) AS i;
ALTER TABLE app.item SET (parallel_workers = 2);
CREATE TABLE app.seen (job text, subject text, tenant uuid, rows int, workers int);
CREATE FUNCTION app.work(payload jsonb) RETURNS void LANGUAGE plpgsql
SET parallel_setup_cost = 0 SET parallel_tuple_cost = 0 SET min_parallel_table_scan_size = 0 SET parallel_leader_participation = off AS \$\$
DECLARE
    plan jsonb;
    rows int;
BEGIN
    PERFORM set_config('request.jwt.claims', '{"sub": "forged", "tenant_id": "$beta"}', true);
    EXECUTE 'EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM app.item WHERE tenant_id = grownext.current_tenant()' INTO plan;
    EXECUTE 'SELECT count(*) FROM app.item WHERE tenant_id = grownext.current_tenant()' INTO rows; -- unlike SELECT INTO it may be parallel
    INSERT INTO app.seen VALUES (payload ->> 'job', grownext.current_subject(), grownext.current_tenant(), rows,
        (jsonb_path_query_first(plan, '\$.**."Workers Launched"'))::int);
    BEGIN
        PERFORM grownext.pre_request();
        RAISE EXCEPTION 'the gate let a job in';
    EXCEPTION WHEN SQLSTATE 'NX003' OR insufficient_privilege THEN
        NULL;
    END;
END \$\$;
SELECT grownext.queue_handle('work', 'app.work(jsonb)');
SQL
GrowNext::Queue::as($node, 'queue_service', q{SELECT grownext.enqueue('work', '{"job": "nobody"}')});
GrowNext::Queue::as($node, 'queue_service', qq{BEGIN; SELECT grownext.act_as('ann', '$acme'); SELECT grownext.enqueue('work', '{"job": "ann"}'); COMMIT});
GrowNext::Queue::as($node, 'queue_service', q{SELECT grownext.enqueue('work', '{"job": "nobody again"}')});
GrowNext::Queue::until_true($node, q{SELECT count(*) = 3 FROM app.seen});

is(sql(q{SELECT job, subject, tenant, rows FROM app.seen WHERE job = 'ann'}), "ann|ann|$acme|25",
	'a job acts for its enqueuer, in parallel workers too');
is(sql(q{SELECT job, subject, tenant, rows FROM app.seen WHERE job <> 'ann' ORDER BY job}), "nobody|||0\nnobody again|||0",
	'a job without a context acts for nobody, whatever claims it sets and whoever came before');
is(sql(q{SELECT count(*) FROM app.seen WHERE workers > 0}), '3', 'parallel workers were there');
is(sql(qq{SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; BEGIN; SET LOCAL request.jwt.claims = '{"sub": "ann", "tenant_id": "$acme"}'; SELECT count(*) FROM app.item WHERE tenant_id = grownext.current_tenant()}),
	'25', 'in a session of the gateway the same claims count');

$node->stop;
done_testing();
