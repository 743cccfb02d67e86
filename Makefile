# SPDX-License-Identifier: Apache-2.0
# One non-recursive Makefile. `make help` lists what there is to do. V=1 shows commands.
#   CC=gcc|clang  SAN=address,undefined|thread  WERROR=1  PREFIX=/usr  DESTDIR=

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := all
SHELL   := /bin/bash
CC      := gcc
PREFIX  ?= /usr/local
DESTDIR ?=
VERSION := 0.1.0
Q       := $(if $(V),,@)
say      = @$(if $(V),:,printf '  %-7s %s\n')

# Sanitizer and compiler variants do not share objects.
comma   := ,
B       := build/out$(if $(filter-out gcc,$(CC)),-$(notdir $(CC)))$(if $(SAN),-$(subst $(comma),_,$(SAN)))

pkgs    := libevent libevent_pthreads liblz4 libxxhash openssl libconfig jansson liburing \
           libnl-route-3.0 libseccomp libcap-ng libsystemd libcurl sqlite3
pc      = $(shell pkg-config $(1) $(pkgs) 2>/dev/null)
CFLAGS  ?= -O2 -g
# Each compiler has its own words; the kernel's structs that end in [] are used inside others.
cc_warn  = $(if $(findstring clang,$(CC)),-Wshadow -Wno-gnu-variable-sized-type-not-at-end,-Wshadow=local)
ALL_CFLAGS = -std=gnu17 -Wall -Wextra $(cc_warn) -Wstrict-prototypes -Wmissing-prototypes \
             -Wvla -Wno-unused-parameter -fno-strict-aliasing -pthread \
             $(if $(WERROR),-Werror) -I. -D_GNU_SOURCE -DRHEA_VERSION='"$(VERSION)"' -DRHEA_MODULE_DIR='"$(PREFIX)/lib/rhea"' \
             $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all) \
             $(CFLAGS) $(PKG_CFLAGS)
ALL_LDFLAGS = -pthread $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS)
PKG_CFLAGS = $(eval PKG_CFLAGS := $(call pc,--cflags))$(PKG_CFLAGS)
PKG_LIBS   = $(eval PKG_LIBS := $(call pc,--libs) -lIPSec_MB)$(PKG_LIBS)

# A program's main is in a file named like the program; everything else is library.
programs := rhead rheactl rhea-vm
mains    := $(programs:%=ctl/%.c)
lib_src  := $(wildcard hv/base/*.c hv/*.c replication/*.c remus/*.c netbuf/*.c diskrep/*.c) \
            $(filter-out $(mains),$(wildcard ctl/*.c))
lib_obj  := $(lib_src:%.c=$(B)/%.o)
bins     := $(patsubst %,$(B)/%,$(foreach p,$(programs),$(if $(wildcard ctl/$(p).c),$(p))))

# replication/NAME/*.c is the module rhea-tp-NAME.so, built where pkg-config knows its libraries.
# It carries its own copy of the few files of the base that it uses, and nothing else of ours.
mod_pkgs_rdma := libibverbs librdmacm
mod_pkgs_dpdk := libdpdk libxxhash
mod_more_dpdk := $(wildcard replication/lane*.c)
mod_base := hv/base/err.c
modules  := $(foreach m,$(notdir $(patsubst %/,%,$(wildcard replication/*/))),$(if \
            $(shell pkg-config --exists $(mod_pkgs_$(m)) 2>/dev/null && echo y),$(m)))
