/* SPDX-License-Identifier: Apache-2.0
 * module - a transport that needs libraries or hardware of its own, loaded on use.
 *
 * A module is a shared object, rhea-tp-NAME.so, with one symbol, TP_MODULE_SYMBOL. It knows
 * nothing of keys: its bytes travel in the clear, and the layer above seals them. How a
 * link comes to be:
 *
 *     open(args)             once a process, before system calls are filtered: devices, files;
 *                            threads that it starts are caught by the filter as well
 *     prepare() ─► blob      each end describes itself in at most TP_BLOB_MAX bytes; the
 *                            blobs cross over a connection that has already proven who the
 *                            peer is, so they are trusted no less than what follows
 *     connect(peer's blob)   a tp as in transport.h, within the time given
 *     (or discard)
 *     close                  after every tp that came of it was closed
 */
#ifndef REPLICATION_MODULE_H
#define REPLICATION_MODULE_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct tp;
struct tp_dev;
struct tp_end;

enum { TP_MODULE_VERSION = 2, TP_BLOB_MAX = 256 };
#define TP_MODULE_SYMBOL "rhea_tp_module"

struct tp_module {
	unsigned version; /* TP_MODULE_VERSION; another one is not loaded */
	const char *name;
	/* 1: what open() opens serves only who has its user, group and capabilities: so it is called
	 * when the process has given up those that it started with. 0: it needs them. */
	int as_user;
	/* @args: what the config says of the device, each module's own words. May open files
	 * and needs the rights for it. Owned by the caller. 0 or -errno with @err. */
	int (*open)(const char *args, struct tp_dev **dev_out, struct err *err);
	void (*close)(struct tp_dev *dev);
	/* Everything from here on opens nothing by name. Any thread; one call at a time for
	 * each end. @server: who waits to be connected to. Returns owned, to be ended by
	 * connect() or discard(). */
	int (*prepare)(struct tp_dev *dev, int server, struct tp_end **end_out,
		       uint8_t blob_out[TP_BLOB_MAX], size_t *len_out, struct err *err);
	/* Takes @end, whatever comes of it. Both sides call it, in any order, and each returns
	 * when both can send, after @timeout_ms at most. */
	int (*connect)(struct tp_end *end, const uint8_t *blob, size_t len,
		       unsigned timeout_ms, struct tp **tp_out, struct err *err);
	void (*discard)(struct tp_end *end);
};

#endif
