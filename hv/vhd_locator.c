/* SPDX-License-Identifier: Apache-2.0
 * vhd_locator - where a differencing image says that its parent is: paths of Windows in UTF-16, file
 * URLs of Mac OS in UTF-8.
 */
#include "hv/vhd_format.h"

#include "hv/base/hex.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* One code point at the end of @out; 0, or -ENAMETOOLONG. */
static int put_utf8(uint32_t c, char *out, size_t room, size_t *n)
{
	uint8_t b[4];
	size_t len;

	if (c < 0x80) {
		b[0] = (uint8_t)c;
		len = 1;
	} else if (c < 0x800) {
		b[0] = (uint8_t)(0xc0 | c >> 6);
		len = 2;
	} else if (c < 0x10000) {
		b[0] = (uint8_t)(0xe0 | c >> 12);
		len = 3;
	} else {
		b[0] = (uint8_t)(0xf0 | c >> 18);
		len = 4;
	}
	for (size_t i = 1; i < len; i++)
		b[i] = (uint8_t)(0x80 | (c >> (6 * (len - 1 - i)) & 0x3f));
	if (*n + len >= room)
		return -ENAMETOOLONG;
	memcpy(out + *n, b, len);
	*n += len;
	return 0;
}

static uint16_t unit_at(const uint8_t *p, int big)
{
	return (uint16_t)(p[!big] << 8 | p[big]);
}

/* Until the end or a NUL. 0 with a final NUL in @out, -EBADMSG, -ENAMETOOLONG. */
static int from_utf16(const uint8_t *p, size_t len, int big, char *out, size_t room)
{
	size_t n = 0;
	int rc = 0;

	for (size_t i = 0; !rc && i + 1 < len; i += 2) {
		uint32_t c = unit_at(p + i, big), low;

		if (!c)
			break;
		if (c >= 0xd800 && c < 0xe000) {
			low = i + 3 < len ? unit_at(p + i + 2, big) : 0;
			if (c >= 0xdc00 || low < 0xdc00 || low >= 0xe000)
				return -EBADMSG;
			c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
			i += 2;
		}
		rc = put_utf8(c, out, room, &n);
	}
	out[rc ? 0 : n] = 0;
	return rc;
}

/* The next code point of @s, which it moves on; -EBADMSG: no valid UTF-8. */
static int32_t take_utf8(const uint8_t **s)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	const uint8_t *p = *s;
	unsigned len = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	uint32_t c = len == 1 ? p[0] : p[0] & (0x7fu >> len);

	if (p[0] >= 0xf8 || (p[0] >= 0x80 && p[0] < 0xc0))
		return -EBADMSG;
	for (unsigned i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return -EBADMSG;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return -EBADMSG;
	*s = p + len;
	return (int32_t)c;
}

/* Returns the bytes written, without a final NUL, or -errno. */
static int to_utf16(const char *s, int big, uint8_t *out, size_t room)
{
	const uint8_t *p = (const uint8_t *)s;
	size_t n = 0;

	while (*p) {
		int32_t c = take_utf8(&p);
		uint16_t unit[2] = {(uint16_t)c};
		unsigned units = 1;

		if (c < 0)
			return c;
		if (c >= 0x10000) {
			unit[0] = (uint16_t)(0xd800 + ((c - 0x10000) >> 10));
			unit[1] = (uint16_t)(0xdc00 + ((c - 0x10000) & 0x3ff));
			units = 2;
		}
		for (unsigned i = 0; i < units; i++) {
			if (room - n < 2)
				return -ENAMETOOLONG;
			out[n + !big] = (uint8_t)(unit[i] >> 8);
			out[n + big] = (uint8_t)unit[i];
			n += 2;
		}
	}
	return (int)n;
}

/* "./" or "../": where XenServer's tools have a host, for a path that is relative to the image. */
static int is_relative(const uint8_t *p, size_t len)
{
	size_t dots = len > 2 && p[0] == '.' ? 1 + (p[1] == '.') : 0;

	return dots && p[dots] == '/';
}