mod_src   = $(wildcard replication/$(1)/*.c) $(mod_more_$(1))
mod_bin  := $(modules:%=$(B)/rhea-tp-%.so)

# What serves images to backup programs: a plugin of nbdkit, whose symbols come from that.
nbd_base := hv/base/err.c hv/base/log.c hv/img.c $(filter-out hv/vhd_blk.c hv/vhd_work.c,$(wildcard hv/vhd_*.c))
nbd_src  := ctl/nbd/plugin.c $(nbd_base)
nbd_bin  := $(if $(shell pkg-config --exists nbdkit 2>/dev/null && echo y),$(B)/rhea-nbd.so)

unit_src  := $(wildcard tests/unit/test_*.c)
unit_bin  := $(unit_src:%.c=$(B)/%)
fuzz_src  := $(wildcard tests/fuzz/fuzz_*.c)
# In tests/native each test_*.c is a program, the rest is their harness; likewise bench_*.c. In
# tests/lab all are programs but kit_*.c.
lab_kit   := $(wildcard tests/lab/kit_*.c)
tool_src  := $(wildcard tests/native/test_*.c tests/bench/bench_*.c) $(filter-out $(lab_kit),$(wildcard tests/lab/*.c))
tool_bin  := $(tool_src:%.c=$(B)/%)
harness   := $(patsubst %.c,$(B)/%.o,$(filter-out tests/native/test_%,$(wildcard tests/native/*.c)))
bench_kit := $(patsubst %.c,$(B)/%.o,$(filter-out tests/bench/bench_%,$(wildcard tests/bench/*.c)))
$(filter $(B)/tests/native/%,$(tool_bin)): $(harness)
$(filter $(B)/tests/native/%,$(tool_bin)): tool_libs = -lfuse3
$(filter $(B)/tests/bench/%,$(tool_bin)): $(bench_kit)
$(filter $(B)/tests/lab/rdma_%,$(tool_bin)): $(lab_kit:%.c=$(B)/%.o)
$(B)/tests/lab/rdma_peer: $(B)/tests/native/rekey.o
guest_src := $(wildcard tests/guest/*.c tests/guest/*.S)
guest_bin := $(if $(guest_src),$(B)/tests/guest/guest.elf)

.PHONY: all help deps test unit native labtest demo bench bench-disk bench-transport lab lint check-layers format install clean fuzz programs
all: $(bins) $(mod_bin) $(nbd_bin) $(unit_bin) $(tool_bin) $(guest_bin)
programs: $(bins) $(mod_bin) $(nbd_bin)

help:
	@sed -n 's/^#: //p' Makefile

$(B)/%.o: %.c | have-deps
	$(say) CC $<
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(B)/librhea.a: $(lib_obj)
	$(say) AR $@
	@rm -f $@
	$(Q)ar rcs $@ $^

$(bins): $(B)/%: $(B)/ctl/%.o $(B)/librhea.a
	$(say) LD $@
	$(Q)$(CC) $(ALL_LDFLAGS) $^ -o $@ $(PKG_LIBS)

$(B)/pic/%.o: %.c | have-deps
	$(say) CC $<
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -fPIC -fvisibility=hidden $(mod_cflags) -MMD -MP -c $< -o $@

# $(1): the module's name
define module_rule
$(B)/rhea-tp-$(1).so: $(patsubst %.c,$(B)/pic/%.o,$(mod_base) $(call mod_src,$(1)))
	$$(say) LD $$@
	$$(Q)$$(CC) $$(ALL_LDFLAGS) -shared $(if $(SAN),,-Wl$(comma)-z$(comma)defs) $$^ -o $$@ $$(shell pkg-config --libs $(mod_pkgs_$(1)))
$(B)/pic/replication/$(1)/%.o: private mod_cflags = $(shell pkg-config --cflags $(mod_pkgs_$(1)))
endef
$(foreach m,$(modules),$(eval $(call module_rule,$(m))))

$(B)/rhea-nbd.so: $(nbd_src:%.c=$(B)/pic/%.o)
	$(say) LD $@
	$(Q)$(CC) $(ALL_LDFLAGS) -shared $^ -o $@

# What of a module needs no library is tested, and fuzzed, without it.
rdma_pure := $(patsubst %,$(B)/replication/rdma/%.o,ring hello args)
$(B)/tests/unit/test_rdmaring $(B)/tests/unit/test_rdmahello $(B)/tests/fuzz/fuzz_rdmahello: $(rdma_pure)

# The suite that every transport passes: in one process, between two, between two hosts.
conform := $(patsubst %.c,$(B)/%.o,$(wildcard tests/native/conform*.c))
$(B)/tests/unit/test_transport $(B)/tests/lab/rdma_peer $(B)/tests/lab/tpside: $(conform)

$(unit_bin) $(tool_bin): $(B)/%: $(B)/%.o $(B)/librhea.a
	$(say) LD $@
	$(Q)$(CC) $(ALL_LDFLAGS) $(filter %.o,$^) $(filter %.a,$^) -o $@ $(PKG_LIBS) -lcunit -lm $(tool_libs)
.PRECIOUS: $(B)/%.o

# Modules that the loader's test loads, or must not.
test_mod := $(patsubst tests/unit/modules/%.c,$(B)/tests/unit/modules/rhea-tp-%.so,$(wildcard tests/unit/modules/*.c))
$(test_mod): $(B)/tests/unit/modules/rhea-tp-%.so: tests/unit/modules/%.c replication/module.h
	$(say) MOD $@
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -fPIC -shared $< -o $@
$(B)/tests/unit/test_modules: $(test_mod)

# What test_capture puts in the place of the cipher, to see that its search finds what is not hidden.
$(B)/tests/native/nocipher.so: tests/native/preload/nocipher.c
	$(say) MOD $@
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -Wmissing-prototypes,$(ALL_CFLAGS)) -fPIC -shared $< -o $@
$(B)/tests/native/test_capture: $(B)/tests/native/nocipher.so

# The ring-3 guest is freestanding: no libc, no sanitizer, always gcc.
$(B)/tests/guest/guest.elf: $(guest_src) $(wildcard tests/guest/*.h tests/guest/*.ld)
	$(say) GUEST $@
	@mkdir -p $(@D)
	$(Q)gcc -std=gnu17 -O2 -g -Wall -Wextra -ffreestanding -fno-stack-protector -fno-pic -no-pie \
		-mno-red-zone -mgeneral-regs-only -mcmodel=small -nostdlib -static -I. \
		-Wl,--build-id=none -Wl,-T,tests/guest/guest.ld $(guest_src) -o $@

# Missing headers are told in one line instead of a hundred.
.PHONY: have-deps
have-deps:
	@pkg-config --exists $(pkgs) || { echo 'some libraries are missing: run "make deps" (as root)' >&2; exit 1; }

#: make               build everything into build/
#: make deps          install the Debian packages that building and testing need (root)
deps:
	$(Q)tests/deps.sh

#: make test          all tests (root)
test: deps
	$(Q)$(MAKE) --no-print-directory -j$(shell nproc) all
	$(Q)B=$(B) tests/run.sh unit native lab

unit: $(unit_bin)
	$(Q)B=$(B) tests/run.sh unit
native: all
	$(Q)B=$(B) tests/run.sh native
labtest: all
	$(Q)B=$(B) tests/run.sh lab

#: make fuzz          each parser against an enemy for FUZZ_SECONDS (clang; finds stay in build/fuzz)
FUZZ_SECONDS ?= 60
fuzz_bin := $(fuzz_src:%.c=$(B)/%)
$(fuzz_bin): $(B)/%: $(B)/%.o $(B)/librhea.a
	$(say) LD $@
	$(Q)$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer $(filter %.o,$^) $(filter %.a,$^) -o $@ $(PKG_LIBS)
fuzz:
	$(Q)$(MAKE) --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined fuzz-run
.PHONY: fuzz-run
fuzz-run: $(fuzz_bin)
	$(Q)for f in $(fuzz_bin); do \
		name=$${f##*/fuzz_}; mkdir -p build/fuzz/$$name; \
		$$f -max_total_time=$(FUZZ_SECONDS) -max_len=9000 -artifact_prefix=build/fuzz/$$name- \
			build/fuzz/$$name tests/fuzz/corpus/$$name || exit; done

