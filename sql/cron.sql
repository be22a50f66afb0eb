-- Cron expressions: a hundred of them around both daylight-saving changes of eight zones.
-- test/clients/cron.test.mjs reads the list and compares every line with another
-- implementation.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO';
\pset tuples_only on
\pset format unaligned
\pset fieldsep ' | '

CREATE TEMP TABLE zone (zone text, change timestamptz);
INSERT INTO zone VALUES
('Europe/Berlin', '2025-03-30 01:00Z'), ('Europe/Berlin', '2025-10-26 01:00Z'),
('Europe/London', '2025-03-30 01:00Z'), ('Europe/London', '2025-10-26 01:00Z'),
('Europe/Dublin', '2025-03-30 01:00Z'), ('Europe/Dublin', '2025-10-26 01:00Z'),
('America/New_York', '2025-03-09 07:00Z'), ('America/New_York', '2025-11-02 06:00Z'),
('America/St_Johns', '2025-03-09 05:30Z'), ('America/St_Johns', '2025-11-02 04:30Z'),
('America/Santiago', '2025-04-06 03:00Z'), ('America/Santiago', '2025-09-07 04:00Z'),
('Australia/Lord_Howe', '2025-04-05 15:00Z'), ('Australia/Lord_Howe', '2025-10-04 15:30Z'),
('Pacific/Auckland', '2025-04-05 14:00Z'), ('Pacific/Auckland', '2025-09-27 14:00Z');

CREATE TEMP TABLE expression (place int GENERATED ALWAYS AS IDENTITY, cron text);
INSERT INTO expression (cron) VALUES
-- begin
('* * * * *'),
('*/5 * * * *'),
('*/15 * * * *'),
('7-59/15 * * * *'),
('0 * * * *'),
('30 * * * *'),
('59 * * * *'),
('15,45 * * * *'),
('0,30 * * * *'),
('@hourly'),
('0 */2 * * *'),
('30 */2 * * *'),
('0 1-23/2 * * *'),
('30 0/3 * * *'),
('0 */6 * * *'),
('45 */4 * * *'),
('0 0 * * *'),
('@daily'),
('@midnight'),
('1 0 * * *'),
('15 0 * * *'),
('30 0 * * *'),
('59 0 * * *'),
('0 1 * * *'),
('15 1 * * *'),
('30 1 * * *'),
('45 1 * * *'),
('59 1 * * *'),
('0 2 * * *'),
('1 2 * * *'),
('15 2 * * *'),
('30 2 * * *'),
('45 2 * * *'),
('59 2 * * *'),
('0 3 * * *'),
('1 3 * * *'),
('30 3 * * *'),
('0 4 * * *'),
('0 12 * * *'),
('30 23 * * *'),
('59 23 * * *'),
('0 23 * * *'),
('0,15,30,45 2 * * *'),
('0,20,40 1 * * *'),
('10-12 1 * * *'),
('10-12 2 * * *'),
('0 1,2,3 * * *'),
('30 1,2,3 * * *'),
('30 0-4 * * *'),
('15 2,14 * * *'),
('0 8-18 * * *'),
('0 9-17 * * MON-FRI'),
('30 2 * * SUN'),
('30 2 * * 0'),
('30 2 * * 7'),
('30 1 * * sun'),
('30 2 * * SAT,SUN'),
('30 2 * * 1-5'),
('0 0 * * SUN'),
('@weekly'),
('0 0 1 * *'),
('@monthly'),
('0 0 1 1 *'),
('@yearly'),
('@annually'),
('0 12 1,15 * *'),
('0 12 15 * *'),
('0 12 */10 * *'),
('0 0 31 * *'),
('0 0 29 2 *'),
('0 0 30 4,6,9,11 *'),
('0 0 L * *'),
('30 2 L * *'),
('30 2 L MAR,OCT *'),
('0 12 L-2 * *'),
('0 12 1,L * *'),
('0 12 * * MON#1'),
('0 12 * * 5#2'),
('0 12 * * FRI#L'),
('0 12 * * 5L'),
('30 2 * * SUN#L'),
('30 1 * * SUN#1'),
('30 2 * * SUN#1,SUN#2'),
('0 12 * * 1#5'),
('0 12 13 * FRI'),
('0 12 1 * MON'),
('0 12 10-16 * WED'),
('0 12 * JAN,APR,JUL,OCT *'),
('0 12 * 3-5 *'),
('0 12 * */3 *'),
('0 12 1 */3 *'),
('30 2 * 3,4,9,10,11 SUN'),
('0 0 0 * * *'),
('30 0 * * * *'),
('*/10 * * * * *'),
('15 30 2 * * *'),
('0,30 30 2 * * *'),
('59 59 1 * * *'),
('59 59 2 * * *'),
('0 0 3 * * SUN'),
('10 20 */3 * * *'),
('0 30 1 * * SUN'),
('0 12 28-31 * FRI#L'),
('0 12 */2 * MON'),
('*/15 1 * * *'),
('*/15 2 * * *'),
('* 2 * * *'),
('0 0-23 * * *'),
('0 12 * * FRI-SUN'),
('0 12 ? * 2')
-- end
;

