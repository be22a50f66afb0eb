# demo/story.sh -- the true story itself, act by act; sourced by demo/run, told by tell_story

issuer=https://id.acme.example
audience=https://api.acme.example
fixtures=$here/test/fixtures/stripe
price=price_1RgPro000000000000000000

tell_story()
{
	set_the_stage
	a_customer_subscribes
	the_plan_opens_doors
	a_session_begins
	rows_stay_apart
	all_or_nothing
	the_trail
	the_customer_leaves
	try_to_break_it
}

set_the_stage()
{
	chapter "The stage: one database, four login roles, no superuser after this"
	say "A DBA installs the extension and lets four roles in. From here on they do everything, with the documented grants."
	show dba <<'SQL'
CREATE EXTENSION grownext;
CREATE ROLE acme_admin   LOGIN IN ROLE grownext_admin;    -- runs the platform
CREATE ROLE acme_service LOGIN IN ROLE grownext_service;  -- the trusted back end
CREATE ROLE acme_app     LOGIN IN ROLE grownext_user;     -- serves signed-in users
CREATE ROLE acme_owner   LOGIN IN ROLE grownext_user;     -- owns the application's tables
CREATE SCHEMA app AUTHORIZATION acme_owner;
SQL
	say "" "The platform is set up once: who issues tokens, and for whom. That makes the first signing key and arms the workers."
	show acme_admin <<SQL
SELECT * FROM grownext.setup('$issuer', '{$audience}');
SQL
	claim "workers serve this database" "$(wait_for acme_admin "SELECT count(*) FROM grownext.workers() WHERE database = 'acme' AND worker = 'scheduler'" 1)" 1
	claim "status() finds nothing failed" "$(ask acme_admin "SELECT count(*) FROM grownext.status() WHERE state = 'failed'")" 0
	claim "no role of the story is a superuser" "$(ask dba "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'acme%' AND rolsuper")" 0
}

# fresh_event FILE TYPE: the bytes of a Stripe event, as if it had happened just now
fresh_event()
{
	local now
	now=$(date +%s)
	sed -E \
		-e "s/\"created\": 175132800[0-9]/\"created\": $now/" \
		-e "s/\"current_period_start\": [0-9]+/\"current_period_start\": $now/" \
		-e "s/\"current_period_end\": [0-9]+/\"current_period_end\": $((now + 2592000))/" \
		"$fixtures/$1" >"$run/$2"
}

# deliver FILE [SIGNATURE]: hands the bytes to billing_webhook as an HTTP gateway would
deliver()
{
	local body=$run/$1 signature
	signature=${2:-$("$fixtures/sign.sh" "$webhook_secret" <"$body")}
	show acme_service -v signature="$signature" -v body="$(base64 -w0 "$body")" <<'SQL'
SELECT grownext.billing_webhook('stripe', jsonb_build_object('Stripe-Signature', :'signature'), decode(:'body', 'base64')) AS answer;
SQL
}

