// examples/worker.mjs, as anybody would run it: jobs in a transaction of the application,
// leases that are renewed, a graceful end, a lost server connection; and eight of them that
// are killed at random lose no job and do none twice.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';

const here = dirname(fileURLToPath(import.meta.url));
const database = 'worker_clients';
const seconds = Number(process.env.GN_TORTURE_SECONDS ?? 20);
const limit = 60_000;
// below this directory, so that the worker finds "pg" as in an application
const directory = mkdtempSync(join(here, 'worker-'));
const children = new Set();
let db;

async function connect(options) {
  const client = new pg.Client(options);
  await client.connect();
  return client;
}

// one value
async function ask(sql, ...values) {
  const { rows } = await db.query(sql, values);
  return Object.values(rows[0])[0];
}

async function until(what, probe) {
  const end = Date.now() + limit;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > end) assert.fail(`did not come true: ${what}`);
    await sleep(50);
  }
}

const enqueue = (queue, payload) => ask('SELECT grownext.enqueue($1, $2)', queue, payload);
const job = async (id) => (await db.query('SELECT * FROM grownext.job_get($1)', [id])).rows[0];
const settled = (id) => until(`job ${id} is settled`, async () => {
  const found = await job(id);
  return ['succeeded', 'dead', 'cancelled'].includes(found.state) && found;
});

