// Every algorithm, judged by JOSE libraries that are not ours; and what can be forged with
// them.
import assert from 'node:assert/strict';
import { createHmac, createPublicKey, randomBytes, randomUUID } from 'node:crypto';
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
const database = 'token_algorithms';
const symmetric = ['HS256', 'HS384', 'HS512'];
const asymmetric = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'ES256K', 'EdDSA'];
// what jsonwebtoken has not got
const unknownToJsonwebtoken = ['ES256K', 'EdDSA'];
let directory, db;

async function connect(name) {
  const client = new pg.Client({ database: name });
  await client.connect();
  return client;
}

// one value
async function ask(sql, ...values) {
  const { rows } = await db.query(sql, values);
  return Object.values(rows[0])[0];
}

const code = (promise) => promise.then(() => 'none', (error) => error.code);
const mint = (purpose = 'access', claims = { scope: 'read' }) =>
  ask('SELECT grownext.jwt_mint($1, $2, NULL, NULL, $3)', 'ann', claims, purpose);
const sign = (payload, jwk, header = {}) => ask('SELECT grownext.jws_sign($1, $2, $3)', Buffer.from(JSON.stringify(payload)), jwk, header);
const inspect = async (token, purpose = 'access') =>
  (await db.query('SELECT active, error, claims FROM grownext.jwt_inspect($1, purpose => $2)', [token, purpose])).rows[0];
const verify = async (token, jwk) =>
  (await db.query('SELECT valid, error, payload FROM grownext.jws_verify($1, $2)', [token, jwk])).rows[0];
const base64url = (text) => Buffer.from(text).toString('base64url');

before(async () => {
  db = await connect('postgres');
  if ((await ask("SELECT current_setting('grownext.master_key_file') || current_setting('grownext.master_key_command')")) === '') {
    directory = mkdtempSync(join(tmpdir(), 'gn-clients-'));
    const file = join(directory, 'master.key');
    writeFileSync(file, `test:${randomBytes(32).toString('base64')}\n`, { mode: 0o600 });
    await db.query(`ALTER SYSTEM SET grownext.master_key_file = '${file}'`);
    await db.query('SELECT pg_reload_conf()');
  }
  await db.query(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`);
  await db.query(`CREATE DATABASE ${database}`);
  await db.end();
  db = await connect(database);
  await db.query('CREATE EXTENSION grownext');
  await db.query('SELECT * FROM grownext.setup($1, $2)', [issuer, [audience]]);
});

after(async () => {
  await db?.end();
  if (directory) rmSync(directory, { recursive: true });
});

for (const alg of asymmetric) {
  test(`${alg}: a platform key's tokens verify in jose and jsonwebtoken`, async () => {
    const purpose = `t_${alg.toLowerCase()}`;
    await db.query('SELECT grownext.key_create($1, $2)', [alg, purpose]);
    await db.query('SELECT grownext.key_rotate($1)', [purpose]);
    const token = await mint(purpose);
    const { keys: [jwk] } = await ask('SELECT grownext.jwks($1)', purpose);
    assert.equal(jwk.alg, alg);
    assert.equal(jwk.kid, await jose.calculateJwkThumbprint(jwk));
    const { payload } = await jose.jwtVerify(token, await jose.importJWK(jwk, alg), { issuer, audience, typ: 'JWT', algorithms: [alg] });
    assert.equal(payload.sub, 'ann');
    if (!unknownToJsonwebtoken.includes(alg)) {
      const key = createPublicKey({ key: jwk, format: 'jwk' });
      assert.equal(jsonwebtoken.verify(token, key, { algorithms: [alg], issuer, audience }).scope, 'read');
    }
    // the first time, and out of the cache of those verified before
    for (let time = 0; time < 2; time++) {
      const { active, error, claims } = await inspect(token, purpose);
      assert.deepEqual([active, error, claims.jti], [true, null, payload.jti]);
    }
    assert.equal((await verify(token, { keys: [jwk] })).valid, true);
  });

  test(`${alg}: their tokens verify here, and ours with their keys there`, async () => {
    const { publicKey, privateKey } = await jose.generateKeyPair(alg, { extractable: true });
    const publicJwk = { ...(await jose.exportJWK(publicKey)), kid: 'theirs', alg, use: 'sig' };
    const privateJwk = { ...(await jose.exportJWK(privateKey)), kid: 'theirs', alg };
    const tokens = [await new jose.SignJWT({ scope: 'read' }).setProtectedHeader({ alg, kid: 'theirs' }).sign(privateKey)];
    if (!unknownToJsonwebtoken.includes(alg))
      tokens.push(jsonwebtoken.sign({ scope: 'read' }, await jose.exportPKCS8(privateKey), { algorithm: alg, keyid: 'theirs' }));
    const ours = await sign({ scope: 'read', exp: 4102444800 }, privateJwk, { typ: 'JWT' });
    tokens.push(ours);
    for (const token of tokens) {
      const { valid, error, payload } = await verify(token, { keys: [publicJwk] });
      assert.deepEqual([valid, error], [true, null]);
      assert.equal(JSON.parse(payload).scope, 'read');
      const changed = token.replace(/\.([^.]*)$/, (_, s) => `.${s.slice(0, 9)}${s[9] === 'A' ? 'B' : 'A'}${s.slice(10)}`);
      assert.equal((await verify(changed, publicJwk)).valid, false);
    }
    const { protectedHeader } = await jose.jwtVerify(ours, publicKey, { algorithms: [alg], typ: 'JWT' });
    assert.deepEqual(protectedHeader, { alg, kid: 'theirs', typ: 'JWT' });
    assert.equal(await ask('SELECT grownext.jwk_thumbprint($1)', publicJwk), await jose.calculateJwkThumbprint(publicJwk));
    // a private key is no key to verify with, a public one none to sign with
    assert.equal(await code(verify(ours, privateJwk)), '22023');
    assert.equal(await code(sign({}, publicJwk)), '22023');
  });
}