a_customer_subscribes()
{
	local answer state
	chapter "1. A customer subscribes, and Stripe tells us"
	webhook_secret=whsec_$(openssl rand -hex 24)
	say "The signing secret of the webhook is sealed under the master key, which is a file outside the database. The catalogue says what a plan contains, the price map which Stripe price buys it."
	show acme_admin -v secret="$webhook_secret" <<SQL
SELECT grownext.secret_set('stripe-webhook', :'secret');
SELECT grownext.billing_provider_define('stripe', 'stripe-webhook');
SELECT grownext.product_define('reports', 'Reports');
SELECT grownext.feature_define('reports.export', 'reports', 'boolean');
SELECT grownext.feature_define('reports.renders', 'reports', 'metered');
SELECT grownext.bundle_define('pro', '{"reports.export": true, "reports.renders": {"quota": 1000, "period": "month"}}');
SELECT grownext.billing_price_map('stripe', '$price', 'pro');
SQL
	say "" "The back end makes a user and a tenant she owns, and says which Stripe customer that is."
	show acme_service <<'SQL'
SELECT grownext.user_create('ada@acme.example', 'Ada') AS ada \gset
SELECT grownext.tenant_create('acme', 'Acme GmbH', :'ada') AS acme \gset
SELECT grownext.billing_customer_link('stripe', 'cus_demo', :'acme');
SELECT t.id, t.slug, t.name, m.role FROM grownext.tenant t JOIN grownext.member m ON m.tenant_id = t.id;
SQL
	acme=$(ask acme_service "SELECT id FROM grownext.tenant WHERE slug = 'acme'")
	ada=$(ask acme_service "SELECT id FROM grownext.user_account WHERE email = 'ada@acme.example'")
	claim "before Stripe speaks, nothing is entitled" "$(ask acme_service "SELECT grownext.entitled('reports.export', '$acme')")" f

	fresh_event customer.subscription.created.json created.json
	say "" "Now the event comes in: customer.subscription.created, $(wc -c <"$run/created.json") bytes, with a valid Stripe-Signature. First somebody else tries, with a byte changed."
	sed 's/"quantity": 1/"quantity": 9/' "$run/created.json" >"$run/tampered.json"
	answer=$("$fixtures/sign.sh" "$webhook_secret" <"$run/created.json")
	deliver tampered.json "$answer"
	claim "tampered bytes are refused and leave no event" "$(ask acme_service "SELECT count(*) FROM grownext.billing_event")" 0
	say "" "Stripe itself, and, as Stripe does, twice:"
	deliver created.json
	deliver created.json
	state=$(wait_for acme_service "SELECT state FROM grownext.billing_event" applied)
	claim "the event is stored once and applied by a job of an internal queue" "$state $(ask acme_service "SELECT count(*) FROM grownext.billing_event")" "applied 1"
	claim "one subscription has started" "$(ask acme_service "SELECT count(*) FROM grownext.subscription WHERE tenant_id = '$acme' AND status = 'active'")" 1
}

the_plan_opens_doors()
{
	chapter "2. The plan opens doors, and counts"
	show acme_service <<SQL
SELECT grownext.entitled('reports.export', '$acme');
SELECT * FROM grownext.usage_consume('reports.renders', 998, tenant_id => '$acme');
SELECT * FROM grownext.usage_consume('reports.renders', 1, tenant_id => '$acme');
SELECT * FROM grownext.usage_consume('reports.renders', 2, tenant_id => '$acme');
SQL
	claim "the tenant is entitled" "$(ask acme_service "SELECT grownext.entitled('reports.export', '$acme')")" t
	claim "at the limit the answer is no, with a reason, and nothing is taken" \
		"$(ask acme_service "SELECT allowed, used, quota, reason FROM grownext.usage_consume('reports.renders', 2, tenant_id => '$acme')")" "f|999|1000|quota_exceeded"
	claim "and no for a feature that nobody defined, without an error" "$(ask acme_service "SELECT grownext.entitled('no.such.thing', '$acme')")" f
	ask acme_service "SELECT grownext.usage_return('reports.renders', 899, tenant_id => '$acme')" >/dev/null
}

