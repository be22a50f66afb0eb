// Tokens, judged by JOSE libraries that are not ours; and what several open connections
// see when keys rotate and sessions end.
import assert from 'node:assert/strict';
import { createPublicKey, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as jose from 'jose';
import jsonwebtoken from 'jsonwebtoken';
import pg from 'pg';

const issuer = 'https://auth.example.com';
const audience = 'my-api';
const database = 'token_clients';
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

async function code(promise) {
  return promise.then(() => 'none', (error) => error.code);
}

const publicKeys = async (purpose = null) => ask(db, 'SELECT grownext.jwks($1)', purpose);
const mint = async (client = db, purpose = 'access') =>
  ask(client, 'SELECT grownext.jwt_mint($1, $2, NULL, NULL, $3)', 'ann', { scope: 'read' }, purpose);
const inspect = async (token, client = db) =>
  (await client.query('SELECT active, error FROM grownext.jwt_inspect($1)', [token])).rows[0];

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
  await db.query('SELECT * FROM grownext.setup($1, $2)', [issuer, [audience, 'other-api']]);
  pool = new pg.Pool({ database, max: 16 });
});

after(async () => {
  await pool?.end();
  await db?.end();
  if (directory) rmSync(directory, { recursive: true });
});

test('jose verifies an access token through a remote JWK Set', async (t) => {
  let requests = 0;
  const gateway = createServer(async (request, response) => {
    requests++;
    response.setHeader('content-type', 'application/jwk-set+json');
    response.end(JSON.stringify(await publicKeys()));
  });
  await new Promise((resolve) => gateway.listen(0, '127.0.0.1', resolve));
  t.after(() => gateway.close());
  const keys = jose.createRemoteJWKSet(new URL(`http://127.0.0.1:${gateway.address().port}/`), {
    cooldownDuration: 0,
  });

  const user = await ask(db, "SELECT grownext.user_create('jose@example.com')");
  const session = await ask(db, 'SELECT grownext.session_create($1)', user);
  const options = { issuer, audience, typ: 'at+jwt', algorithms: ['ES256'] };
  const { payload, protectedHeader } = await jose.jwtVerify(session.access_token, keys, options);
  assert.equal(payload.sub, user);
  assert.equal(payload.sid, session.session_id);
  assert.equal(payload.role, 'grownext_user');
  assert.equal(payload.exp - payload.iat, session.expires_in);
  assert.match(protectedHeader.kid, /^[A-Za-z0-9_-]{43}$/);
  assert.equal(requests, 1);
  await assert.rejects(jose.jwtVerify(session.access_token, keys, { ...options, audience: 'other' }), {
    code: 'ERR_JWT_CLAIM_VALIDATION_FAILED',
  });

  // a key that jose has not seen yet is fetched
  await db.query('SELECT grownext.key_rotate(force => true)');
  await jose.jwtVerify(await mint(), keys, options);
  assert.equal(requests, 2);
});

test('the kid is the thumbprint that jose computes', async () => {
  const { keys } = await publicKeys();
  assert.ok(keys.length > 0);
  for (const key of keys) {
    assert.equal(await jose.calculateJwkThumbprint(key), key.kid);
    assert.equal(key.d, undefined);
  }
});

for (const alg of ['ES256', 'ES384', 'ES512']) {
  test(`${alg}: our tokens verify in jose and jsonwebtoken, theirs verify here`, async () => {
    const purpose = `t_${alg.toLowerCase()}`;
    await db.query('SELECT grownext.key_create($1, $2)', [alg, purpose]);
    await db.query('SELECT grownext.key_rotate($1)', [purpose]);
    const ours = await mint(db, purpose);
    const [jwk] = (await publicKeys(purpose)).keys;
    assert.equal(jwk.alg, alg);
    await jose.jwtVerify(ours, await jose.importJWK(jwk, alg), { issuer, audience, typ: 'JWT' });
    const key = createPublicKey({ key: jwk, format: 'jwk' });
    assert.equal(jsonwebtoken.verify(ours, key, { algorithms: [alg], issuer, audience }).sub, 'ann');

    const { publicKey, privateKey } = await jose.generateKeyPair(alg, { extractable: true });
    const theirJwk = { ...(await jose.exportJWK(publicKey)), kid: 'theirs', alg, use: 'sig' };
    const byJose = await new jose.SignJWT({ scope: 'read' }).setProtectedHeader({ alg, kid: 'theirs' }).sign(privateKey);
    const byJsonwebtoken = jsonwebtoken.sign({ scope: 'read' }, await jose.exportPKCS8(privateKey), { algorithm: alg, keyid: 'theirs' });
    for (const token of [byJose, byJsonwebtoken]) {
      const { rows } = await db.query('SELECT valid, error, payload FROM grownext.jws_verify($1, $2)', [token, { keys: [theirJwk] }]);
      assert.deepEqual([rows[0].valid, rows[0].error], [true, null]);
      assert.equal(JSON.parse(rows[0].payload).scope, 'read');
    }
    assert.equal(await ask(db, 'SELECT grownext.jwk_thumbprint($1)', theirJwk), await jose.calculateJwkThumbprint(theirJwk));
  });
}

