# test/bench/lib/queue.sh -- what the benchmarks of the queue share; sourced after bench.sh
#
# Ours is used through its public functions alone, as an application uses it. The peers are
# pgmq (GN_PGMQ_SQL: its install script), graphile-worker (GN_GRAPHILE_SQL: the folder of its
# migrations), and the queue that people write by hand: one table, one partial index, FOR
# UPDATE SKIP LOCKED. Without the variables their lines are skipped, and that is said.

GN_BENCH_JOBS=${GN_BENCH_JOBS:-100000}
# halves and tenths of it have to be whole chunks
[ "$GN_BENCH_JOBS" -ge 10000 ] && [ $((GN_BENCH_JOBS % 10000)) = 0 ] || { echo "GN_BENCH_JOBS must be a multiple of 10000" >&2; exit 1; }
payload='{"n":12345,"pad":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}'
# payloads FIRST LAST: as a query of its own, a jsonb each
payloads() { echo "SELECT jsonb_build_object('n', n, 'pad', repeat('x', 64)) AS payload FROM generate_series($1, $2) AS n"; }
bulk="(SELECT array_agg(payload) FROM ($(payloads 1 1000)) AS p)"

run_sql() { psql -X -q -At -v ON_ERROR_STOP=1 "$@"; }

# sync on|off: synchronous_commit of every process of the server, executors too
sync()
{
	run_sql -c "ALTER SYSTEM SET synchronous_commit = $1" -c 'SELECT pg_reload_conf()' >/dev/null
	until [ "$(run_sql -c 'SHOW synchronous_commit')" = "$1" ]; do :; done
}
trap 'run_sql -c "ALTER SYSTEM RESET synchronous_commit" -c "SELECT pg_reload_conf()" >/dev/null' EXIT

# A chunk is a transaction of 1,000 jobs; the id of its last job tells how far a queue is.
PGOPTIONS='-c client_min_messages=warning' run_sql >/dev/null <<'SQL'
SELECT grownext.setup('https://id.example', '{https://api.example}');
DROP ROLE IF EXISTS bench_app; -- of the benchmark before, whose database is gone
CREATE ROLE bench_app IN ROLE grownext_user;
CREATE SCHEMA app AUTHORIZATION bench_app;
SET ROLE bench_app;
CREATE FUNCTION app.work(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
RESET ROLE;

CREATE SCHEMA bench;
CREATE TABLE bench.chunk (queue text, upto int, id bigint, PRIMARY KEY (queue, upto));

-- p_payloads makes the payloads of the jobs from $1 to $2
CREATE PROCEDURE bench.fill(p_queue text, p_jobs int, p_payloads text) LANGUAGE plpgsql AS $$
DECLARE
    v_payloads jsonb[];
    v_ids      bigint[];
BEGIN
    FOR v_from IN 1 .. p_jobs BY 1000 LOOP
        EXECUTE 'SELECT array_agg(payload) FROM (' || p_payloads || ') AS p' INTO v_payloads USING v_from, least(v_from + 999, p_jobs);
        v_ids := grownext.enqueue_many(p_queue, v_payloads);
        INSERT INTO bench.chunk VALUES (p_queue, least(v_from + 999, p_jobs), v_ids[cardinality(v_ids)]);
        COMMIT;
    END LOOP;
END $$;

-- Waits until the job at this place of the queue is settled. At most 5 ms late.
CREATE PROCEDURE bench.reach(p_queue text, p_upto int, INOUT p_at timestamptz DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
    v_id bigint := (SELECT id FROM bench.chunk WHERE queue = p_queue AND upto = p_upto);
BEGIN
    LOOP
        p_at := clock_timestamp();
        EXIT WHEN (SELECT state IN ('succeeded', 'dead', 'cancelled') FROM grownext.job_get(v_id));
        PERFORM pg_sleep(0.005);
        COMMIT;
    END LOOP;
END $$;

-- Lets a paused queue run until it is empty, and says how long that took.
CREATE PROCEDURE bench.drain(p_queue text, p_jobs int, INOUT p_seconds double precision DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
    v_began timestamptz := clock_timestamp();
    v_at    timestamptz;
    v_state grownext.queue_state;
BEGIN
    PERFORM grownext.queue_resume(p_queue);
    COMMIT;
    CALL bench.reach(p_queue, p_jobs, v_at);
    LOOP
        v_at := clock_timestamp();
        SELECT * INTO v_state FROM grownext.queue_stats(p_queue);
        EXIT WHEN v_state.ready + v_state.running + v_state.scheduled + v_state.waiting = 0;
        COMMIT;
    END LOOP;
    IF v_state.succeeded_total <> p_jobs THEN
        RAISE EXCEPTION 'not every job succeeded: %', v_state;
    END IF;
    p_seconds := extract(epoch FROM v_at - v_began);
END $$;

CREATE SCHEMA naive;
CREATE TABLE naive.job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_at timestamptz NOT NULL DEFAULT now(),
    state smallint NOT NULL DEFAULT 0, attempts int NOT NULL DEFAULT 0, payload jsonb NOT NULL);
CREATE INDEX job_ready ON naive.job (run_at, id) WHERE state = 0;
SQL

# queue_new QUEUE [handler]: an empty queue without a past; with a handler it is paused
queue_new()
{
	run_sql >/dev/null <<SQL
SELECT grownext.queue_purge(queue) FROM grownext.queue WHERE queue = '$1';
SELECT grownext.queue_drop(queue) FROM grownext.queue WHERE queue = '$1';
DELETE FROM bench.chunk WHERE queue = '$1';
SELECT grownext.queue_define('$1');
SQL
	[ -z "${2:-}" ] || run_sql -c "SELECT grownext.queue_handle('$1', '$2', run_as => 'bench_app'), grownext.queue_pause('$1')" >/dev/null
}

# settle: what filling left behind is written and vacuumed, so that no run pays for another
settle() { run_sql -c 'VACUUM ANALYZE' -c CHECKPOINT; }

# fill SYSTEM JOBS [QUEUE]: that many jobs into an empty ours, naive or pgmq
fill()
{
	case $1 in
		ours) run_sql -c "CALL bench.fill('${3:-bench}', $2, \$p\$$(payloads '$1' '$2')\$p\$)" ;;
		naive) run_sql -c 'TRUNCATE naive.job' -c "INSERT INTO naive.job (payload) $(payloads 1 "$2")" ;;
		pgmq) run_sql -c "SELECT pgmq.purge_queue('q')" >/dev/null && fill_pgmq "$2" >/dev/null ;;
	esac
	settle
}