for (const alg of symmetric) {
  test(`${alg}: both ways with a secret, and never among the public keys`, async () => {
    const secret = randomBytes(64);
    const jwk = { kty: 'oct', k: secret.toString('base64url'), alg };
    const ours = await sign({ scope: 'read', exp: 4102444800 }, jwk);
    assert.equal((await jose.jwtVerify(ours, secret, { algorithms: [alg] })).payload.scope, 'read');
    assert.equal(jsonwebtoken.verify(ours, secret, { algorithms: [alg] }).scope, 'read');
    for (const token of [
      await new jose.SignJWT({ scope: 'read' }).setProtectedHeader({ alg }).sign(secret),
      jsonwebtoken.sign({ scope: 'read' }, secret, { algorithm: alg }),
      ours,
    ])
      assert.equal((await verify(token, jwk)).valid, true);
    assert.equal(await ask('SELECT grownext.jwk_thumbprint($1)', jwk), await jose.calculateJwkThumbprint(jwk));
    const short = { kty: 'oct', k: randomBytes(Number(alg.slice(2)) / 8 - 1).toString('base64url'), alg };
    assert.equal(await code(sign({}, short)), '22023');

    const purpose = `t_${alg.toLowerCase()}`;
    await db.query('SELECT grownext.key_create($1, $2)', [alg, purpose]);
    await db.query('SELECT grownext.key_rotate($1)', [purpose]);
    const token = await mint(purpose);
    assert.equal((await inspect(token, purpose)).active, true);
    assert.equal(jose.decodeProtectedHeader(token).alg, alg);
    assert.deepEqual((await ask('SELECT grownext.jwks($1)', purpose)).keys, []);
    assert.ok((await ask('SELECT grownext.jwks()')).keys.every((key) => key.kty !== 'oct'));
    const shown = await ask('SELECT public_jwk FROM grownext.signing_key WHERE purpose = $1', purpose);
    assert.deepEqual(Object.keys(shown).sort(), ['alg', 'kid', 'kty', 'use']);
  });
}

test('an RSA key of 3072 bits on request', async () => {
  await db.query(`SELECT grownext.key_create('RS256', 'large', ref => '{"bits": 3072}')`);
  const { keys: [jwk] } = await ask("SELECT grownext.jwks('large')");
  assert.equal(Buffer.from(jwk.n, 'base64url').length, 384);
  assert.equal(await code(db.query(`SELECT grownext.key_create('RS256', 'large', ref => '{"bits": 1024}')`)), '22023');
  assert.equal(await code(db.query(`SELECT grownext.key_create('ES256', 'large', ref => '{"bits": 3072}')`)), '22023');
});

