/*
 * src/crypto/seal.c
 *	  AES-256-GCM under a key derived from the master key, bound to a purpose.
 *
 * A sealed value is: version, length of the master key's id, that id, nonce (12),
 * ciphertext, tag (16). The key is HKDF(master key, purpose), so each purpose has
 * its own and the random nonce only has to differ within it; header and purpose
 * are authenticated too, so a value moved to another row does not open.
 *
 * A master key is adopted (its check value stored) at the first sealing of a
 * database, later only beside one that is known already: a lost key file that was
 * replaced by a fresh one is refused instead of being taken for a rotation.
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "core/core.h"
#include "crypto/master_key.h"

#define SEAL_VERSION 1
#define NONCE_SIZE 12
#define TAG_SIZE 16

GN_FUNCTION(gn_crypto_master_key_adopt);
GN_FUNCTION(gn_crypto_master_keys);
GN_FUNCTION(gn_crypto_reseal);

static GnQuery select_checks =
	GN_QUERY_NOARGS("SELECT id, check_value FROM _grownext.crypto_master_key");
static GnQuery insert_check = GN_QUERY("INSERT INTO _grownext.crypto_master_key (id, "
									   "check_value, adopted_at) VALUES ($1, $2, $3) "
									   "ON CONFLICT DO NOTHING",
									   TEXTOID, BYTEAOID, TIMESTAMPTZOID);

typedef enum KeyState
{
	KEY_UNKNOWN, /* this database never sealed with a key of that id */
	KEY_RIGHT,
	KEY_WRONG, /* same id, other bytes */
} KeyState;

static void
pg_attribute_noreturn() raise_problem(const GnMasterKeyProblem *problem)
{
	ereport(ERROR,
			(errcode(GN_ERRCODE_MASTER_KEY_MISSING), errmsg("%s", problem->message),
			 problem->detail ? errdetail("%s", problem->detail) : 0,
			 errhint("%s", problem->hint)));
}

static void
pg_attribute_noreturn() raise_wrong_key(const char *id)
{
	ereport(
		ERROR,
		(errcode(GN_ERRCODE_MASTER_KEY_MISSING),
		 errmsg("master key \"%s\" is not the one that this database was sealed with",
				id),
		 errhint("Put the original line \"%s:...\" back where keys come from (%s).", id,
				 gn_master_key_source())));
}

static void
pg_attribute_noreturn() raise_missing_key(const char *id)
{
	const GnMasterKey *keys;
	GnMasterKeyProblem problem;

	if (gn_master_keys(&keys, &problem) == 0)
		raise_problem(&problem);
	ereport(ERROR, (errcode(GN_ERRCODE_MASTER_KEY_MISSING),
					errmsg("master key \"%s\" is missing", id),
					errhint("Put its line \"%s:...\" back where keys come from (%s).",
							id, gn_master_key_source())));
}

/* Inside gn_spi_begin: how each key stands to what this database knows; the number
 * known. */
static uint64
judge_keys(const GnMasterKey *keys, int count, KeyState *states)
{
	uint64 known = gn_spi_execute(&select_checks, NULL, NULL, false);

	for (int i = 0; i < count; i++)
		states[i] = KEY_UNKNOWN;
	for (uint64 row = 0; row < known; row++)
	{
		char *id = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1);
		bool isnull;
		bytea *stored = DatumGetByteaPP(
			SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 2, &isnull));

		for (int i = 0; i < count; i++)
		{
			uint8 check[GN_MASTER_KEY_CHECK_SIZE];

			if (strcmp(keys[i].id, id) != 0)
				continue;
			gn_master_key_check(&keys[i], check);
			states[i] = VARSIZE_ANY_EXHDR(stored) == sizeof(check) &&
								gn_equal(VARDATA_ANY(stored), check, sizeof(check))
							? KEY_RIGHT
							: KEY_WRONG;
		}
	}
	return known;
}

/*
 * The current key, known to this database; *adopted says whether it became so
 * now. Raises NX017.
 */
static const GnMasterKey *
adopt_current_key(bool *adopted)
{
	const GnMasterKey *keys;
	GnMasterKeyProblem problem;
	int count = gn_master_keys(&keys, &problem);
	KeyState *states = palloc(Max(count, 1) * sizeof(KeyState));
	uint64 known;
	bool vouched = false;
	GnSpi spi;

	*adopted = false;
	if (count == 0)
		raise_problem(&problem);
	gn_spi_begin(&spi);
	known = judge_keys(keys, count, states);
	for (int i = 1; i < count; i++)
		vouched |= states[i] == KEY_RIGHT;
	if (states[0] == KEY_UNKNOWN && (known == 0 || vouched))
	{
		uint8 check[GN_MASTER_KEY_CHECK_SIZE];
		bytea *value = palloc(VARHDRSZ + sizeof(check));

		gn_master_key_check(&keys[0], check);
		SET_VARSIZE(value, VARHDRSZ + sizeof(check));
		memcpy(VARDATA(value), check, sizeof(check));
		gn_spi_execute(&insert_check,
					   (Datum[]){CStringGetTextDatum(keys[0].id),
								 PointerGetDatum(value), TimestampTzGetDatum(gn_now())},
					   NULL, false);
		*adopted = SPI_processed == 1;
		judge_keys(keys, count, states); /* another session may have been first */
	}
	gn_spi_end(&spi);
	if (states[0] == KEY_WRONG)
		raise_wrong_key(keys[0].id);
	if (states[0] == KEY_UNKNOWN)
		ereport(ERROR,
				(errcode(GN_ERRCODE_MASTER_KEY_MISSING),
				 errmsg("none of the master keys at hand is known to this database"),
				 errdetail("The current one is \"%s\".", keys[0].id),
				 errhint("Put the original keys back where keys come from (%s); a new "
						 "one may stand "
						 "above them.",
						 gn_master_key_source())));
	return &keys[0];
}

