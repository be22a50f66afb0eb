// Second factors as an authenticator program that is not ours has them, and what many
// open connections see when they use one code or one login link at the same time.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as jose from 'jose';
import otplib from 'otplib';
import pg from 'pg';

const database = 'account_clients';
const issuer = 'https://auth.example.com';
let directory, db, pool;

async function connect(name) {
  const client = new pg.Client({ database: name });
  await client.connect();
  return client;
}

// one value
async function ask(client, sql, ...values) {
  const { rows } = await client.query(sql, values);
  return Object.values(rows[0])[0];
}

// roles are the server's, not the database's
const makeRole = (name, group) => db.query(
  `DO $$ BEGIN CREATE ROLE ${name} LOGIN IN ROLE ${group}; EXCEPTION WHEN duplicate_object THEN NULL; END $$`);

let users = 0;
const makeUser = () => ask(db, 'SELECT grownext.user_create($1)', `user${++users}@example.com`);
const enroll = (user, options = {}) => ask(db, 'SELECT grownext.totp_enroll($1, $2)', user, options);
const verify = (user, code, client = db) => ask(client, 'SELECT grownext.totp_verify($1, $2)', user, code);

// what the program does with the picture: nothing but the URI is known to it
function authenticator(uri, steps = 0) {
  const url = new URL(uri);
  assert.equal(`${url.protocol}//${url.host}`, 'otpauth://totp');
  const of = (name) => url.searchParams.get(name);
  const program = otplib.authenticator.clone({
    algorithm: of('algorithm').toLowerCase(),
    digits: Number(of('digits')),
    step: Number(of('period')),
    epoch: Date.now() + steps * 1000 * Number(of('period')),
  });
  return program.generate(of('secret'));
}

// as many connections at once as the pool has, each in a transaction of its own
const atOnce = (count, work) => Promise.all(Array.from({ length: count }, async () => {
  const client = await pool.connect();
  try {
    return await work(client);
  } finally {
    client.release();
  }
}));