a_session_begins()
{
	local verdict
	chapter "3. Ada signs in"
	say "The back end opens a session. The access token is an ES256 JWT (RFC 9068), signed by a key whose private part is stored only as ciphertext."
	show acme_service <<SQL
SELECT jsonb_pretty(grownext.session_create('$ada', '$acme') - 'refresh_token' - 'access_token') AS session, 'access and refresh token follow' AS note;
SELECT kid, alg, state FROM grownext.signing_key;
SQL
	session_json=$(ask acme_service "SELECT grownext.session_create('$ada', '$acme')")
	token=$(ask acme_service "SELECT :'s'::jsonb ->> 'access_token'" -v s="$session_json")
	session_id=$(ask acme_service "SELECT :'s'::jsonb ->> 'session_id'" -v s="$session_json")
	say "" "A library that is not ours is the judge: jose, on Node, with nothing but the published jwks()."
	verdict=$(as_user node "$run/verifier/verify.mjs" "$token" "$(ask acme_app "SELECT grownext.jwks()")" "$issuer" "$audience")
	say "    $verdict"
	claim "jose verifies the token and finds the tenant in it" "$verdict" "ES256 at+jwt tenant=$acme"
	verdict=$(as_user node "$run/verifier/verify.mjs" "${token%?????}AAAAA" "$(ask acme_app "SELECT grownext.jwks()")" "$issuer" "$audience" || true)
	matches "jose refuses it with another signature" "$verdict" "refused: *"
	say "" "authenticate() binds the caller to one transaction, in C memory, where no SQL user can forge it."
	show acme_app -v token="$token" <<'SQL'
BEGIN;
SELECT grownext.authenticate(:'token') ->> 'iss' AS issuer;
SELECT grownext.current_user_id(), grownext.current_tenant();
COMMIT;
SELECT grownext.current_tenant() AS afterwards;
SQL
	claim "nobody can set what the verified token set" "$(ask acme_app "SET grownext.context = 'ada'" | sed -n 's/.*ERROR: *//p')" 'permission denied to set parameter "grownext.context"'

	say "" "A script of the tenant gets an API key: shown once, stored as a digest, gone in every open session when it is revoked."
	api_key=$(ask acme_service "SELECT api_key FROM grownext.api_key_create('nightly export', '{reports.read}', tenant_id => '$acme')")
	say "    ${api_key%????????????????????????????????}... (the rest is the script's)"
	show acme_app -v api_key="$api_key" <<'SQL'
BEGIN;
SELECT grownext.authenticate_api_key(:'api_key', 'reports.read') ->> 'scope' AS scope, grownext.current_tenant();
COMMIT;
SQL
	claim "a typo is refused without a look-up" "$(ask acme_service "SELECT grownext.api_key_verify('${api_key%?}_') ->> 'code'")" NOT_FOUND
	ask acme_service "SELECT grownext.api_key_revoke(id) FROM grownext.api_key WHERE name = 'nightly export'" >/dev/null
	matches "a revoked key is refused" "$(ask acme_service "SELECT grownext.api_key_verify('$api_key') ->> 'valid'")" false

	say "" "What needs a stronger login says so; Ada's password alone does not do."
	answer=$(ask acme_app "BEGIN; SELECT grownext.authenticate('$token') IS NOT NULL; SELECT grownext.require_step_up('aal2', '15 minutes'); ROLLBACK;")
	matches "a step that needs a second factor is refused" "$answer" "*ERROR:*aal2*"
}

rows_stay_apart()
{
	chapter "4. Rows of one tenant stay with that tenant"
	show acme_owner <<'SQL'
CREATE TABLE app.report (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL DEFAULT grownext.current_tenant(), title text NOT NULL);
SELECT * FROM grownext.tenant_isolate('app.report');
GRANT USAGE ON SCHEMA app TO acme_app, acme_service;
GRANT SELECT, INSERT ON app.report TO acme_app, acme_service;
GRANT USAGE ON SEQUENCE app.report_id_seq TO acme_app, acme_service;
SQL
	say "" "Another tenant's row, and one of Ada's:"
	show acme_service <<SQL
SELECT grownext.tenant_create('globex', 'Globex Corp') AS globex \gset
BEGIN;
SELECT grownext.act_as('someone@globex', :'globex');
INSERT INTO app.report (title) VALUES ('the secret plans of Globex');
COMMIT;
SQL
	show acme_app -v token="$token" <<'SQL'
BEGIN;
SELECT grownext.authenticate(:'token') IS NOT NULL AS signed_in;
INSERT INTO app.report (title) VALUES ('Acme in October');
SELECT title FROM app.report;
COMMIT;
SELECT count(*) AS without_a_token FROM app.report;
SQL
	claim "Ada sees her tenant's row and no other" "$(ask acme_app "BEGIN; SELECT FROM grownext.authenticate('$token'); SELECT string_agg(title, ',') FROM app.report; COMMIT")" "Acme in October"
	claim "who shows no token sees nothing" "$(ask acme_app "SELECT count(*) FROM app.report")" 0
}

