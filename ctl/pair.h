/* SPDX-License-Identifier: Apache-2.0
 * pair - the state machine of one VM on one host: who runs it, who stands by, who may
 * release.
 *
 * Theory of operation. The machine is pure: an event and the time go in, a new state and
 * a list of actions come out. It reads no clock, opens nothing, and never fails; so the
 * same code runs in rhead and in a seeded simulator (tests/unit/test_pair.c). Each host
 * has one machine for each VM.
 *
 * Authority is a key at the arbiter, (term, owner), that only ever changes by
 * compare-and-set from term t to t+1. Three sorts of claim are made, and each names the
 * term that its claimant lives in:
 *   - cold start: absent -> (1, me), or (t, me) -> (t+1, me). From (t, other) only if the guest
 *     ended in good order in term t, this host has all of it, and an operator typed the start; or
 *     if the other *hands over*, see below.
 *   - primary: (t, me) -> (t+1, me), after it lost a standby that it had armed.
 *   - standby: (t, other) -> (t+1, me), holding a commit of term t and told ARMED in term t.
 * A primary arms at most one standby in a term: after losing it, it needs a new term to
 * release anything. So of a primary and the standby that it armed in term t at most one gets
 * t+1, the other is refused, and it is always safe for a standby to claim. Grace periods only
 * avoid failovers that nobody needs. That the arbiter names the peer as owner of a term, or
 * that the peer's authenticated heartbeat shows it as that term's primary, is a fact that no
 * later event takes back.
 *
 * Both hosts dead: the one with the later disks cold-starts. The owner of the term has them, with one
 * exception: a standby that was granted the next term and died before it ran. Its disks are at the
 * last epoch that was durable there, and clients may have seen more, which the old primary's hold.
 * So its record says *behind* from the sync on until rhea-vm tells that all that was acked is
 * durable, which takes one flush of the journal after the link was lost or the guest goes on here. A guest that ran for
 * that moment makes no difference: no flush of its is answered before, and once one is, the journal says that these
 * disks are the guest's (vmrun_image.c), whatever the record says; and the other host's disks are not
 * overwritten by a sync so long. An owner that is
 * behind, or whose image is incomplete, does not start: it says so in its heartbeats, and the
 * other, if its own image is neither, claims the next term from it. Safe, because to run in a term
 * again an owner would need that same compare-and-set. If the other does not come back, an operator decides.
 *
 * What a link may lead to is on disk before rhea-vm gets it, because rhead may be killed at any
 * moment after: on the primary that it is not alone any more (a standby may be armed), on the
 * standby that its image is incomplete (the sync overwrites it). The driver keeps the socket
 * until the store is answered. The first is taken back when the engine is alone again, so that
 * no ARMED has left; the second when rhea-vm says that the disks are whole: once the first commit is on
 * stable storage, or after a recovery by the journal. Nothing boots from an incomplete image.
 *
 * A guest is suspended in this order: its memory is saved durably on both hosts, the standby holding its
 * commit meanwhile; the record here says *saved*, and that the VM is not wanted; only then does the
 * standby hear that it may forget its commit, and its own record says saved. So at any moment somebody
 * can go on: whoever takes over from the commit takes the next term, and a saved guest is only ever
 * started by a claim from the term in which it was saved. The one who resumes keeps the flag until
 * his rhea-vm has told that the guest runs; rhea-vm by itself never starts twice from one file (remus/SAVED.md).
 *
 * clang-format off
 *
 *   OFF --start--> STARTING --granted--> ACTIVATING --guest runs--> RUNNING_ALONE <-+
 *                   |    ^                ^     ^                        | link     | lost,
 *      peer may hold|    |it does not     |     |                        v          | not
 *      a commit     v    |                |     | granted             SYNCING ------+ armed
 *                  YIELDING               |     |                        | acks flow
 *                   | peer won            |     |                        v
 *                   v                     |   UNLINKED <--link lost-- PROTECTED
 *      STANDBY_EMPTY <---- FENCED <-------|-- HOLDING (no arbiter)
 *            | link           ^ refused   |
 *            v                |           | granted
 *      STANDBY_SYNCING        +-------- CLAIMING <----------------+
 *            | armed                      ^ peer lost, or its     | grace over
 *            v                            | VM is dead or hung    |
 *      STANDBY_READY ---------------------+---------------> STANDBY_SUSPECT
 *                                               link lost, primary says that it is well
 *
 * clang-format on
 *
 * "Granted" means at the arbiter and then in the record on disk: ACTIVATING tells our rhea-vm
 * only after the record is stored. Any state with a VM leaves for FENCED when the peer is seen
 * as the owner of a higher term. An operator's override is a grant of a term far above all seen
 * ones; it is logged, and told to the arbiter as soon as that answers.
 *
 * A primary whose disk fails holds the guest's requests (hv/shield.h) and asks its standby to take over, as an
 * operator would. If it comes to run the guest again and its disk fails again within disk_again_ns,
 * then so does the other host's: the guest is told. A standby whose disk fails has its process started
 * anew, after ever longer pauses and without an end: protection comes back when the disk does.
 *
 * The primary's rhead connects, to the standby's replication address; the standby's
 * accepts.
 *
 * Time comes as CLOCK_MONOTONIC nanoseconds with each event; after each step the driver
 * asks pair_deadline() and delivers PAIR_EV_TICK when it is reached.
 *
 * Thread: all calls for one struct pair on one thread (rhead's loop).
 */
