/*
 * src/jwt/jose.c
 *	  Reading tokens: compact JWS and its header.
 *
 * Pure: no server, no allocation that outlives a call, no raise. Everything a
 * stranger can send passes here first, so each rule refuses; what RFC 8725 and the
 * published attacks ask for is in the order in which it is checked.
 */
#include "postgres.h"

#include <string.h>

#include "jwt/base64url.h"
#include "jwt/jose.h"

static const struct
{
	const char *code;
	const char *detail;
} errors[] = {{NULL, NULL},
#define GN_JOSE_ROW(name, code, detail) {code, detail},
			  GN_JOSE_ERRORS(GN_JOSE_ROW)
#undef GN_JOSE_ROW
};

const char *
gn_jose_error_code(GnJoseError error)
{
	return errors[error].code;
}

const char *
gn_jose_error_detail(GnJoseError error)
{
	return errors[error].detail;
}

/* A header in the course of being read. */
typedef struct Header
{
	GnJws *jws;
	char *out;       /* where the member's value goes */
	size_t out_size; /* 0: nobody reads it */
	GnJoseError error;
} Header;

/* No extension is known. jku, jwk, x5u and x5c are read by nobody: keys come from our
 * table. Encryption and compression have no place in a JWS. */
static void
begin_member(Header *header, const char *name, size_t len)
{
	GnJws *jws = header->jws;
	const struct
	{
		const char *name;
		char *out;
		size_t size;
		GnJoseError error;
	} known[] = {{"alg", jws->alg, sizeof(jws->alg), GN_JOSE_OK},
				 {"kid", jws->kid, sizeof(jws->kid), GN_JOSE_OK},
				 {"typ", jws->typ, sizeof(jws->typ), GN_JOSE_OK},
				 {"crit", NULL, 0, GN_JOSE_CRITICAL},
				 {"b64", NULL, 0, GN_JOSE_CRITICAL},
				 {"enc", NULL, 0, GN_JOSE_HEADER},
				 {"zip", NULL, 0, GN_JOSE_HEADER}};

	header->out_size = 0;
	for (size_t i = 0; i < lengthof(known); i++)
	{
		if (strlen(known[i].name) != len || memcmp(known[i].name, name, len) != 0)
			continue;
		header->out = known[i].out;
		header->out_size = known[i].size;
		if (header->error == GN_JOSE_OK)
			header->error = known[i].error;
	}
}

/* What is read must be a string of 1 to size - 1 printable characters. */
static void
take_value(Header *header, GnJsonEvent event, const char *text, size_t len)
{
	bool good = event == GN_JSON_STRING && len > 0 && len < header->out_size;

	for (size_t i = 0; good && i < len; i++)
		good = text[i] >= 0x20 && text[i] <= 0x7e;
	if (good)
	{
		memcpy(header->out, text, len);
		header->out[len] = '\0';
	}
	else
		header->error = GN_JOSE_HEADER;
	header->out_size = 0;
}

static void
hear_header(void *arg, GnJsonEvent event, int depth, const char *text, size_t len)
{
	Header *header = arg;

	if (depth != 1)
		return;
	if (event == GN_JSON_KEY)
		begin_member(header, text, len);
	else if (header->out_size > 0)
		take_value(header, event, text, len);
}

GnJoseError
gn_jws_read_header(GnJws *jws)
{
	Header header = {.jws = jws};
	GnJsonReader reader = {.event = hear_header, .arg = &header};
	char scratch[GN_JOSE_MAX_HEADER + 1];

	if (!gn_json_read(jws->header, jws->header_len, scratch, &reader))
		return GN_JOSE_HEADER;
	if (header.error == GN_JOSE_OK && jws->alg[0] == '\0')
		return GN_JOSE_HEADER;
	return header.error;
}

static bool
decode_segment(const char *text, size_t len, uint8 **scratch, const uint8 **out,
			   size_t *out_len)
{
	if (!gn_base64url_decode(text, len, *scratch, out_len))
		return false;
	*out = *scratch;
	*scratch += *out_len;
	return true;
}

GnJoseError
gn_jws_split(GnJws *jws, const char *token, size_t len)
{
	const char *end = token + len;
	const char *first;
	const char *second;

	if (len > GN_JOSE_MAX_TOKEN)
		return GN_JOSE_TOO_LARGE;
	first = memchr(token, '.', len);
	if (first == NULL)
		return GN_JOSE_MALFORMED;
	second = memchr(first + 1, '.', (size_t) (end - first - 1));
	if (second == NULL || memchr(second + 1, '.', (size_t) (end - second - 1)) != NULL)
		return GN_JOSE_MALFORMED;
	if (GN_BASE64URL_ENCODED_SIZE(GN_JOSE_MAX_HEADER) < (size_t) (first - token))
		return GN_JOSE_TOO_LARGE;
	jws->input = token;
	jws->input_len = (size_t) (second - token);
	jws->header_text_len = (size_t) (first - token);
	jws->signature_text = second + 1;
	jws->signature_text_len = (size_t) (end - second - 1);
	return GN_JOSE_OK;
}

GnJoseError
gn_jws_decode(GnJws *jws, uint8 *scratch)
{
	const char *payload = jws->input + jws->header_text_len + 1;

	if (!decode_segment(payload, (size_t) (jws->input + jws->input_len - payload),
						&scratch, &jws->payload, &jws->payload_len) ||
		!decode_segment(jws->signature_text, jws->signature_text_len, &scratch,
						&jws->signature, &jws->signature_len))
		return GN_JOSE_MALFORMED;
	return GN_JOSE_OK;
}

GnJoseError
gn_jws_decode_header(GnJws *jws, uint8 *scratch)
{
	if (!decode_segment(jws->input, jws->header_text_len, &scratch, &jws->header,
						&jws->header_len))
		return GN_JOSE_MALFORMED;
	return gn_jws_read_header(jws);
}

GnJoseError
gn_jws_parse(GnJws *jws, const char *token, size_t len, uint8 *scratch)
{
	GnJoseError error;

	memset(jws, 0, sizeof(*jws));
	error = gn_jws_split(jws, token, len);
	if (error == GN_JOSE_OK)
		error = gn_jws_decode(jws, scratch);
	if (error == GN_JOSE_OK)
		error =
			gn_jws_decode_header(jws, scratch + jws->payload_len + jws->signature_len);
	return error;
}