SELECT z.zone, to_char(z.change AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS change, e.cron,
       (SELECT string_agg(to_char(n AT TIME ZONE 'UTC', 'MM-DD HH24:MI:SS'), ', ' ORDER BY n)
          FROM grownext.cron_next(e.cron, z.change - interval '65 minutes', z.zone, 6) AS n) AS next
  FROM zone AS z CROSS JOIN expression AS e ORDER BY z.zone, z.change, e.place;

-- @every counts from 1970, whatever the zone
SELECT grownext.cron_next('@every 30s', '2025-03-30 00:59:29.5Z', 'Europe/Berlin', 3);
SELECT grownext.cron_next('@every 1h30m', '2025-03-30 00:00Z', 'Asia/Kolkata', 3);
SELECT grownext.cron_next(' @EVERY 1d ', '2025-03-30 00:00Z') = '2025-03-31 00:00Z';

-- strictly after, in whole seconds
SELECT grownext.cron_next('0 12 * * *', '2025-01-01 12:00Z'), grownext.cron_next('0 12 * * *', '2025-01-01 11:59:59.999999Z');

-- a whole day that a zone skipped, and one that it had twice
SELECT grownext.cron_next('0 12 30 12 *', '2011-12-01Z', 'Pacific/Apia') AT TIME ZONE 'Pacific/Apia';
SELECT grownext.cron_next('0 0 * * *', '1969-09-30 00:00Z', 'Pacific/Kwajalein', 3);

-- leap years, far away, and the end of the calendar
SELECT grownext.cron_next('0 0 29 2 *', '2096-03-01Z', 'UTC', 2);
SELECT grownext.cron_next('0 0 * 2 1#5', '2096-03-01Z', 'UTC', 2);
SELECT count(*), max(n) FROM grownext.cron_next('0 0 1 1 *', '9990-01-01Z', 'UTC', 100) AS n;
SELECT grownext.cron_next('0 0 1 1 *', '0001-01-01 00:00Z');

-- what is refused, and why
CREATE FUNCTION pg_temp.refusal(expression text, zone text DEFAULT 'UTC', at timestamptz DEFAULT '2025-01-01', many int DEFAULT 1) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    d text;
BEGIN
    RETURN 'accepted: ' || (SELECT min(n) FROM grownext.cron_next(expression, at, zone, many) AS n);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(' ', SQLSTATE, CASE WHEN d = '' THEN SQLERRM ELSE d END);
END $$;
SELECT c, pg_temp.refusal(c) FROM unnest(ARRAY[
    NULL, '', '   ', '*', '* * * *', '* * * * * * *', 'nonsense', '60 * * * *', '-1 * * * *', '* 24 * * *', '* * 0 * *', '* * 32 * *', '* * * 0 *', '* * * 13 *',
    '* * * * 8', '60 * * * * *', '* * * JANUARY *', '* * * * MONDAY', '* * * FOO *', 'MON * * * *', '1- * * * *', '1-2-3 * * * *', '5-1 * * * *', '* 22-4 * * *',
    '* * * * FRI-MON', '*/0 * * * *', '*/ * * * *', '*/61 * * * *', '*/60 * * * *', '* */25 * * *', '1,,2 * * * *', ',1 * * * *', '1, * * * *', '* * * * 1#0', '* * * * 1#6',
    '* * * * #1', '* * * * 1-5#2', '* * * * L', '* * L-0 * *', '* * L-31 * *', '* * 15W * *', '* * LW * *', '? * * * *', '0 0 30 2 *', '0 0 31 2,4,6,9,11 *', '0 0 */15 * 2#2',
    '0 0 L-30 2 *', '@reboot', '@', '@dailyx', '@every', '@every 0s', '@every -1s', '@every 1', '@every 1x', '@every 1s1m', '@every 1.5h', '@every 367d', '@every 999999999d',
    '999999999999 * * * *', '* * * * *;', E'0\n0 * * *', '０ 0 * * *', repeat('é', 100), repeat('1,', 200) || '1 * * * *']) AS c;
SELECT z, pg_temp.refusal('@daily', z) FROM unnest(ARRAY[NULL, '', 'Europe/Berln', 'UTC+3', 'EST5', 'EST5EDT', 'Foo/Bar3', 'Etc/GMT+3', 'Etc/GMT-14', 'Etc/GMT+13', 'Etc/GMT+99',
    'Etc/GMT+03', 'Etc/GMT+0', '+02', '<+02>-2', 'europe/berlin', 'right/UTC', '../../etc/passwd', repeat('a', 300)]) AS z;
SELECT pg_temp.refusal('@daily', at => t) FROM unnest(ARRAY[NULL, 'infinity', '-infinity', '0001-01-01 00:00Z BC', '9999-12-31 00:00Z', '9999-12-31 23:59:59.5Z', '10000-01-01 00:00Z', '294276-01-01']::timestamptz[]) AS t;
SELECT pg_temp.refusal('@daily', many => m) FROM unnest(ARRAY[NULL, -1, 0, 1, 10000, 10001, 2147483647]) AS m;
