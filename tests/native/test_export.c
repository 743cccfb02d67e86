/* SPDX-License-Identifier: Apache-2.0
 * test_export - snapshots served by NBD to the clients that people use (nbdcopy, nbdinfo, qemu-img): whole and
 * incremental backups hold what they should, read no more than they must, and nobody else gets in.
 */
#include "tests/native/exportrig.h"

#include "ctl/image_chain.h"

#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
	SIZE = 32 << 20,
	DEPTH = 5, /* files of the chain, the last of them the leaf, which a VM would write */
	WRITES = 30,	  /* of 4 KiB, for each of them */
	SLACK = 64 << 10, /* what a client may read beside what it has to */
};

static struct rig_want snap[DEPTH];

static void scribble(const char *name, struct rig_want *want, unsigned seed)
{
	struct image_chain chain;
	struct vhd_image *v = NULL;
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(image_chain_open(rig_path(name), IMAGE_WRITE, &chain, &err),
			      0);
	CU_ASSERT_EQUAL_FATAL(image_chain_use(&chain, VHD_WRITE, &v, &err), 0);
	rig_seed = seed;
	for (unsigned i = 0; i < WRITES; i++) {
		uint64_t off = rig_random() % (SIZE / 4096) * 4096;

		if (i % 5 == 4)
			rig_erase(vhd_img(v), want, off, 4096);
		else
			rig_write(vhd_img(v), want, off, 4096, (uint8_t)(seed + i));
	}
	/* Written in the first of them, zeroed in all others. */
	if (seed == 1)
		rig_write(vhd_img(v), want, 8 << 20, 2 << 20, 7);
	else
		rig_erase(vhd_img(v), want, (8 << 20) + seed * 65536, 65536);
	CU_ASSERT_EQUAL(img_sync(vhd_img(v)), 0);
	vhd_close(v);
	image_chain_close(&chain);
}

/* s1.vhd to s4.vhd are snapshots, and s1.raw to s4.raw what they hold; s5.vhd is the leaf. */
static void make_chain(void)
{
	char name[16];

	CU_ASSERT_EQUAL_FATAL(sh("%s image create s5.vhd --size 32M", rheactl), 0);
	for (unsigned i = 0; i < DEPTH; i++) {
		snap[i] = rig_want_new(SIZE);
		if (i)
			memcpy(snap[i].bytes, snap[i - 1].bytes, SIZE);
		scribble("s5.vhd", &snap[i], i + 1);
		(void)snprintf(name, sizeof(name), "s%u.raw", i + 1); /* fits */
		rig_save_raw(&snap[i], name);
		if (i < DEPTH - 1)
			CU_ASSERT_EQUAL_FATAL(
				sh("%s image snapshot s5.vhd s%u.vhd", rheactl, i + 1),
				0);
	}
}

static uint64_t data_bytes(const struct rig_want *w)
{
	static const uint8_t zero[4096];
	uint64_t n = 0;

	for (uint64_t at = 0; at < w->size; at += 4096)
		n += memcmp(w->bytes + at, zero, 4096) != 0 ? 4096 : 0;
	return n;
}

/* By nbdcopy over several connections, and as qemu sees it; holes are not read. */
static void whole_one(const char *image, unsigned i)
{
	struct export e;

	CU_ASSERT_EQUAL_FATAL(export_start(&e, image), 0);
	CU_ASSERT_EQUAL(sh("rm -f copy.raw; nbdcopy '%s' copy.raw", e.uri), 0);
	CU_ASSERT_EQUAL(sh("cmp copy.raw s%u.raw", i + 1), 0);
	CU_ASSERT_EQUAL(export_end(&e, SIGTERM), 0);
	CU_ASSERT_TRUE(e.connections > 1);
	/* It reads in pieces of 256 KiB, holes left out. */
	CU_ASSERT_TRUE(e.read_bytes < SIZE);
	CU_ASSERT_EQUAL_FATAL(export_start(&e, image), 0);
	CU_ASSERT_EQUAL(sh("qemu-img convert -f raw -O raw '%s' copy.raw", e.uri), 0);
	CU_ASSERT_EQUAL(export_end(&e, SIGINT), 0);
	CU_ASSERT_EQUAL(sh("cmp copy.raw s%u.raw", i + 1), 0);
	CU_ASSERT_TRUE((uint64_t)e.read_bytes >= data_bytes(&snap[i]));
	CU_ASSERT_TRUE((uint64_t)e.read_bytes <= data_bytes(&snap[i]) + SLACK);
	CU_ASSERT_EQUAL_FATAL(export_start(&e, image), 0);
	CU_ASSERT_EQUAL(sh("qemu-img compare -f raw -F raw '%s' s%u.raw", e.uri, i + 1),
			0);
	CU_ASSERT_EQUAL(sh("qemu-img compare -f raw -F raw '%s' s%u.raw", e.uri, i), 1);
	CU_ASSERT_EQUAL(export_end(&e, SIGINT), 0);
}

