/* SPDX-License-Identifier: Apache-2.0
 * conform_link - how the two sides get a link: by a bare module, or by a path as rhea-vm has it.
 */
#include "hv/base/err.h"
#include "replication/module.h"
#include "replication/path.h"
#include "replication/transport.h"
#include "tests/native/conform_case.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint8_t psk[TP_PSK_LEN] = "the key of the suite's two hosts";

int conform_connect_module(struct conform *c, struct tp **tp_out, struct err *err)
{
	uint8_t own[TP_BLOB_MAX], peer[TP_BLOB_MAX];
	size_t own_len, peer_len;
	struct tp_end *end;
	int rc = c->module->prepare(c->dev, conform_is_server(c), &end, own, &own_len,
				    err);

	if (rc)
		return rc;
	conform_put(c, &own_len, sizeof(own_len));
	conform_put(c, own, own_len);
	conform_get(c, &peer_len, sizeof(peer_len));
	if (peer_len > sizeof(peer))
		conform_die("a description that is too long");
	conform_get(c, peer, peer_len);
	return c->module->connect(end, peer, peer_len, CONFORM_CONNECT_MS, tp_out, err);
}

const struct tp_module *conform_load(const char *dir, const char *name)
{
	const struct tp_module *m;
	char path[512];
	void *so;

	(void)snprintf(path, sizeof(path), "%s/rhea-tp-%s.so", dir, name);
	so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	m = so ? dlsym(so, TP_MODULE_SYMBOL) : NULL;
	if (!m || m->version != TP_MODULE_VERSION || strcmp(m->name, name) != 0) {
		(void)fprintf(stderr, "%s: %s\n", path,
			      so ? "another module" : dlerror());
		exit(2);
	}
	return m;
}

/* The server's, at a port that is free if none is given. */
static int listen_at(struct sockaddr_in *a)
{
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	socklen_t len = sizeof(*a);

	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(s, (const struct sockaddr *)a, sizeof(*a)) || listen(s, 4) ||
	    getsockname(s, (struct sockaddr *)a, &len))
		conform_die("listening for a path");
	return s;
}

int conform_socket(struct conform *c)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(c->port)};
	int s;

	if (inet_pton(AF_INET, c->address, &a.sin_addr) != 1)
		conform_die(c->address);
	if (conform_is_server(c)) {
		if (!c->listener)
			c->listener = listen_at(&a);
		c->port = c->port ? c->port : ntohs(a.sin_port);
		conform_put(c, &c->port, sizeof(c->port));
		s = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC);
	} else {
		conform_get(c, &c->port, sizeof(c->port));
		a.sin_port = htons(c->port);
		s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (s >= 0 && connect(s, (struct sockaddr *)&a, sizeof(a)))
			conform_die("connecting for a path");
	}
	if (s < 0)
		conform_die("a path's connection");
	return s;
}

struct path_key conform_key(unsigned timeout_ms)
{
	return (struct path_key){.pair = "suite", .psk = psk, .timeout_ms = timeout_ms};
}

struct path_terms conform_terms(const struct conform *c)
{
	return (struct path_terms){.purpose = PATH_ALONE,
				   .paths = 1,
				   .term = 7,
				   .vm = "v",
				   .transport = c->module ? c->module->name : "tcp",
				   .module = c->module,
				   .dev = c->dev};
}

static int admit(void *arg, struct path_terms *offer, struct err *err)
{
	const struct path_terms want = conform_terms(arg);

	if (offer->purpose != want.purpose || offer->index || offer->paths != 1 ||
	    offer->term != want.term || strcmp(offer->vm, want.vm) != 0 ||
	    strcmp(offer->transport, want.transport) != 0)
		return err_set(err, -EPERM, "that is not what was agreed");
	offer->module = want.module;
	offer->dev = want.dev;
	return 0;
}

int conform_path(struct conform *c, int fd, unsigned timeout_ms, struct tp **tp_out,
		 struct err *err)
{
	const struct path_key key = conform_key(timeout_ms);
	struct path_terms terms = conform_terms(c);

	*tp_out = NULL;
	if (!conform_is_server(c))
		return path_connect(fd, &key, &terms, tp_out, err);
	return path_accept(fd, &key, admit, c, &terms, tp_out, err);
}

int conform_connect_path(struct conform *c, struct tp **tp_out, struct err *err)
{
	return conform_path(c, conform_socket(c), CONFORM_CONNECT_MS, tp_out, err);
}
