/* SPDX-License-Identifier: Apache-2.0
 * report - what the nbdkit plugin tells the rheactl that started it: a line each, through a pipe.
 *
 * First NBD_READY, when clients are served; then, each time that one has gone and at the end, NBD_SERVED with the
 * numbers so far: connections, reads, bytes.
 */
#ifndef CTL_NBD_REPORT_H
#define CTL_NBD_REPORT_H

#include <inttypes.h>

#define NBD_READY	"ready\n"
#define NBD_SERVED	"served %" PRIu64 " %" PRIu64 " %" PRIu64 "\n"
#define NBD_SERVED_SCAN "served %" SCNu64 " %" SCNu64 " %" SCNu64

/* The second export's name, beside "" for all of the image. */
#define NBD_CHANGED "changed"

#endif