# unit TITLE: what the application does for one report, in one transaction
unit()
{
	cat <<SQL
BEGIN;
SELECT grownext.authenticate(:'token') IS NOT NULL AS signed_in;
INSERT INTO app.report (title) VALUES ('$1') RETURNING id AS report \\gset
SELECT used, remaining FROM grownext.usage_require('reports.renders');
SELECT grownext.audit_append('report.requested', 'report:' || :report) AS audit_event;
SELECT grownext.enqueue('render', jsonb_build_object('report', :report)) AS job;
SQL
}

counts()
{
	ask dba "SELECT (SELECT count(*) FROM app.report WHERE title LIKE '$1'), (SELECT count(*) FROM app.rendering), (SELECT count(*) FROM grownext.audit_event WHERE action = 'report.requested'), (SELECT used FROM grownext.entitlement('reports.renders', '$acme'))"
}

all_or_nothing()
{
	local before
	chapter "5. One transaction: a row, a quota, an audit event, a job; all or nothing"
	say "The application's owner writes a handler. It will run in a background worker of the database, as acme_owner, who is no superuser."
	show acme_admin <<'SQL'
SELECT grownext.queue_define('render');
SELECT grownext.queue_grant('render', 'acme_app', 'enqueue');
SELECT grownext.queue_grant('render', 'acme_owner', 'work');
SQL
	show acme_owner <<'SQL'
CREATE TABLE app.rendering (report_id bigint NOT NULL, tenant_id uuid NOT NULL DEFAULT grownext.current_tenant(), visible_reports bigint NOT NULL, ran_as name NOT NULL DEFAULT session_user);
SELECT * FROM grownext.tenant_isolate('app.rendering');
CREATE FUNCTION app.render(payload jsonb) RETURNS void LANGUAGE sql BEGIN ATOMIC
    INSERT INTO app.rendering (report_id, visible_reports)
    SELECT id, (SELECT count(*) FROM app.report) FROM app.report WHERE id = (payload ->> 'report')::bigint;
    SELECT grownext.audit_append('report.rendered', 'report:' || (payload ->> 'report'));
END;
SELECT grownext.queue_handle('render', 'app.render(jsonb)');
SQL
	before=$(counts '%')
	say "" "Rolled back, it leaves nothing:"
	{ unit 'never mind'; echo 'ROLLBACK;'; } | show acme_app -v token="$token"
	claim "rolled back: no row, no charge, no event, no job" "$(counts '%')" "$before"
	say "" "Committed, everything is there, and a worker renders the report in Ada's context:"
	{ unit 'Acme in November'; echo 'COMMIT;'; } | show acme_app -v token="$token"
	claim "the job ran exactly once" "$(wait_for dba "SELECT count(*) FROM app.rendering" 1)" 1
	claim "as a role that is no superuser, seeing only Ada's tenant" \
		"$(ask dba "SELECT r.ran_as, r.tenant_id, r.visible_reports, p.rolsuper FROM app.rendering r JOIN pg_roles p ON p.rolname = r.ran_as")" "acme_owner|$acme|2|f"
	claim "and its audit event names Ada" "$(ask dba "SELECT actor = '$ada' AND tenant_id = '$acme' FROM grownext.audit_event WHERE action = 'report.rendered'")" t
	say "" "With the quota used up, the whole transaction is refused:"
	ask acme_service "SELECT FROM grownext.usage_consume('reports.renders', (SELECT remaining FROM grownext.entitlement('reports.renders', '$acme'))::bigint, tenant_id => '$acme')" >/dev/null
	before=$(counts '%')
	{ unit 'one too many'; echo 'COMMIT;'; } | show acme_app -v token="$token"
	claim "a used-up quota aborts it whole" "$(counts '%')" "$before"
	ask acme_service "SELECT grownext.usage_return('reports.renders', 800, tenant_id => '$acme')" >/dev/null
}