test('what jose can forge is refused, as a row', async () => {
  const { keys } = await publicKeys('access');
  const jwk = keys.at(-1);
  const claims = () =>
    new jose.SignJWT({ scope: 'admin', client_id: 'x' }).setIssuer(issuer).setAudience(audience).setSubject('root').setIssuedAt().setExpirationTime('1h').setJti('1');
  const header = { typ: 'at+jwt', kid: jwk.kid };
  const own = await jose.generateKeyPair('ES256', { extractable: true });
  const ownJwk = await jose.exportJWK(own.publicKey);
  const rsa = await jose.generateKeyPair('RS256');
  const pem = createPublicKey({ key: jwk, format: 'jwk' }).export({ type: 'spki', format: 'pem' });
  const secret = (bytes) => Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes);
  const none = new jose.UnsecuredJWT({ scope: 'admin' }).setIssuer(issuer).setAudience(audience).setSubject('root').setIssuedAt().setExpirationTime('1h').encode();
  const forgeries = {
    'our kid, another key': await claims().setProtectedHeader({ ...header, alg: 'ES256' }).sign(own.privateKey),
    'our kid, another algorithm': await claims().setProtectedHeader({ ...header, alg: 'RS256' }).sign(rsa.privateKey),
    'HMAC with our public key': await claims().setProtectedHeader({ ...header, alg: 'HS256' }).sign(secret(pem)),
    'HMAC with our JWK': await claims().setProtectedHeader({ ...header, alg: 'HS256' }).sign(secret(JSON.stringify(jwk))),
    'an embedded key': await claims().setProtectedHeader({ ...header, alg: 'ES256', jwk: ownJwk }).sign(own.privateKey),
    'an embedded key alone': await claims().setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', jwk: ownJwk }).sign(own.privateKey),
    'jku': await claims().setProtectedHeader({ ...header, alg: 'ES256', jku: 'http://127.0.0.1:9/jwks' }).sign(own.privateKey),
    'x5u': await claims().setProtectedHeader({ ...header, alg: 'ES256', x5u: 'http://127.0.0.1:9/x5u' }).sign(own.privateKey),
    'a kid of their own': await claims().setProtectedHeader({ ...header, alg: 'ES256', kid: '../../dev/null' }).sign(own.privateKey),
    'unsecured': none,
    'an encrypted one': await new jose.EncryptJWT({ scope: 'admin' }).setProtectedHeader({ alg: 'dir', enc: 'A256GCM' }).encrypt(randomBytes(32)),
  };
  for (const spelling of ['none', 'None', 'NONE', 'nOnE'])
    forgeries[`alg ${spelling}`] = [
      Buffer.from(JSON.stringify({ ...header, alg: spelling })).toString('base64url'), none.split('.')[1], ''].join('.');
  for (const [name, token] of Object.entries(forgeries)) {
    const { active, error } = await inspect(token);
    assert.equal(active, false, name);
    assert.ok(error, name);
    assert.equal(await code(db.query('SELECT grownext.jwt_verify($1)', [token])), 'NX011', name);
  }
});

test('a revocation reaches every open connection with its next statement', async (t) => {
  const other = await connect(database);
  t.after(() => other.end());
  const user = await ask(db, "SELECT grownext.user_create('revoked@example.com')");
  const session = await ask(db, 'SELECT grownext.session_create($1)', user);
  const bind = (client) => code(client.query('SELECT grownext.authenticate($1)', [session.access_token]));
  assert.equal(await bind(other), 'none');
  // inside a transaction whose snapshot is older than the revocation, too
  await other.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
  assert.equal(await bind(other), 'none');
  assert.equal(await ask(db, 'SELECT grownext.session_revoke($1)', session.session_id), true);
  assert.equal(await bind(other), 'NX013');
  await other.query('ROLLBACK');
  assert.equal(await bind(other), 'NX013');
  assert.deepEqual(await inspect(session.access_token, other), { active: true, error: null });

  await other.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
  assert.equal((await inspect(session.access_token, other)).active, true);
  const kid = JSON.parse(Buffer.from(session.access_token.split('.')[0], 'base64url')).kid;
  await db.query('SELECT grownext.key_revoke($1, $2)', [kid, 'stolen']);
  assert.equal((await inspect(session.access_token, other)).error, 'revoked_key');
  await other.query('ROLLBACK');
  assert.equal((await inspect(session.access_token, other)).error, 'revoked_key');
  // and one that is undone never happened
  await db.query('SELECT grownext.key_rotate()');
  const token = await mint();
  await db.query('BEGIN');
  await db.query("SELECT grownext.key_revoke(kid, 'by mistake') FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active'");
  assert.equal((await inspect(token, other)).active, true);
  assert.equal((await inspect(token)).error, 'revoked_key');
  await db.query('ROLLBACK');
  assert.equal((await inspect(token)).active, true);
});

