/*
 * src/account/account.c
 *	  What the component tells the library about itself, and its keys.
 *
 * Tokens of login links and hashes of recovery codes hang on keys that are derived
 * from one sealed root key of the database, one key per use: a dump without the
 * master key tells neither.
 */
#include "postgres.h"

#include "utils/guc.h"

#include "account/account.h"
#include "core/core.h"
#include "crypto/crypto.h"

static int link_limit = 5;
static int link_ip_limit = 60;
static int totp_limit = 50;

void
gn_account_key(const char *label, uint8 *key)
{
	uint8 root[GN_KEY_SIZE];

	gn_root_key("account", root);
	gn_hkdf_sha256(root, sizeof(root), NULL, 0, label, strlen(label), key, GN_KEY_SIZE);
	gn_cleanse(root, sizeof(root));
}

static void
account_init(void)
{
	DefineCustomIntVariable(
		"grownext.account_link_ip_limit",
		"Login links that one IP address may ask for in an hour.",
		"An IPv6 address counts with its neighbours of the same /64.", &link_ip_limit,
		60, 1, 1000000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("grownext.account_link_limit",
							"Login links for one email address in an hour.", NULL,
							&link_limit, 5, 1, 10000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"grownext.account_totp_limit",
		"Attempts with wrong codes of a user's second factor in a day.",
		"Beside grownext.failure_limit, which holds for shorter times.", &totp_limit,
		50, 1, 10000, PGC_SIGHUP, 0, NULL, NULL, NULL);
}

const GnComponent gn_account_component = {
	.name = "account",
	.init = account_init,
	.tick = "SELECT _grownext.account_tick($1)",
};