the_trail()
{
	chapter "6. The trail"
	show acme_app -v token="$token" <<'SQL'
BEGIN;
SELECT grownext.authenticate(:'token') IS NOT NULL AS signed_in;
SELECT id, action, target, left(actor, 13) AS actor, actor_source, session_role FROM grownext.audit_event ORDER BY id DESC LIMIT 8;
COMMIT;
SQL
	claim "the subscription's start names the provider" "$(ask dba "SELECT count(*) > 0 FROM grownext.audit_event WHERE actor LIKE 'provider:stripe%' AND tenant_id = '$acme'")" t
	claim "Ada sees her tenant's trail only" "$(ask acme_app "BEGIN; SELECT FROM grownext.authenticate('$token'); SELECT count(*) FILTER (WHERE tenant_id <> '$acme' OR tenant_id IS NULL) FROM grownext.audit_event; COMMIT")" 0
	claim "not even the superuser changes it" "$(ask dba "UPDATE grownext_audit.event SET actor = 'nobody'" | sed -n 's/.*ERROR: *//p')" "the audit log cannot be changed"
}

the_customer_leaves()
{
	local answer
	chapter "7. The customer leaves, and every open session knows at once"
	open_session acme_service
	claim "a session that is already open says yes" "$(in_session "SELECT grownext.entitled('reports.export', '$acme');")" t
	fresh_event customer.subscription.deleted.json deleted.json
	deliver deleted.json
	wait_for acme_service "SELECT count(*) FROM grownext.billing_event WHERE state = 'applied'" 2 >/dev/null
	claim "the open session says no in its next statement" "$(in_session "SELECT grownext.entitled('reports.export', '$acme');")" f
	say "" "A late copy of the first event cannot bring it back."
	deliver created.json
	claim "an end is for good" "$(ask acme_service "SELECT grownext.entitled('reports.export', '$acme')")" f
	say "" "A revoked session ends the same way, in a psql that was already open:"
	answer=$(in_session "BEGIN; SELECT grownext.authenticate('$token') ->> 'tenant_id'; COMMIT;")
	claim "before: the token is good" "$answer" "$acme"
	ask acme_service "SELECT grownext.session_revoke('$session_id', 'left the company')" >/dev/null
	answer=$(in_session "SELECT grownext.authenticate('$token') ->> 'tenant_id';")
	matches "after session_revoke(): refused in the next statement" "$answer" "*ERROR:*revoked*"
	close_session
}

