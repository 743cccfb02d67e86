/* SPDX-License-Identifier: Apache-2.0
 * drill_path - hurt one path of a protected VM's link for a time, and see another one take over.
 *
 * Theory of operation. The rhead of the primary tells its rhea-vm what to do to which path and for how
 * long; the end comes from there, whatever happens here (vmm_drill.c). Then this only watches what
 * rhea-vm says of its paths, until the harm has ended and the path works again. The VM must stay where it
 * is, protected and in the same term, all the time.
 *
 * On the loop's thread.
 */
#ifndef CTL_DRILL_PATH_H
#define CTL_DRILL_PATH_H

#include <jansson.h>

struct ctl_conn;
struct drill_path;
struct host;
struct vmrun;

/* The "drill" command with {"what":"path","path":s,"harm":s,"for_ms":n}: the path by its number or, if
 * only one has it, its transport; "cut", "stall" or "delay=MS". Ends with {"report":{...}}:
 * {"drill","vm","ok","path","harm","harm_ms","wait_ms","took_over":s|null,"took_over_ms","epochs",
 *  "epochs_lost":n|null,"again_ms","term_before","term_after","why","steps":[{"at_ms","what"}]}
 * wait_ms: the longest time between two acknowledgements, for which the guest's output waited;
 * again_ms: from the deed until the path worked again. What is not known is null. */
void drill_path_cmd(struct host *h, struct ctl_conn *c, json_t *req);
/* rhea-vm told of a path, or of the end of a drill's harm. */
void drill_path_event(struct host *h, struct vmrun *v, json_t *msg);
/* Give it up (rhead ends). NULL is fine. */
void drill_path_destroy(struct drill_path *d);

#endif