/* file://host/path, file://./path or file:path, with %xx. */
static int from_url(const uint8_t *p, size_t len, char *out, size_t room)
{
	size_t i = 0, n = 0;

	if (len > 5 && !memcmp(p, "file:", 5))
		i = 5;
	if (len > i + 2 && p[i] == '/' && p[i + 1] == '/')
		for (i += 2; i < len && p[i] != '/'; i++)
			if (is_relative(p + i, len - i))
				break;
	for (; i < len && p[i]; i++) {
		int hi = i + 2 < len ? hex_digit((char)p[i + 1]) : -1;
		int lo = i + 2 < len ? hex_digit((char)p[i + 2]) : -1;

		if (n + 1 >= room)
			return -ENAMETOOLONG;
		if (p[i] == '%' && hi >= 0 && lo >= 0 && (hi || lo)) {
			out[n++] = (char)(hi << 4 | lo);
			i += 2;
		} else {
			out[n++] = (char)p[i];
		}
	}
	out[n] = 0;
	return 0;
}

/* "C:\dir\a.vhd" and ".\a.vhd" as this system writes them. */
static void to_slashes(char *s)
{
	size_t drop = 0;

	if (((s[0] | 0x20) >= 'a' && (s[0] | 0x20) <= 'z') && s[1] == ':')
		drop = 2;
	memmove(s, s + drop, strlen(s + drop) + 1);
	for (; *s; s++)
		if (*s == '\\')
			*s = '/';
}

int vhd_locator_path(uint32_t code, const uint8_t *p, size_t len, char *out, size_t room)
{
	int rc;

	switch (code) {
	case VHD_LOC_W2KU:
	case VHD_LOC_W2RU:
		rc = from_utf16(p, len, 0, out, room);
		if (!rc)
			to_slashes(out);
		break;
	case VHD_LOC_MACX:
		rc = from_url(p, len, out, room);
		break;
	default:
		return -ENOTSUP;
	}
	return !rc && !out[0] ? -EBADMSG : rc;
}

static int to_url(const char *path, uint8_t *out, size_t room)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				    "0123456789-._~/";
	size_t n = 0;
	int len = snprintf((char *)out, room, "file://%s", path[0] == '/' ? "" : "./");

	if (len < 0 || (size_t)len >= room)
		return -ENAMETOOLONG;
	for (n = (size_t)len; *path; path++) {
		if (n + 4 > room)
			return -ENAMETOOLONG;
		if (strchr(plain, *path)) {
			out[n++] = (uint8_t)*path;
			continue;
		}
		/* Four bytes are left: it fits. */
		(void)snprintf((char *)out + n, room - n, "%%%02x", (uint8_t)*path);
		n += 3;
	}
	return (int)n;
}

int vhd_locator_bytes(uint32_t code, const char *path, uint8_t *out, size_t room)
{
	char windows[VHD_PATH_MAX];
	int n;

	if (code == VHD_LOC_MACX)
		return to_url(path, out, room);
	/* A path without a directory is said to be beside the child. */
	n = snprintf(windows, sizeof(windows), "%s%s",
		     code == VHD_LOC_W2RU && path[0] != '/' && path[0] != '.' ? "./" : "",
		     path);
	if (n < 0 || (size_t)n >= sizeof(windows))
		return -ENAMETOOLONG;
	for (char *s = windows; *s; s++)
		if (*s == '/')
			*s = '\\';
	return to_utf16(windows, 0, out, room);
}

int vhd_name_get(const struct vhd_header_wire *w, char *out, size_t room)
{
	return from_utf16((const uint8_t *)w->parent_name, sizeof(w->parent_name), 1, out,
			  room);
}

int vhd_name_put(struct vhd_header_wire *w, const char *name)
{
	int n;

	memset(w->parent_name, 0, sizeof(w->parent_name));
	/* A zero at the end, for those who look for one. */
	n = to_utf16(name, 1, (uint8_t *)w->parent_name, sizeof(w->parent_name) - 2);
	return n < 0 ? n : 0;
}
