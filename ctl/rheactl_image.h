/* SPDX-License-Identifier: Apache-2.0
 * rheactl_image - what the commands on images share: what was said on the command line.
 */
#ifndef CTL_RHEACTL_IMAGE_H
#define CTL_RHEACTL_IMAGE_H

#include <stdint.h>

struct rc;

struct image_want {
	struct rc *rc;
	const char *path, *other; /* the images named */
	const char *size, *type, *parent, *from, *to;
	const char *since, *listen, *tls_certificates, *tls_psk;
	uint32_t block;
	int shrink, once;
};

/* rheactl_export.c. @raw: the image is a raw one. Each returns an exit status. */
int rheactl_image_export(const struct image_want *w, int raw);
int rheactl_image_changed(const struct image_want *w, int raw);

#endif
