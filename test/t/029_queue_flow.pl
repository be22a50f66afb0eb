# Executors under kills: jobs that wait for others run after them, a batch calls back once
# and counts every job, also those that its jobs added. And executors keep a rate limit.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $batches = 15;
my $node = GrowNext::Queue::new_node('main', "restart_after_crash = on\ngrownext.executors = 3\n");

GrowNext::Queue::sql($node, <<'SQL');
CREATE TABLE app.effect (id bigint GENERATED ALWAYS AS IDENTITY, kind text, job bigint, parent bigint, batch bigint, counts jsonb);
ALTER TABLE app.effect OWNER TO queue_app;
SELECT grownext.queue_define(q, o) FROM (VALUES ('part', '{"backoff_base": "20 ms"}'::jsonb), ('step', '{"backoff_base": "20 ms"}'),
    ('report', '{}'), ('slow', '{"rate_limit": "20/second"}')) AS v (q, o);
SELECT grownext.queue_grant(q, 'queue_app', 'work') FROM unnest('{part,step,report,slow}'::text[]) AS q;
SELECT grownext.queue_grant('part', 'queue_app', 'enqueue');
SQL
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE FUNCTION app.work(job grownext.job) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    p CONSTANT jsonb := (job).payload;
BEGIN
    INSERT INTO app.effect (kind, job, parent, batch, counts)
    VALUES ((job).queue, (job).id, (p ->> 'parent')::bigint, coalesce((p ->> 'batch_id')::bigint, (p #>> '{batch,id}')::bigint), p -> 'batch');
    IF (p ->> 'more')::boolean THEN
        PERFORM grownext.enqueue('part', jsonb_build_object('batch_id', p -> 'batch_id'), batch_id => (p ->> 'batch_id')::bigint);
    END IF;
    IF (p ->> 'fail')::boolean AND (job).attempt = 1 THEN
        RAISE EXCEPTION 'not at the first attempt';
    END IF;
    PERFORM pg_sleep(0.01);
END $$;
SELECT grownext.queue_handle(q, 'app.work(grownext.job)') FROM unnest('{part,step,report}'::text[]) AS q;
CREATE FUNCTION app.noop(payload jsonb) RETURNS void LANGUAGE sql AS '';
SELECT grownext.queue_handle('slow', 'app.noop(jsonb)');
SQL

# a limit of 20 a second, and more jobs than that

GrowNext::Queue::as($node, 'queue_service', q{SELECT grownext.enqueue_many('slow', array_fill('{}'::jsonb, ARRAY[60]))});
GrowNext::Queue::until_true($node, q{SELECT count(*) = 60 FROM _grownext.queue_done WHERE queue = 'slow'});
# A job begins a moment after it has taken its token: two more may seem to be too many.
is( GrowNext::Queue::sql($node, <<'SQL'), '0', 'no stretch of time sees more jobs begin than the limit and its share');
SELECT count(*) FROM (SELECT started_at AS at, row_number() OVER (ORDER BY started_at) AS n FROM _grownext.queue_done WHERE queue = 'slow') AS a
  JOIN (SELECT started_at AS at, row_number() OVER (ORDER BY started_at) AS n FROM _grownext.queue_done WHERE queue = 'slow') AS b ON b.n > a.n
 WHERE b.n - a.n + 1 > 20 + 20 * extract(epoch FROM b.at - a.at) + 2
SQL

# batches, while executors and the postmaster are killed

for my $n (1 .. $batches)
{
	GrowNext::Queue::as($node, 'queue_service', <<'SQL');
DO $$
DECLARE
    batch CONSTANT bigint := grownext.batch_create('report');
    part bigint;
BEGIN
    FOR i IN 1..8 LOOP
        part := grownext.enqueue('part', jsonb_build_object('batch_id', batch, 'more', i = 4, 'fail', i = 6), batch_id => batch);
        PERFORM grownext.enqueue('step', jsonb_build_object('batch_id', batch, 'parent', part), depends_on => ARRAY[part], batch_id => batch);
    END LOOP;
END $$;
SQL
}
for my $round (1 .. 4)
{
	GrowNext::Queue::until_true($node, "SELECT count(*) >= $round * 20 FROM app.effect");
	if ($round == 4)
	{
		GrowNext::Queue::kill_postmaster($node);
		next;
	}
	my $pid = $node->safe_psql('app', q{SELECT pid FROM grownext.workers() WHERE worker = 'executor' AND database = 'app' AND pid IS NOT NULL ORDER BY random() LIMIT 1});
	my $launcher = $node->safe_psql('app', q{SELECT pid FROM grownext.workers() WHERE worker = 'launcher'});
	next unless $pid =~ /^\d+$/;
	kill('KILL', $pid);
	GrowNext::Queue::until_true($node, "SELECT EXISTS (SELECT FROM grownext.workers() WHERE worker = 'launcher' AND pid <> $launcher)");
}
GrowNext::Queue::until_true($node, 'SELECT count(*) = 0 FROM _grownext.queue_job');

is(GrowNext::Queue::sql($node, q{SELECT count(*), count(DISTINCT batch) FROM app.effect WHERE kind = 'report'}), "$batches|$batches", 'each batch called back once');
is( GrowNext::Queue::sql($node, q{SELECT DISTINCT counts - 'id' FROM app.effect WHERE kind = 'report'}),
	'{"dead": 0, "cancelled": 0, "succeeded": 17}', 'each counted all of its jobs, those that were added by a job too');
is( GrowNext::Queue::sql($node, q{SELECT count(*) FROM app.effect AS r JOIN app.effect AS e ON e.batch = r.batch AND e.kind <> 'report' WHERE r.kind = 'report' AND e.id > r.id}),
	'0', 'and after them');
is( GrowNext::Queue::sql($node, q{SELECT count(*) FROM app.effect AS c WHERE c.kind = 'step' AND NOT EXISTS (SELECT FROM app.effect AS p WHERE p.job = c.parent AND p.id < c.id)}),
	'0', 'no job ran before the one that it waits for');
is(GrowNext::Queue::sql($node, 'SELECT count(*) FROM (SELECT job FROM app.effect GROUP BY job HAVING count(*) > 1) AS twice'), '0', 'no effect is doubled');
is( GrowNext::Queue::sql($node, 'SELECT (SELECT count(*) FROM _grownext.queue_batch) + (SELECT count(*) FROM _grownext.queue_batch_outcome)'
		  . ' + (SELECT count(*) FROM _grownext.queue_dependency) + (SELECT count(*) FROM _grownext.queue_check)'),
	'0', 'nothing is left behind');

$node->stop;
done_testing();
