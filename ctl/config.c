/* SPDX-License-Identifier: Apache-2.0
 * config - the one file that both hosts of a pair share: its frame, hosts, arbiter, heartbeat.
 */
#include "ctl/config.h"

#include "ctl/config_read.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <libconfig.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const top_keys[] = {"pair", "hosts", "arbiter",     "heartbeat",
				       "vms",  "paths", "path_buffer", NULL};
static const char *const pair_keys[] = {"name", "key", "key_file", NULL};
static const char *const host_keys[] = {"name", "replication", "heartbeat", NULL};
static const char *const arbiter_keys[] = {"kind", "endpoints", "prefix", "timeout_ms",
					   NULL};
static const char *const heartbeat_keys[] = {"interval_ms", "missed", NULL};

/* Exactly 64 hex digits; trailing white space (a file's newline) is fine. */
static int parse_key(const char *t, uint8_t *key)
{
	size_t n = strlen(t);
	char pair[3] = "";

	while (n && isspace((unsigned char)t[n - 1]))
		n--;
	if (n != 2 * CONFIG_KEY_LEN)
		return -EINVAL;
	for (size_t i = 0; i < n; i += 2) {
		if (!isxdigit((unsigned char)t[i]) || !isxdigit((unsigned char)t[i + 1]))
			return -EINVAL;
		memcpy(pair, t + i, 2);
		key[i / 2] = (uint8_t)strtoul(pair, NULL, 16);
	}
	return 0;
}

/* At most room - 1 bytes and a NUL. Returns the length or -errno. */
static ssize_t read_file(const char *path, char *buf, size_t room, struct stat *st)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = 0, got = 1;

	if (fd < 0)
		return -errno;
	if (fstat(fd, st)) {
		n = -errno;
	} else if (!S_ISREG(st->st_mode)) {
		n = -EINVAL;
	} else if ((uint64_t)st->st_size >= room) {
		n = -EFBIG;
	} else {
		while (got > 0 && (size_t)n < room - 1) {
			got = read(fd, buf + n, room - 1 - (size_t)n);
			n += got > 0 ? got : 0;
		}
		if (got < 0)
			n = -errno;
	}
	close(fd);
	if (n >= 0)
		buf[n] = '\0';
	return n;
}

int config_read_key(const char *path, uint8_t *key, struct err *err)
{
	char text[256];
	struct stat st;
	ssize_t n = read_file(path, text, sizeof(text), &st);
	int rc = 0;

	if (n < 0)
		return err_set(err, (int)n,
			       "%s: %s; make it with: rheactl pair OTHER-HOST", path,
			       strerror((int)-n));
	if (st.st_mode & 077)
		rc = err_set(err, -EPERM, "%s can be read by others; chmod 600 %s", path,
			     path);
	else if (parse_key(text, key))
		rc = err_set(err, -EINVAL,
			     "%s does not hold 64 hex digits; make it anew with: "
			     "rheactl pair --replace OTHER-HOST",
			     path);
	explicit_bzero(text, sizeof(text));
	return rc;
}

static int read_key_file(struct config_reader *r, config_setting_t *s, struct config *cfg)
{
	struct err why = {0};
	int rc = config_text_of(r, s, cfg->key_file, sizeof(cfg->key_file));

	if (rc || r->flags & CONFIG_NO_KEY)
		return rc;
	rc = config_read_key(cfg->key_file, cfg->key, &why);
	return rc ? config_fail(r, s, rc, "%s", why.msg) : 0;
}

static int read_pair(struct config_reader *r, config_setting_t *root, struct config *cfg)
{
	config_setting_t *s, *key, *file;
	char text[2 * CONFIG_KEY_LEN + 64];
	int rc = config_group(r, root, "pair", &s);

	if (!rc)
		rc = config_check_keys(r, s, pair_keys);
	if (!rc)
		rc = config_name(r, s, "name", cfg->pair, sizeof(cfg->pair));
	if (rc)
		return rc;
	key = config_setting_get_member(s, "key");
	file = config_setting_get_member(s, "key_file");
	if (!key == !file)
		return config_fail(r, s, -EINVAL, "give either key or key_file");
	if (file)
		return read_key_file(r, file, cfg);
	rc = config_text_of(r, key, text, sizeof(text));
	if (!rc && parse_key(text, cfg->key))
		rc = config_fail(
			r, key, -EINVAL,
			"must be 64 hex digits; or let rheactl pair make a key_file");
	OPENSSL_cleanse(text, sizeof(text));
	return rc;
}

