/* SPDX-License-Identifier: Apache-2.0
 * vmproto - what rhead and rhea-vm say to each other.
 *
 * One socketpair (SOCK_SEQPACKET) made by rhead; rhea-vm's end is file descriptor 3. A
 * message is one JSON object in one packet of at most VMPROTO_MAX bytes; file descriptors
 * ride along (SCM_RIGHTS) in the order that the message names in "fds". rhea-vm opens
 * nothing itself. When rhead's end closes, rhea-vm ends at once: nobody would keep its
 * authority any more.
 *
 * rhead -> rhea-vm
 *   {"op":"setup","vm":s,"host":s,"peer":s,"pair":s,"psk":hex64,"ram":bytes,"vcpus":n,"cpu":s,
 *    "cmdline":s,"interval_us":n,"min_interval_us":n,"latency_target_us":n,"overhead_cap":n,"verify_s":n,
 *    "encoders":n,"inflight":n,"suspect_us":n,"cache":bytes,
 *    "netbuf":bytes,"diskbuf":bytes,"log":"info","module_dir":s,"path_buffer":bytes,
 *    "paths":[{"transport":s,"args":s}],
 *    "nets":[{"mac":s,"plug":n?}],"disks":[{"serial":s,"read_only":b}],"uid":n,"gid":n,
 *    "fds":["kvm","kernel","initrd"?,"console","disk0",...,"net0",...,"vhost0"?,"sniff0"?,...]}
 *        first, once. "plug": the interface index of the ifb that holds the frames of this net
 *        (tap_plug.h); such a net has also the descriptors vhost and sniff
 *   {"op":"boot","term":t}       cold start; the term was granted       -> state alone
 *   {"op":"standby","term":t}    be the standby of the primary of @t     -> state empty
 *   {"op":"link","side":"primary"|"standby","term":t,"path":i,"fds":["link"]}   a connected TCP
 * socket; the path is the primary's to know
 *   {"op":"path","side":"primary"|"standby","term":t,"path":i,"fds":["link"]}   the same for a
 * further path of the link that there is
 *   {"op":"path","path":i,"why":s}   it could not be connected
 *   {"op":"unlink","why":s}      give the link up: the peer is suspected
 *   {"op":"alone","term":t}      the primary won the grant for @t: release, run alone
 *   {"op":"activate","term":t}   the standby won the grant for @t        -> state alone
 *   {"op":"fence","term":t}      somebody else has @t: stop, drop, exit  -> exit status 4
 *   {"op":"powerdown"}           press the guest's power button
 *   {"op":"ping","seq":n}        answered at once by the control thread, and only if the
 * engine's threads moved since
 *   {"op":"stats","seq":n}
 *   {"op":"fault","delay_us":n,"cut_after":n,"flip_after":n,"stall_after":n,"path":i?}   drills
 * rhea-vm -> rhead
 *   {"ev":"ready"}                                  setup done
 *   {"ev":"state","role":"primary"|"standby","state":s,"term":t,"why":s,"bye":b}
 *        primary: alone syncing armed protected unlinked fenced; standby: empty syncing
 * ready lost active. Exactly the engines' states.
 *   {"ev":"running","term":t,"activate_us":n}       the guest runs here
 *   {"ev":"guest","what":"poweroff"|"crash","why":s}  rhea-vm exits 0 | 3 after it
 *   {"ev":"pong","seq":n,"role":s,"state":s,"term":t,"epoch":n,"acked":n}
 *   {"ev":"stats","seq":n,"stats":{...}}
 *   {"ev":"want-path","path":i}                     please connect it and say op path
 *   {"ev":"path","path":i,"transport":s,"state":s,"why":s}   it is down, ready or in-use now
 *   {"ev":"error","why":s}                          then exits 1
 */
#ifndef CTL_VMPROTO_H
#define CTL_VMPROTO_H

#include <jansson.h>

enum { VMPROTO_FD = 3, VMPROTO_MAX = 64 << 10, VMPROTO_FDS_MAX = 48 };

/* Exit status of rhea-vm. */
enum {
	VMEXIT_OFF = 0,
	VMEXIT_ERROR = 1,
	VMEXIT_CRASH = 3,
	VMEXIT_FENCED = 4,
	VMEXIT_ORPHAN = 5
};

/* Send @msg (borrowed) with @nfds descriptors (borrowed) over @sock. 0 or -errno. Any
 * thread. */
int vmproto_send(int sock, json_t *msg, const int *fds, int nfds);
/* Receive one message: returns owned JSON in *msg_out and owned descriptors. 0; -EPIPE
 * when the other end closed; -EAGAIN; -EBADMSG for what is not a JSON object. *nfds is
 * the room in
 * @fds and becomes the count. */
int vmproto_recv(int sock, json_t **msg_out, int *fds, int *nfds);

#endif