#ifndef CTL_PAIR_H
#define CTL_PAIR_H

#include <stdint.h>

enum pair_state {
	PAIR_OFF,      /* not wanted here or anywhere; no rhea-vm */
	PAIR_STARTING, /* wanted: asking the arbiter who owns it, claiming a cold start */
	PAIR_YIELDING, /* we own the term but our VM is gone: a peer with a commit goes
			  first */
	PAIR_ACTIVATING,    /* granted: being written to disk, then our VM is told */
	PAIR_RUNNING_ALONE, /* primary, output passes, no standby armed */
	PAIR_SYNCING,	/* primary, a standby is being brought up (from ARMED on output
			   waits) */
	PAIR_PROTECTED, /* primary, output leaves on acks */
	PAIR_UNLINKED,	/* primary that lost its armed standby: output held, claiming */
	PAIR_HOLDING, /* the same, and the arbiter does not answer: output held, retrying
		       */
	PAIR_STANDBY_EMPTY, /* standby without a commit, waiting for the primary's link */
	PAIR_STANDBY_SYNCING, /* standby, first sync under way */
	PAIR_STANDBY_READY,   /* standby with a commit, told ARMED: may claim */
	PAIR_STANDBY_SUSPECT, /* as READY, link lost, primary still says that it is well:
				 grace */
	PAIR_CLAIMING,	      /* as READY, and a claim is under way or retried */
	PAIR_FENCED,	      /* somebody else has the authority: own VM is being ended */
	PAIR_FAILED, /* own VM ended too often in a row: waits for an operator's start */
	PAIR_NSTATES
};
const char *pair_state_name(enum pair_state s); /* "off", "running-alone", ... */
/* Parses nothing from outside: -1 when @v is no state (heartbeats are checked with it).
 */
int pair_state_check(unsigned v);

/* Does a host in @s own the term that it names: is it the primary or about to be? */
int pair_state_is_primary(enum pair_state s);
/* May a host in @s claim from its term with the commit that it holds? */
int pair_state_is_eligible(enum pair_state s);
int pair_state_is_standby(enum pair_state s); /* any STANDBY_* or CLAIMING */

