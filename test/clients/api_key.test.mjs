// API keys, as a scanner of leaked secrets and a gateway see them: the checksum is the
// CRC-32 that everybody has, and a mistyped key is no key.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import pg from 'pg';

const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const database = 'api_key_clients';
const tenant = 'ac111111-1111-4111-8111-111111111111';
let db;

async function connect(name) {
  const client = new pg.Client({ database: name });
  await client.connect();
  return client;
}

// CRC-32 of ISO 3309, bit by bit, as written in RFC 1952 (section 8)
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return ~crc >>> 0;
}

// the same from zlib, which every Node shows in the trailer of a gzip file
function zlibCrc32(bytes) {
  const packed = gzipSync(bytes);
  return packed.readUInt32LE(packed.length - 8);
}

function base62(number) {
  let text = '';
  for (let i = 0; i < 6; i++, number = Math.floor(number / 62)) text = alphabet[number % 62] + text;
  return text;
}

const code = async (key, scope = null) =>
  (await db.query('SELECT grownext.api_key_verify($1, $2) AS answer', [key, scope])).rows[0].answer.code;

before(async () => {
  const server = await connect('postgres');
  await server.query(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`);
  await server.query(`CREATE DATABASE ${database}`);
  await server.end();
  db = await connect(database);
  await db.query('CREATE EXTENSION grownext');
  await db.query("SELECT grownext.user_create('ann@example.com', id => 'a1111111-1111-4111-8111-111111111111')");
  await db.query("SELECT grownext.tenant_create('acme', 'Acme', 'a1111111-1111-4111-8111-111111111111', id => $1)", [tenant]);
});

after(async () => {
  await db?.end();
});

test('our CRC-32 is the one of zlib', () => {
  for (const text of ['', '123456789', 'gx_live_']) {
    assert.equal(crc32(Buffer.from(text)), zlibCrc32(Buffer.from(text)));
  }
  assert.equal(crc32(Buffer.from('123456789')), 0xcbf43926);
});

test('the last six characters of a key are the checksum of all before', async () => {
  for (let i = 0; i < 200; i++) {
    const { rows } = await db.query('SELECT api_key FROM _grownext.session_api_key_make($1)', [i % 2 ? 'live' : 'test']);
    const key = rows[0].api_key;
    assert.match(key, /^gx_(live|test)_[0-9A-Za-z]{36}$/);
    assert.equal(key.slice(-6), base62(crc32(Buffer.from(key.slice(0, -6)))));
  }
});

test('a key that a program made up by the rules is well-formed, and unknown', async () => {
  const body = `gx_live_${'Aa0'.repeat(10)}`;
  const { rows } = await db.query("SELECT grownext.api_key_verify($1, NULL, '192.0.2.1') AS answer", [body + base62(crc32(Buffer.from(body)))]);
  assert.deepEqual(rows[0].answer, { valid: false, code: 'NOT_FOUND' });
});

test('any one character changed makes it no key', async () => {
  const { rows } = await db.query('SELECT api_key FROM grownext.api_key_create($1, tenant_id => $2)', ['typos', tenant]);
  const key = rows[0].api_key;
  assert.equal(await code(key), 'VALID');
  for (let i = 0; i < key.length; i++) {
    const other = alphabet[(alphabet.indexOf(key[i]) + 1 + (i % 61)) % 62];
    const typo = key.slice(0, i) + other + key.slice(i + 1);
    assert.notEqual(typo, key);
    assert.match(await code(typo), /^(NOT_FOUND|RATE_LIMITED)$/);
  }
  assert.equal(await code(key), 'VALID', 'and after all the typos the key is still good');
});

test('text, scopes and limits arrive as a driver sends them', async () => {
  const { rows } = await db.query('SELECT id, api_key FROM grownext.api_key_create($1, $2, NULL, $3, $4, $5)', [
    'driver',
    ['reports:read', 'reports:write'],
    'test',
    { rate_limit: { limit: 2, period: '1 hour' }, metadata: { team: 'core' } },
    tenant,
  ]);
  const { id, api_key: key } = rows[0];
  const answer = (await db.query('SELECT grownext.api_key_verify($1, $2) AS answer', [key, 'reports:read'])).rows[0].answer;
  assert.equal(answer.valid, true);
  assert.equal(answer.id, id);
  assert.deepEqual(answer.scopes, ['reports:read', 'reports:write']);
  assert.deepEqual(answer.metadata, { team: 'core' });
  assert.equal(answer.rate_limit.remaining, 1);
  assert.ok(Math.abs(new Date(answer.rate_limit.reset_at) - Date.now() - 1800e3) < 60e3, 'a time that JavaScript reads');
  await db.query('BEGIN');
  await db.query('SELECT grownext.authenticate_api_key($1)', [key]);
  assert.equal((await db.query('SELECT grownext.current_tenant() AS tenant')).rows[0].tenant, tenant);
  await db.query('COMMIT');
  await assert.rejects(db.query('SELECT grownext.authenticate_api_key($1)', [key]), (error) => error.code === 'NX041');
});
