/* SPDX-License-Identifier: Apache-2.0
 * kit_shut - a process as narrow as rhea-vm is, for a module to show that it can live in it.
 */
#ifndef TESTS_LAB_KIT_SHUT_H
#define TESTS_LAB_KIT_SHUT_H

/* Nobody's identity, without rights, with so much memory that may be pinned. Before a
 * module is opened: the kernel serves an RDMA device's file only to whom opened it. */
void kit_be_nobody(unsigned long pinned_bytes);

/* From now on any system call but those that module.c of the rdma transport names, and the
 * few that this program itself needs, ends the process. */
void kit_shut_in(void);

#endif