static int read_host_paths(struct config_reader *r, config_setting_t *s,
			   struct config_host *h)
{
	config_setting_t *list, *e;
	int rc = config_list(r, s, "heartbeat", 1, CONFIG_PATHS_MAX, &list);

	for (unsigned i = 0; !rc && i < (unsigned)config_setting_length(list); i++) {
		e = config_setting_get_elem(list, i);
		rc = config_addr(r, e, &h->heartbeat[i]);
		for (unsigned k = 0; !rc && k < i; k++)
			if (!(r->flags & CONFIG_ANY_PORT) &&
			    !strcmp(h->heartbeat[k].text, h->heartbeat[i].text))
				rc = config_fail(
					r, e, -EEXIST,
					"%s is listed twice; each path has an address of its own",
					h->heartbeat[i].text);
		h->n_heartbeat = i + 1;
	}
	return rc;
}

static int read_host(struct config_reader *r, config_setting_t *s, struct config_host *h)
{
	config_setting_t *repl, *root;
	int rc = config_name(r, s, "name", h->name, sizeof(h->name));

	/* Per-host values use host names as keys, which libconfig wants to begin with a letter. */
	if (!rc && !isalpha((unsigned char)h->name[0]))
		rc = config_fail(r, config_setting_get_member(s, "name"), -EINVAL,
				 "\"%s\": a host's name begins with a letter", h->name);
	if (rc)
		return rc;
	repl = config_setting_get_member(s, "replication");
	root = config_setting_parent(config_setting_parent(s));
	if (!repl && config_setting_get_member(root, "paths"))
		return read_host_paths(r, s, h);
	if (!repl)
		return config_fail(
			r, s, -EINVAL,
			"replication is missing; add replication = \"addr:port\";");
	rc = config_addr(r, repl, &h->replication);
	return rc ? rc : read_host_paths(r, s, h);
}

static int read_hosts(struct config_reader *r, config_setting_t *root, struct config *cfg)
{
	config_setting_t *list, *e;
	int rc = config_list(r, root, "hosts", CONFIG_HOSTS, CONFIG_HOSTS, &list);

	for (unsigned i = 0; i < CONFIG_HOSTS && !rc; i++) {
		rc = config_elem_group(r, list, i, host_keys, &e);
		if (!rc)
			rc = read_host(r, e, &cfg->hosts[i]);
	}
	if (rc)
		return rc;
	if (!strcmp(cfg->hosts[0].name, cfg->hosts[1].name))
		return config_fail(r, config_setting_get_member(e, "name"), -EEXIST,
				   "\"%s\" is the name of hosts[0]; choose another",
				   cfg->hosts[1].name);
	if (cfg->hosts[0].n_heartbeat != cfg->hosts[1].n_heartbeat)
		return config_fail(
			r, config_setting_get_member(e, "heartbeat"), -EINVAL,
			"has %u paths, hosts[0] has %u; path i joins both hosts' address i",
			cfg->hosts[1].n_heartbeat, cfg->hosts[0].n_heartbeat);
	for (unsigned i = 0; i < cfg->hosts[0].n_heartbeat; i++)
		if (cfg->hosts[0].heartbeat[i].ss.ss_family !=
		    cfg->hosts[1].heartbeat[i].ss.ss_family)
			return config_fail(
				r, config_setting_get_member(e, "heartbeat"), -EINVAL,
				"path %u is IPv4 on one host and IPv6 on the other", i);
	return 0;
}

static int same_host(const char *configured, const char *given)
{
	size_t n = strlen(configured);

	return !strncmp(configured, given, n) && (!given[n] || given[n] == '.');
}

static int find_self(struct config_reader *r, config_setting_t *root, const char *host,
		     struct config *cfg)
{
	char name[HOST_NAME_MAX + 1] = "";