// a process of its own; its end is awaited with child.ended
function start(queue, ...options) {
  const child = spawn(process.execPath, [join(directory, 'worker.mjs'), '--queue', queue, '--handler', join(directory, 'handler.mjs'), ...options], {
    env: { ...process.env, PGDATABASE: database, PGUSER: 'worker_role' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  child.log = '';
  child.stderr.on('data', (data) => (child.log += data));
  child.ended = new Promise((resolve) => child.on('exit', (code, signal) => {
    children.delete(child);
    resolve(signal ?? code);
  }));
  children.add(child);
  return child;
}

before(async () => {
  const server = await connect({ database: 'postgres' });
  await server.query(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`);
  await server.query('DROP ROLE IF EXISTS worker_role');
  await server.query('CREATE ROLE worker_role LOGIN');
  await server.query(`CREATE DATABASE ${database}`);
  await server.end();
  db = await connect({ database });
  await db.query('CREATE EXTENSION grownext');
  await db.query("SELECT * FROM grownext.setup('https://id.example.com', '{my-api}')");
  await db.query(`CREATE TABLE public.effect (n int, tenant uuid, subject text);
    GRANT INSERT ON public.effect TO worker_role;
    GRANT EXECUTE ON FUNCTION grownext.current_tenant(), grownext.current_subject() TO worker_role`);
  for (const queue of ['plain', 'work', 'torture']) {
    await db.query('SELECT grownext.queue_define($1, $2)', [queue, { backoff_base: '20 ms', backoff_cap: '100 ms' }]);
    await db.query("SELECT grownext.queue_grant($1, 'worker_role', 'work')", [queue]);
  }
  copyFileSync(join(here, '../../examples/worker.mjs'), join(directory, 'worker.mjs'));
  writeFileSync(join(directory, 'handler.mjs'), `
    import { setTimeout as sleep } from 'node:timers/promises';
    export default async function (job, { client, signal, progress }) {
      const { n, ms = 0, fail, report } = job.payload;
      await client.query('INSERT INTO public.effect VALUES ($1, grownext.current_tenant(), grownext.current_subject())', [n]);
      if (report) await progress(report);
      await sleep(ms, undefined, { signal });
      if (fail && job.attempt <= (fail.times ?? 1000)) throw Object.assign(new Error('as ordered'), fail);
      return { n };
    }`);
});

after(async () => {
  for (const child of children) child.kill('SIGKILL');
  await db?.end();
  rmSync(directory, { recursive: true, force: true });
});

test('a driver fetches and settles with untyped parameters', async () => {
  const id = await enqueue('plain', { n: 1 });
  const worker = await connect({ database, user: 'worker_role' });
  const waited = await worker.query("CALL grownext.job_wait($1, $2, NULL)", ['plain', '1 s']);
  assert.deepEqual(waited.rows, [{ ready: true }]);
  const { rows } = await worker.query('SELECT * FROM grownext.job_fetch($1, $2, $3, $4)', ['plain', 10, '1 minute', 'me']);
  assert.equal(rows.length, 1);
  assert.equal(rows[0].id, id);
  assert.deepEqual(rows[0].payload, { n: 1 });
  const extended = await worker.query('SELECT grownext.job_extend($1, $2, $3) AS held', [[rows[0].id], [rows[0].lease_id], '1 minute']);
  assert.deepEqual(extended.rows[0].held, [id]);
  await worker.query('SELECT grownext.job_progress($1, $2)', [id, { done: 0.5 }]);
  assert.deepEqual((await job(id)).progress, { done: 0.5 });
  const done = await worker.query('SELECT grownext.job_complete($1, $2, $3) AS became', [id, rows[0].lease_id, { ok: true }]);
  assert.equal(done.rows[0].became, 'succeeded');
  await assert.rejects(worker.query('SELECT grownext.job_complete($1, $2)', [id, rows[0].lease_id]), { code: 'NX031' });
  await worker.end();
});

test('the example works a queue', { timeout: 4 * limit }, async (t) => {
  const worker = start('work', '--concurrency', '3', '--lease', '1', '--name', 'one');

  await t.test('effect and outcome commit together, for the job\'s tenant and subject', async () => {
    const tenant = '33333333-3333-4333-8333-333333333333';
    await db.query('BEGIN');
    await db.query("SELECT grownext.act_as('ann', $1)", [tenant]);
    const id = await enqueue('work', { n: 1 });
    await db.query('COMMIT');
    const found = await settled(id);
    assert.equal(found.state, 'succeeded');
    assert.deepEqual(found.result, { n: 1 });
    assert.deepEqual((await db.query('SELECT * FROM public.effect WHERE n = 1')).rows, [{ n: 1, tenant, subject: 'ann' }]);
  });

  await t.test('an error undoes the effects; it may say when to try again, or never', async () => {
    const again = await enqueue('work', { n: 2, fail: { times: 1 } });
    const never = await enqueue('work', { n: 3, fail: { discard: true } });
    const later = await enqueue('work', { n: 4, fail: { retryIn: '1 hour' } });
    const snoozed = await enqueue('work', { n: 5, fail: { snooze: '1 hour' } });
    const found = await settled(again);
    assert.deepEqual([found.state, found.attempt, found.last_error], ['succeeded', 2, 'as ordered']);
    assert.equal((await settled(never)).state, 'dead');
    await until('the others wait', async () => (await job(later)).state === 'scheduled' && (await job(snoozed)).state === 'scheduled');
    assert.deepEqual([(await job(later)).attempt, (await job(snoozed)).attempt], [1, 0]);
    assert.deepEqual((await db.query('SELECT n FROM public.effect WHERE n BETWEEN 2 AND 5')).rows, [{ n: 2 }]);
  });

  await t.test('leases are renewed for as long as the handler runs; progress is shown', async () => {
    const id = await enqueue('work', { n: 6, ms: 2500, report: { percent: 10 } });
    await until('progress is shown', async () => (await job(id)).progress?.percent === 10);
    const found = await settled(id);
    assert.deepEqual([found.state, found.attempt], ['succeeded', 1]);
  });

  await t.test('a cancelled job is aborted', async () => {
    const id = await enqueue('work', { n: 7, ms: limit });
    await until('it runs', async () => (await job(id)).state === 'running');
    assert.equal(await ask('SELECT grownext.job_cancel($1)', id), true);
    assert.equal((await settled(id)).state, 'cancelled');
    assert.equal(await ask('SELECT count(*)::int FROM public.effect WHERE n = 7'), 0);
  });

  await t.test('lost connections are replaced', async () => {
    await ask("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'worker_role'");
    assert.equal((await settled(await enqueue('work', { n: 8 }))).state, 'succeeded');
  });

  await t.test('SIGTERM: what it has in hand is finished, nothing more is taken', async () => {
    const id = await enqueue('work', { n: 9, ms: 1500 });
    await until('it runs', async () => (await job(id)).state === 'running');
    worker.kill('SIGTERM');
    await until('the signal has come', () => worker.log.includes('SIGTERM: finishing 1 jobs'));
    const more = await enqueue('work', { n: 10 });
    assert.equal(await worker.ended, 0, worker.log);
    assert.equal((await job(id)).state, 'succeeded');
    assert.equal((await job(more)).state, 'ready');
  });
});

test(`eight workers, killed and restarted at random for ${seconds} s, lose no job`, { timeout: seconds * 1000 + 4 * limit }, async () => {
  const options = ['torture', '--concurrency', '4', '--lease', '1', '--grace', '1'];
  const workers = Array.from({ length: 8 }, () => start(...options));
  const end = Date.now() + seconds * 1000;
  let count = 0;
  const killed = { SIGKILL: 0, SIGTERM: 0, connection: 0 };
  while (Date.now() < end) {
    const payloads = Array.from({ length: 100 }, () => ({ n: 1000 + count++, ms: Math.floor(Math.random() * 40) }));
    await db.query('SELECT grownext.enqueue_many($1, $2::jsonb[])', ['torture', payloads.map((p) => JSON.stringify(p))]);
    await sleep(Math.random() * 800);
    const place = Math.floor(Math.random() * workers.length);
    const how = Object.keys(killed)[Math.floor(Math.random() * 3)];
    killed[how]++;
    if (how === 'connection') {
      await ask("SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE usename = 'worker_role' ORDER BY random() LIMIT 3) AS x");
      continue;
    }
    workers[place].kill(how);
    workers[place] = start(...options);
  }
  await until('every job is settled', async () => (await ask("SELECT ready + running + scheduled = 0 FROM grownext.queue_stats('torture')")));
  for (const worker of workers) worker.kill('SIGTERM');
  await Promise.all([...children].map((child) => child.ended));
  console.log(`# ${count} jobs; ${JSON.stringify(killed)}; ${await ask("SELECT count(*)::int FROM _grownext.queue_done AS d, jsonb_array_elements(d.attempts) AS a WHERE d.queue = 'torture' AND a ->> 'error' = 'lease expired'")} leases expired`);
  assert.ok(killed.SIGKILL > 0 && killed.SIGTERM > 0);
  assert.equal(await ask('SELECT count(DISTINCT n)::int FROM public.effect WHERE n >= 1000'), count, 'every job took effect');
  assert.equal(await ask('SELECT count(*)::int FROM public.effect WHERE n >= 1000'), count, 'none twice');
  assert.equal(await ask("SELECT count(*)::int FROM _grownext.queue_done WHERE queue = 'torture' AND state = 'succeeded'"), count, 'each has its outcome');
});
