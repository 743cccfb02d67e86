/* SPDX-License-Identifier: Apache-2.0
 * config - the one file that both hosts of a pair share.
 *
 * The file is libconfig's format; rhea.conf.example documents every key. Which of the two
 * hosts we are comes from the caller (--host, or the host's name). What may differ
 * between the hosts (paths of kernel, initrd and disks, names of taps and bridges) is
 * either one string for both or a group with one string for each host name; loading picks
 * ours. Everything read is checked here once: the rest of rhead trusts a struct config.
 */
#ifndef CTL_CONFIG_H
#define CTL_CONFIG_H

#include <limits.h>
#include <net/if.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct err;

enum {
	CONFIG_NAME_MAX = 32, /* names of pair, hosts and VMs, with the final NUL */
	CONFIG_ADDR_MAX = 64,
	CONFIG_KEY_LEN = 32,
	CONFIG_DIGEST_LEN = 32,
	CONFIG_HOSTS = 2,
	CONFIG_PATHS_MAX = 8, /* heartbeat paths */
	CONFIG_LINKS_MAX = 8, /* paths of the replication link */
	CONFIG_ARGS_MAX = 256,
	CONFIG_ENDPOINTS_MAX = 8,
	CONFIG_ENDPOINT_MAX = 256,
	CONFIG_VMS_MAX = 32,
	CONFIG_DISKS_MAX = 8,
	CONFIG_NETS_MAX = 8,
	CONFIG_VCPUS_MAX = 4,
	CONFIG_CMDLINE_MAX = 2048,
	CONFIG_SERIAL_MAX = 21, /* virtio-blk has room for 20 */
	CONFIG_FILE_MAX = 1 << 20,
};

struct config_addr {
	struct sockaddr_storage ss;
	socklen_t len;
	char text[CONFIG_ADDR_MAX]; /* as written */
};

struct config_host {
	char name[CONFIG_NAME_MAX];
	struct config_addr
		replication; /* of the only path, if there is no list of them */
	/* UDP. Path i goes between our heartbeat[i] and the peer's heartbeat[i]. */
	struct config_addr heartbeat[CONFIG_PATHS_MAX];
	unsigned n_heartbeat; /* the same on both hosts, at least 1 */
};

/* One way for the checkpoints, between addr[0] of hosts[0] and addr[1] of hosts[1]. TCP goes there
 * for every transport: the standby's rhead accepts, the primary's connects. */
struct config_path {
	char transport[16];	    /* "tcp" or the name of a module */
	char args[CONFIG_ARGS_MAX]; /* this host's, for the module */
	unsigned streams;	    /* of tcp; 0: by this host's processors */
	struct config_addr addr[CONFIG_HOSTS];
};

enum config_arbiter_kind { CONFIG_ARBITER_ETCD, CONFIG_ARBITER_MANUAL };

struct config_arbiter {
	enum config_arbiter_kind kind;
	char endpoints[CONFIG_ENDPOINTS_MAX]
		      [CONFIG_ENDPOINT_MAX]; /* URLs without a final slash */
	unsigned n_endpoints;
	char prefix[CONFIG_ENDPOINT_MAX]; /* of the keys, without a final slash */
	unsigned timeout_ms;		  /* of one request to one endpoint */
};

enum config_format {
	CONFIG_FORMAT_UNSAID, /* raw, and refused if it looks like anything else */
	CONFIG_FORMAT_RAW,    /* whatever the guest writes into it */
	CONFIG_FORMAT_VHD,
};

struct config_disk {
	char path[PATH_MAX]; /* this host's */
	char serial[CONFIG_SERIAL_MAX];
	int read_only;
	enum config_format format;
};

struct config_net {
	char tap[IFNAMSIZ];    /* this host's */
	char bridge[IFNAMSIZ]; /* this host's; "" = leave the tap alone */
	uint8_t mac[6];
	char mac_text[18];
	unsigned mtu;
	int vhost; /* served by vhost-net, held by a plug qdisc */
};

/* When peer and arbiter are both gone. */
enum config_policy { CONFIG_POLICY_HOLD };

