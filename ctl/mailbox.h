/* SPDX-License-Identifier: Apache-2.0
 * mailbox - hand things from other threads to a loop, so that the receiver can go away cleanly.
 *
 * Unlike loop_post(), putting never fails (the sender has allocated the item), and after
 * mailbox_destroy() nothing is delivered any more.
 */
#ifndef CTL_MAILBOX_H
#define CTL_MAILBOX_H

struct err;
struct loop;
struct mailbox;

/* Embedded at the start of what is sent. */
struct mail {
	struct mail *next;
};

/* @fn gets each item, in the order put, on the loop's thread, and takes it. @drop frees an item
 * that was not delivered. On the loop's thread, or before it runs. */
int mailbox_create(struct loop *loop, void (*fn)(void *arg, struct mail *m),
		   void (*drop)(struct mail *m), void *arg, struct mailbox **mb_out,
		   struct err *err);
/* Takes @m. Any thread, as long as the mailbox exists. */
void mailbox_put(struct mailbox *mb, struct mail *m);
/* On the loop's thread (also from within @fn), or after it ended. NULL is fine. */
void mailbox_destroy(struct mailbox *mb);

#endif
