/* SPDX-License-Identifier: Apache-2.0
 * arbiter_etcd - the key of a VM in etcd, through the v3 JSON gateway.
 *
 * Theory of operation. The key is <prefix>/<pair>/<vm>, its value {"term":n,"owner":s,"nonce":s}.
 * A compare-and-set reads the key (a linearizable read), compares term and owner with what is
 * expected, and then asks for one transaction: if the key's mod_revision is still the one that was
 * read (0: absent), put the new value, else read it. A revision never comes back, so the
 * transaction can happen at most once however often it is sent, and asking another endpoint after a
 * lost answer is safe: either it is done then, or the answer shows our own value (term, owner and
 * this process's nonce), or it shows somebody else's and our late one can no longer match.
 */
#include "ctl/arbiter.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	REPLY_MAX = 64 << 10,
	KEY_MAX = CONFIG_ENDPOINT_MAX + 2 * CONFIG_NAME_MAX + 2,
	VALUE_MAX = 192,
	NONCE_MAX = 17,
};
#define B64_MAX(n) (((n) + 2) / 3 * 4 + 1)

struct etcd {
	const struct config *cfg;
	CURL *curl;
	struct curl_slist *headers;
	char nonce[NONCE_MAX];
	unsigned first; /* endpoint that answered last */
	struct buf reply;
};

/* What the key holds. */
struct etcd_value {
	struct arb_value v;
	char nonce[NONCE_MAX];
	int64_t mod_revision; /* 0: absent */
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_started;

static void start_curl(void)
{
	curl_started = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct buf *b = arg;

	if (b->len + n > REPLY_MAX || buf_add(b, p, size * n))
		return 0; /* makes the transfer fail */
	return size * n;
}

static void etcd_close(void *worker)
{
	struct etcd *e = worker;

	curl_easy_cleanup(e->curl);
	curl_slist_free_all(e->headers);
	buf_fini(&e->reply);
	free(e);
}

/* A CURLcode for all of it: the first that is not CURLE_OK. */
static CURLcode set_options(struct etcd *e)
{
	CURL *c = e->curl;
	long ms = (long)e->cfg->arbiter.timeout_ms;
	CURLcode rc = curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);

	rc = rc ?: curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, ms);
	rc = rc ?: curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, ms);
	rc = rc ?: curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
	rc = rc ?: curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	rc = rc ?: curl_easy_setopt(c, CURLOPT_HTTPHEADER, e->headers);
	rc = rc ?: curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
	rc = rc ?: curl_easy_setopt(c, CURLOPT_WRITEDATA, &e->reply);
	return rc;
}

static int etcd_open(const struct config *cfg, uint64_t nonce, void **worker_out,
		     struct err *err)
{
	struct etcd *e = calloc(1, sizeof(*e));

	*worker_out = NULL;
	if (!e)
		return err_set(err, -ENOMEM, "etcd: out of memory");
	pthread_once(&curl_once, start_curl);
	e->cfg = cfg;
	(void)snprintf(e->nonce, sizeof(e->nonce), "%016" PRIx64, nonce); /* fits */
	e->headers = curl_slist_append(NULL, "Content-Type: application/json");
	if (curl_started == CURLE_OK)
		e->curl = curl_easy_init();
	if (!e->curl || !e->headers || set_options(e) != CURLE_OK) {
		etcd_close(e);
		return err_set(err, -EIO, "etcd: libcurl could not start");
	}
	*worker_out = e;
	return 0;
}

static void encode64(const char *text, size_t len, char *out)
{
	(void)EVP_EncodeBlock((unsigned char *)out, (const unsigned char *)text,
			      (int)len);
}

/* @out needs @room; the decoded text gets a NUL. 0 or -EBADMSG. */
static int decode64(const char *b64, char *out, size_t room)
{
	size_t len = strlen(b64), pad = 0;
	int n;

	if (len % 4 || len / 4 * 3 + 1 > room)
		return -EBADMSG;
	while (pad < 2 && pad < len && b64[len - 1 - pad] == '=')
		pad++;
	n = EVP_DecodeBlock((unsigned char *)out, (const unsigned char *)b64, (int)len);
	if (n < 0)
		return -EBADMSG;
	out[(size_t)n - pad] = '\0';
	return 0;
}