before(async () => {
  const server = await connect('postgres');
  if ((await ask(server, "SELECT current_setting('grownext.master_key_file') || current_setting('grownext.master_key_command')")) === '') {
    directory = mkdtempSync(join(tmpdir(), 'gn-clients-'));
    const file = join(directory, 'master.key');
    writeFileSync(file, `test:${randomBytes(32).toString('base64')}\n`, { mode: 0o600 });
    await server.query(`ALTER SYSTEM SET grownext.master_key_file = '${file}'`);
    await server.query('SELECT pg_reload_conf()');
  }
  await server.query(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`);
  await server.query(`CREATE DATABASE ${database}`);
  await server.end();
  db = await connect(database);
  await db.query('CREATE EXTENSION grownext');
  await db.query('SELECT * FROM grownext.setup($1, $2)', [issuer, ['my-api']]);
  pool = new pg.Pool({ database, max: 16 });
});

after(async () => {
  await pool?.end();
  await db?.end();
  if (directory) rmSync(directory, { recursive: true });
});

for (const options of [{}, { digits: 8 }, { algorithm: 'SHA256' }, { algorithm: 'SHA256', digits: 8 }, { algorithm: 'SHA512' }, { algorithm: 'SHA512', digits: 8 }]) {
  test(`codes of otplib are right here: ${JSON.stringify(options)}`, async () => {
    const user = await makeUser();
    const factor = await enroll(user, options);
    const uri = new URL(factor.uri);
    assert.equal(decodeURIComponent(uri.pathname.slice(1)), `auth.example.com:user${users}@example.com`);
    assert.equal(uri.searchParams.get('secret'), factor.secret);
    const code = authenticator(factor.uri);
    assert.equal(code.length, options.digits ?? 6);
    assert.equal(await verify(user, code), true);
    assert.equal(await verify(user, code), false, 'a second time');
    assert.equal(await verify(user, authenticator(factor.uri, 1)), true, 'the next one');
    assert.equal(await verify(user, authenticator(factor.uri, 4)), false, 'one of the future');
  });
}

test('what is right here is right to otplib, and nothing else is', async () => {
  const user = await makeUser();
  const factor = await enroll(user);
  const { rows: [row] } = await db.query('SELECT * FROM _grownext.account_totp WHERE user_id = $1', [user]);
  const at = new Date();
  // every seventh code there is
  const { rows } = await db.query(
    `SELECT lpad(c::text, 6, '0') AS code FROM generate_series(floor(random() * 7)::int, 999999, 7) AS c
      WHERE _grownext.account_totp_match($1, $2, $3, $4, -1, lpad(c::text, 6, '0'), $5) IS NOT NULL`,
    [row.id, row.algorithm, row.digits, row.sealed, at]);
  const program = otplib.authenticator.clone({ epoch: at.getTime(), window: 1 });
  for (const { code } of rows) assert.equal(program.check(code, factor.secret), true);
  for (const steps of [-1, 0, 1]) {
    const code = otplib.authenticator.clone({ epoch: at.getTime() + steps * 30000 }).generate(factor.secret);
    assert.equal(await ask(db, 'SELECT _grownext.account_totp_match($1, $2, $3, $4, -1, $5, $6) IS NOT NULL',
      row.id, row.algorithm, row.digits, row.sealed, code, at), true);
  }
});

test('of many who use one code at once, one is let in', async () => {
  const user = await makeUser();
  const factor = await enroll(user);
  const code = authenticator(factor.uri);
  const answers = await atOnce(8, (client) => verify(user, code, client));
  assert.equal(answers.filter(Boolean).length, 1);

  const recovery = await atOnce(8, (client) => verify(user, factor.recovery_codes[3], client));
  assert.equal(recovery.filter(Boolean).length, 1);
});

test('guessing side by side, each guess rolled back, buys no more guesses', async () => {
  const user = await makeUser();
  const factor = await enroll(user);
  assert.equal(await verify(user, authenticator(factor.uri)), true);
  const right = new Set([-1, 0, 1, 2].map((steps) => authenticator(factor.uri, steps)));
  const wrong = Array.from({ length: 64 }, (_, i) => String(100000 + i)).filter((code) => !right.has(code));
  await Promise.all(wrong.map(async (code) => {
    const client = await pool.connect();
    await client.query('BEGIN');
    assert.equal(await verify(user, code, client), false);
    await client.query('ROLLBACK');
    client.release();
  }));
  assert.equal(await verify(user, authenticator(factor.uri, 1)), false, 'the right code has to wait');
});

test('of many who redeem one login link at once, one gets a session', async () => {
  const user = await makeUser();
  const token = await ask(db, 'SELECT grownext.login_link_create($1)', `user${users}@example.com`);
  const answers = await atOnce(8, (client) => ask(client, 'SELECT grownext.login_link_redeem($1)', token));
  assert.equal(answers.filter((answer) => answer.access_token).length, 1);
  assert.equal(answers.filter((answer) => answer.error === 'invalid_grant').length, 7);
  assert.equal(await ask(db, 'SELECT count(*)::int FROM grownext.session WHERE user_id = $1', user), 1);
});

test('a login link reaches its user by an event, and its token is nowhere on the way', async () => {
  await makeRole('account_clients_mailer', 'grownext_service');
  await db.query(`
    CREATE SCHEMA mail AUTHORIZATION account_clients_mailer;
    SELECT grownext.queue_define('mail');
    SELECT grownext.event_route('login_link.created', 'mail');
    SET SESSION AUTHORIZATION account_clients_mailer;
    CREATE TABLE mail.sent (address text, token text);
    CREATE FUNCTION mail.send(payload jsonb) RETURNS void LANGUAGE sql AS
      'INSERT INTO mail.sent SELECT email, token FROM grownext.login_link_deliver((payload #>> ''{data,login_link_id}'')::uuid)';
    RESET SESSION AUTHORIZATION;`);
  const user = await makeUser();
  const token = await ask(db, 'SELECT grownext.login_link_create($1)', `user${users}@example.com`);
  const decoy = await ask(db, 'SELECT grownext.login_link_create($1)', 'nobody@example.com');
  // in the queue before it is delivered
  const waiting = await db.query('SELECT payload FROM _grownext.queue_job ORDER BY id');
  assert.equal(waiting.rows.length, 2);
  assert.deepEqual(Object.keys(waiting.rows[0].payload.data), Object.keys(waiting.rows[1].payload.data), 'of nobody as of somebody');
  assert.ok(!JSON.stringify(waiting.rows).includes(token) && !JSON.stringify(waiting.rows).includes('@'), 'neither token nor address');
  await db.query(`SET SESSION AUTHORIZATION account_clients_mailer`);
  await db.query(`SELECT grownext.queue_handle('mail', 'mail.send(jsonb)')`);
  await db.query('RESET SESSION AUTHORIZATION');

  const deadline = Date.now() + 30000;
  while ((await ask(db, 'SELECT count(*)::int FROM _grownext.queue_done')) < 2) {
    assert.ok(Date.now() < deadline, 'delivered in time');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const sent = await db.query('SELECT * FROM mail.sent');
  assert.deepEqual(sent.rows, [{ address: `user${users}@example.com`, token }], 'one mail, to the user');
  await db.query('TRUNCATE mail.sent');

  // every table of the platform, and the log
  const { rows: tables } = await db.query(`
    SELECT c.oid::regclass::text AS name FROM pg_class AS c
     WHERE c.relkind IN ('r', 'v') AND c.relnamespace IN ('grownext'::regnamespace, '_grownext'::regnamespace, 'grownext_audit'::regnamespace)`);
  assert.ok(tables.length > 20);
  for (const { name } of tables) {
    for (const secret of [token, decoy]) {
      assert.equal(await ask(db, `SELECT count(*)::int FROM ${name} AS t WHERE strpos(t::text, $1) > 0`, secret), 0, name);
    }
  }
  const answer = await ask(db, 'SELECT grownext.login_link_redeem($1)', token);
  assert.equal(jose.decodeJwt(answer.access_token).sub, user);
});

test('a user signs in by a link, turns on a second factor and steps up', async () => {
  await makeUser();
  await makeRole('account_clients_app', 'grownext_user');
  const app = new pg.Client({ database, user: 'account_clients_app' });
  await app.connect();
  const as = async (token, sql, ...values) => {
    await app.query('BEGIN');
    try {
      await app.query('SELECT grownext.authenticate($1)', [token]);
      return await ask(app, sql, ...values);
    } finally {
      await app.query('COMMIT');
    }
  };
  const code = (promise) => promise.then(() => 'none', (error) => error.code);
  try {
    const link = await ask(db, 'SELECT grownext.login_link_create($1)', `user${users}@example.com`);
    const weak = await ask(app, 'SELECT grownext.login_link_redeem($1)', link);
    assert.equal(jose.decodeJwt(weak.access_token).acr, 'aal1');
    const needed = "SELECT grownext.require_step_up('aal2', '5 minutes')";
    assert.equal(await code(as(weak.access_token, needed)), 'NX015');

    const factor = await as(weak.access_token, 'SELECT grownext.totp_enroll(grownext.current_user_id())');
    const strong = await as(weak.access_token, 'SELECT grownext.session_step_up($1)', authenticator(factor.uri));
    const keys = jose.createLocalJWKSet(await ask(app, 'SELECT grownext.jwks()'));
    const { payload } = await jose.jwtVerify(strong.access_token, keys, { issuer, audience: 'my-api', typ: 'at+jwt' });
    assert.equal(payload.acr, 'aal2');
    assert.deepEqual(payload.amr, ['email', 'otp', 'mfa']);
    assert.equal(payload.sid, jose.decodeJwt(weak.access_token).sid);
    assert.equal(await code(as(strong.access_token, needed)), 'none');
    assert.equal(await code(as(weak.access_token, needed)), 'NX015', 'the older token is what it was');
    const refreshed = await ask(app, 'SELECT grownext.session_refresh($1)', weak.refresh_token);
    assert.equal(jose.decodeJwt(refreshed.access_token).acr, 'aal2');
  } finally {
    await app.end();
  }
});