// A listener that must hear nothing: what a header points at is nobody's business.
test('what can be forged is refused, as a row, and nobody calls anybody', async (t) => {
  let calls = 0;
  const trap = createServer((request, response) => { calls++; response.end('{}'); });
  await new Promise((resolve) => trap.listen(0, '127.0.0.1', resolve));
  t.after(() => trap.close());
  const url = `http://127.0.0.1:${trap.address().port}/jwks`;

  const kid = await ask("SELECT kid FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active'");
  const { keys } = await ask("SELECT grownext.jwks('access')");
  const jwk = keys.find((key) => key.kid === kid);
  const rsaJwk = (await ask("SELECT grownext.jwks('t_rs256')")).keys[0];
  const pem = (key) => createPublicKey({ key, format: 'jwk' }).export({ type: 'spki', format: 'pem' });
  const own = await jose.generateKeyPair('ES256', { extractable: true });
  const ownJwk = await jose.exportJWK(own.publicKey);
  const header = { alg: 'ES256', typ: 'at+jwt', kid };
  const times = { iat: 1700000000, exp: 4102444800 };
  const body = { iss: issuer, aud: audience, sub: 'root', jti: randomUUID(), client_id: 'x', ...times };
  const genuine = await mint();
  const [h, p, s] = genuine.split('.');
  const forge = (changes, key = own.privateKey) => new jose.SignJWT(body).setProtectedHeader({ ...header, ...changes }).sign(key);
  const hmac = (changes, secret) => {
    const input = `${base64url(JSON.stringify({ ...header, alg: 'HS256', ...changes }))}.${base64url(JSON.stringify(body))}`;
    return `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`;
  };
  const forgeries = {
    'another key': await forge({}),
    'an embedded jwk': await forge({ jwk: ownJwk }),
    'an embedded jwk and no kid': await forge({ jwk: ownJwk, kid: undefined }),
    'jku': await forge({ jku: url }),
    'x5u': await forge({ x5u: url }),
    'x5c': await forge({ x5c: [base64url('certificate')] }),
    'crit': `${base64url(JSON.stringify({ ...header, crit: ['exp'] }))}.${p}.${s}`,
    'b64 false': `${base64url(JSON.stringify({ ...header, b64: false, crit: ['b64'] }))}.${p}.${s}`,
    'HMAC with our public key in PEM': hmac({}, pem(jwk)),
    'HMAC with our public JWK': hmac({}, JSON.stringify(jwk)),
    'HMAC with the RSA key in PEM': hmac({ kid: rsaJwk.kid }, pem(rsaJwk)),
    'HMAC with the modulus': hmac({ kid: rsaJwk.kid }, Buffer.from(rsaJwk.n, 'base64url')),
    'HMAC with nothing': hmac({}, ''),
    'HMAC with a zero byte': hmac({ kid: '/dev/null' }, '\0'),
    'kid up and away': await forge({ kid: '../../../../dev/null' }),
    'kid of SQL': await forge({ kid: "x' UNION SELECT '1';--" }),
    'kid of a command': await forge({ kid: '|sleep 10' }),
    'kid of an address': await forge({ kid: url }),
    'no signature': `${h}.${p}.`,
    'no signature and no dot': `${h}.${p}`,
    'an extra segment': `${genuine}.extra`,
    'an extra empty segment': `${genuine}.`,
    'five segments': `${genuine}.${h}.${p}`,
    'padding': `${h}=.${p}.${s}`,
    'white space': `${h} .${p}.${s}`,
    'the other alphabet': `${h}.${p}+/.${s}`,
    'the JSON serialization': JSON.stringify({ protected: h, payload: p, signature: s }),
    'a signature of zeros': `${h}.${p}.${Buffer.alloc(64).toString('base64url')}`,
    'an encrypted one': await new jose.EncryptJWT(body).setProtectedHeader({ alg: 'dir', enc: 'A256GCM' }).encrypt(randomBytes(32)),
    'nothing': '',
    'a megabyte': 'A'.repeat(1 << 20),
    'dots': '.'.repeat(16384),
  };
  for (const spelling of ['none', 'None', 'NONE', 'nOnE']) {
    forgeries[`alg ${spelling}`] = `${base64url(JSON.stringify({ ...header, alg: spelling }))}.${p}.`;
    forgeries[`alg ${spelling} and our signature`] = `${base64url(JSON.stringify({ ...header, alg: spelling }))}.${p}.${s}`;
  }
  for (const [name, token] of Object.entries(forgeries)) {
    const { active, error, claims } = await inspect(token);
    assert.equal(active, false, name);
    assert.ok(error, name);
    assert.equal(claims, null, name);
    assert.equal(await code(db.query('SELECT grownext.jwt_verify($1)', [token])), 'NX011', name);
    const generic = await verify(token, { keys: [...keys, rsaJwk] });
    assert.equal(generic.valid, false, name);
    assert.ok(generic.error, name);
  }
  assert.equal((await inspect(genuine)).active, true);
  assert.equal(calls, 0, 'nobody was called');
});

