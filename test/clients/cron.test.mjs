// cron_next() beside two independent implementations, on the expressions of sql/cron.sql
// around both daylight-saving changes of eight zones, and on random expressions.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { CronExpressionParser } from 'cron-parser';
import { Cron } from 'croner';
import pg from 'pg';

const source = readFileSync(new URL('../../sql/cron.sql', import.meta.url), 'utf8');
const expressions = [.../-- begin\n([^]*?)-- end/.exec(source)[1].matchAll(/^\('(.*)'\),?$/gm)].map((m) => m[1]);
const changes = [...source.matchAll(/\('([A-Z]\w+\/\w+)', '([-0-9]+ [:0-9]+Z)'\)/g)]
  .map(([, zone, at]) => ({ zone, at: new Date(at.replace(' ', 'T').replace('Z', ':00Z')) }));
const client = new pg.Client();

before(() => client.connect());
after(() => client.end());

async function ours(cron, from, zone, count) {
  const { rows } = await client.query('SELECT n FROM grownext.cron_next($1, $2, $3, $4) AS n ORDER BY n', [cron, from, zone, count]);
  return rows.map((row) => row.n.toISOString());
}

function parts(cron) {
  const fields = cron.startsWith('@') ? [] : cron.split(' ');
  const [minute = '0', hour = '0', day = '*', month = '*', weekday = '*'] = fields.slice(-5);
  return { second: fields.length === 6 ? fields[0] : '0', minute, hour, day, month, weekday };
}

const open = (field) => /[*?/]/.test(field);
// One day field begins with * and is restricted all the same: ISC cron and ours then ask
// for both fields, others for either.
const halfOpenDay = ({ day, weekday }) => [day, weekday].some((f) => /^[*?]./.test(f)) && !['*', '?'].includes(day) && !['*', '?'].includes(weekday);

// Where a dialect differs: docs/schedule.md names each of these.
function differsFromCroner(cron) {
  const { second, minute, hour, day, weekday } = parts(cron);
  if (!open(hour) && (open(second) || open(minute))) return 'an interval within fixed hours';
  if (hour === '0-23') return 'all hours as a range';
  if (halfOpenDay(parts(cron))) return 'a step in one of the day fields';
  if (/(^|[ ,])\d+\//.test(cron)) return 'a step behind a single value';
  if (/L-/.test(day)) return 'days before the last';
  if (/\dL/.test(weekday)) return 'L behind a weekday without #';
  if (/-SUN/i.test(weekday)) return 'a range up to SUN';
  return null;
}

function croner(cron, from, zone, count) {
  const job = new Cron(cron, { timezone: zone, paused: true, fixedTimeRule: 'no-wildcard' });
  return job.nextRuns(count, from).map((date) => date.toISOString());
}

// cron-parser has rules of its own around a change of the clock; away from it, it agrees
// on the calendar.
function differsFromParser(cron) {
  const { day, weekday } = parts(cron);
  if (/L-/.test(day)) return 'days before the last';
  if (/#L|#.*,|,.*#/.test(weekday)) return 'several # or #L';
  if (/,L|L,/.test(day)) return 'L in a list';
  if (halfOpenDay(parts(cron))) return 'a step in one of the day fields';
  if (/-SUN/i.test(weekday)) return 'a range up to SUN';
  if (cron === '@midnight') return 'a macro that it does not know';
  if (/[#L]/.test(weekday) && day !== '*') return '# beside a day of the month';
  return null;
}

function parser(cron, from, zone, count) {
  const job = CronExpressionParser.parse(cron, { currentDate: from, tz: zone });
  return job.take(count).map((date) => date.toDate().toISOString());
}

test('the table of expressions is there', () => {
  assert.ok(expressions.length >= 100, `${expressions.length} expressions`);
  assert.equal(changes.length, 16);
  assert.equal(new Set(changes.map((c) => c.zone)).size, 8);
});

test('croner agrees on the table, around both changes of each zone', async () => {
  let compared = 0;
  for (const { zone, at } of changes) {
    for (const cron of expressions.filter((e) => !differsFromCroner(e))) {
      const from = new Date(at.getTime() - 65 * 60e3);
      assert.deepEqual(await ours(cron, from, zone, 6), croner(cron, from, zone, 6), `${cron} in ${zone} after ${from.toISOString()}`);
      compared++;
    }
  }
  assert.ok(compared > 1500, `${compared} compared`);
});

// A small generator with a seed, so that a failure comes again.
let state = 20250330;
function random(n) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
}
const pick = (...choices) => choices[random(choices.length)];

function field(low, high) {
  const one = () => low + random(high - low + 1);
  const range = () => {
    const [a, b] = [one(), one()].sort((x, y) => x - y);
    return `${a}-${b}`;
  };
  switch (random(7)) {
    case 0: case 1: return '*';
    case 2: case 3: return `${one()}`;
    case 4: return [...new Set([one(), one(), one()])].join(',');
    case 5: return range();
    default: return pick(`*/${1 + random(Math.min(12, high))}`, `${range()}/${1 + random(5)}`);
  }
}

function randomCron() {
  const fields = [
    field(0, 59), field(0, 23),
    pick('*', '*', field(1, 28), 'L'), pick('*', '*', field(1, 12)),
    pick('*', '*', field(0, 6), `${random(7)}#${1 + random(4)}`, `${random(7)}#L`),
  ];
  return (random(3) ? fields : [field(0, 59), ...fields]).join(' ');
}

test('croner agrees on random expressions', async () => {
  let compared = 0;
  for (let i = 0; i < 3000; i++) {
    const cron = randomCron();
    const { zone, at } = changes[random(changes.length)];
    const from = new Date(at.getTime() + (random(96) - 48) * 1800e3);
    if (differsFromCroner(cron)) continue;
    assert.deepEqual(await ours(cron, from, zone, 5), croner(cron, from, zone, 5), `${cron} in ${zone} after ${from.toISOString()}`);
    compared++;
  }
  assert.ok(compared > 1000, `${compared} compared`);
});

test('cron-parser agrees on the calendar of the table', async () => {
  let compared = 0;
  for (const cron of expressions.filter((e) => !differsFromParser(e))) {
    for (const from of ['2024-02-28T12:00:00Z', '2025-12-31T23:59:59Z'].map((t) => new Date(t))) {
      assert.deepEqual(await ours(cron, from, 'UTC', 12), parser(cron, from, 'UTC', 12), `${cron} after ${from.toISOString()}`);
      compared++;
    }
  }
  assert.ok(compared > 180, `${compared} compared`);
});

test('what others refuse as well', async () => {
  for (const cron of ['60 * * * *', '* 24 * * *', '* * 32 * *', '* * * 13 *', '5-1 * * * *', '* * *', 'nonsense', '1,,2 * * * *']) {
    assert.throws(() => new Cron(cron, { paused: true }), `croner takes ${cron}`);
    await assert.rejects(ours(cron, new Date(), 'UTC', 1), { code: '22023' }, cron);
  }
});
