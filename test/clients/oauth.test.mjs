// The token endpoint, introspection and revocation, judged by an OAuth client library that
// is not ours, over HTTP; and what many connections see when they use them at once.
import assert from 'node:assert/strict';
import { randomBytes, webcrypto } from 'node:crypto';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import * as jose from 'jose';
import pg from 'pg';

globalThis.crypto ??= webcrypto; // Node 18 has it under this name only
const oauth = await import('oauth4webapi');
const database = 'oauth_clients';
const audience = 'my-api';
const insecure = { [oauth.allowInsecureRequests]: true }; // plain HTTP on the loopback
const exchange = 'urn:ietf:params:oauth:grant-type:token-exchange';
const accessType = 'urn:ietf:params:oauth:token-type:access_token';
let db, pool, gateway, as;

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

const code = (promise) => promise.then(() => 'none', (error) => error.code);
const bind = (client, token) => code(client.query('SELECT grownext.authenticate($1)', [token]));

// a call with named arguments, as whoever comes through a gateway
async function call(name, parameters, role = 'grownext_anon') {
  const names = Object.keys(parameters);
  const client = await pool.connect();
  try {
    await client.query(`BEGIN; SET LOCAL ROLE ${role}`);
    const { rows } = await client.query(
      `SELECT grownext.${name}(${names.map((n, i) => `${pg.escapeIdentifier(n)} => $${i + 1}`).join(', ')}) AS answer`,
      Object.values(parameters));
    await client.query('COMMIT');
    return rows[0].answer;
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}
const token = (parameters) => call('token', parameters);

async function serve(request, response) {
  const path = new URL(request.url, 'http://localhost').pathname;
  let body = '', answer, status = 200;
  for await (const chunk of request) body += chunk;
  if (path === '/jwks') answer = await ask(pool, 'SELECT grownext.jwks()');
  else {
    const parameters = Object.fromEntries(new URLSearchParams(body));
    if (path === '/revoke') {
      delete parameters.client_id;
      delete parameters.client_secret;
    }
    answer = await call({ '/token': 'token', '/introspect': 'token_introspect', '/revoke': 'token_revoke' }[path], parameters);
    if (answer?.error) status = answer.error === 'invalid_client' ? 401 : 400;
  }
  response.writeHead(status, { 'content-type': path === '/jwks' ? 'application/jwk-set+json' : 'application/json', 'cache-control': 'no-store' });
  response.end(path === '/revoke' ? '' : JSON.stringify(answer));
}

async function createClient(name, scopes, options = {}) {
  const { rows } = await db.query('SELECT * FROM grownext.client_create($1, $2, $3)', [name, scopes, options]);
  return rows[0];
}

before(async () => {
  const server = await connect('postgres');
  await server.query(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`);
  await server.query(`CREATE DATABASE ${database}`);
  await server.end();
  gateway = createServer((request, response) => serve(request, response).catch((error) => {
    response.writeHead(500);
    response.end(error.message);
  }));
  await new Promise((resolve) => gateway.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${gateway.address().port}`;
  as = { issuer, token_endpoint: `${issuer}/token`, introspection_endpoint: `${issuer}/introspect`, revocation_endpoint: `${issuer}/revoke`, jwks_uri: `${issuer}/jwks` };
  db = await connect(database);
  await db.query('CREATE EXTENSION grownext');
  await db.query('SELECT * FROM grownext.setup($1, $2)', [issuer, [audience, 'other-api']]);
  pool = new pg.Pool({ database, max: 24 });
});

after(async () => {
  gateway?.close();
  await pool?.end();
  await db?.end();
});

const protectedRequest = (accessToken) => new Request('http://127.0.0.1/', { headers: { authorization: `Bearer ${accessToken}` } });

test('oauth4webapi: client credentials with a secret, introspection, revocation', async () => {
  const { client_id, client_secret } = await createClient('secret', ['read', 'write']);
  const client = { client_id }, authenticate = oauth.ClientSecretPost(client_secret);
  const answer = await oauth.processClientCredentialsResponse(as, client,
    await oauth.clientCredentialsGrantRequest(as, client, authenticate, { scope: 'read' }, insecure));
  assert.equal(answer.scope, 'read');
  assert.equal(answer.expires_in, 900);
  // RFC 9068, as it understands it
  const claims = await oauth.validateJwtAccessToken(as, protectedRequest(answer.access_token), audience, insecure);
  assert.equal(claims.sub, client_id);
  assert.equal(claims.client_id, client_id);

  const introspect = async () => oauth.processIntrospectionResponse(as, client,
    await oauth.introspectionRequest(as, client, authenticate, answer.access_token, insecure));
  assert.deepEqual([(await introspect()).active, (await introspect()).client_id], [true, client_id]);
  await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, authenticate, answer.access_token, insecure));
  assert.deepEqual(await introspect(), { active: false });
  assert.equal(await bind(pool, answer.access_token), 'NX013');

  const refused = async (request, error, status) => assert.rejects(
    async () => oauth.processClientCredentialsResponse(as, client, await request),
    (e) => e.error === error && e.status === status);
  await refused(oauth.clientCredentialsGrantRequest(as, client, authenticate, { scope: 'admin' }, insecure), 'invalid_scope', 400);
  await refused(oauth.clientCredentialsGrantRequest(as, client, authenticate, { resource: 'evil' }, insecure), 'invalid_target', 400);
  await assert.rejects(async () => oauth.processClientCredentialsResponse(as, client,
    await oauth.clientCredentialsGrantRequest(as, client, oauth.ClientSecretPost('wrong'), {}, insecure)),
    (e) => e.error === 'invalid_client' || e.status === 401);
});

