/* SPDX-License-Identifier: Apache-2.0
 * config_read - typed, bounded reads from the parsed config, with one clear line when wrong.
 *
 * Internal to ctl/config*.c. Each read returns 0, or a negative errno with the line "file:line:
 * path: what: what to do" in the reader's err. One thread at a time.
 */
#ifndef CTL_CONFIG_READ_H
#define CTL_CONFIG_READ_H

#include <libconfig.h>
#include <stddef.h>
#include <stdint.h>

#include "ctl/config.h"

struct err;

struct config_reader {
	const char *name; /* of the file, for messages */
	struct err *err;
	unsigned flags;
	const struct config *cfg; /* once hosts and self are known: for per-host values */
};

/* Record "file:line: path: <text>"; returns @code. */
int config_fail(struct config_reader *r, config_setting_t *s, int code, const char *fmt,
		...) __attribute__((format(printf, 4, 5)));

/* @keys (NULL-terminated) are all that group @s may have; an unknown one gets the nearest as
 * a suggestion. */
int config_check_keys(struct config_reader *r, config_setting_t *s,
		      const char *const *keys);

/* The child, checked to be a group, or a list (or array) of 1 to @max elements. A missing one is
 * an error. */
int config_group(struct config_reader *r, config_setting_t *parent, const char *key,
		 config_setting_t **out);
int config_list(struct config_reader *r, config_setting_t *parent, const char *key,
		unsigned min, unsigned max, config_setting_t **out);
/* Element @i of a list, which must be a group with no keys but @keys. */
int config_elem_group(struct config_reader *r, config_setting_t *list, unsigned i,
		      const char *const *keys, config_setting_t **out);

/* Text into @out, at most room - 1 bytes, no control characters. @dflt NULL: the key is
 * required. */
int config_text(struct config_reader *r, config_setting_t *parent, const char *key,
		const char *dflt, char *out, size_t room);
/* The same from the setting itself. */
int config_text_of(struct config_reader *r, config_setting_t *s, char *out, size_t room);
/* Text that is one string for both hosts or a group with one for each; ours goes into @out. */
int config_host_text(struct config_reader *r, config_setting_t *parent, const char *key,
		     const char *dflt, char *out, size_t room);
/* A name: letters, digits, '-' and '_', a letter or digit first. */
int config_name(struct config_reader *r, config_setting_t *parent, const char *key,
		char *out, size_t room);
int config_uint(struct config_reader *r, config_setting_t *parent, const char *key,
		uint64_t dflt, uint64_t min, uint64_t max, uint64_t *out);
int config_bool(struct config_reader *r, config_setting_t *parent, const char *key,
		int dflt, int *out);
/* Bytes: an integer, or text with the suffix K, M or G. @dflt UINT64_MAX: required. */
int config_size(struct config_reader *r, config_setting_t *parent, const char *key,
		uint64_t dflt, uint64_t min, uint64_t max, uint64_t *out);
/* A numeric IPv4 "1.2.3.4:5" or IPv6 "[::1]:5" address. */
int config_addr(struct config_reader *r, config_setting_t *s, struct config_addr *out);

/* vms = (...): into @cfg, whose hosts are there already. In config_vm.c. */
int config_vms(struct config_reader *r, config_setting_t *root, struct config *cfg);
/* paths = (...): likewise. In config_paths.c. */
int config_paths(struct config_reader *r, config_setting_t *root, struct config *cfg);
/* In config_digest.c. */
int config_digest(config_setting_t *root, uint8_t *out);

#endif