/* Our rhea-vm process. */
enum pair_health {
	PAIR_VM_NONE, /* none was wanted */
	PAIR_VM_OK,
	PAIR_VM_HUNG, /* there, and does not answer */
	PAIR_VM_DEAD, /* ended although it was wanted */
	PAIR_NHEALTH
};
const char *pair_health_name(enum pair_health h);

/* What one host's heartbeats tell about a VM. */
enum {
	PAIR_VIEW_STOPPED = 1, /* OFF on purpose in this term: nobody should take over */
	PAIR_VIEW_PLEASE = 2,  /* a primary's operator asks the standby to take over */
	PAIR_VIEW_NO_ARBITER = 4, /* the last request was not answered */
	/* The term is ours, and we must not start in it: our disks hold less than the peer's */
	PAIR_VIEW_HANDS_OVER = 8,
	PAIR_VIEW_FLAGS = 15,
};
struct pair_view {
	enum pair_state state;
	enum pair_health health;
	unsigned flags;
	uint64_t term; /* that the host lives in: its own as a primary, the primary's as a
			  standby */
	uint64_t epoch; /* running or last acked, for people; UINT64_MAX: none */
};

/* Engine states that rhea-vm tells, by the names of ctl/vmproto.h. */
enum pair_engine {
	PAIR_ENG_NONE,
	PAIR_ENG_ALONE, /* primary */
	PAIR_ENG_SYNCING,
	PAIR_ENG_ARMED,
	PAIR_ENG_PROTECTED,
	PAIR_ENG_UNLINKED,
	PAIR_ENG_FENCED,
	PAIR_ENG_EMPTY, /* standby */
	PAIR_ENG_SB_SYNCING,
	PAIR_ENG_READY,
	PAIR_ENG_LOST,
	PAIR_ENG_ACTIVE,
	PAIR_NENGINE
};
/* From a message's "role" and "state"; PAIR_ENG_NONE for anything unknown. */
enum pair_engine pair_engine_of(const char *role, const char *state);
const char *pair_engine_name(enum pair_engine e);

enum pair_ev_kind {
	PAIR_EV_TICK, /* a deadline passed; may come at any time */
	/* From people and from rhead's own start. */
	PAIR_EV_START,	  /* u.start */
	PAIR_EV_STOP,	  /* press the power button; OFF once the guest is off */
	PAIR_EV_KILL,	  /* stop at once, like pulling the plug of both hosts' VM */
	PAIR_EV_SUSPEND,  /* save the guest on both hosts; OFF once that is on record */
	PAIR_EV_FAILOVER, /* planned: on the primary it asks the standby, on the standby
			     it claims */
	PAIR_EV_OVERRIDE, /* u.override: typed by an operator who vouches that the peer is
			     dead */
	PAIR_EV_REVERTED, /* OFF: this host's disks are of another moment; u.saved.ok: the guest of that
			   * moment is in its file */
	/* From the heartbeat module. */
	PAIR_EV_PEER,	   /* u.peer: the peer is up and says this; on each change */
	PAIR_EV_PEER_LOST, /* silent on all paths */
	/* From our rhea-vm; .instance as given by the action that started it, others are
	   ignored. */
	PAIR_EV_VM_STATE,    /* u.vm_state */
	PAIR_EV_VM_RUNNING,  /* "running": the guest runs; u.term */
	PAIR_EV_VM_POWEROFF, /* "guest" "poweroff"; the process exits after it */
	PAIR_EV_VM_CRASH,    /* "guest" "crash"; likewise */
	PAIR_EV_VM_IMAGE,    /* u.image: what has become of this host's disks */
	PAIR_EV_VM_SAVED,    /* u.saved: how SUSPEND went; the guest stands, or goes on */
	PAIR_EV_VM_DISK,     /* u.disk: one of them fails, or is well again */
	PAIR_EV_VM_HUNG,     /* no pong for too long */
	PAIR_EV_VM_ALIVE,    /* pongs again */
	PAIR_EV_VM_EXITED,   /* the process is gone (reaped): its disks and taps are free
				again */
	/* Answers to actions. */
	PAIR_EV_ARBITER,   /* u.arbiter: exactly one for each READ or CLAIM */
	PAIR_EV_STORED,	   /* u.stored: exactly one for each STORE */
	PAIR_EV_CONNECTED, /* the socket of CONNECT is there; the driver keeps it */
	PAIR_EV_CONNECT_FAILED,
	PAIR_EV_INCOMING, /* u.term: the peer's rhead connected for this VM in that term;
			   * the driver keeps the socket */
	PAIR_NEV
};
const char *pair_event_name(enum pair_ev_kind k);

