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
 *    "resync_rate":bytes,"journal":bytes,"paths":[{"transport":s,"args":s,"streams":n}],
 *    "nets":[{"mac":s,"plug":n?}],"disks":[{"serial":s,"read_only":b,"format":"raw"|"vhd"}],
 *    "uid":n,"gid":n,
 *    "fds":["kvm","kernel","initrd"?,"console","activity"?,"journal"?,"saved"?,"disk0",...,"disk0.1"?,...,"net0",...,"vhost0"?,"sniff0"?,...]}
 *        first, once. "disk0.1" is the parent of disk0, a VHD image, "disk0.2" that one's, ...
 *        "plug": the interface index of the ifb that holds the frames of this net
 *        (tap_plug.h); such a net has also the descriptors vhost and sniff
 *   {"op":"setup-tester","vm":s,"host":s,"peer":s,"pair":s,"psk":hex64,"log":s,"module_dir":s,
 *    "paths":[...],"uid":n,"gid":n,"fds":[]}   instead of it: no machine; only ping and test follow
 *   {"op":"boot","term":t}       cold start, or from the file "saved"; the term was granted -> state alone
 *   {"op":"standby","term":t}    be the standby of the primary of @t     -> state empty
 *   {"op":"link","side":"primary"|"standby","term":t,"path":i,"fds":["link"]}   a connected TCP
 * socket; the path is the primary's to know
 *   {"op":"path","side":"primary"|"standby","term":t,"path":i,"fds":["link"]}   the same for a
 * further path of the link that there is
 *   {"op":"path","path":i,"why":s}   it could not be connected
 *   {"op":"test","side":"client"|"server","path":i,"ms":n,"id":n,"fds":["link"]}   measure a path over this
 * connection, or let the peer; path, ms and id are the client's
 *   {"op":"stream","side":"primary","number":n,"fds":["link"]} or {...,"why":s}   one of the connections
 * that want-streams asked for, or why there is none
 *   {"op":"stream","side":"standby","fds":["link"]}   a further stream; it says itself of which path
 *   {"op":"unlink","why":s}      give the link up: the peer is suspected
 *   {"op":"alone","term":t}      the primary won the grant for @t: release, run alone
 *   {"op":"activate","term":t}   the standby won the grant for @t        -> state alone
 *   {"op":"fence","term":t}      somebody else has @t: stop, drop, exit  -> exit status 4
 *   {"op":"powerdown"}           press the guest's power button
 *   {"op":"suspend","fds":["saved"]}   save the guest into this empty file, together with the standby -> saved
 *   {"op":"suspended"}           that is on record: let the standby forget it, and end -> guest suspended
 *   {"op":"save-here","fds":["saved"]} or {...,"why":s}   the standby's file, asked for by want-saved
 *   {"op":"disk-errors"}         nobody takes over because of them: let the guest see its disks' errors
 *   {"op":"ping","seq":n}        answered at once by the control thread, and only if the
 * engine's threads moved since
 *   {"op":"stats","seq":n}
 *   {"op":"verify","seq":n,"repair":b}   compare both hosts' disks; answered by "verified"
 *   {"op":"disk-resize","seq":n,"disk":n,"bytes":n}   a disk of the running guest grows (0: to what its image has);
 *        answered by "resized"
 *   {"op":"resync-rate","bytes":n}   a sync of disks takes so many bytes a second at most; 0: any number
 *   {"op":"snap-child","id":n,"disk":i,"fds":["child"]}   an empty child of that disk's image, for snapshot @id
 *   {"op":"snap-memory","id":n,"fds":["memory"]}   an empty file for the guest's memory at that moment -> snap-memory
 *   {"op":"snap","id":n}         all children are there: make it                       -> snap-switch
 *   {"op":"snap-drop"}           the children are not needed any more
 *   {"op":"snap-switched","id":n,"ok":b}   the files have their names now, or have kept them -> snap-over
 *   {"op":"snap-leave","id":n,"disk":i,"uuid":hex,"rate":bytes,"parent":{"uuid":hex,"path":s,"relative":s,"time":n}|null,
 *    "fds":["child"]?}   that file is to leave the disk's chain; parent: its own, child: the file above it, if not the leaf
 *   {"op":"snap-leave-all","id":n}   all of them are said: begin                      -> snap-left
 *   {"op":"peer-note","note":{...}}   for the peer's rhead, with the running epoch, or with the next ack
 *   {"op":"fault","delay_us":n,"cut_after":n,"flip_after":n,"stall_after":n}   drills
 *   {"op":"path-drill","path":i,"for_ms":n,...}   likewise to one path, which ends by itself  -> path-drill
 * rhea-vm -> rhead
 *   {"ev":"ready"}                                  setup done
 *   {"ev":"state","role":"primary"|"standby","state":s,"term":t,"why":s,"bye":b,"saved":b?}
 *        primary: alone syncing armed protected unlinked fenced; standby: empty syncing
 * ready lost active. Exactly the engines' states. saved: with bye, the guest is saved here.
 *   {"ev":"running","term":t,"activate_us":n}       the guest runs here
 *   {"ev":"image","whole":b,"all":b,"epoch":n?,"why":s}   whether this host's disks can be started
 *        from if this process ends now; all: and hold all that was acked; epoch: after recovery, the end of which one they are
 *   {"ev":"saved","ok":b,"why":s}                   how suspend went: all files are whole and the guest
 * stands still, or it goes on
 *   {"ev":"want-saved"}                             please say op save-here
 *   {"ev":"guest","what":"poweroff"|"crash"|"suspended","why":s}  rhea-vm exits 0 | 3 after it
 *   {"ev":"pong","seq":n,"role":s,"state":s,"term":t,"epoch":n,"acked":n}
 *   {"ev":"stats","seq":n,"stats":{...}}
 *   {"ev":"busy","what":s}                          no ping can be answered, and it is not hung; once a second
 *   {"ev":"want-path","path":i}                     please connect it and say op path
 *   {"ev":"want-streams","path":i,"n":n,"number":n}  please connect so many and say op stream for each
 *   {"ev":"path","path":i,"transport":s,"state":s,"why":s}   it is down, ready or in-use now
 *   {"ev":"path-drill","path":i,"wait_us":n,"epochs":n}   the harm has ended; the longest time between two
 * acknowledgements meanwhile, and how many epochs were acknowledged
 *   {"ev":"test","id":n,"why":s}                    the test failed; or
 *   {"ev":"test","id":n,"small":{"count","p50_us","p99_us"},"page":{...},"bytes":n,"ns":n,"sent":n,"slices":n,
 *    "in_use":b,"beside_vm":b,"stopped":s,"loss":{"unit","sent","resent"}|null,
 *    "load":{"bytes_per_page","dirty_p50","dirty_p99","commit_us","commit_tested_us"}|null}
 *   {"ev":"verified","seq":n,"result":{"total","chunks","busy","differ","repaired","why","first":[{"disk","offset"}]}}
 *   {"ev":"snap-switch","id":n,"epoch":n?}   the images are at the snapshot's moment, flushed, and are not written
 * before snap-switched; without epoch: no standby was in step
 *   {"ev":"snap-memory","id":n,"ok":b,"why":s}   the memory's file is whole, or worth nothing; always, if one was given
 * and the snapshot was made
 *   {"ev":"snap-over","id":n,"ok":b,"why":s,"sure":b}   it is made, or failed; sure: its moment is committed
 *   {"ev":"snap-left","id":n,"ok":b,"why":s}   nothing of this process needs these files any more
 *   {"ev":"peer-note","note":{...}}   of the peer's rhead
 *   {"ev":"resized","seq":n,"result":{"disk","bytes","standby":b,"why":s}}   why: the disk is as it was; standby: that has the
 *        new size, too
 *   {"ev":"disk","bad":b,"why":s}   a disk of this host fails, or is well again; a standby exits 6 after it, and is
 * not told to be done for by that
 *   {"ev":"activity","why":s,"spoiled":b}   the activity log cannot be used any more; whether
 * it will be found so
 *   {"ev":"error","why":s}                          then exits 1
 */
#ifndef CTL_VMPROTO_H
#define CTL_VMPROTO_H

#include <jansson.h>

enum { VMPROTO_FD = 3, VMPROTO_MAX = 64 << 10, VMPROTO_FDS_MAX = 208 };

/* Exit status of rhea-vm. */
enum {
	VMEXIT_OFF = 0,
	VMEXIT_ERROR = 1,
	VMEXIT_CRASH = 3,
	VMEXIT_FENCED = 4,
	VMEXIT_ORPHAN = 5,
	VMEXIT_DISK = 6
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