/* The authenticated part beside the header: what the value is for. */
static void
derive_key(const GnMasterKey *master, const char *purpose, uint8 key[GN_KEY_SIZE])
{
	char *info = psprintf("grownext seal %d %s", SEAL_VERSION, purpose);

	gn_hkdf_sha256(master->bytes, sizeof(master->bytes), NULL, 0, info, strlen(info),
				   key, GN_KEY_SIZE);
	pfree(info);
}

static bool
encrypt(const uint8 *key, const uint8 *nonce, const uint8 *header, int header_len,
		const char *purpose, const uint8 *plain, int len, uint8 *cipher, uint8 *tag)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n;
	bool done = ctx &&
				EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce) == 1 &&
				EVP_EncryptUpdate(ctx, NULL, &n, header, header_len) == 1 &&
				EVP_EncryptUpdate(ctx, NULL, &n, (const uint8 *) purpose,
								  (int) strlen(purpose)) == 1 &&
				EVP_EncryptUpdate(ctx, cipher, &n, plain, len) == 1 && n == len &&
				EVP_EncryptFinal_ex(ctx, cipher + n, &n) == 1 && n == 0 &&
				EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_SIZE, tag) == 1;

	EVP_CIPHER_CTX_free(ctx);
	return done;
}

static bool
decrypt(const uint8 *key, const uint8 *nonce, const uint8 *header, int header_len,
		const char *purpose, const uint8 *cipher, int len, const uint8 *tag,
		uint8 *plain)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n;
	bool done = ctx &&
				EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce) == 1 &&
				EVP_DecryptUpdate(ctx, NULL, &n, header, header_len) == 1 &&
				EVP_DecryptUpdate(ctx, NULL, &n, (const uint8 *) purpose,
								  (int) strlen(purpose)) == 1 &&
				EVP_DecryptUpdate(ctx, plain, &n, cipher, len) == 1 && n == len &&
				EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_SIZE,
									unconstify(uint8 *, tag)) == 1 &&
				EVP_DecryptFinal_ex(ctx, plain + n, &n) == 1 && n == 0;

	EVP_CIPHER_CTX_free(ctx);
	return done;
}

bytea *
gn_seal(const char *purpose, const void *plain, size_t len)
{
	bool adopted;
	const GnMasterKey *master = adopt_current_key(&adopted);
	size_t id_len = strlen(master->id);
	size_t header_len = 2 + id_len;
	Size size = VARHDRSZ + header_len + NONCE_SIZE + len + TAG_SIZE;
	bytea *sealed = palloc(size);
	uint8 *header = (uint8 *) VARDATA(sealed);
	uint8 *nonce = header + header_len;
	uint8 *cipher = nonce + NONCE_SIZE;
	uint8 key[GN_KEY_SIZE];
	bool done;

	SET_VARSIZE(sealed, size);
	header[0] = SEAL_VERSION;
	header[1] = (uint8) id_len;
	memcpy(header + 2, master->id, id_len);
	gn_random(nonce, NONCE_SIZE);
	derive_key(master, purpose, key);
	done = encrypt(key, nonce, header, (int) header_len, purpose, plain, (int) len,
				   cipher, cipher + len);
	gn_cleanse(key, sizeof(key));
	if (!done)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("libcrypto failed: AES-256-GCM")));
	return sealed;
}

/* Says why a value did not open: the master key is another one, or the value is
 * damaged. */
static void
pg_attribute_noreturn() raise_unopened(const GnMasterKey *master, const char *purpose)
{
	KeyState state;
	GnSpi spi;

	gn_spi_begin(&spi);
	judge_keys(master, 1, &state);
	gn_spi_end(&spi);
	if (state == KEY_WRONG)
		raise_wrong_key(master->id);
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("sealed value \"%s\" is damaged", purpose),
			 errhint("Restore its row from a backup, or drop it and store it again.")));
}

typedef enum OpenResult
{
	OPENED,
	MALFORMED,
	KEY_MISSING,
	UNFIT /* another key of that id, or damaged */
} OpenResult;

/* A sealed value in the course of being opened. */
typedef struct Opening
{
	char id[GN_MASTER_KEY_ID_MAX + 1];
	const GnMasterKey *master;
	uint8 *plain; /* from gn_secret_alloc */
	size_t len;
} Opening;