enum pair_arb_result {
	PAIR_ARB_VALUE,	      /* READ: here is the key (term 0: absent) */
	PAIR_ARB_GRANTED,     /* CLAIM: done; term is ours */
	PAIR_ARB_REFUSED,     /* CLAIM: the key was another: here it is */
	PAIR_ARB_UNREACHABLE, /* no answer, or a claim whose outcome is not known */
};

enum pair_resume {
	PAIR_BOOT,    /* refused if the guest is saved */
	PAIR_RESUME,  /* go on from what is saved */
	PAIR_DISCARD, /* boot, and forget what is saved */
};

struct pair_event {
	enum pair_ev_kind kind;
	uint64_t instance; /* VM_* events */
	union {
		struct {
			int automatic; /* rhead started (autostart, or the record says
					* wanted), nobody typed it: the preferred host
					* goes first */
			enum pair_resume resume;
		} start;
		struct {
			int cold; /* also boot from this host's disks when there is no
				     commit */
		} override;
		struct pair_view peer;
		struct {
			enum pair_engine engine;
			uint64_t term;
			int bye;   /* standby: the primary's guest ended in good order */
			int saved; /* with bye: it is saved here */
		} vm_state;
		struct {
			int whole; /* if our VM ended now, they could be started from */
			int all;   /* and all that was acked would be in them */
			uint64_t
				epoch; /* that they were recovered to; UINT64_MAX: none */
		} image;
		struct {
			int ok;
		} saved;
		struct {
			int bad;
		} disk;
		uint64_t term;
		struct {
			uint64_t id;
			enum pair_arb_result result;
			uint64_t term;
			int mine; /* the key's owner is this host */
		} arbiter;
		struct {
			uint64_t id;
			int ok;
		} stored;
	} u;
};

enum pair_act_kind {
	PAIR_DO_LOG,	 /* u.log: one line for people and the event history */
	PAIR_DO_READ,	 /* u.claim.id: read the key -> PAIR_EV_ARBITER */
	PAIR_DO_CLAIM,	 /* u.claim: compare-and-set -> PAIR_EV_ARBITER */
	PAIR_DO_STORE,	 /* u.store: write this record, fsync -> PAIR_EV_STORED */
	PAIR_DO_VM_BOOT, /* u.vm: start a rhea-vm, set it up; when ready: "boot" u.vm.term
			  */
	PAIR_DO_VM_STANDBY,   /* u.vm: likewise "standby" u.vm.term */
	PAIR_DO_VM_ALONE,     /* u.vm: "alone" u.vm.term */
	PAIR_DO_VM_ACTIVATE,  /* u.vm: "activate" u.vm.term */
	PAIR_DO_VM_FENCE,     /* u.vm: "fence" u.vm.term; SIGKILL when it has not exited
			       * within     PAIR_FENCE_KILL_MS, or at once when it is hung ->
			       * VM_EXITED */
	PAIR_DO_VM_POWERDOWN, /* u.vm: "powerdown" */
	PAIR_DO_VM_SUSPEND,   /* u.vm: "suspend" into a new file -> VM_SAVED */
	PAIR_DO_VM_SUSPENDED, /* u.vm: "suspended": that is on record -> VM_POWEROFF */
	PAIR_DO_VM_DISK_ERRORS, /* u.vm: "disk-errors": nobody takes over, the guest has to see them */
	PAIR_DO_UNLINK,	    /* u.unlink: "unlink"; drop a connect under way (no answer) */
	PAIR_DO_CONNECT,    /* u.link: connect to the peer for this VM and term, tell them
			     * -> CONNECTED or CONNECT_FAILED, exactly one, within some
			     * seconds */
	PAIR_DO_LINK_GIVE,  /* u.link: hand the kept socket to rhea-vm: "link" side and
			       term -> VM_STATE, on the primary always */
	PAIR_DO_LINK_CLOSE, /* u.link: close the kept socket */
	PAIR_NACT
};
const char *pair_action_name(enum pair_act_kind k);

