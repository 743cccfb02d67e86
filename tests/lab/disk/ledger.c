/* SPDX-License-Identifier: Apache-2.0
 * ledger - numbered records in two files, each durable before the next one, and said aloud after that.
 *
 *   ledger run FILE FILE ADDRESS PORT    until killed: record n into both, then n by UDP, then n + 1
 *   ledger check FILE                    prints the last whole record's number; exit status 1: records are missing
 *
 * The files are rings of SLOTS records. A disk whose power was cut at any moment holds record n and all of its lap
 * before it; only the slot of n + 1 may be in any state. And the second file is at the first one's
 * number or one behind. Whoever heard n and finds less has lost something that was acknowledged.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RECORD = 4096, WORDS = RECORD / 8, SLOTS = 256, PACE_US = 10000 };

/* Words of any other record differ in every place. */
static void record_make(uint64_t *record, uint64_t n)
{
	for (unsigned i = 0; i < WORDS; i++)
		record[i] = n ^ (uint64_t)i << 48;
}

/* Its number; 0: it is none, or not whole. */
static uint64_t record_number(const uint64_t *record)
{
	uint64_t n = record[0];

	for (unsigned i = 1; i < WORDS; i++)
		if (record[i] != (n ^ (uint64_t)i << 48))
			return 0;
	return n;
}

static int slot_read(int fd, uint64_t n, uint64_t *number_out)
{
	uint64_t record[WORDS] = {0};

	if (pread(fd, record, RECORD, (off_t)(n % SLOTS * RECORD)) < 0)
		return -errno;
	*number_out = record_number(record);
	return 0;
}

/* The last number of @fd; and whether all that must be before it is there. */
static int last(int fd, uint64_t *n_out, int *whole_out)
{
	uint64_t number = 0, n = 0;
	int rc = 0;

	for (uint64_t i = 0; !rc && i < SLOTS; i++) {
		rc = slot_read(fd, i, &number);
		n = !rc && number > n ? number : n;
	}
	*n_out = n;
	*whole_out = 1;
	for (uint64_t i = n; !rc && i && i + SLOTS > n + 1; i--) {
		rc = slot_read(fd, i, &number);
		*whole_out &= !rc && number == i;
	}
	return rc;
}

static int put(int fd, uint64_t n)
{
	uint64_t record[WORDS];

	record_make(record, n);
	if (pwrite(fd, record, RECORD, (off_t)(n % SLOTS * RECORD)) != RECORD)
		return -EIO;
	return fdatasync(fd) ? -errno : 0;
}

static int open_socket(const char *address, const char *port)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)atoi(port))};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || inet_pton(AF_INET, address, &to.sin_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&to, sizeof(to)))
		return -1;
	return fd;
}

static int run(char **argv)
{
	int fd[2], sock = open_socket(argv[4], argv[5]), whole, rc = 0;
	uint64_t n = 0;
	char text[32];

	for (int i = 0; i < 2; i++) {
		fd[i] = open(argv[2 + i], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
		if (fd[i] < 0) {
			perror(argv[2 + i]);
			return 2;
		}
	}
	if (sock < 0 || last(fd[0], &n, &whole)) {
		perror("ledger");
		return 2;
	}
	while (!rc) {
		n++;
		rc = put(fd[0], n);
		rc = rc ? rc : put(fd[1], n);
		if (rc)
			break;
		(void)snprintf(text, sizeof(text), "%" PRIu64 "\n", n); /* fits */
		if (send(sock, text, strlen(text), 0) < 0 && errno != ECONNREFUSED)
			rc = -errno;
		usleep(PACE_US); /* others work on this processor, too */
	}
	(void)fprintf(stderr, "ledger: record %" PRIu64 ": %s\n", n, strerror(-rc));
	return 1;
}

static int check(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), whole;
	uint64_t n;

	if (fd < 0 || last(fd, &n, &whole)) {
		perror(path);
		return 2;
	}
	printf("%" PRIu64 "\n", n);
	return whole ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "run"))
		return run(argv);
	if (argc == 3 && !strcmp(argv[1], "check"))
		return check(argv[2]);
	(void)fprintf(stderr, "usage: ledger run FILE FILE ADDRESS PORT | check FILE\n");
	return 2;
}