test('rotation under load: no valid token is refused, none of a revoked key accepted', async () => {
  const until = Date.now() + 3000;
  let refused = 0, minted = 0, rotations = 0;
  const work = async () => {
    const client = await pool.connect();
    while (Date.now() < until) {
      const token = await mint(client);
      minted++;
      if (!(await inspect(token, pool)).active || !(await inspect(token, client)).active) refused++;
    }
    client.release();
  };
  const rotate = async () => {
    while (Date.now() < until) {
      await pool.query('SELECT grownext.key_rotate(force => true)');
      rotations++;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  await Promise.all([...Array(6).fill().map(work), rotate()]);
  assert.ok(minted > 50 && rotations > 5, `${minted} tokens, ${rotations} rotations`);
  assert.equal(refused, 0);

  const token = await mint();
  const kid = JSON.parse(Buffer.from(token.split('.')[0], 'base64url')).kid;
  await db.query('SELECT grownext.key_revoke($1, $2)', [kid, 'stolen']);
  const answers = await Promise.all(Array(32).fill().map(() => inspect(token, pool)));
  assert.deepEqual([...new Set(answers.map((a) => a.error))], ['revoked_key']);
  await db.query('SELECT grownext.key_rotate()');
});

test('50 sessions with 4 tabs each: nobody is logged out, and a replay ends its session', async () => {
  const user = await ask(db, "SELECT grownext.user_create('tabs@example.com')");
  const refresh = async (token) => ask(pool, 'SELECT grownext.session_refresh($1)', token);
  const first = await Promise.all(Array(50).fill().map(() => ask(pool, 'SELECT grownext.session_create($1)', user)));
  let current = first.map((s) => s.refresh_token);
  for (let round = 0; round < 3; round++) {
    const answers = await Promise.all(current.map((token) => Promise.all([1, 2, 3, 4].map(() => refresh(token)))));
    for (const tabs of answers) {
      assert.ok(tabs.every((a) => a.access_token), JSON.stringify(tabs.find((a) => a.error)));
      assert.equal(new Set(tabs.map((a) => a.refresh_token)).size, 1, 'every tab gets the same token');
    }
    current = answers.map((tabs) => tabs[0].refresh_token);
  }
  const replay = await refresh(first[0].refresh_token);
  assert.equal(replay.error, 'invalid_grant');
  assert.equal((await refresh(current[0])).error, 'invalid_grant', 'its family is revoked');
  assert.ok((await refresh(current[1])).access_token, 'nobody else is');
  const { rows } = await db.query("SELECT count(*)::int AS live FROM grownext.session WHERE user_id = $1 AND revoked_at IS NULL", [user]);
  assert.equal(rows[0].live, 49);
});

// What another program does with entitlements in a token: Node's own base64url, and the
// names by their place.
test('entitlements in a token are bits over the catalogue', async () => {
  const tenant = '00000000-0000-4000-8000-00000000c0de';
  const names = (ent, features) => {
    const bits = Buffer.from(ent, 'base64url');
    return features.filter((_, i) => (bits[i >> 3] >> (i & 7)) & 1);
  };
  await db.query("SELECT grownext.product_define('bits', 'Bits')");
  await db.query("SELECT grownext.feature_define('bits.f' || g, 'bits', 'boolean') FROM generate_series(0, 19) AS g");
  await db.query("SELECT grownext.tenant_create('bits', 'Bits', id => $1)", [tenant]);
  await db.query("SELECT grownext.entitlement_grant($1, f, 'true') FROM unnest('{bits.f1,bits.f8,bits.f19}'::text[]) AS f", [tenant]);
  await db.query(`SELECT grownext.token_profile_define('access', '{"entitlements": true}')`);
  try {
    const token = await ask(db, 'SELECT grownext.jwt_mint($1, $2)', 'ann', { tenant_id: tenant });
    const { payload } = await jose.jwtVerify(token, jose.createLocalJWKSet(await publicKeys()), { issuer, audience });
    const catalogue = await ask(db, 'SELECT grownext.entitlement_catalogue()');
    assert.equal(payload.entc, catalogue.entc);
    assert.deepEqual(names(payload.ent, catalogue.features), ['bits.f1', 'bits.f8', 'bits.f19']);
    const state = async () => (await db.query('SELECT * FROM grownext.entitlement_claims_check($1)', [payload])).rows[0];
    assert.deepEqual(await state(), { current: true, features: ['bits.f1', 'bits.f8', 'bits.f19'] });
    await db.query("SELECT grownext.entitlement_block($1, 'bits.f8', 'test')", [tenant]);
    assert.equal((await state()).current, false);
    // another session says the same of another token
    const other = await pool.query('SELECT grownext.entitlement_claims($1) AS now', [tenant]);
    assert.deepEqual(names(other.rows[0].now.ent, catalogue.features), ['bits.f1', 'bits.f19']);
    assert.notEqual(other.rows[0].now.entv, payload.entv);
  } finally {
    await db.query("SELECT grownext.token_profile_define('access', '{}')");
  }
});