enum { PAIR_FENCE_KILL_MS = 300, PAIR_LOG_MAX = 192, PAIR_ACTIONS_MAX = 16 };

/* What the record on disk (ctl/grant.h) holds. */
struct pair_record {
	uint64_t term;	/* 0: never granted, never followed */
	uint64_t epoch; /* for people, and for choosing when both hosts died */
	int mine;	/* the owner of term is this host, else the peer */
	int alone;	/* primary: no standby can have been armed in this term */
	int bye; /* the guest ended in good order in this term and this host has all of it
		  */
	int wanted;	/* the VM should be on */
	int incomplete; /* this host's image is, or was when it was cut short, being
			   overwritten by a first sync: nothing may boot from it */
	int behind; /* this host's image is a standby's, and what it had acked may not all be
		       durable: if the other host's is whole, that one is later */
	int override; /* the grant was typed by an operator */
	int saved; /* the guest is in the VM's file on this host, and has not run since */
};

struct pair_action {
	enum pair_act_kind kind;
	union {
		struct {
			int level; /* enum log_level */
			char text[PAIR_LOG_MAX];
		} log;
		struct {
			uint64_t id;
			uint64_t from; /* expected term, 0: absent */
			uint64_t to;
			int from_mine; /* expected owner: this host, else the peer */
			int force; /* any lower term will do: an override is being told */
		} claim;
		struct {
			uint64_t id;
			struct pair_record record;
		} store;
		struct {
			uint64_t instance, term;
			int resume; /* VM_BOOT: from what is saved */
		} vm;
		struct {
			char why[64];
		} unlink;
		struct {
			int primary; /* our side */
			uint64_t term;
		} link;
	} u;
};

struct pair_actions {
	unsigned n;
	struct pair_action list[PAIR_ACTIONS_MAX]; /* to be done in this order */
};

/* All times in nanoseconds. */
struct pair_params {
	int preferred; /* this host is the VM's preferred one */
	int manual;    /* the arbiter is "manual": nothing to tell it after an override */
	uint64_t grace_ns; /* SUSPECT: the primary still says that it is well */
	uint64_t yield_ns; /* YIELDING: nothing heard of a peer that may hold a commit */
	uint64_t retry_ns; /* arbiter or disk did not work: try again after */
	uint64_t backoff_min_ns, backoff_max_ns; /* connecting, restarting an own VM */
	uint64_t stable_ns;	  /* a VM that lived so long did not fail "in a row" */
	unsigned max_restarts;	  /* in a row; then FAILED */
	uint64_t disk_backoff_ns; /* the longest, of a standby whose disk fails */
	uint64_t disk_again_ns;	  /* our disk failed again so soon: so has the peer's */
};
/* Defaults for heartbeats every @interval_ms that are missed after @missed. */
struct pair_params pair_params_default(unsigned interval_ms, unsigned missed);

enum { PAIR_OVERRIDE_STEP = 1000 };

/* The socket of a link that the driver keeps until the record is on disk. */
enum pair_kept {
	PAIR_KEPT_NONE,
	PAIR_KEPT_CONNECTED, /* ours, as the primary */
	PAIR_KEPT_INCOMING,  /* the peer's */
};