/* One request to one endpoint: returns owned JSON, or NULL and why. */
static json_t *post_one(struct etcd *e, const char *endpoint, const char *path,
			const char *body, char *why)
{
	char url[CONFIG_ENDPOINT_MAX + 32];
	long status = 0;
	json_t *js = NULL;
	CURLcode rc;

	(void)snprintf(url, sizeof(url), "%s%s", endpoint, path); /* fits */
	buf_reset(&e->reply);
	rc = curl_easy_setopt(e->curl, CURLOPT_URL, url);
	rc = rc ?: curl_easy_setopt(e->curl, CURLOPT_POSTFIELDS, body);
	rc = rc ?: curl_easy_perform(e->curl);
	rc = rc ?: curl_easy_getinfo(e->curl, CURLINFO_RESPONSE_CODE, &status);
	if (rc == CURLE_OK && status == 200)
		js = json_loadb((const char *)e->reply.data, e->reply.len, 0, NULL);
	if (json_is_object(js))
		return js;
	json_decref(js);
	if (rc != CURLE_OK) /* truncation is fine here and below */
		(void)snprintf(why, ARB_WHY_MAX, "%.80s: %s", endpoint,
			       curl_easy_strerror(rc));
	else
		(void)snprintf(why, ARB_WHY_MAX, "%.80s: HTTP status %ld%s", endpoint,
			       status, status == 200 ? ", and no JSON" : "");
	return NULL;
}

/* The endpoint that answered last first, then the others. */
static json_t *post(struct etcd *e, const char *path, json_t *body, char *why)
{
	const struct config_arbiter *a = &e->cfg->arbiter;
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	json_t *js = NULL;

	if (!text)
		(void)snprintf(why, ARB_WHY_MAX, "out of memory"); /* fits */
	for (unsigned i = 0; text && i < a->n_endpoints && !js; i++) {
		unsigned k = (e->first + i) % a->n_endpoints;

		js = post_one(e, a->endpoints[k], path, text, why);
		if (js) {
			e->first = k;
			break;
		}
	}
	free(text);
	return js;
}

/* int64 in protobuf's JSON is text. 0 when missing. */
static int64_t int64_of(json_t *o, const char *key)
{
	json_t *v = json_object_get(o, key);

	if (json_is_string(v))
		return strtoll(json_string_value(v), NULL, 10);
	return json_integer_value(v);
}

static int value_of_text(const char *text, struct etcd_value *out)
{
	json_t *js = json_loads(text, 0, NULL);
	const char *owner = json_string_value(json_object_get(js, "owner"));
	const char *nonce = json_string_value(json_object_get(js, "nonce"));
	json_int_t term = json_integer_value(json_object_get(js, "term"));
	int rc = -EBADMSG;

	if (owner && nonce && term > 0 && strlen(owner) < sizeof(out->v.owner) &&
	    strlen(nonce) < sizeof(out->nonce)) {
		out->v.term = (uint64_t)term;
		memcpy(out->v.owner, owner, strlen(owner) + 1);
		memcpy(out->nonce, nonce, strlen(nonce) + 1);
		rc = 0;
	}
	json_decref(js);
	return rc;
}

/* From a range response: the only key-value, or absent. */
static int value_of_range(json_t *range, struct etcd_value *out)
{
	json_t *kv = json_array_get(json_object_get(range, "kvs"), 0);
	const char *b64 = json_string_value(json_object_get(kv, "value"));
	char text[VALUE_MAX];

	memset(out, 0, sizeof(*out));
	if (!kv) /* an answer of etcd always has a header; anything else proves nothing */
		return json_is_object(range) ? 0 : -EBADMSG;
	out->mod_revision = int64_of(kv, "mod_revision");
	if (!b64 || out->mod_revision <= 0 || decode64(b64, text, sizeof(text)))
		return -EBADMSG;
	return value_of_text(text, out);
}

static size_t key_of(struct etcd *e, const char *vm, char *b64)
{
	char key[KEY_MAX];
	int n = snprintf(key, sizeof(key), "%s/%s/%s", e->cfg->arbiter.prefix,
			 e->cfg->pair, vm);

	encode64(key, (size_t)n, b64); /* KEY_MAX holds the longest of each part */
	return (size_t)n;
}

static int get(struct etcd *e, const char *vm, struct etcd_value *out, char *why)
{
	char key[B64_MAX(KEY_MAX)];
	json_t *body, *js;
	int rc = -EBADMSG;

	key_of(e, vm, key);
	body = json_pack("{s:s}", "key", key);
	js = post(e, "/v3/kv/range", body, why);
	json_decref(body);
	if (!js)
		return -EIO;
	if (json_is_object(json_object_get(js, "header")))
		rc = value_of_range(js, out);
	if (rc)
		(void)snprintf(why, ARB_WHY_MAX,
			       "the key of %s in etcd holds something else", vm);
	json_decref(js);
	return rc;
}

