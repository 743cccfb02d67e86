/* SPDX-License-Identifier: Apache-2.0
 * io - what there is instead of a standard library: ports, memory-mapped registers, barriers.
 */
#ifndef TESTS_GUEST_IO_H
#define TESTS_GUEST_IO_H

#include <stddef.h>
#include <stdint.h>

static inline void io_out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t io_in8(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

/* One access of exactly that width. The addresses are what the identity map gives. */
static inline uint8_t io_read8(uint64_t at)
{
	return *(volatile uint8_t *)at;
}
static inline uint16_t io_read16(uint64_t at)
{
	return *(volatile uint16_t *)at;
}
static inline uint32_t io_read32(uint64_t at)
{
	return *(volatile uint32_t *)at;
}
static inline void io_write8(uint64_t at, uint8_t v)
{
	*(volatile uint8_t *)at = v;
}
static inline void io_write16(uint64_t at, uint16_t v)
{
	*(volatile uint16_t *)at = v;
}
static inline void io_write32(uint64_t at, uint32_t v)
{
	*(volatile uint32_t *)at = v;
}

/* x86 keeps stores in order and loads in order; only a store before a load needs the fence. */
static inline void io_order(void)
{
	__asm__ volatile("" : : : "memory");
}
static inline void io_fence(void)
{
	__asm__ volatile("mfence" : : : "memory");
}
static inline void io_relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

static inline uint64_t io_tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

/* The compiler calls these by itself (string.c). */
void *memcpy(void *dst, const void *src, size_t len);
void *memset(void *dst, int c, size_t len);
int memcmp(const void *a, const void *b, size_t len);

#endif
