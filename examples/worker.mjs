#!/usr/bin/env node
// A worker outside the database: fetches jobs of one queue, runs a handler for each,
// settles them. Needs the package "pg" and the right to work the queue; see docs/queue.md.
//
//   node worker.mjs --queue mail --handler ./mail.mjs --concurrency 8
//
// The handler module exports default async (job, { client, signal, progress }). It gets
// the job as job_fetch() returns it, and
//   client    a connection inside a transaction, bound to the job's tenant and subject.
//             What it writes and the job's outcome commit together: exactly once.
//   signal    aborted when the job was cancelled, its lease is lost, or the worker must end
//   progress  async (value) => void; shown by job_get()
// What it returns is the job's result. An error that it throws fails the attempt; with
// error.discard = true for good, with error.retryIn = '10 minutes' until then. With
// error.snooze = '10 minutes' the job is tried again without counting the attempt.
//
// Handlers that talk to slow services should export transaction = false: then client is
// null, no transaction is open while they run, and they must be idempotent.
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

const STALE = 'NX031';

// A lost connection, a server that starts or stops: worth another try. Only what the server
// said has a severity.
export function isTransient(error) {
  if (error?.severity === undefined) return !(error instanceof TypeError);
  return /^(08|53|57P)/.test(error.code) || error.code === '40001' || error.code === '40P01';
}

// Doubles up to a cap, with a random part, so that a fleet does not come back as one.
export class Backoff {
  constructor(first = 100, cap = 30_000) {
    this.first = first;
    this.cap = cap;
    this.failures = 0;
  }
  next() {
    const delay = Math.min(this.cap, this.first * 2 ** this.failures++);
    return delay * (0.5 + Math.random() / 2);
  }
  reset() {
    this.failures = 0;
  }
}

export class Worker {
  #running = new Map(); // job id -> { job, abort }
  #stopping = false;
  #waiter = null; // the connection that sleeps in job_wait()
  #freed = null; // resolves when a job ends

  // pg: the module; connection: what pg.Pool takes
  constructor({ pg, connection = {}, queue, handler, concurrency = 4, lease = 30, waitSeconds = 30, name, transaction = true, log = console.error }) {
    if (!queue || typeof handler !== 'function') throw new TypeError('a worker needs a queue and a handler');
    if (!(concurrency >= 1 && lease >= 1)) throw new RangeError('concurrency and lease must be at least 1');
    Object.assign(this, { pg, connection, queue, handler, concurrency, lease, waitSeconds, transaction, log });
    this.name = name ?? `${hostname()}:${process.pid}`;
    // one for each job, and one for fetching, renewals and failures
    this.pool = new pg.Pool({ application_name: `worker ${queue}`, ...connection, max: concurrency + 1 });
    this.pool.on('error', (error) => this.log(`idle connection: ${error.message}`)); // the next query makes a new one
  }

  get running() {
    return this.#running.size;
  }

