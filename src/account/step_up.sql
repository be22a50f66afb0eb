-- src/account/step_up.sql: how strongly and how recently the caller signed in

CREATE OR REPLACE FUNCTION grownext.has_step_up(acr text, max_age interval) RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_has_step_up';
COMMENT ON FUNCTION grownext.has_step_up(text, interval) IS 'Whether the caller''s login is of this level or above and no older; NULL without a caller.';

CREATE OR REPLACE FUNCTION grownext.require_step_up(acr text, max_age interval) RETURNS void
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_require_step_up';
COMMENT ON FUNCTION grownext.require_step_up(text, interval) IS 'Raises NX015 unless the caller''s login is of this level or above and no older.';
