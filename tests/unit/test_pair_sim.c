/* SPDX-License-Identifier: Apache-2.0
 * test_pair_sim - the shipped pair machine in a seeded world that fails: safe always, well in the end.
 *
 * PAIR_SEED=n replays one run and tells what happens; PAIR_RUNS=n asks for more runs.
 */
#include "tests/unit/pairsim.h"
#include "tests/unit/unit.h"

enum { RUNS = 400, FAULT_MS = 60000, HEAL_MS = 120000 };

static void stop_vm(struct sim *s, int h, int stop)
{
	struct sim_vm *v = &s->h[h].vm;

	if (!v->present)
		return;
	v->stopped = stop;
	v->stopped_at = s->now;
}

static void break_link(struct sim *s)
{
	for (int i = 0; i < SIM_LINKS; i++)
		for (int h = 0; h < 2; h++)
			if (s->link[i].open[h] && !s->link[i].broken_at[h])
				s->link[i].broken_at[h] =
					s->now + sim_rand(s) % 100 * SIM_MS;
}

/* A partition that lasts is noticed by the transport's time-out some time. */
static void cut_network(struct sim *s)
{
	s->net_repl = 0;
	for (int i = 0; i < SIM_LINKS; i++)
		for (int h = 0; h < 2; h++)
			if (s->link[i].open[h] && !s->link[i].broken_at[h])
				s->link[i].broken_at[h] =
					s->now + (500 + sim_rand(s) % 3000) * SIM_MS;
}

/* Of a guest, which waits; of a standby, which ends. */
static void bad_disk(struct sim *s, int h)
{
	struct sim_vm *v = &s->h[h].vm;

	if (!v->present)
		return;
	sim_vm_event(s, h, PAIR_EV_VM_DISK, 0);
	if (v->st >= PAIR_ENG_EMPTY)
		sim_vm_gone(s, h);
}

static void fault(struct sim *s)
{
	int h = (int)(sim_rand(s) & 1);

	switch (sim_rand(s) % 20) {
	case 0:
		sim_vm_gone(s, h);
		break;
	case 1:
	case 2:
		stop_vm(s, h, !s->h[h].vm.stopped);
		break;
	case 3:
		sim_rhead_kill(s, h, sim_rand(s) % 3000 * SIM_MS);
		break;
	case 4:
		sim_power_cut(s, h, (500 + sim_rand(s) % 8000) * SIM_MS);
		break;
	case 5:
	case 6:
		s->h[h].stopped = s->h[h].up && !s->h[h].stopped;
		break;
	case 7:
		break_link(s);
		break;
	case 8:
		cut_network(s);
		break;
	case 9:
		s->net_repl = 1;
		break;
	case 10:
	case 11:
		s->net_hb[h] = !s->net_hb[h];
		break;
	case 12:
		s->net_arb[h] = !s->net_arb[h];
		break;
	case 13:
		s->net_arb[0] = s->net_arb[1] = !s->net_arb[0];
		break;
	case 14:
	case 15:
		sim_operator(s, h, PAIR_EV_SUSPEND);
		break;
	case 16:
		sim_operator(s, h, sim_one_in(s, 8) ? PAIR_EV_KILL : PAIR_EV_FAILOVER);
		break;
	case 18:
		bad_disk(s, h);
		break;
	case 19: /* well again */
		if (s->h[h].vm.present)
			sim_vm_event(s, h, PAIR_EV_VM_DISK, 1);
		break;
	default:
		sim_operator(s, h, sim_one_in(s, 8) ? PAIR_EV_STOP : PAIR_EV_START);
	}
}

static void heal(struct sim *s)
{
	s->net_repl = s->net_hb[0] = s->net_hb[1] = s->net_arb[0] = s->net_arb[1] = 1;
	for (int h = 0; h < 2; h++) {
		s->h[h].stopped = 0;
		stop_vm(s, h, 0);
		if (!s->h[h].up)
			s->h[h].restart_at = s->now;
	}
}

/* An operator looks once in a while and starts what is off or has failed. */
static void tend(struct sim *s)
{
	for (int h = 0; h < 2; h++)
		if (s->h[h].p.state == PAIR_OFF || s->h[h].p.state == PAIR_FAILED)
			sim_operator(s, h, PAIR_EV_START);
}

static int run_one(uint64_t seed, int verbose, struct sim *totals)
{
	struct sim *s = sim_create(seed);
	uint64_t end, look = 0;
	int ok;

	s->verbose = verbose;
	sim_rhead_start(s, 0, 1);
	sim_rhead_start(s, 1, 1);
	sim_until(s, 0, PAIR_PROTECTED, sim_rand(s) % 20000);
	s->slow = sim_one_in(s, 2);
	for (end = s->now + FAULT_MS * SIM_MS; s->now < end && !s->broken[0]; sim_step(s))
		if (sim_one_in(s, 400))
			heal(s);
		else if (sim_one_in(s, 120))
			fault(s);
	s->slow = 0;
	heal(s);
	for (end = s->now + HEAL_MS * SIM_MS;
	     s->now < end && !s->broken[0] && !sim_protected(s); sim_step(s)) {
		if (s->now >= look) {
			tend(s);
			look = s->now + 5000 * SIM_MS;
		}
	}
	ok = !s->broken[0] && sim_protected(s);
	if (s->broken[0])
		printf("\nUNSAFE: %s\n", s->broken);
	else if (!ok)
		printf("\nSTUCK: seed %llu: host 0 %s term %llu, host 1 %s term %llu, arbiter %llu of %d\n",
		       (unsigned long long)seed, pair_state_name(s->h[0].p.state),
		       (unsigned long long)s->h[0].p.term,
		       pair_state_name(s->h[1].p.state),
		       (unsigned long long)s->h[1].p.term,
		       (unsigned long long)s->arb_term, s->arb_owner);
	totals->takeovers += s->takeovers;
	totals->boots += s->boots;
	totals->alones += s->alones;
	totals->protects += s->protects;
	totals->releases += s->releases;
	totals->saves += s->saves;
	totals->resumes += s->resumes;
	free(s);
	return ok;
}

static void test_many_failures(void)
{
	const char *seed = getenv("PAIR_SEED"), *runs = getenv("PAIR_RUNS");
	uint64_t n = runs ? strtoull(runs, NULL, 10) : RUNS;
	struct sim *totals = calloc(1, sizeof(*totals));
	unsigned bad = 0;

	if (!totals)
		abort();
	if (seed) {
		CU_ASSERT(run_one(strtoull(seed, NULL, 10), 1, totals));
	} else {
		for (uint64_t i = 1; i <= n && bad < 5; i++)
			bad += !run_one(i, 0, totals);
		CU_ASSERT_EQUAL(bad, 0);
		/* The world must have reached what it is meant to test. */
		CU_ASSERT(totals->takeovers > n);
		CU_ASSERT(totals->alones > n);
		CU_ASSERT(totals->protects > n);
		CU_ASSERT(totals->boots > n);
		CU_ASSERT(totals->saves > n / 2);
		CU_ASSERT(totals->resumes > n / 4);
	}
	printf("\n%u takeovers, %u alone, %u protected, %u boots, %u releases, %u saved, %u "
	       "resumed ",
	       totals->takeovers, totals->alones, totals->protects, totals->boots,
	       totals->releases, totals->saves, totals->resumes);
	free(totals);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"safe always, protected in the end", test_many_failures},
	};
	return UNIT_MAIN("pair_sim", tests);
}
