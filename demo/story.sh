# demo/story.sh -- the true story itself, act by act; sourced by demo/run and told by tell_story

issuer=https://id.acme.example
audience=https://api.acme.example
fixtures=$here/test/fixtures/stripe

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
	chapter "The stage: one database, four roles, no superuser after this"
	say "A DBA installs the extension and lets four login roles in. From here on everything is done by these, with the documented grants."
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
	claim "setup() armed this database" "$(ask acme_admin "SELECT count(*) FROM grownext.status() WHERE state = 'failed'")" 0
}

a_customer_subscribes()
{
	chapter "1. A customer subscribes, and Stripe tells us"
	webhook_secret=whsec_$(openssl rand -hex 24)
	say "The signing secret of the webhook is sealed under the master key; the catalogue says what a plan contains, the price map which Stripe price buys it."
	show acme_admin -v secret="$webhook_secret" <<'SQL'
SELECT grownext.secret_set('stripe-webhook', :'secret');
SELECT grownext.billing_provider_define('stripe', 'stripe-webhook');
SELECT grownext.product_define('reports', 'Reports');
SELECT grownext.feature_define('reports.export', 'reports', 'boolean');
SELECT grownext.feature_define('reports.renders', 'reports', 'metered');
SELECT grownext.bundle_define('pro', '{"reports.export": true, "reports.renders": {"quota": 1000, "period": "month"}}');
SELECT grownext.billing_price_map('stripe', 'price_1RgPro000000000000000000', 'pro');
SQL
	show acme_service <<'SQL'
SELECT grownext.user_create('ada@acme.example', 'Ada') AS ada \gset
SELECT grownext.tenant_create('acme', 'Acme GmbH', :'ada') AS acme \gset
SELECT grownext.billing_customer_link('stripe', 'cus_demo', :'acme');
SELECT slug, name, status FROM grownext.tenant;
SQL
}
