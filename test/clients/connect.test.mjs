// An ordinary driver connects, and its untyped parameters find the functions.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import pg from 'pg';

test('node-postgres calls the API with parameters', async (t) => {
  const client = new pg.Client();
  await client.connect();
  t.after(() => client.end());

  const control = readFileSync(new URL('../../grownext.control', import.meta.url), 'utf8');
  const version = /^default_version\s*=\s*'([^']+)'/m.exec(control)[1];
  const { rows } = await client.query('SELECT grownext.extension_version() AS version');
  assert.equal(rows[0].version, version);

  const claim = await client.query('SELECT grownext.claim($1) AS claim', ['sub']);
  assert.equal(claim.rows[0].claim, null);
});
