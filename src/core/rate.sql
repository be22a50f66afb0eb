-- src/core/rate.sql: rate limits and failed attempts, for SQL of our own components.
-- They count beside the transaction, so they stay when it rolls back.

CREATE OR REPLACE FUNCTION _grownext.core_rate_take(scope text, key text, burst bigint, period interval, cost bigint DEFAULT 1) RETURNS _grownext.core_rate_verdict
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_core_rate_take';
COMMENT ON FUNCTION _grownext.core_rate_take(text, text, bigint, interval, bigint) IS 'Takes units of a rate limit, all or none; the bucket fills up evenly over the period.';

CREATE OR REPLACE FUNCTION _grownext.core_rate_peek(scope text, key text, burst bigint, period interval, cost bigint DEFAULT 1) RETURNS _grownext.core_rate_verdict
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_core_rate_peek';
COMMENT ON FUNCTION _grownext.core_rate_peek(text, text, bigint, interval, bigint) IS 'What core_rate_take() would say, without taking.';

CREATE OR REPLACE FUNCTION _grownext.core_rate_clear(scope text, key text) RETURNS boolean
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_core_rate_clear';
COMMENT ON FUNCTION _grownext.core_rate_clear(text, text) IS 'Fills a bucket up; true if anything had been taken.';

CREATE OR REPLACE FUNCTION _grownext.core_failure_check(scope text, key text) RETURNS _grownext.core_rate_verdict
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_core_failure_check';
COMMENT ON FUNCTION _grownext.core_failure_check(text, text) IS 'Whether one more attempt may be made, under grownext.failure_limit and grownext.failure_period.';

CREATE OR REPLACE FUNCTION _grownext.core_failure_note(scope text, key text) RETURNS _grownext.core_rate_verdict
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_core_failure_note';
COMMENT ON FUNCTION _grownext.core_failure_note(text, text) IS 'Counts a failed attempt, or one that is about to be made; it stays counted when the caller rolls back.';

CREATE OR REPLACE FUNCTION _grownext.core_failure_clear(scope text, key text) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_core_failure_clear';
COMMENT ON FUNCTION _grownext.core_failure_clear(text, text) IS 'Forgets the failed attempts, after a success.';

CREATE OR REPLACE FUNCTION _grownext.core_rate_facts(OUT shared boolean, OUT buckets bigint, OUT used bigint, OUT evicted bigint, OUT evicted_at timestamptz) RETURNS record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_core_rate_facts';
COMMENT ON FUNCTION _grownext.core_rate_facts() IS 'Facts about the memory of rate limits, for status().';