	if (!host) {
		if (gethostname(name, sizeof(name) - 1))
			return err_sys(r->err, -errno, "this machine's host name");
		host = name;
	}
	for (cfg->self = 0; cfg->self < CONFIG_HOSTS; cfg->self++) {
		cfg->peer = 1 - cfg->self;
		if (same_host(cfg->hosts[cfg->self].name, host))
			return 0;
	}
	cfg->self = 0;
	return config_fail(
		r, config_setting_get_member(root, "hosts"), -ENOENT,
		"this host is \"%s\" and the pair is \"%s\" and \"%s\"; correct it or say "
		"--host NAME",
		host, cfg->hosts[0].name, cfg->hosts[1].name);
}

static void cut_slash(char *t)
{
	size_t n = strlen(t);

	while (n && t[n - 1] == '/')
		t[--n] = '\0';
}

static int read_endpoints(struct config_reader *r, config_setting_t *s,
			  struct config_arbiter *a)
{
	config_setting_t *list, *e;
	int rc = config_list(r, s, "endpoints", 1, CONFIG_ENDPOINTS_MAX, &list);

	for (unsigned i = 0; !rc && i < (unsigned)config_setting_length(list); i++) {
		e = config_setting_get_elem(list, i);
		rc = config_text_of(r, e, a->endpoints[i], sizeof(a->endpoints[i]));
		if (!rc && strncmp(a->endpoints[i], "http://", 7) != 0 &&
		    strncmp(a->endpoints[i], "https://", 8) != 0)
			rc = config_fail(
				r, e, -EINVAL,
				"\"%s\" is no URL; write it like \"http://10.0.0.3:2379\"",
				a->endpoints[i]);
		cut_slash(a->endpoints[i]);
		a->n_endpoints = i + 1;
	}
	return rc;
}

static int read_arbiter(struct config_reader *r, config_setting_t *root,
			struct config_arbiter *a)
{
	config_setting_t *s;
	uint64_t ms = 0;
	char kind[16];
	int rc = config_group(r, root, "arbiter", &s);

	if (!rc)
		rc = config_check_keys(r, s, arbiter_keys);
	if (!rc)
		rc = config_text(r, s, "kind", NULL, kind, sizeof(kind));
	if (rc)
		return rc;
	if (!strcmp(kind, "etcd"))
		a->kind = CONFIG_ARBITER_ETCD;
	else if (!strcmp(kind, "manual"))
		a->kind = CONFIG_ARBITER_MANUAL;
	else
		return config_fail(r, config_setting_get_member(s, "kind"), -EINVAL,
				   "\"%s\" is no arbiter; give \"etcd\" or \"manual\"",
				   kind);
	rc = config_uint(r, s, "timeout_ms", 1000, 50, 30000, &ms);
	a->timeout_ms = (unsigned)ms;
	if (!rc)
		rc = config_text(r, s, "prefix", "/rhea", a->prefix, sizeof(a->prefix));
	cut_slash(a->prefix);
	if (!rc && a->kind == CONFIG_ARBITER_ETCD)
		rc = read_endpoints(r, s, a);
	return rc;
}

static int read_heartbeat(struct config_reader *r, config_setting_t *root,
			  struct config *cfg)
{
	config_setting_t *s = config_setting_get_member(root, "heartbeat");
	uint64_t interval = 100, missed = 3;
	int rc = 0;

	if (s) {
		rc = config_group(r, root, "heartbeat", &s);
		if (!rc)
			rc = config_check_keys(r, s, heartbeat_keys);
		if (!rc)
			rc = config_uint(r, s, "interval_ms", interval, 10, 10000,
					 &interval);
		if (!rc)
			rc = config_uint(r, s, "missed", missed, 2, 100, &missed);
	}
	cfg->heartbeat_interval_ms = (unsigned)interval;
	cfg->heartbeat_missed = (unsigned)missed;
	return rc;
}

static int read_tree(struct config_reader *r, config_setting_t *root, const char *host,
		     struct config *cfg)
{
	int rc = config_check_keys(r, root, top_keys);

	if (!rc)
		rc = read_pair(r, root, cfg);
	if (!rc)
		rc = read_hosts(r, root, cfg);
	if (!rc)
		rc = find_self(r, root, host, cfg);
	r->cfg = cfg;
	if (!rc)
		rc = read_arbiter(r, root, &cfg->arbiter);
	if (!rc)
		rc = read_heartbeat(r, root, cfg);
	if (!rc)
		rc = config_paths(r, root, cfg);
	if (!rc)
		rc = config_vms(r, root, cfg);
	if (!rc && config_digest(root, cfg->digest))
		rc = err_set(r->err, -EIO, "%s: the digest failed (OpenSSL)", r->name);
	return rc;
}