test('oauth4webapi: private_key_jwt, and an assertion counts once', async () => {
  const { publicKey, privateKey } = await webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign', 'verify']);
  const jwk = { ...(await jose.exportJWK(publicKey)), alg: 'ES256', use: 'sig', kid: 'k1' };
  const { client_id, client_secret } = await createClient('key', ['read'], { jwks: { keys: [jwk] } });
  assert.equal(client_secret, null);
  const client = { client_id };
  let sent;
  const spy = (url, options) => {
    sent = Object.fromEntries(new URLSearchParams(options.body));
    return fetch(url, options);
  };
  const answer = await oauth.processClientCredentialsResponse(as, client,
    await oauth.clientCredentialsGrantRequest(as, client, oauth.PrivateKeyJwt({ key: privateKey, kid: 'k1' }), {}, { ...insecure, [oauth.customFetch]: spy }));
  assert.equal((await oauth.validateJwtAccessToken(as, protectedRequest(answer.access_token), audience, insecure)).sub, client_id);
  assert.ok(sent.client_assertion);
  assert.equal((await token(sent)).error, 'invalid_client', 'the same assertion again');
});

test('assertions made with jose: what is taken and what is not', async () => {
  const { publicKey, privateKey } = await jose.generateKeyPair('ES256');
  const other = await jose.generateKeyPair('ES256');
  const jwk = { ...(await jose.exportJWK(publicKey)), alg: 'ES256', kid: 'k1' };
  const { client_id } = await createClient('assertions', ['read'], { jwks: { keys: [jwk] } });
  const now = Math.floor(Date.now() / 1000);
  const good = () => ({ iss: client_id, sub: client_id, aud: as.issuer, iat: now, exp: now + 60, jti: randomBytes(12).toString('hex') });
  const sign = (claims, header = {}, key = privateKey) => new jose.SignJWT(claims).setProtectedHeader({ alg: 'ES256', kid: 'k1', ...header }).sign(key);
  const present = (client_assertion, more = {}) => token({
    grant_type: 'client_credentials', client_assertion, client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer', ...more });

  for (const [claim, change] of Object.entries({
    'for the issuer': {}, 'for the token endpoint': { aud: as.token_endpoint }, 'for several': { aud: ['x', as.issuer] }, 'without iat': { iat: undefined },
    'with nbf': { nbf: now }, 'for five minutes': { exp: now + 300 } }))
    assert.ok((await present(await sign({ ...good(), ...change }))).access_token, claim);
  assert.ok((await present(await sign(good()), { client_id })).access_token, 'with client_id beside it');
  assert.ok((await present(await sign(good(), { typ: 'client-authentication+jwt' }))).access_token, 'with its own type');

  const refused = async (assertion, claim, more) => assert.deepEqual(await present(assertion, more),
    { error: 'invalid_client', error_description: 'client authentication failed' }, claim);
  for (const [claim, change] of Object.entries({
    'for somebody else': { aud: 'https://elsewhere.example' }, 'for nobody': { aud: undefined }, 'for an object': { aud: { [as.issuer]: 1 } }, 'of another issuer': { iss: 'x' },
    'of another subject': { sub: 'gnc_AAAAAAAAAAAAAAAAAAAAAA' }, 'without a subject': { sub: undefined }, 'expired': { exp: now - 60 }, 'for an hour': { exp: now + 3600 }, 'for ever': { exp: undefined },
    'exp as a string': { exp: `${now + 60}` }, 'exp null': { exp: null }, 'from the future': { nbf: now + 120 }, 'issued in the future': { iat: now + 120 }, 'iat as a string': { iat: 'now' },
    'without jti': { jti: undefined }, 'an empty jti': { jti: '' }, 'a number as jti': { jti: 7 } }))
    await refused(await sign({ ...good(), ...change }), claim);
  await refused(await sign(good(), {}, other.privateKey), 'by another key');
  await refused(await sign(good(), { kid: 'k2' }), 'by an unknown kid');
  await refused(await sign(good(), { typ: 'at+jwt' }), 'as an access token');
  await refused(new jose.UnsecuredJWT(good()).encode(), 'unsecured');
  await refused(await new jose.SignJWT(good()).setProtectedHeader({ alg: 'HS256', kid: 'k1' }).sign(Buffer.from(JSON.stringify(jwk))), 'by HMAC with the public key');
  await refused((await sign(good())).slice(0, -4), 'cut short');
  for (const assertion of ['x', 'a.b.c', '..', '.'.repeat(1000), 'x'.repeat(60000), Buffer.from('{"sub":"\u0000"}').toString('base64url')]) await refused(assertion, assertion.slice(0, 20));
  const [header, , signature] = (await sign(good())).split('.');
  for (const payload of ['', '[]', '"x"', 'null', '{"sub": 1}', '{"sub":"a","sub":"b"}', '{"sub":"\\u0000"}', `{"sub":"${client_id}","exp":1e400}`, '{'.repeat(5000)])
    await refused([header, Buffer.from(payload).toString('base64url'), signature].join('.'), payload.slice(0, 20));
  await refused(await sign(good()), 'in another client\'s name', { client_id: 'gnc_AAAAAAAAAAAAAAAAAAAAAA' });
  assert.equal((await present(await sign(good()), { client_secret: 'x' })).error, 'invalid_request');
  assert.equal((await present(await sign(good()), { client_assertion_type: 'x' })).error, 'invalid_request');

  // of eight at once, one
  const assertion = await sign(good());
  const answers = await Promise.all(Array(8).fill().map(() => present(assertion)));
  assert.equal(answers.filter((a) => a.access_token).length, 1);

  // keys are replaced by the client's administrator: the old one is out at once
  await db.query('SELECT grownext.client_update($1, $2)', [client_id, { jwks: { ...(await jose.exportJWK(other.publicKey)), alg: 'ES256' } }]);
  await refused(await sign(good()), 'by the old key');
  assert.ok((await present(await sign(good(), {}, other.privateKey))).access_token, 'by the new one');
});

test('oauth4webapi: refresh, down-scoping, impersonation', async () => {
  const { client_id, client_secret } = await createClient('app', ['read', 'write'], { grants: ['refresh_token', exchange] });
  const client = { client_id }, authenticate = oauth.ClientSecretPost(client_secret);
  const user = await ask(db, "SELECT grownext.user_create('refresh@example.com')");
  const session = await ask(db, 'SELECT grownext.session_create($1, attributes => $2)', user, { client_id, scope: 'read write' });
  const fresh = await oauth.processRefreshTokenResponse(as, client,
    await oauth.refreshTokenGrantRequest(as, client, authenticate, session.refresh_token, insecure));
  assert.notEqual(fresh.refresh_token, session.refresh_token);
  assert.equal((await oauth.validateJwtAccessToken(as, protectedRequest(fresh.access_token), audience, insecure)).sub, user);

  const narrow = await oauth.processGenericTokenEndpointResponse(as, client, await oauth.genericTokenEndpointRequest(as, client, authenticate, exchange,
    { subject_token: fresh.access_token, subject_token_type: accessType, scope: 'read', audience: 'other-api' }, insecure));
  assert.equal(narrow.issued_token_type, accessType);
  assert.equal(narrow.refresh_token, undefined);
  const claims = await oauth.validateJwtAccessToken(as, protectedRequest(narrow.access_token), 'other-api', insecure);
  assert.deepEqual([claims.sub, claims.scope, claims.sid], [user, 'read', session.session_id]);

  const staff = await ask(db, "SELECT grownext.user_create('staff@example.com')");
  const actor = await ask(db, 'SELECT grownext.session_create($1, attributes => $2)', staff, { scope: 'impersonate read' });
  const acting = await oauth.processGenericTokenEndpointResponse(as, client, await oauth.genericTokenEndpointRequest(as, client, authenticate, exchange,
    { subject_token: user, subject_token_type: 'urn:grownext:token-type:user', actor_token: actor.access_token, actor_token_type: accessType, reason: 'cannot sign in', ticket: 'T-9' }, insecure));
  assert.ok(acting.expires_in <= 900);
  const acted = await oauth.validateJwtAccessToken(as, protectedRequest(acting.access_token), audience, insecure);
  assert.deepEqual([acted.sub, acted.act.sub, acted.scope], [user, staff, 'read']);
  assert.equal(await bind(pool, acting.access_token), 'none');
  await db.query('SELECT grownext.session_revoke($1)', [actor.session_id]);
  assert.equal(await bind(pool, acting.access_token), 'NX013', 'the actor signs out');
});

test('50 sessions with 4 tabs each at the token endpoint: nobody is logged out, and a replay ends its session', async () => {
  const user = await ask(db, "SELECT grownext.user_create('tabs@example.com')");
  const refresh = (refresh_token) => token({ grant_type: 'refresh_token', refresh_token });
  const first = await Promise.all(Array(50).fill().map(() => ask(pool, 'SELECT grownext.session_create($1)', user)));
  let current = first.map((s) => s.refresh_token);
  for (let round = 0; round < 3; round++) {
    const answers = await Promise.all(current.map((t) => Promise.all([1, 2, 3, 4].map(() => refresh(t)))));
    for (const tabs of answers) {
      assert.ok(tabs.every((a) => a.access_token), JSON.stringify(tabs.find((a) => a.error)));
      assert.equal(new Set(tabs.map((a) => a.refresh_token)).size, 1, 'every tab gets the same token');
    }
    current = answers.map((tabs) => tabs[0].refresh_token);
  }
  assert.equal((await refresh(first[0].refresh_token)).error, 'invalid_grant');
  assert.equal(await ask(db, 'SELECT revoke_reason FROM grownext.session WHERE id = $1', first[0].session_id), 'refresh token reuse', 'there after the failing call');
  assert.equal((await refresh(current[0])).error, 'invalid_grant', 'its family is revoked');
  assert.equal(await ask(db, 'SELECT count(*)::int FROM grownext.session WHERE user_id = $1 AND revoked_at IS NULL', user), 49, 'nobody else is');
});

test('sessions are revoked while their tabs refresh: whoever is told so never gets a token again', async () => {
  const user = await ask(db, "SELECT grownext.user_create('storm@example.com')");
  const sessions = await Promise.all(Array(12).fill().map(() => ask(pool, 'SELECT grownext.session_create($1)', user)));
  const late = [];
  await Promise.all(sessions.map(async (session) => {
    let ended = false;
    const tab = async () => {
      for (let refresh_token = session.refresh_token, round = 0; round < 20; round++) {
        const told = ended;
        const answer = await token({ grant_type: 'refresh_token', refresh_token });
        if (told && answer.access_token) late.push(session.session_id);
        if (answer.error) return answer.error_description;
        refresh_token = answer.refresh_token;
      }
      return 'never refused';
    };
    const revoke = async () => {
      await ask(pool, 'SELECT grownext.session_revoke($1)', session.session_id);
      ended = true;
    };
    const [description] = await Promise.all([tab(), revoke()]);
    assert.equal(description, 'the session has ended');
  }));
  assert.deepEqual(late, []);
});

test('an access token that is revoked is refused by every open connection with its next statement', async (t) => {
  const { client_id, client_secret } = await createClient('open', ['read']);
  const grant = async () => (await token({ grant_type: 'client_credentials', client_id, client_secret })).access_token;
  const others = await Promise.all(Array(5).fill().map(() => connect(database)));
  t.after(() => Promise.all(others.map((o) => o.end())));
  const one = await grant(), two = await grant();
  const answers = (tokenText) => Promise.all(others.map((o) => bind(o, tokenText)));
  await others[0].query('BEGIN ISOLATION LEVEL REPEATABLE READ');
  assert.deepEqual(new Set([...(await answers(one)), ...(await answers(two))]), new Set(['none']));
  await call('token_revoke', { token: one });
  assert.deepEqual(new Set(await answers(one)), new Set(['NX013']));
  await others[0].query('ROLLBACK');
  assert.deepEqual(new Set(await answers(two)), new Set(['none']));
  // undone, it never happened
  await db.query('BEGIN');
  await db.query('SELECT grownext.client_disable($1)', [client_id]);
  assert.equal(await bind(db, two), 'NX013');
  await db.query('ROLLBACK');
  assert.deepEqual(new Set(await answers(two)), new Set(['none']));
  assert.equal(await bind(db, two), 'none');
  await db.query('SELECT grownext.client_disable($1)', [client_id]);
  assert.deepEqual(new Set(await answers(two)), new Set(['NX013']));
  // a session that its user moves to another tenant
  const user = await ask(db, "SELECT grownext.user_create('moves@example.com')");
  const tenant = await ask(db, "SELECT grownext.tenant_create('moves', 'Moves', owner_id => $1)", user);
  const session = await ask(db, 'SELECT grownext.session_create($1)', user);
  assert.deepEqual(new Set(await answers(session.access_token)), new Set(['none']));
  const moved = await ask(db, 'SELECT grownext.session_switch_tenant($1, $2)', session.session_id, tenant);
  assert.deepEqual(new Set(await answers(session.access_token)), new Set(['NX013']));
  assert.deepEqual(new Set(await answers(moved.access_token)), new Set(['none']));
  // one that a savepoint undoes was never let in for good
  await db.query('BEGIN; SAVEPOINT s');
  const phantom = await ask(db, 'SELECT grownext.session_create($1)', user);
  assert.equal(await bind(db, phantom.access_token), 'none');
  await db.query('ROLLBACK TO s');
  assert.equal(await bind(db, phantom.access_token), 'NX013');
  await db.query('ROLLBACK');
});

test('requests of one session do not wait for one another to note its use', async (t) => {
  const user = await ask(db, "SELECT grownext.user_create('uses@example.com')");
  const session = await ask(db, 'SELECT grownext.session_create($1)', user);
  await db.query("UPDATE _grownext.session_use SET used_at = used_at - interval '1 hour' WHERE session_id = $1", [session.session_id]);
  const [slow, quick] = await Promise.all([connect(database), connect(database)]);
  t.after(() => Promise.all([slow.end(), quick.end()]));
  await slow.query('BEGIN');
  assert.equal(await bind(slow, session.access_token), 'none');
  await quick.query("SET lock_timeout = '5s'");
  await quick.query('BEGIN');
  assert.equal(await bind(quick, session.access_token), 'none', 'another request of the session');
  await quick.query('COMMIT');
  assert.ok((await ask(quick, 'SELECT grownext.session_refresh($1)', session.refresh_token)).access_token, 'a refresh');
  assert.equal(await ask(quick, 'SELECT grownext.session_revoke($1)', session.session_id), true, 'a revocation');
  await slow.query('COMMIT');
  assert.ok(Date.now() - (await ask(db, 'SELECT used_at FROM _grownext.session_use WHERE session_id = $1', session.session_id)) < 600000);
});