static void whole(void)
{
	CU_ASSERT_EQUAL(sh("%s image convert s3.vhd fixed.vhd --type fixed", rheactl), 0);
	CU_ASSERT_EQUAL(sh("%s image convert s2.vhd holes.raw", rheactl), 0);
	whole_one("s4.vhd", 3);
	whole_one("fixed.vhd", 2);
	whole_one("holes.raw", 1);
	/* The end of a raw image need not be a sector's. */
	struct export e;
	CU_ASSERT_EQUAL(sh("head -c 1234567 s1.raw >odd.raw"), 0);
	CU_ASSERT_EQUAL_FATAL(export_start(&e, "odd.raw --listen ./odd"), 0);
	CU_ASSERT_EQUAL(
		sh("rm -f copy.raw; nbdcopy '%s' copy.raw && cmp copy.raw odd.raw",
		   e.uri),
		0);
	CU_ASSERT_EQUAL(export_end(&e, SIGTERM), 0);
}

/* What is not sectors: by a client that does not care for them. */
static void bytes_at_odd_places(void)
{
	static const unsigned at[][2] = {{8388607, 3}, {1, 510}, {8389000, 70000}};
	struct export e;

	CU_ASSERT_EQUAL_FATAL(export_start(&e, "s4.vhd"), 0);
	for (unsigned i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(sh("qemu-io -r -f raw -c 'read -v %u %u' '%s' | "
				   "grep -v '^read\\|ops;' >a; "
				   "qemu-io -r -f raw -c 'read -v %u %u' s4.raw | "
				   "grep -v '^read\\|ops;' >b; test -s a && cmp a b",
				   at[i][0], at[i][1], e.uri, at[i][0], at[i][1]),
				0);
	CU_ASSERT_EQUAL(export_end(&e, SIGTERM), 0);
}

static json_int_t changed_sum(const char *words, const char *key)
{
	json_t *o;
	json_int_t n;

	CU_ASSERT_EQUAL_FATAL(sh("%s image changed %s --json >map && tail -n 1 map >sum",
				 rheactl, words),
			      0);
	o = json_load_file(rig_path("sum"), 0, NULL);
	n = json_integer_value(json_object_get(o, key));
	json_decref(o);
	return n;
}

/* A full backup of the older one, and what changed on top of it: by qemu-img, as rheactl(8) tells. */
static void incremental_one(unsigned old, unsigned new)
{
	struct export e;
	char words[100];
	json_int_t data;

	(void)snprintf(words, sizeof(words), "s%u.vhd --since s%u.vhd", new + 1,
		       old + 1); /* fits */
	data = changed_sum(words, "data_bytes");
	CU_ASSERT_TRUE(data > 0 && data <= (json_int_t)(new - old) * WRITES * 4096);
	(void)snprintf(words, sizeof(words), "s%u.vhd", old + 1); /* fits */
	CU_ASSERT_EQUAL_FATAL(export_start(&e, words), 0);
	CU_ASSERT_EQUAL(sh("rm -f full.raw; nbdcopy '%s' full.raw", e.uri), 0);
	CU_ASSERT_EQUAL(export_end(&e, SIGTERM), 0);
	(void)snprintf(words, sizeof(words), "s%u.vhd --since s%u.vhd", new + 1,
		       old + 1); /* fits */
	CU_ASSERT_EQUAL_FATAL(export_start(&e, words), 0);
	CU_ASSERT_EQUAL(
		sh("rm -f inc.qcow2; qemu-img convert -f raw -O qcow2 -B full.raw "
		   "-F raw '%s' inc.qcow2",
		   e.changed),
		0);
	CU_ASSERT_EQUAL(export_end(&e, SIGTERM), 0);
	CU_ASSERT_TRUE(e.read_bytes >= data && e.read_bytes <= data + SLACK);
	CU_ASSERT_EQUAL(sh("qemu-img check -f qcow2 inc.qcow2"), 0);
	CU_ASSERT_EQUAL(sh("cmp full.raw s%u.raw", old + 1), 0);
	CU_ASSERT_EQUAL(sh("qemu-img convert -f qcow2 -O raw inc.qcow2 restored.raw && "
			   "cmp restored.raw s%u.raw",
			   new + 1),
			0);
}

static void incremental(void)
{
	incremental_one(0, 3);
	incremental_one(1, 2);
	incremental_one(2, 3);
}

/* The list of what changed, put over the older one, makes the newer one of it. */
static void list_of_changes(void)
{
	uint8_t *disk = malloc(SIZE);
	char line[200];
	json_int_t zero_bytes = 0;
	FILE *f;

	CU_ASSERT_PTR_NOT_NULL_FATAL(disk);
	memcpy(disk, snap[0].bytes, SIZE);
	CU_ASSERT_TRUE(changed_sum("s4.vhd --since s1.vhd", "zero_bytes") >= 65536);
	f = fopen(rig_path("map"), "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	while (fgets(line, sizeof(line), f)) {
		json_t *o = json_loads(line, 0, NULL);
		json_int_t at = json_integer_value(json_object_get(o, "offset"));
		json_int_t len = json_integer_value(json_object_get(o, "length"));
		int zero = json_is_true(json_object_get(o, "zero"));

		CU_ASSERT_FATAL(at >= 0 && len >= 0 && at <= SIZE && len <= SIZE - at);
		zero_bytes += zero ? len : 0;
		if (zero)
			memset(disk + at, 0, (size_t)len);
		else
			memcpy(disk + at, snap[3].bytes + at, (size_t)len);
		json_decref(o);
	}
	(void)fclose(f); /* it was only read */
	CU_ASSERT_EQUAL(memcmp(disk, snap[3].bytes, SIZE), 0);
	CU_ASSERT_EQUAL(changed_sum("s4.vhd --since s1.vhd", "zero_bytes"), zero_bytes);
	CU_ASSERT_EQUAL(sh("%s image changed s4.vhd", rheactl), 2);
	free(disk);
}

static int connect_to(const char *name)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", rig_path(name));
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL_FATAL(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

/* Two at a time, one that says nothing, one that says nonsense, and one that goes in the middle. */
static void several_clients(void)
{
	static const char nonsense[64] = "\377\377\377\377 is no flag of a client";
	struct export e;
	char hello[8];
	int silent, mad;

	CU_ASSERT_EQUAL_FATAL(export_start(&e, "s4.vhd --listen ./sock"), 0);
	silent = connect_to("sock");
	CU_ASSERT_EQUAL(read(silent, hello, sizeof(hello)), sizeof(hello));
	CU_ASSERT_EQUAL(memcmp(hello, "NBDMAGIC", 8), 0);
	mad = connect_to("sock");
	CU_ASSERT_EQUAL(write(mad, nonsense, sizeof(nonsense)), sizeof(nonsense));
	close(mad);
	CU_ASSERT_EQUAL(sh("rm -f c1 c2; nbdcopy '%s' c1 & nbdcopy '%s' c2; a=$?; "
			   "wait $!; b=$?; test $a$b = 00 && cmp c1 s4.raw && "
			   "cmp c2 s4.raw",
			   e.uri, e.uri),
			0);
	CU_ASSERT_EQUAL(
		sh("nbdcopy '%s' - | head -c 100000 >c1; cmp -n 100000 c1 s4.raw", e.uri),
		0);
	CU_ASSERT_EQUAL(sh("qemu-img compare -f raw -F raw '%s' s4.raw", e.uri), 0);
	/* Nobody writes. */
	CU_ASSERT_NOT_EQUAL(sh("nbdcopy s1.raw '%s'", e.uri), 0);
	CU_ASSERT_EQUAL(sh("nbdinfo --is readonly '%s'", e.uri), 0);
	/* A client that stays does not hold up the end. */
	CU_ASSERT_EQUAL(export_end(&e, SIGTERM), 0);
	close(silent);
	CU_ASSERT_EQUAL(access(rig_path("sock"), F_OK), -1);
	CU_ASSERT_EQUAL(sh("%s image check s4.vhd && cmp s4.raw c2", rheactl), 0);
}

/* As long as it is served nobody changes it; and what a VM writes is not served. */
static void in_use(void)
{
	struct export e;
	struct stat st;
	int fd;

	CU_ASSERT_EQUAL_FATAL(export_start(&e, "s3.vhd --listen ./sock"), 0);
	CU_ASSERT_EQUAL(stat(rig_path("sock"), &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 0777, 0600);
	CU_ASSERT_EQUAL(sh("%s image coalesce s4.vhd", rheactl), 1);
	CU_ASSERT_TRUE(said("s3.vhd is in use"));
	CU_ASSERT_EQUAL(sh("%s image coalesce s3.vhd", rheactl), 1);
	CU_ASSERT_TRUE(said("s3.vhd is in use"));
	CU_ASSERT_EQUAL(sh("%s image coalesce s2.vhd", rheactl), 1);
	CU_ASSERT_TRUE(said("s2.vhd is in use"));
	/* The same name for another one. */
	CU_ASSERT_EQUAL(sh("timeout 60 %s image export s2.vhd --listen ./sock", rheactl),
			1);
	CU_ASSERT_TRUE(said("Address already in use"));
	CU_ASSERT_EQUAL(sh("qemu-img compare -f raw -F raw '%s' s3.raw", e.uri), 0);
	CU_ASSERT_EQUAL(export_end(&e, SIGHUP), 0);
	fd = rig_file("s5.vhd", O_RDWR);
	CU_ASSERT_EQUAL_FATAL(flock(fd, LOCK_EX), 0);
	CU_ASSERT_EQUAL(sh("timeout 60 %s image export s5.vhd", rheactl), 1);
	CU_ASSERT_TRUE(said("s5.vhd is in use"));
	close(fd);
}

/* Its rheactl is killed: it ends, and its socket is no hindrance. */
static void killed(void)
{
	struct export e;
	char left[64];
	int fd;

	CU_ASSERT_EQUAL_FATAL(export_start(&e, "s3.vhd --listen ./sock"), 0);
	CU_ASSERT_EQUAL(kill(e.pid, SIGKILL), 0);
	CU_ASSERT_EQUAL(end_status(&e), -1);
	CU_ASSERT_EQUAL(access(rig_path("sock"), F_OK), 0);
	/* The lock goes with nbdkit's end. */
	CU_ASSERT_EQUAL(sh("flock -w 30 s3.vhd true"), 0);
	CU_ASSERT_EQUAL_FATAL(export_start(&e, "s3.vhd --listen ./sock --once"), 0);
	CU_ASSERT_EQUAL(sh("nbdinfo --size '%s'", e.uri), 0);
	/* That was the once. */
	CU_ASSERT_EQUAL(export_end(&e, 0), 0);
	CU_ASSERT_EQUAL(e.connections, 1);
	CU_ASSERT_EQUAL(access(rig_path("sock"), F_OK), -1);
	/* What is no socket is not removed. */
	CU_ASSERT_EQUAL(sh("echo precious >sock"), 0);
	CU_ASSERT_EQUAL(sh("timeout 60 %s image export s3.vhd --listen ./sock", rheactl),
			1);
	fd = rig_file("sock", O_RDONLY);
	CU_ASSERT_EQUAL(read(fd, left, sizeof(left)), 9);
	close(fd);
	CU_ASSERT_EQUAL(sh("rm sock"), 0);
}

static void refused(void)
{
	static const struct {
		const char *words, *why;
	} bad[] = {
		{"gone.vhd", "No such file"},
		{"s1.raw --since s2.vhd", "no parents"},
		{"s3.vhd --since s4.vhd", "make a full backup"},
		{"s3.vhd --since s3.vhd", "make a full backup"},
		{"s3.vhd --since gone.vhd", "No such file"},
		{"s3.vhd --listen 0.0.0.0:0", "others could read the disk"},
		{"s3.vhd --listen [::]:0", "others could read the disk"},
		{"s3.vhd --listen 10.1.2.3:10809", "others could read the disk"},
		{"s3.vhd --listen localhost:0", "a numeric ADDRESS"},
		{"s3.vhd --listen here", "neither a path"},
		{"s3.vhd --tls-psk gone", "gone"},
		{"s3.vhd --tls-certificates gone", "gone"},
		{"s3.vhd --tls-psk log --tls-certificates .", "not both"},
		{"s3.vhd --listen /nowhere/sock", "No such file"},
		{"vhd.raw", "looks like a VHD"},
	};

	CU_ASSERT_EQUAL(sh("cp s1.vhd vhd.raw"), 0);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CU_ASSERT_EQUAL(
			sh("timeout 60 %s image export %s", rheactl, bad[i].words), 1);
		CU_ASSERT_TRUE(said(bad[i].why));
	}
	CU_ASSERT_EQUAL(sh("timeout 60 %s image export what.ever", rheactl), 2);
	CU_ASSERT_EQUAL(sh("PATH=/nowhere %s image export s3.vhd", rheactl), 1);
	CU_ASSERT_TRUE(said("Debian's nbdkit"));
	CU_ASSERT_EQUAL(access(rig_path("s3.vhd.nbd"), F_OK), -1);
}

/* A table that points nowhere; another image in the parent's place; one that was changed. The
 * originals are away: they would be found. */
static void broken_chains(void)
{
	struct export e;

	CU_ASSERT_EQUAL(
		sh("mkdir br away && cp -p s?.vhd br && mv s?.vhd away && "
		   "printf '\\1' | dd of=br/s2.vhd bs=1 seek=1536 conv=notrunc && "
		   "touch -r away/s2.vhd br/s2.vhd"),
		0);
	CU_ASSERT_EQUAL(sh("timeout 60 %s image export br/s4.vhd", rheactl), 1);
	CU_ASSERT_TRUE(said("s2.vhd is missing"));
	CU_ASSERT_TRUE(said("beyond"));
	CU_ASSERT_EQUAL(sh("cp -p away/s3.vhd br/s2.vhd"), 0);
	CU_ASSERT_EQUAL(sh("timeout 60 %s image export br/s4.vhd", rheactl), 1);
	CU_ASSERT_TRUE(said("s2.vhd is another image"));
	CU_ASSERT_EQUAL(sh("cp -p away/s2.vhd br && touch -d @1700000000 br/s2.vhd"), 0);
	CU_ASSERT_EQUAL(sh("timeout 60 %s image export br/s4.vhd", rheactl), 1);
	CU_ASSERT_TRUE(said("was changed after"));
	CU_ASSERT_EQUAL(sh("%s image changed br/s4.vhd --since br/s1.vhd", rheactl), 1);
	CU_ASSERT_TRUE(said("was changed after"));
	CU_ASSERT_EQUAL(sh("cp -p away/s2.vhd br"), 0);
	CU_ASSERT_EQUAL_FATAL(export_start(&e, "br/s4.vhd"), 0);
	CU_ASSERT_EQUAL(sh("qemu-img compare -f raw -F raw '%s' s4.raw", e.uri), 0);
	CU_ASSERT_EQUAL(export_end(&e, SIGTERM), 0);
	CU_ASSERT_EQUAL(sh("mv away/* ."), 0);
}

/* One folder of certificates for both sides, one of another authority, a key, and another key. */
static void make_secrets(void)
{
	static const char make[] =
		"for d in tls other; do mkdir $d; "
		"certtool --generate-privkey --key-type ecdsa --outfile $d/ca-key.pem; "
		"printf 'cn=ca\\nca\\ncert_signing_key\\n' >t; "
		"certtool --generate-self-signed --load-privkey $d/ca-key.pem "
		"--template t --outfile $d/ca-cert.pem; "
		"for k in server client; do "
		"certtool --generate-privkey --key-type ecdsa --outfile $d/$k-key.pem; "
		"printf 'cn=%s\\nip_address=127.0.0.1\\nsigning_key\\ntls_www_%s\\n' $k $k >t; "
		"certtool --generate-certificate --load-ca-certificate $d/ca-cert.pem "
		"--load-ca-privkey $d/ca-key.pem --load-privkey $d/$k-key.pem "
		"--template t --outfile $d/$k-cert.pem; done; done; "
		"printf 'bob:%064d\\n' 5 >psk; printf 'bob:%064d\\n' 6 >psk2; "
		"test -s other/client-cert.pem";

	CU_ASSERT_EQUAL_FATAL(sh("%s", make), 0);
}

/* Over TCP: only with a key, or a certificate, that fits. */
static void tls(void)
{
	struct export e;
	const char *at;

	make_secrets();
	CU_ASSERT_EQUAL_FATAL(export_start(&e, "s4.vhd --listen 127.0.0.1:0"), 0);
	CU_ASSERT_EQUAL(strncmp(e.uri, "nbd://127.0.0.1:", 16), 0);
	CU_ASSERT_EQUAL(sh("qemu-img compare -f raw -F raw '%s' s4.raw", e.uri), 0);
	CU_ASSERT_EQUAL(export_end(&e, SIGTERM), 0);
	CU_ASSERT_EQUAL_FATAL(export_start(&e, "s4.vhd --listen 0.0.0.0:0 --tls-psk psk"),
			      0);
	CU_ASSERT_EQUAL(strncmp(e.uri, "nbds://0.0.0.0:", 15), 0);
	at = e.uri + 15;
	CU_ASSERT_EQUAL(
		sh("rm -f c1; nbdcopy "
		   "'nbds://bob@127.0.0.1:%s?tls-psk-file=psk' c1 && cmp c1 s4.raw",
		   at),
		0);
	CU_ASSERT_NOT_EQUAL(
		sh("nbdinfo --size 'nbds://bob@127.0.0.1:%s?tls-psk-file=psk2'", at), 0);
	CU_ASSERT_NOT_EQUAL(sh("nbdinfo --size 'nbd://127.0.0.1:%s'", at), 0);
	CU_ASSERT_EQUAL(export_end(&e, SIGTERM), 0);
	CU_ASSERT_EQUAL_FATAL(
		export_start(&e, "s4.vhd --listen 127.0.0.1:0 --tls-certificates tls"),
		0);
	CU_ASSERT_EQUAL(strncmp(e.uri, "nbds://127.0.0.1:", 17), 0);
	at = e.uri + 17;
	CU_ASSERT_EQUAL(
		sh("rm -f c1; nbdcopy 'nbds://127.0.0.1:%s?tls-certificates=tls' c1 && "
		   "cmp c1 s4.raw",
		   at),
		0);
	CU_ASSERT_NOT_EQUAL(
		sh("cp tls/ca-cert.pem other; "
		   "nbdinfo --size 'nbds://127.0.0.1:%s?tls-certificates=other'",
		   at),
		0);
	CU_ASSERT_NOT_EQUAL(sh("nbdinfo --size 'nbd://127.0.0.1:%s'", at), 0);
	CU_ASSERT_EQUAL(export_end(&e, SIGTERM), 0);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a chain of five", make_chain},
		{"all of an image", whole},
		{"bytes at odd places", bytes_at_odd_places},
		{"incremental backups", incremental},
		{"the list of what changed", list_of_changes},
		{"several clients", several_clients},
		{"in use", in_use},
		{"killed, and once", killed},
		{"what is refused", refused},
		{"broken chains", broken_chains},
		{"over TCP, with TLS", tls},
	};
	int rc;

	if (rig_find_rheactl())
		return 1;
	rig_make_dir();
	rc = UNIT_MAIN("export", tests);
	rig_remove_dir();
	for (unsigned i = 0; i < DEPTH; i++)
		free(snap[i].bytes);
	return rc;
}
