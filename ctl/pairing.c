/* SPDX-License-Identifier: Apache-2.0
 * pairing - what both sides of `rheactl pair` share: this host's facts, its key file.
 */
#include "ctl/pairing.h"

#include "ctl/staged.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int read_text(const char *path, char **out, size_t *len)
{
	char *t = calloc(1, CONFIG_FILE_MAX + 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = fd < 0 ? -errno : 0;
	ssize_t n = 1;

	*len = 0;
	if (!t)
		rc = -ENOMEM;
	while (!rc && n && *len < CONFIG_FILE_MAX) {
		n = read(fd, t + *len, CONFIG_FILE_MAX - *len);
		if (n < 0 && errno != EINTR)
			rc = -errno;
		*len += n > 0 ? (size_t)n : 0;
	}
	if (fd >= 0)
		(void)close(fd); /* only read */
	if (rc) {
		free(t);
		t = NULL;
	}
	*out = t;
	return rc;
}

static int rhead_up(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd, up;

	if (strlen(path) >= sizeof(sa.sun_path))
		return 0;
	memcpy(sa.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return 0;
	/* One that we may not ask is up as well. */
	up = !connect(fd, (struct sockaddr *)&sa, sizeof(sa)) || errno == EACCES ||
	     errno == EAGAIN;
	(void)close(fd); /* nothing was sent */
	return up;
}

static void find_key(struct pairing_self *s)
{
	struct pairing_hello *h = &s->hello;
	struct err why = {0};
	int rc;

	h->key = PAIRING_KEY_INLINE;
	if (!s->cfg->key_file[0]) {
		memcpy(s->key, s->cfg->key, sizeof(s->key));
		return;
	}
	rc = config_read_key(s->cfg->key_file, s->key, &why);
	h->key = !rc		 ? PAIRING_KEY_FILE
		 : rc == -ENOENT ? PAIRING_KEY_NONE
				 : PAIRING_KEY_BAD;
	if (h->key == PAIRING_KEY_BAD) /* cutting is fine: it is for people */
		(void)snprintf(h->why, sizeof(h->why), "%.*s", PAIRING_WHY_MAX - 1,
			       why.msg);
}

int pairing_self_config(struct pairing_self *s, const char *text, size_t len,
			struct err *err)
{
	struct pairing_hello *h = &s->hello;
	struct config *cfg;
	int rc = config_parse(text, len, s->place->config, s->place->host,
			      CONFIG_NO_FILES | CONFIG_NO_KEY, &cfg, err);

	if (rc)
		return rc;
	config_free(s->cfg);
	s->cfg = cfg;
	h->why[0] = '\0';
	h->has_config = 1;
	memcpy(h->host, config_self(cfg)->name, sizeof(h->host));
	memcpy(h->pair, cfg->pair, sizeof(h->pair));
	memcpy(h->digest, cfg->digest, sizeof(h->digest));
	find_key(s);
	pairing_tame(h->why);
	return 0;
}

int pairing_self_load(const struct pairing_place *place, struct pairing_self *s,
		      struct err *err)
{
	struct err why = {0};
	int rc;

	*s = (struct pairing_self){
		.place = place,
		.hello = {.version = RHEA_VERSION,
			  .rhead_up = rhead_up(place->socket),
			  .wall_ns = clock_real_ns()},
	};
	if (getrandom(s->hello.nonce, PAIRING_NONCE_LEN, 0) != PAIRING_NONCE_LEN)
		return err_sys(err, -errno, "get random bytes");
	rc = read_text(place->config, &s->text, &s->text_len);
	if (rc)
		(void)err_sys(&why, rc, "%s", place->config); /* kept as a fact */
	else
		rc = pairing_self_config(s, s->text, s->text_len, &why);
	if (rc)
		(void)snprintf(s->hello.why, sizeof(s->hello.why), "%.*s",
			       PAIRING_WHY_MAX - 1, why.msg); /* cutting is fine */
	pairing_tame(s->hello.why);
	return rc == -ENOMEM ? err_set(err, rc, "out of memory") : 0;
}

void pairing_self_fini(struct pairing_self *s)
{
	config_free(s->cfg);
	if (s->text)
		explicit_bzero(s->text, s->text_len); /* a key may be in it */
	free(s->text);
	explicit_bzero(s->key, sizeof(s->key));
	s->cfg = NULL;
	s->text = NULL;
}

int pairing_stage_key(struct staged *st, const char *path, uint8_t *key, struct err *err)
{
	static const char digits[] = "0123456789abcdef";
	char text[2 * CONFIG_KEY_LEN + 1], again[PATH_MAX];
	struct err ignored;
	int rc;

	if (path[0] != '/')
		return err_set(
			err, -EINVAL,
			"pair.key_file: %s begins with no \"/\"; give the whole path",
			path);
	for (unsigned i = 0; i < CONFIG_KEY_LEN; i++) {
		text[2 * i] = digits[key[i] >> 4];
		text[2 * i + 1] = digits[key[i] & 15];
	}
	text[2 * CONFIG_KEY_LEN] = '\n';
	explicit_bzero(key, CONFIG_KEY_LEN);
	rc = staged_write(st, path, text, sizeof(text), err);
	explicit_bzero(text, sizeof(text));
	if (rc)
		return rc;
	if (snprintf(again, sizeof(again), "%s.new", path) >= (int)sizeof(again))
		rc = err_set(err, -ENAMETOOLONG, "%s: too long a path", path);
	else
		rc = config_read_key(again, key, err);
	if (rc)
		(void)staged_undo(st, &ignored); /* the first error is the one to tell */
	return rc;
}

/* The line of @text that ends at its newline or at its end; 0 when there is none left. */
static size_t line_at(const char *text)
{
	return strcspn(text, "\n");
}

static int has_line(const char *text, const char *line, size_t len)
{
	for (size_t n; *text; text += n + (text[n] == '\n')) {
		n = line_at(text);
		if (n == len && !memcmp(text, line, len))
			return 1;
	}
	return 0;
}

static int is_listed(const char *out, const char *place, size_t len)
{
	const char *at = out;

	while ((at = strstr(at, ", "))) {
		at += 2;
		if (!strncmp(at, place, len) && (at[len] == ',' || !at[len]))
			return 1;
	}
	return !strncmp(out, place, len) && (out[len] == ',' || !out[len]);
}

/* Add the places of @a that @b does not have alike. */
static void add_places(const char *a, const char *b, char *out, size_t room)
{
	size_t n, len, at;

	for (; *a; a += n + (a[n] == '\n')) {
		n = line_at(a);
		len = strcspn(a, " \n");
		if (!len || has_line(b, a, n) || is_listed(out, a, len))
			continue;
		at = strlen(out);
		if (at + len + 8 > room) {
			if (at + 6 <= room)
				memcpy(out + at, ", ...", 6);
			return;
		}
		(void)snprintf(out + at, room - at, "%s%.*s", at ? ", " : "", (int)len,
			       a); /* was measured */
	}
}

void pairing_where(const char *own, const char *peers, char *out, size_t room)
{
	out[0] = '\0';
	add_places(own, peers, out, room);
	if (strlen(out) + 12 < room)
		add_places(peers, own, out, room);
	pairing_tame(out);
}