struct config_vm {
	char name[CONFIG_NAME_MAX];
	unsigned host;	 /* index of the preferred host */
	uint64_t memory; /* bytes, a multiple of 1 MiB */
	unsigned vcpus;
	char cpu[16]; /* "x86-64-v2", "x86-64-v3", "host" */
	char kernel[PATH_MAX];
	char initrd[PATH_MAX]; /* "" = none */
	char cmdline[CONFIG_CMDLINE_MAX];
	unsigned interval_us, min_interval_us;
	unsigned latency_target_us;
	unsigned overhead_cap;	/* per cent */
	unsigned verify_s;	/* to compare all of memory once; 0: never */
	unsigned encoders;	/* threads; 0: as many as suit the host */
	unsigned inflight;	/* epochs captured and not acked, at most */
	uint64_t delta_cache;	/* bytes */
	uint64_t netbuf_limit;	/* bytes */
	uint64_t disk_buffer;	/* bytes */
	uint64_t resync_rate;	/* bytes a second of a disk sync; 0: as it goes */
	uint64_t journal_size;	/* bytes; 0: the standby's disks have no journal */
	char journal[PATH_MAX]; /* this host's; "": in the state directory */
	enum config_policy policy;
	int autostart;
	struct config_disk disks[CONFIG_DISKS_MAX];
	unsigned n_disks;
	struct config_net nets[CONFIG_NETS_MAX];
	unsigned n_nets;
};

struct config {
	char pair[CONFIG_NAME_MAX];
	uint8_t key[CONFIG_KEY_LEN]; /* secret: everything between the hosts is derived
					from it */
	char key_file[PATH_MAX];     /* where it is from; "": the config itself */
	struct config_host hosts[CONFIG_HOSTS];
	unsigned self, peer; /* indices into hosts */
	struct config_arbiter arbiter;
	struct config_path paths[CONFIG_LINKS_MAX]; /* in order of preference */
	unsigned n_paths;			    /* at least 1 */
	uint64_t path_buffer; /* bytes kept for sending again over another path */
	unsigned heartbeat_interval_ms, heartbeat_missed;
	struct config_vm *
		vms; /* the same order on both hosts: heartbeats name a VM by its index */
	unsigned n_vms;
	/* Over all that both hosts must share, see config_digest(). */
	uint8_t digest[CONFIG_DIGEST_LEN];
};

enum {
	/* Do not ask whether kernel, initrd, disks and tap names of this host exist. For
	 * checks of a file on another machine and for tests. */
	CONFIG_NO_FILES = 1,
	/* Port 0 (any free one) is fine. For tests. */
	CONFIG_ANY_PORT = 2,
	/* Do not open the key file, and leave config.key zero if there is one. For who is
	 * about to make it. */
	CONFIG_NO_KEY = 4,
};

/* Read @path as host @host (NULL: this machine's host name, with or without its domain).
 * Returns owned in *cfg_out, or a negative errno and in @err one line "file:line: what:
 * what to do". Any thread. */
int config_load(const char *path, const char *host, unsigned flags,
		struct config **cfg_out, struct err *err);
/* The same from @len bytes of memory that need no final NUL; @name stands for the file in
 * messages, and @include directives are refused. */
int config_parse(const char *text, size_t len, const char *name, const char *host,
		 unsigned flags, struct config **cfg_out, struct err *err);
void config_free(struct config *cfg); /* wipes the key; NULL is fine */

/* The pair's key from its file, CONFIG_KEY_LEN bytes into @key. 0, or a negative errno (-ENOENT:
 * there is no such file) and one line in @err. Any thread. */
int config_read_key(const char *path, uint8_t *key, struct err *err);

/* All that config_digest() covers, as text: a line "path digest" for each value, in canonical order.
 * Two hosts that compare it learn where their configs differ and not what is in them. Returns
 * owned with a final NUL, or NULL when out of memory. @text is one that config_parse() took. Any
 * thread. */
char *config_outline(const char *text, size_t len);

/* Index of a VM, or -ENOENT. */
int config_find_vm(const struct config *cfg, const char *name);

/* How many streams this host would like for tcp path @p. */
unsigned config_path_streams(const struct config_path *p);

static inline const struct config_host *config_self(const struct config *cfg)
{
	return &cfg->hosts[cfg->self];
}
static inline const struct config_host *config_peer(const struct config *cfg)
{
	return &cfg->hosts[cfg->peer];
}

/* A purpose's own key: HMAC-SHA256(pair key, @label). @out has CONFIG_KEY_LEN bytes.
 * Labels in use: "rhea heartbeat", "rhea stream" (the transport's pre-shared key), "rhea
 * link" (hello on the replication port). 0 or -EIO. */
int config_derive_key(const struct config *cfg, const char *label, uint8_t *out);

#endif
