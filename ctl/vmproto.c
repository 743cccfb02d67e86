/* SPDX-License-Identifier: Apache-2.0
 * vmproto - packets of JSON with file descriptors between rhead and rhea-vm.
 */
#include "ctl/vmproto.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int vmproto_send(int sock, json_t *msg, const int *fds, int nfds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * VMPROTO_FDS_MAX)];
	} ctl;
	struct iovec iov;
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;
	char *text;
	int rc = 0;

	if (nfds > VMPROTO_FDS_MAX)
		return -E2BIG;
	text = json_dumps(msg, JSON_COMPACT);
	if (!text)
		return -ENOMEM;
	iov = (struct iovec){.iov_base = text, .iov_len = strlen(text)};
	if (nfds > 0) {
		memset(&ctl, 0, sizeof(ctl));
		mh.msg_control = ctl.buf;
		mh.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nfds);
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)nfds);
	}
	if (iov.iov_len > VMPROTO_MAX)
		rc = -EMSGSIZE;
	while (!rc && sendmsg(sock, &mh, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			rc = -errno;
	free(text);
	return rc;
}

static int take_fds(struct msghdr *mh, int *fds, int room)
{
	int n = 0, fd;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (n < room)
				fds[n++] = fd;
			else
				close(fd);
		}
	}
	return n;
}

int vmproto_recv(int sock, json_t **msg_out, int *fds, int *nfds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * VMPROTO_FDS_MAX)];
	} ctl;
	char *text = malloc(VMPROTO_MAX);
	struct iovec iov = {.iov_base = text, .iov_len = VMPROTO_MAX};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = ctl.buf,
			    .msg_controllen = sizeof(ctl.buf)};
	ssize_t n;
	int rc = 0;

	*msg_out = NULL;
	if (!text)
		return -ENOMEM;
	do
		n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0) {
		rc = n ? -errno : -EPIPE;
		*nfds = 0;
		goto out;
	}
	*nfds = take_fds(&mh, fds, *nfds);
	if (!(mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		*msg_out = json_loadb(text, (size_t)n, 0, NULL);
	if (!json_is_object(*msg_out)) {
		json_decref(*msg_out);
		*msg_out = NULL;
		while (*nfds > 0)
			close(fds[--*nfds]);
		rc = -EBADMSG;
	}
out:
	free(text);
	return rc;
}
