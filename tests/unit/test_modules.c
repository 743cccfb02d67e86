/* SPDX-License-Identifier: Apache-2.0
 * test_modules - what is loaded as a transport, and what is not.
 */
#include "hv/base/err.h"
#include "replication/module.h"
#include "replication/modules.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

static char dir[300];

static void refused(const char *name, int want, const char *why)
{
	const struct tp_module *m = NULL;
	struct err err = {0};

	CU_ASSERT_EQUAL(tp_module_load(dir, name, &m, &err), want);
	CU_ASSERT_PTR_NULL(m);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, why));
}

static void test_loads(void)
{
	const struct tp_module *m = NULL, *again = NULL;
	struct tp_dev *dev = NULL;
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(tp_module_load(dir, "tiny", &m, &err), 0);
	CU_ASSERT_EQUAL(tp_module_load(dir, "tiny", &again, &err), 0);
	CU_ASSERT_PTR_EQUAL(m, again);
	CU_ASSERT_STRING_EQUAL(m->name, "tiny");
	CU_ASSERT_EQUAL(m->open("", &dev, &err), -ENODEV);
}

static void test_missing(void)
{
	refused("nowhere", -ENOENT, "install rhea's nowhere transport");
}

static void test_versions(void)
{
	refused("old", -ENOEXEC, "install the same release");
	refused("none", -ENOEXEC, "no transport of Rhea");
	refused("alias", -ENOEXEC, "calls itself \"tiny\"");
}

/* No name leads out of the directory. */
static void test_names(void)
{
	static const char *const bad[] = {
		"",	   ".",	  "../tiny", "tiny/", "Tiny",
		"tiny.so", "a b", "a\n",     "a-b",   "sixteenlettersss"};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CU_ASSERT(!tp_module_name_ok(bad[i]));
		refused(bad[i], -EINVAL, "not the name of a transport");
	}
	CU_ASSERT(tp_module_name_ok("tcp"));
	CU_ASSERT(tp_module_name_ok("fifteenletterss"));
}

static const struct unit_test tests[] = {
	{"is loaded once", test_loads},
	{"is not installed", test_missing},
	{"another version, no module, a false name", test_versions},
	{"names", test_names},
};

int main(int argc, char **argv)
{
	char *slash;

	/* The modules of this test are built beside it. */
	(void)snprintf(dir, sizeof(dir), "%s",
		       argv[0]); /* a path that was executed: fits */
	slash = strrchr(dir, '/');
	(void)snprintf(slash ? slash : dir, 10, "%s",
		       slash ? "/modules" : "modules"); /* fits */
	return UNIT_MAIN("modules", tests);
}