try_to_break_it()
{
	local lost under_fire
	chapter "8. Try to break it"
	say "Sixteen sessions fight for the last 100 units, beside a hand-written counter that reads, thinks and writes."
	show acme_service <<SQL
SELECT grownext.subscription_start('$acme', 'pro') IS NOT NULL AS subscribed_again;
SELECT u.remaining FROM grownext.entitlement('reports.renders', '$acme') AS e, grownext.usage_consume('reports.renders', (e.remaining - 100)::bigint, tenant_id => '$acme') AS u;
SQL
	ask acme_owner "CREATE TABLE app.naive (used int NOT NULL); INSERT INTO app.naive VALUES (0); CREATE TABLE app.granted (who text NOT NULL); GRANT SELECT, UPDATE ON app.naive TO acme_service; GRANT SELECT, INSERT ON app.granted TO acme_service" >/dev/null
	cat >"$run/ours.sql" <<SQL
INSERT INTO app.granted SELECT 'ours' FROM grownext.usage_consume('reports.renders', 1, tenant_id => '$acme') WHERE allowed;
SQL
	cat >"$run/naive.sql" <<'SQL'
SELECT used, (used < 100)::int AS room FROM app.naive \gset
\if :room
UPDATE app.naive SET used = :used + 1;
INSERT INTO app.granted VALUES ('naive');
\endif
SQL
	for kind in ours naive; do
		as_user "$bin/pgbench" -n -h "$socket" -p "$port" -U acme_service -c 16 -j 2 -t 40 -f "$run/$kind.sql" acme >"$run/$kind.log" 2>&1
	done
	granted=$(ask dba "SELECT count(*) FILTER (WHERE who = 'ours'), count(*) FILTER (WHERE who = 'naive') FROM app.granted")
	say "    ours granted ${granted%|*} of 100; the naive counter granted ${granted#*|}: oversold $((${granted#*|} - 100))"
	claim "16 sessions, 640 attempts, 100 units: 100 granted" "${granted%|*}" 100
	claim "the naive counter oversells under the same load" "$([ "${granted#*|}" -gt 100 ] && echo yes)" yes

	say "" "Now the postmaster is killed with signal 9 while four clients work and jobs run."
	ask acme_service "SELECT grownext.entitlement_grant('$acme', 'reports.renders', '{\"quota\": 1000000, \"period\": \"month\"}', reason => 'load test')" >/dev/null
	session_json=$(ask acme_service "SELECT grownext.session_create('$ada', '$acme')")
	token=$(ask acme_service "SELECT :'s'::jsonb ->> 'access_token'" -v s="$session_json")
	{ unit 'under fire'; echo 'COMMIT;'; } | sed "s/:'token'/'$token'/" >"$run/fire.sql"
	as_user "$bin/pgbench" -n -h "$socket" -p "$port" -U acme_app -c 4 -j 2 -T 30 -f "$run/fire.sql" acme >"$run/fire.log" 2>&1 &
	fire=$!
	wait_for dba "SELECT count(*) >= 200 FROM app.rendering" t >/dev/null
	kill -9 "$(head -n 1 "$data/postmaster.pid")"
	wait "$fire"
	say "    killed; what the clients saw: $(grep -c -E 'aborted|lost|terminated|closed' "$run/fire.log") lines of broken connections"
	start_after_kill
	wait_for acme_service "SELECT sum(ready + running + scheduled) FROM grownext.queue_stats()" 0 >/dev/null
	show dba <<'SQL'
SELECT (SELECT count(*) FROM app.report WHERE title = 'under fire') AS reports,
       (SELECT count(*) FROM app.rendering r JOIN app.report p ON p.id = r.report_id WHERE p.title = 'under fire') AS renderings,
       (SELECT count(DISTINCT r.report_id) FROM app.rendering r JOIN app.report p ON p.id = r.report_id WHERE p.title = 'under fire') AS distinct_renderings,
       (SELECT count(*) FROM app.report p JOIN grownext.audit_event e ON e.action = 'report.requested' AND e.target = 'report:' || p.id WHERE p.title = 'under fire') AS audit_events;
SQL
	lost=$(ask dba "SELECT count(*) FILTER (WHERE (SELECT count(*) FROM app.rendering r WHERE r.report_id = p.id) = 0), count(*) FILTER (WHERE (SELECT count(*) FROM app.rendering r WHERE r.report_id = p.id) > 1), count(*) FILTER (WHERE (SELECT count(*) FROM grownext.audit_event e WHERE e.action = 'report.requested' AND e.target = 'report:' || p.id) <> 1) FROM app.report p WHERE title = 'under fire'")
	under_fire=$(ask dba "SELECT count(*) >= 200 FROM app.report WHERE title = 'under fire'")
	claim "work was under way when the server died" "$under_fire" t
	claim "of the committed transactions none lost its job, none ran twice, none misses its audit event" "$lost" "0|0|0"
}

# The children of a killed postmaster need a moment to notice; until then it refuses to start.
start_after_kill()
{
	local deadline=$((SECONDS + 20))
	until as_user "$bin/pg_ctl" -D "$data" -l "$run/server.log" -w start >/dev/null 2>&1 || [ $SECONDS -ge $deadline ]; do
		sleep 0.2
	done
}