static OpenResult
try_open(const char *purpose, const bytea *sealed, Opening *opening)
{
	const uint8 *header = (const uint8 *) VARDATA_ANY(sealed);
	size_t size = VARSIZE_ANY_EXHDR(sealed);
	size_t header_len = size >= 2 ? (size_t) header[1] + 2 : 0;
	const uint8 *cipher = header + header_len + NONCE_SIZE;
	uint8 key[GN_KEY_SIZE];
	bool done;

	*opening = (Opening){0};
	if (size < 2 || header[0] != SEAL_VERSION || header[1] > GN_MASTER_KEY_ID_MAX ||
		size < header_len + NONCE_SIZE + TAG_SIZE)
		return MALFORMED;
	memcpy(opening->id, header + 2, header[1]);
	opening->master = gn_master_key_find(opening->id);
	if (opening->master == NULL)
		return KEY_MISSING;
	opening->len = size - header_len - NONCE_SIZE - TAG_SIZE;
	opening->plain = gn_secret_alloc(Max(opening->len, 1));
	derive_key(opening->master, purpose, key);
	done = decrypt(key, header + header_len, header, (int) header_len, purpose, cipher,
				   (int) opening->len, cipher + opening->len, opening->plain);
	gn_cleanse(key, sizeof(key));
	return done ? OPENED : UNFIT;
}

uint8 *
gn_open(const char *purpose, const bytea *sealed, size_t *len)
{
	Opening opening;
	OpenResult result = try_open(purpose, sealed, &opening);

	if (result == MALFORMED)
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
						errmsg("sealed value \"%s\" is damaged", purpose)));
	if (result == KEY_MISSING)
		raise_missing_key(opening.id);
	if (result == UNFIT)
		raise_unopened(opening.master, purpose);
	*len = opening.len;
	return opening.plain;
}

/*
 * SQL: _grownext.crypto_reseal(purpose text, sealed bytea, OUT resealed bytea, OUT
 * problem text). One value that does not open must not keep the others from being
 * sealed again, so it is no error here.
 */
Datum
gn_crypto_reseal(PG_FUNCTION_ARGS)
{
	char *purpose = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Opening opening;
	TupleDesc desc;
	Datum values[2] = {0};
	bool nulls[2] = {true, true};
	const char *problem = NULL;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	switch (try_open(purpose, PG_GETARG_BYTEA_PP(1), &opening))
	{
		case OPENED:
			values[0] = PointerGetDatum(gn_seal(purpose, opening.plain, opening.len));
			gn_cleanse(opening.plain, opening.len);
			break;
		case MALFORMED:
			problem = "it is damaged";
			break;
		case KEY_MISSING:
			problem = psprintf("master key \"%s\" is missing", opening.id);
			break;
		case UNFIT:
			problem = psprintf("it is damaged, or master key \"%s\" is another one",
							   opening.id);
			break;
	}
	nulls[0] = problem != NULL;
	nulls[1] = problem == NULL;
	if (problem)
		values[1] = CStringGetTextDatum(problem);
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* SQL: _grownext.crypto_master_key_adopt(OUT id text, OUT adopted boolean) */
Datum
gn_crypto_master_key_adopt(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	bool adopted;
	const GnMasterKey *master = adopt_current_key(&adopted);
	Datum values[2] = {CStringGetTextDatum(master->id), BoolGetDatum(adopted)};
	bool nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/*
 * SQL: _grownext.crypto_master_keys(OUT source, OUT problem, OUT hint, OUT ids
 * text[], OUT check_values bytea[], OUT exposed boolean). What status() needs to test
 * the keys at hand, also on a standby: it reads no table and never raises.
 */
Datum
gn_crypto_master_keys(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	const GnMasterKey *keys;
	GnMasterKeyProblem problem;
	int count = gn_master_keys(&keys, &problem);
	Datum *ids = palloc(Max(count, 1) * sizeof(Datum));
	Datum *checks = palloc(Max(count, 1) * sizeof(Datum));
	Datum values[6] = {0};
	bool nulls[6] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < count; i++)
	{
		bytea *check = palloc(VARHDRSZ + GN_MASTER_KEY_CHECK_SIZE);

		SET_VARSIZE(check, VARHDRSZ + GN_MASTER_KEY_CHECK_SIZE);
		gn_master_key_check(&keys[i], (uint8 *) VARDATA(check));
		ids[i] = CStringGetTextDatum(keys[i].id);
		checks[i] = PointerGetDatum(check);
	}
	values[0] = CStringGetTextDatum(gn_master_key_source());
	nulls[1] = problem.message == NULL;
	if (problem.message)
		values[1] = CStringGetTextDatum(
			problem.detail ? psprintf("%s. %s", problem.message, problem.detail)
						   : problem.message);
	nulls[2] = problem.hint == NULL;
	if (problem.hint)
		values[2] = CStringGetTextDatum(problem.hint);
	values[3] =
		PointerGetDatum(construct_array(ids, count, TEXTOID, -1, false, TYPALIGN_INT));
	values[4] = PointerGetDatum(
		construct_array(checks, count, BYTEAOID, -1, false, TYPALIGN_INT));
	values[5] = BoolGetDatum(gn_master_key_in_data_directory());
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