# fill_pgmq JOBS: more of them, whatever is there
fill_pgmq() { run_sql -c "SELECT count(*) FROM (SELECT pgmq.send_batch('q', $bulk) FROM generate_series(1, $1 / 1000)) AS s"; }

# per_second JOBS SECONDS
per_second() { awk -v n="$1" -v s="$2" 'BEGIN { printf "%.0f\n", n / s }'; }

# drain_ours JOBS [QUEUE]: jobs per second that the executors run, from resume to empty
drain_ours() { per_second "$1" "$(run_sql -c "CALL bench.drain('${2:-bench}', $1)")"; }

# ready_ours JOBS [QUEUE]: a queue of so many jobs that wait for drain_ours
ready_ours()
{
	queue_new "${2:-bench}" 'app.work(jsonb)'
	fill ours "$1" "${2:-bench}"
}

# warm_up: executors are there and have seen the handler
warm_up() { ready_ours 2000 && drain_ours 2000 >/dev/null; }

# scripts BATCH: ours.sql, naive.sql and pgmq.sql claim so many jobs and complete them, in a
# transaction each, as it has to be when a client does the work
scripts()
{
	cat >ours.sql <<SQL
SELECT coalesce(array_agg(id), '{}') AS ids, coalesce(array_agg(lease_id), '{}') AS leases, count(payload) AS n FROM grownext.job_fetch('bench', $1, '1 minute') \gset
SELECT cardinality(grownext.job_complete_many(:ids::bigint[], :leases::bigint[]));
SQL
	cat >naive.sql <<SQL
WITH c AS (UPDATE naive.job AS j SET state = 1, attempts = attempts + 1 FROM (SELECT id FROM naive.job WHERE state = 0 AND run_at <= now() ORDER BY run_at, id LIMIT $1 FOR UPDATE SKIP LOCKED) AS s WHERE j.id = s.id RETURNING j.id, j.payload) SELECT coalesce(array_agg(id), '{}') AS ids, count(payload) AS n FROM c \gset
DELETE FROM naive.job WHERE id = ANY (:ids::bigint[]);
SQL
	cat >pgmq.sql <<SQL
SELECT coalesce(array_agg(msg_id), '{}') AS ids, count(message) AS n FROM pgmq.read('q', 60, $1) \gset
SELECT count(*) FROM pgmq.delete('q', :ids::bigint[]);
SQL
	[ "$1" -gt 1 ] || {
		cat >ours.sql <<SQL
SELECT coalesce(max(id), -1) AS id, max(lease_id) AS lease, count(payload) AS n FROM grownext.job_fetch('bench', 1, '1 minute') \gset
SELECT grownext.job_complete(:id, :lease);
SQL
		cat >naive.sql <<SQL
WITH c AS (UPDATE naive.job SET state = 1, attempts = attempts + 1 WHERE id = (SELECT id FROM naive.job WHERE state = 0 AND run_at <= now() ORDER BY run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, payload) SELECT coalesce(max(id), -1) AS id, count(payload) AS n FROM c \gset
DELETE FROM naive.job WHERE id = :id;
SQL
		cat >pgmq.sql <<SQL
SELECT coalesce(max(msg_id), -1) AS id, count(message) AS n FROM pgmq.read('q', 60, 1) \gset
SELECT pgmq.delete('q', :id::bigint);
SQL
	}
}

# work SYSTEM BATCH JOBS: jobs per second of two clients that work off nine tenths of so many
# jobs, with the script of that name; a client that finds nothing would be measured as fast
work()
{
	local out transactions=$(($3 * 9 / 10 / $2 / 2))
	out=$(pgbench -n -M prepared -c 2 -j 2 -t $((transactions > 0 ? transactions : 1)) -f "$1.sql" 2>&1) && ! grep -q aborted <<<"$out" ||
		{ printf '%s\n' "$out" >&2; return 1; }
	sed -n 's/^tps = \([0-9.]*\).*/\1/p' <<<"$out" | awk -v b="$2" '{ printf "%.0f\n", $1 * b }'
}

# pgmq: sets the peer up, with a queue "q"; false without it
pgmq()
{
	[ -n "${GN_PGMQ_SQL:-}" ] || { echo "# pgmq is not at hand: set GN_PGMQ_SQL to its install script, pgmq.sql"; return 1; }
	{ grep -v '^\\echo' "$GN_PGMQ_SQL" && echo "SELECT pgmq.create('q');"; } |
		PGOPTIONS='-c client_min_messages=warning' run_sql >/dev/null || exit 1
}

# graphile: sets the peer up; false without it
graphile()
{
	local file
	[ -n "${GN_GRAPHILE_SQL:-}" ] || { echo "# graphile-worker is not at hand: set GN_GRAPHILE_SQL to its folder of migrations, sql/"; return 1; }
	run_sql -c 'CREATE SCHEMA graphile_worker' || exit 1
	for file in "$GN_GRAPHILE_SQL"/0*.sql; do
		sed 's/:GRAPHILE_WORKER_SCHEMA/graphile_worker/g' "$file" | PGOPTIONS='-c client_min_messages=warning' run_sql -1 >/dev/null || exit 1
	done
}

# server_cpu: microseconds of CPU time that the server has taken so far, all of its processes,
# those that are over too
server_cpu()
{
	local postmaster
	postmaster=$(run_sql -c "SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)")
	{
		for pid in $postmaster $(cat "/proc/$postmaster/task/$postmaster/children"); do
			cat "/proc/$pid/schedstat" 2>/dev/null || :
		done
		awk -v tick="$(getconf CLK_TCK)" '{ print ($16 + $17) / tick * 1e9 }' "/proc/$postmaster/stat"
	} | awk '{ sum += $1 } END { printf "%.0f\n", sum / 1000 }'
}

# metered SYSTEM JOBS COMMAND...: appends the rate that the command prints to SYSTEM.rate, and
# the microseconds of CPU that the server took for each of so many jobs to SYSTEM.cpu; for 0,
# of as many as that rate makes in GN_BENCH_SECONDS
metered()
{
	local system=$1 jobs=$2 cpu rate
	shift 2
	cpu=$(server_cpu)
	rate=$("$@")
	cpu=$(($(server_cpu) - cpu))
	echo "$rate" >>"$system.rate"
	awk -v c="$cpu" -v n="$jobs" -v r="$rate" -v s="$GN_BENCH_SECONDS" 'BEGIN { printf "%.2f\n", c / (n > 0 ? n : r * s) }' >>"$system.cpu"
}

# cpu_remark CLAIM SYSTEM...: what was metered; other load shows less in it than in rates
cpu_remark()
{
	local system text=
	for system in "${@:2}"; do
		text+="${text:+, }$system $(median <"$system.cpu") us"
	done
	echo "# CPU of the server a job, $1: $text"
}

# xids: transaction ids that the server has given out
xids() { run_sql -c 'SELECT pg_snapshot_xmax(pg_current_snapshot())'; }

# lsn: the end of the WAL
lsn() { run_sql -c 'SELECT pg_current_wal_insert_lsn()'; }

# wal FROM TO: bytes of WAL between two places, of records and of full-page images
wal()
{
	run_sql -c 'SELECT pg_switch_wal()' >/dev/null # or the end would not be on disk yet
	pg_waldump --stats -p "$(run_sql -c 'SHOW data_directory')/pg_wal" -s "$1" -e "$2" |
		awk '/^Total/ { gsub(/\[[^]]*\]/, ""); print $3, $4 }'
}