#: make demo          a Linux guest outlives its host (root; TRANSPORT=tcp|rdma|dpdk)
demo: deps
	$(Q)$(MAKE) --no-print-directory programs $(B)/tests/lab/client
	$(Q)B=$(B) tests/lab/demo.sh

#: make lab           a shell on two emulated hosts
lab: deps
	$(Q)$(MAKE) --no-print-directory programs
	$(Q)B=$(B) tests/lab/shell.sh

#: make bench         the epoch engine's figures, against a floor in the same run
bench: deps
	$(Q)$(MAKE) --no-print-directory -j$(shell nproc) all
	$(Q)B=$(B) tests/bench/bench.sh

#: make bench-disk    what protection, resync, journal and activity log cost a disk
bench-disk: deps
	$(Q)$(MAKE) --no-print-directory -j$(shell nproc) all
	$(Q)B=$(B) tests/bench/disk.sh

#: make bench-transport  what tcp, dpdk and rdma carry, beside iperf3, testpmd and perftest on the same wire
bench-transport: deps
	$(Q)$(MAKE) --no-print-directory -j$(shell nproc) all
	$(Q)B=$(B) tests/bench/transport.sh

#: make lint          formatting, clang-tidy, cppcheck, shellcheck, layers
lint: check-layers
	$(Q)tests/lint.sh

#: make check-layers  who may include whom (DESIGN.md)
check-layers:
	$(Q)tests/layers.sh

format:
	$(Q)git ls-files '*.c' '*.h' | xargs clang-format -i

#: make install       into $(DESTDIR)$(PREFIX)
install: programs
	$(Q)install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/rhea
	$(Q)install -m 0755 $(B)/rhead $(DESTDIR)$(PREFIX)/sbin/rhead
	$(Q)install -m 0755 $(B)/rheactl $(DESTDIR)$(PREFIX)/bin/rheactl
	$(Q)install -m 0755 $(B)/rhea-vm $(DESTDIR)$(PREFIX)/libexec/rhea/rhea-vm
	$(Q)$(if $(mod_bin)$(nbd_bin),install -D -m 0644 -t $(DESTDIR)$(PREFIX)/lib/rhea $(mod_bin) $(nbd_bin))
	$(Q)install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man8 ctl/rhead.8 ctl/rheactl.8
	$(Q)install -D -m 0644 ctl/rhea.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/rhea.conf
	$(Q)install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	$(Q)sed 's|@SBINDIR@|$(PREFIX)/sbin|' ctl/rhead.service \
		> $(DESTDIR)$(PREFIX)/lib/systemd/system/rhead.service

#: make clean         remove what was built (not the lab's images)
clean:
	$(Q)rm -rf build/out*

-include $(foreach m,$(modules),$(patsubst %.c,$(B)/pic/%.d,$(mod_base) $(call mod_src,$(m)))) $(rdma_pure:.o=.d) $(nbd_src:%.c=$(B)/pic/%.d)
-include $(lib_obj:.o=.d) $(lab_kit:%.c=$(B)/%.d) $(harness:.o=.d) $(mains:%.c=$(B)/%.d) $(unit_src:%.c=$(B)/%.d) $(fuzz_src:%.c=$(B)/%.d) $(tool_src:%.c=$(B)/%.d) $(bench_kit:.o=.d)
