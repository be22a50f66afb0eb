# An enqueue in a prepared transaction, which another session commits.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use GrowNext::Queue;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Executors leave at once and the scheduler looks once a minute: nobody finds it by chance.
my $node = GrowNext::Queue::new_node('phases', "max_prepared_transactions = 2\ngrownext.executor_idle = 1\ngrownext.tick_interval = 60000\n");

sub sql { return GrowNext::Queue::sql($node, shift); }
sub service { return GrowNext::Queue::as($node, 'queue_service', shift); }
sub until_true { return GrowNext::Queue::until_true($node, shift); }

GrowNext::Queue::as($node, 'queue_admin', q{SELECT grownext.queue_define('work'); SELECT grownext.queue_grant('work', 'queue_app', 'work')});
GrowNext::Queue::as($node, 'queue_app', <<'SQL');
CREATE TABLE app.ran (n int, began timestamptz);
CREATE FUNCTION app.work(payload jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO app.ran VALUES ((payload ->> 'n')::int, clock_timestamp()) $$;
SELECT grownext.queue_handle('work', 'app.work(jsonb)');
SQL
service(q{SELECT grownext.enqueue('work', '{"n": 1}')});
until_true(q{SELECT count(*) = 1 FROM app.ran});
until_true(q{SELECT count(*) = 0 FROM grownext.workers() WHERE worker = 'executor'});

service(q{BEGIN; SELECT grownext.enqueue('work', '{"n": 2}'); PREPARE TRANSACTION 'two phases'});
is(sql(q{SELECT count(*) FROM grownext.workers() WHERE worker = 'executor'}), '0', 'a prepared enqueue starts nobody');
my $committed_at = service(q{COMMIT PREPARED 'two phases'; SELECT clock_timestamp()});
until_true(q{SELECT count(*) = 1 FROM app.ran WHERE n = 2});
is(sql(qq{SELECT began < '$committed_at'::timestamptz + interval '20 seconds' FROM app.ran WHERE n = 2}),
	't', 'COMMIT PREPARED wakes the scheduler, and does not wait for its interval');

service(q{BEGIN; SELECT grownext.enqueue('work', '{"n": 3}'); PREPARE TRANSACTION 'never'; ROLLBACK PREPARED 'never'});
service(q{SELECT grownext.enqueue('work', '{"n": 4}')});
until_true(q{SELECT count(*) = 1 FROM app.ran WHERE n = 4});
is(sql(q{SELECT string_agg(n::text, ' ' ORDER BY n) FROM app.ran}), '1 2 4', 'ROLLBACK PREPARED leaves nothing');

done_testing();