static int refuse_line(const char *line, size_t len, unsigned number, const char *name,
		       struct err *err)
{
	size_t blank = 0;

	while (blank < len && (line[blank] == ' ' || line[blank] == '\t'))
		blank++;
	if (memchr(line, '\0', len))
		return err_set(err, -EINVAL,
			       "%s:%u: has a NUL byte; is this a text file?", name,
			       number);
	if (len - blank >= 8 && !memcmp(line + blank, "@include", 8))
		return err_set(
			err, -EINVAL,
			"%s:%u: @include: not supported; keep everything in one file",
			name, number);
	return 0;
}

/* What the parser would accept and we do not: one text file is what both hosts compare. */
static int refuse_text(const char *text, size_t len, const char *name, struct err *err)
{
	const char *end = text + len, *nl;
	int rc = 0;

	if (len >= CONFIG_FILE_MAX)
		return err_set(err, -EFBIG,
			       "%s:1: is larger than 1 MiB; is this a config?", name);
	for (unsigned number = 1; text < end && !rc; number++, text = nl + 1) {
		nl = memchr(text, '\n', (size_t)(end - text));
		if (!nl)
			nl = end;
		rc = refuse_line(text, (size_t)(nl - text), number, name, err);
	}
	return rc;
}

int config_parse(const char *text, size_t len, const char *name, const char *host,
		 unsigned flags, struct config **cfg_out, struct err *err)
{
	struct config_reader r = {.name = name, .err = err, .flags = flags};
	struct config *cfg = NULL;
	char *copy = NULL;
	config_t tree;
	int rc;

	*cfg_out = NULL;
	config_init(&tree);
	rc = refuse_text(text, len, name, err);
	if (rc)
		goto out;
	copy = strndup(text, len);
	cfg = calloc(1, sizeof(*cfg));
	if (!copy || !cfg) {
		rc = err_set(err, -ENOMEM, "%s: out of memory", name);
		goto out;
	}
	if (config_read_string(&tree, copy) != CONFIG_TRUE) {
		rc = err_set(err, -EINVAL,
			     "%s:%d: %s; look at this line and the end of the one before",
			     name, config_error_line(&tree), config_error_text(&tree));
		goto out;
	}
	rc = read_tree(&r, config_root_setting(&tree), host, cfg);
	if (!rc) {
		*cfg_out = cfg;
		cfg = NULL;
	}
out:
	config_free(cfg);
	config_destroy(&tree);
	if (copy)
		OPENSSL_cleanse(copy, strlen(copy));
	free(copy);
	return rc;
}

int config_load(const char *path, const char *host, unsigned flags,
		struct config **cfg_out, struct err *err)
{
	char *text = calloc(1, CONFIG_FILE_MAX + 1);
	struct stat st = {0};
	ssize_t n;
	int rc;

	*cfg_out = NULL;
	if (!text)
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	n = read_file(path, text, CONFIG_FILE_MAX + 1, &st);
	if (n < 0) {
		rc = err_sys(err, (int)n, "%s:1: cannot read the config", path);
	} else {
		rc = config_parse(text, (size_t)n, path, host, flags, cfg_out, err);
		OPENSSL_cleanse(text, (size_t)n);
	}
	free(text);
	if (!rc && !(flags & CONFIG_NO_FILES) && (st.st_mode & 077))
		log_warn(
			"%s can be read by others and may hold the pair's key; chmod 600 %s",
			path, path);
	return rc;
}

void config_free(struct config *cfg)
{
	if (!cfg)
		return;
	free(cfg->vms);
	OPENSSL_cleanse(cfg->key, sizeof(cfg->key));
	free(cfg);
}

int config_find_vm(const struct config *cfg, const char *name)
{
	for (unsigned i = 0; i < cfg->n_vms; i++)
		if (!strcmp(cfg->vms[i].name, name))
			return (int)i;
	return -ENOENT;
}

int config_derive_key(const struct config *cfg, const char *label, uint8_t *out)
{
	unsigned len = CONFIG_KEY_LEN;

	if (!HMAC(EVP_sha256(), cfg->key, CONFIG_KEY_LEN, (const unsigned char *)label,
		  strlen(label), out, &len))
		return -EIO;
	return 0;
}