  // Runs until stop() is called and all jobs in hand are settled.
  async run() {
    const backoff = new Backoff();
    const renewal = setInterval(() => this.#renew(), (this.lease * 1000) / 3);
    try {
      while (!this.#stopping) {
        try {
          if (this.running >= this.concurrency) await new Promise((free) => (this.#freed = free));
          else if (!(await this.#fetch()) && !this.#stopping) await this.#wait();
          backoff.reset();
        } catch (error) {
          if (this.#stopping) break;
          if (!isTransient(error)) throw error;
          const delay = backoff.next();
          this.log(`${error.message}; next try in ${Math.round(delay)} ms`);
          await sleep(delay);
        }
      }
      while (this.running > 0) await new Promise((free) => (this.#freed = free));
    } finally {
      clearInterval(renewal);
      await this.#endWaiter();
      await this.pool.end();
    }
  }

  // Takes no more jobs. Those in hand may end; after graceMs their signals are aborted.
  async stop(graceMs = 20_000) {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#wake();
    await this.#endWaiter();
    const grace = setTimeout(() => {
      for (const { abort } of this.#running.values()) abort.abort(new Error('the worker must end'));
    }, graceMs);
    grace.unref();
  }

  #wake() {
    this.#freed?.();
    this.#freed = null;
  }

  // Sleeps until there may be a job, or one of ours ended and there is room for more.
  async #wait() {
    if (!this.#waiter) {
      const waiter = new this.pg.Client({ application_name: `worker ${this.queue} (waits)`, ...this.connection });
      waiter.on('error', () => {}); // the query that is under way tells
      await waiter.connect();
      if (this.#stopping) return waiter.end();
      this.#waiter = waiter;
    }
    try {
      await this.#waiter.query('CALL grownext.job_wait($1, make_interval(secs => $2), NULL)', [this.queue, this.waitSeconds]);
    } catch (error) {
      await this.#endWaiter();
      throw error;
    }
  }

  async #endWaiter() {
    const waiter = this.#waiter;
    this.#waiter = null;
    // The server ends a wait whose client is gone; nothing is lost with it.
    waiter?.connection?.stream?.destroy();
  }

  async #fetch() {
    const { rows } = await this.pool.query('SELECT * FROM grownext.job_fetch($1, $2, make_interval(secs => $3), $4)', [
      this.queue,
      this.concurrency - this.running,
      this.lease,
      this.name,
    ]);
    for (const job of rows) {
      const entry = { job, abort: new AbortController() };
      this.#running.set(job.id, entry);
      this.#work(entry)
        .catch((error) => this.log(`job ${job.id}: ${error.message}`))
        .finally(() => {
          this.#running.delete(job.id);
          this.#wake();
        });
    }
    return rows.length > 0;
  }

  // Jobs that the server does not name are lost or cancelled.
  async #renew() {
    const entries = [...this.#running.values()];
    if (entries.length === 0) return;
    try {
      const { rows } = await this.pool.query('SELECT grownext.job_extend($1, $2, make_interval(secs => $3)) AS held', [
        entries.map(({ job }) => job.id),
        entries.map(({ job }) => job.lease_id),
        this.lease,
      ]);
      const held = new Set(rows[0].held.map(String));
      for (const { job, abort } of entries) {
        if (!held.has(job.id) && this.#running.has(job.id)) abort.abort(new Error('the job was cancelled or its lease is lost'));
      }
    } catch (error) {
      this.log(`leases were not renewed: ${error.message}`); // the next turn is in time still
    }
  }

  async #work({ job, abort }) {
    try {
      if (this.transaction) await this.#workInTransaction(job, abort.signal);
      else await this.#workOutside(job, abort.signal);
    } catch (error) {
      if (error.code === STALE) return this.log(`job ${job.id}: ${error.message}`); // somebody else has it
      await this.#settleFailure(job, error);
    }
  }

  // Effect and outcome in one transaction: both are there, or neither.
  async #workInTransaction(job, signal) {
    const client = await this.pool.connect();
    let broken;
    const lost = (error) => (broken = error);
    try {
      client.on('error', lost);
      await client.query('BEGIN');
      await client.query('SELECT grownext.job_bind($1, $2)', [job.id, job.lease_id]);
      const result = await this.#call(job, client, signal);
      const became = await this.#complete(client, job, result);
      await client.query(became === 'succeeded' ? 'COMMIT' : 'ROLLBACK');
      if (became !== 'succeeded') await this.#complete(client, job, null); // cancelled: without the effects
    } catch (error) {
      await client.query('ROLLBACK').catch((e) => (broken ??= e));
      throw error;
    } finally {
      client.off('error', lost);
      client.release(broken);
    }
  }

  async #workOutside(job, signal) {
    const result = await this.#call(job, null, signal);
    const backoff = new Backoff();
    // The work is done: as long as the job is ours, try to say so.
    for (;;) {
      try {
        return await this.#complete(this.pool, job, result);
      } catch (error) {
        if (!isTransient(error) || signal.aborted) throw error;
        await sleep(backoff.next());
      }
    }
  }

  async #call(job, client, signal) {
    signal.throwIfAborted();
    const progress = (value) => this.pool.query('SELECT grownext.job_progress($1, $2)', [job.id, JSON.stringify(value)]);
    const result = await this.handler(job, { client, signal, progress });
    signal.throwIfAborted();
    return result;
  }

  async #complete(client, job, result) {
    const { rows } = await client.query('SELECT grownext.job_complete($1, $2, $3) AS became', [
      job.id,
      job.lease_id,
      result === undefined || result === null ? null : JSON.stringify(result),
    ]);
    return rows[0].became;
  }

  // If this fails, too, the lease ends by itself and the job is tried again.
  async #settleFailure(job, error) {
    if (error.snooze) {
      await this.pool.query('SELECT grownext.job_snooze($1, $2, $3)', [job.id, job.lease_id, error.snooze]);
      return;
    }
    const { rows } = await this.pool.query('SELECT grownext.job_fail($1, $2, $3, $4, $5) AS became', [
      job.id,
      job.lease_id,
      String(error.message ?? error),
      error.retryIn ?? null,
      error.discard === true,
    ]);
    this.log(`job ${job.id}: ${error.message ?? error} (${rows[0].became})`);
  }
}

async function main() {
  const { values } = parseArgs({
    options: {
      queue: { type: 'string' },
      handler: { type: 'string' },
      concurrency: { type: 'string', default: '4' },
      lease: { type: 'string', default: '30' },
      name: { type: 'string' },
      grace: { type: 'string', default: '20' },
      database: { type: 'string' }, // a connection string; otherwise PGHOST and its like
    },
  });
  if (!values.queue || !values.handler) {
    console.error('usage: worker.mjs --queue NAME --handler MODULE [--concurrency 4] [--lease 30] [--grace 20] [--name NAME] [--database URL]');
    process.exit(2);
  }
  const { default: pg } = await import('pg');
  const module = await import(pathToFileURL(resolve(values.handler)));
  const worker = new Worker({
    pg,
    connection: values.database ? { connectionString: values.database } : {},
    queue: values.queue,
    handler: module.default,
    transaction: module.transaction !== false,
    concurrency: Number(values.concurrency),
    lease: Number(values.lease),
    name: values.name,
  });
  const grace = Number(values.grace) * 1000;
  const stop = (signal) => {
    worker.log(`${signal}: finishing ${worker.running} jobs`);
    worker.stop(grace);
    // A handler that does not listen to its signal keeps nobody: its lease ends by itself.
    setTimeout(() => process.exit(1), grace + 5000).unref();
  };
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, stop);
  await worker.run();
}

if (process.argv[1] && import.meta.url === pathToFileURL(resolve(process.argv[1])).href) {
  main().catch((error) => {
    console.error(error.message);
    process.exit(1);
  });
}
