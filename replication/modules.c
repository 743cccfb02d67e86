/* SPDX-License-Identifier: Apache-2.0
 * modules - loads transports from one fixed directory, by names that cannot lead out of it.
 */
#include "replication/modules.h"

#include "hv/base/err.h"
#include "replication/module.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int tp_module_name_ok(const char *name)
{
	size_t n = 0;

	while (name[n] >= 'a' && name[n] <= 'z')
		n++;
	return n > 0 && n < TP_MODULE_NAME_MAX && !name[n];
}

static int check(const struct tp_module *m, const char *path, const char *name,
		 struct err *err)
{
	if (!m)
		return err_set(err, -ENOEXEC, "%s is no transport of Rhea", path);
	if (m->version != TP_MODULE_VERSION)
		return err_set(
			err, -ENOEXEC,
			"%s is of module version %u, this program of %d: install the same "
			"release of rhea and of its %s transport",
			path, m->version, TP_MODULE_VERSION, name);
	if (strcmp(m->name, name) != 0)
		return err_set(err, -ENOEXEC, "%s calls itself \"%s\"", path, m->name);
	return 0;
}

int tp_module_load(const char *dir, const char *name, const struct tp_module **m_out,
		   struct err *err)
{
	char path[PATH_MAX];
	void *so;
	int n;

	if (!tp_module_name_ok(name))
		return err_set(err, -EINVAL, "\"%s\" is not the name of a transport",
			       name);
	n = snprintf(path, sizeof(path), "%s/rhea-tp-%s.so", dir, name);
	if (n < 0 || (size_t)n >= sizeof(path))
		return err_set(err, -ENAMETOOLONG, "%s: too long", dir);
	if (access(path, R_OK))
		return err_set(
			err, -ENOENT,
			"the transport \"%s\" is not installed on this host (%s: %s): "
			"install rhea's %s transport and its libraries",
			name, path, strerror(errno), name);
	so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!so)
		return err_set(
			err, -ENOEXEC,
			"the transport \"%s\" cannot be loaded (%s): are its libraries "
			"installed?",
			name, dlerror());
	*m_out = dlsym(so, TP_MODULE_SYMBOL);
	n = check(*m_out, path, name, err);
	if (n) {
		*m_out = NULL;
		(void)dlclose(so); /* nothing of it was used */
	}
	return n;
}