/* Open so that a simulator can copy and print it; drivers use the functions only. */
struct pair {
	struct pair_params prm;
	uint64_t now; /* of the last step */
	enum pair_state state;
	uint64_t term, seen; /* that we live in; the highest one heard of */

	/* What is known of our rhea-vm. */
	uint64_t instance;
	int vm_up;   /* started and not yet VM_EXITED */
	int running; /* the guest runs here */
	enum pair_engine engine;
	uint64_t engine_term; /* that the engine said it is in */
	enum pair_health health;
	uint64_t epoch, vm_started_at;
	int unlink_sent;
	int after_exit;	    /* FENCED: what follows VM_EXITED */
	int was_activating; /* FENCED: our VM was to take over, and may not have */
	unsigned restarts;
	uint64_t restart_at, restart_backoff;
	int disk_bad, disk_told; /* it said so; that nobody takes over was answered */
	int disk_failed; /* as a standby it ended for that reason, and had no good life since */
	uint64_t
		disk_asked_at; /* the peer was asked to take over for that reason; 0: never */

	/* What is known of the peer. */
	int peer_up;
	struct pair_view peer;
	uint64_t peer_ready; /* the last term in which it said that it holds a commit */
	int connecting;
	uint64_t connect_term, connect_at, connect_backoff;
	enum pair_kept kept; /* the newest one; decided on in the states that want it */
	uint64_t kept_term;
	int link_given; /* primary: our engine has not said yet how it went */

	/* What people asked for. */
	int automatic, stopping, stopped, please;
	enum pair_resume resume; /* how STARTING starts it */
	enum { PAIR_NOT_SUSPENDING, PAIR_SAVING, PAIR_SAVED, PAIR_SUSPENDED } suspending;

	/* The request at the arbiter: at most one is outstanding (arb_id, 0: none). */
	uint64_t next_id, arb_id, arb_retry_at;
	int arb_is_read, no_arbiter;
	int override_told; /* the arbiter knows of our override, or there was none */

	/* The record on disk, and the store of it that is outstanding (store_id, 0: none). */
	struct pair_record rec;
	uint64_t store_id, store_retry_at;
	int all_here; /* our VM, as a standby, said that all that it acked is durable */
	uint64_t hands_over; /* term that is ours and that the peer shall have; 0: none */
	int want_store; /* it differs from what was last given to the disk, or that failed */

	/* Of the present state. */
	uint64_t state_since, state_until; /* 0: no time limit */
	int yielded;			   /* STARTING: the peer has had its turn */
	int grant_how, told;		   /* ACTIVATING */
};

/* @rec: what the disk held, or NULL if there was none. State OFF; nothing is asked for
 * yet. */
void pair_init(struct pair *p, const struct pair_params *prm,
	       const struct pair_record *rec);

/* One event at time @now_ns. *out is filled with what to do now, in order; do it before
 * the next event of this machine. Never fails. */
void pair_step(struct pair *p, uint64_t now_ns, const struct pair_event *ev,
	       struct pair_actions *out);

/* Would an operator's event (START to OVERRIDE) be acted on now? 1, or 0 and a line for people
 * into @why: what to do instead. */
int pair_accepts(const struct pair *p, const struct pair_event *ev, char *why,
		 unsigned room);

/* When to deliver PAIR_EV_TICK: 0 = never. */
uint64_t pair_deadline(const struct pair *p);

/* For heartbeats and people. */
struct pair_view pair_view(const struct pair *p);
void pair_set_epoch(struct pair *p, uint64_t epoch); /* what the last pong said */

/* Would the VM go on if the peer host died now, and if this one did? One line of reason
 * into
 * @why (any size). For `rheactl status`. */
int pair_safe_to_lose_peer(const struct pair *p, char *why, unsigned room);
int pair_safe_to_lose_self(const struct pair *p, char *why, unsigned room);

#endif