// Signed by a key that is trusted: what remains is what the claims say. The platform signs
// no such thing itself, so the claims go through jose, and the reader of claims through
// jws_verify, which does not judge them, and a platform key whose private part is known.
test('times that are no times are refused without an error', async () => {
  const now = Math.floor(Date.now() / 1000);
  const cases = {
    '"exp":"4102444800"': 'bad_claims', '"exp":"never"': 'bad_claims', '"exp":null': 'bad_claims', '"exp":true': 'bad_claims',
    '"exp":[4102444800]': 'bad_claims', '"exp":{}': 'bad_claims', '"exp":NaN': 'bad_claims', '"exp":Infinity': 'bad_claims',
    '"exp":-Infinity': 'bad_claims', '"exp":1e400': 'bad_claims', '"exp":1e308': 'bad_claims', '"exp":-1': 'bad_claims',
    '"exp":99999999999999999999': 'bad_claims', '"exp":5,"exp":4102444800': 'bad_claims', '"exp":5,"\\u0065xp":4102444800': 'bad_claims',
    '"exp":4102444800,"nbf":"x"': 'bad_claims', '"nbf":1': 'bad_claims', '"exp":0': 'expired', [`"exp":${now - 40}`]: 'expired',
    [`"exp":${now - 40}.5`]: 'expired', [`"exp":${now + 600},"nbf":${now + 300}`]: 'not_yet_valid',
    [`"exp":${now + 600},"nbf":${now + 300}.25`]: 'not_yet_valid', [`"exp":${now + 600}.5`]: null, [`"exp":${(now + 600) / 1000}e3`]: null,
    [`"exp":${now + 600},"nbf":${now - 1}.5`]: null, [`"exp":${now - 20}`]: null,
  };
  const { key, kid, purpose } = await knownKey();
  for (const [times, expected] of Object.entries(cases)) {
    const payload = `{"iss":"${issuer}","aud":"${audience}","sub":"ann","iat":${now - 60},${times}}`;
    const token = await new jose.CompactSign(Buffer.from(payload)).setProtectedHeader({ alg: 'HS256', typ: 'JWT', kid }).sign(key);
    for (let time = 0; time < 2; time++)
      assert.equal((await inspect(token, purpose)).error, expected, times);
    const expectedCode = expected === null ? 'none' : expected === 'expired' ? 'NX012' : 'NX011';
    assert.equal(await code(db.query('SELECT grownext.jwt_verify($1, purpose => $2)', [token, purpose])), expectedCode, times);
  }
});

// A platform key of which the test knows the secret, as nobody else can: it opens the sealed
// value itself, with the master key of this test.
async function knownKey() {
  const purpose = 'known';
  await db.query("SELECT grownext.key_create('HS256', $1)", [purpose]);
  const kid = await ask('SELECT grownext.key_rotate($1)', purpose);
  const sealed = await ask('SELECT sealed FROM _grownext.jwt_key WHERE kid = $1', kid);
  const key = await unseal(sealed, `jwt_key ${kid} HS256`);
  return { key, kid, purpose };
}

async function unseal(data, purpose) {
  const { createDecipheriv, hkdfSync } = await import('node:crypto');
  const { readFileSync } = await import('node:fs');
  const file = await ask("SELECT current_setting('grownext.master_key_file')");
  const line = readFileSync(file, 'utf8').split('\n')[0];
  const master = Buffer.from(line.slice(line.indexOf(':') + 1), 'base64');
  const header = data.subarray(0, 2 + data[1]);
  const nonce = data.subarray(header.length, header.length + 12);
  const key = Buffer.from(hkdfSync('sha256', master, Buffer.alloc(0), `grownext seal 1 ${purpose}`, 32));
  const open = createDecipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.concat([header, Buffer.from(purpose)])).setAuthTag(data.subarray(-16));
  return Buffer.concat([open.update(data.subarray(header.length + 12, -16)), open.final()]);
}