static json_t *txn_body(struct etcd *e, const struct arb_request *rq, int64_t revision)
{
	char key[B64_MAX(KEY_MAX)], text[VALUE_MAX], value[B64_MAX(VALUE_MAX)], rev[24];
	int n;

	key_of(e, rq->vm, key);
	n = snprintf(text, sizeof(text),
		     "{\"term\":%" PRIu64 ",\"owner\":\"%s\",\"nonce\":\"%s\"}",
		     rq->desired.term, rq->desired.owner, e->nonce);
	encode64(text, (size_t)n,
		 value); /* names have no characters that JSON would escape */
	(void)snprintf(rev, sizeof(rev), "%" PRId64, revision); /* fits */
	return json_pack("{s:[{s:s,s:s,s:s,s:s}],s:[{s:{s:s,s:s}}],s:[{s:{s:s}}]}",
			 "compare", "key", key, "target", "MOD", "result", "EQUAL",
			 "mod_revision", rev, "success", "requestPut", "key", key,
			 "value", value, "failure", "requestRange", "key", key);
}

/* 1: done; 0: not done and *now_out is what is there; -errno: not known. */
static int txn(struct etcd *e, const struct arb_request *rq, int64_t revision,
	       struct etcd_value *now_out, char *why)
{
	json_t *body = txn_body(e, rq, revision);
	json_t *js = post(e, "/v3/kv/txn", body, why), *first;
	int rc = -EIO;

	json_decref(body);
	if (!js)
		return rc;
	first = json_array_get(json_object_get(js, "responses"), 0);
	if (json_is_true(json_object_get(js, "succeeded")))
		rc = 1;
	else if (json_object_get(first, "response_range"))
		rc = value_of_range(json_object_get(first, "response_range"), now_out);
	if (rc < 0)
		(void)snprintf(why, ARB_WHY_MAX,
			       "etcd's answer to a transaction makes no sense");
	json_decref(js);
	return rc;
}

static int same(const struct arb_value *a, const struct arb_value *b)
{
	return a->term == b->term && (!a->term || !strcmp(a->owner, b->owner));
}

static int is_ours(const struct etcd *e, const struct arb_request *rq,
		   const struct etcd_value *now)
{
	return same(&now->v, &rq->desired) && !strcmp(now->nonce, e->nonce);
}

static int is_expected(const struct arb_request *rq, const struct etcd_value *now)
{
	return same(&now->v, &rq->expect) ||
	       (rq->force && now->v.term < rq->desired.term);
}

static void etcd_read(void *worker, const struct arb_request *rq, struct arb_answer *ans)
{
	struct etcd_value now;

	ans->result = ARB_UNREACHABLE;
	if (get(worker, rq->vm, &now, ans->why))
		return;
	ans->result = ARB_VALUE;
	ans->value = now.v;
}

static void settle(const struct etcd *e, const struct arb_request *rq,
		   const struct etcd_value *now, struct arb_answer *ans)
{
	ans->result = is_ours(e, rq, now) ? ARB_GRANTED : ARB_REFUSED;
	ans->value = now->v;
}

static void etcd_cas(void *worker, const struct arb_request *rq, struct arb_answer *ans)
{
	struct etcd *e = worker;
	struct etcd_value now;
	int rc;

	ans->result = ARB_UNREACHABLE;
	if (get(e, rq->vm, &now, ans->why))
		return;
	if (is_ours(e, rq, &now) || !is_expected(rq, &now)) {
		settle(e, rq, &now, ans);
		return;
	}
	rc = txn(e, rq, now.mod_revision, &now, ans->why);
	if (rc > 0) {
		ans->result = ARB_GRANTED;
		ans->value = rq->desired;
	} else if (!rc) {
		settle(e, rq, &now, ans);
	} else if (!get(e, rq->vm, &now, ans->why) && !is_expected(rq, &now)) {
		/* Unchanged, our request may still be on its way: only a change settles it. */
		settle(e, rq, &now, ans);
	}
}

const struct arbiter_ops arbiter_etcd = {
	.name = "etcd",
	.worker_open = etcd_open,
	.worker_close = etcd_close,
	.read = etcd_read,
	.cas = etcd_cas,
};
