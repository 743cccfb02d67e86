/* SPDX-License-Identifier: Apache-2.0
 * test_pair - each promise of the pair machine, one story each, in the seeded world without chance faults.
 */
#include "tests/unit/pairsim.h"
#include "tests/unit/unit.h"

static struct sim *world(void)
{
	struct sim *s = sim_create(7);

	sim_rhead_start(s, 0, 1);
	sim_rhead_start(s, 1, 1);
	return s;
}

static struct sim *protected_world(void)
{
	struct sim *s = world();

	CU_ASSERT_FATAL(sim_until(s, 0, PAIR_PROTECTED, 10000));
	sim_run(s, 500);
	CU_ASSERT(sim_protected(s));
	return s;
}

/* Every story ends safe. */
static void end(struct sim *s)
{
	if (s->broken[0])
		printf("%s\n", s->broken);
	CU_ASSERT_EQUAL(s->broken[0], 0);
	free(s);
}

static void cut_all_between(struct sim *s)
{
	s->net_repl = s->net_hb[0] = s->net_hb[1] = 0;
	for (int i = 0; i < SIM_LINKS; i++)
		s->link[i].broken_at[0] = s->link[i].broken_at[1] =
			s->now + 2000 * SIM_MS;
}

static void join_all(struct sim *s)
{
	s->net_repl = s->net_hb[0] = s->net_hb[1] = s->net_arb[0] = s->net_arb[1] = 1;
}

static void test_first_start(void)
{
	struct sim *s = protected_world();

	CU_ASSERT_EQUAL(s->arb_term, 1);
	CU_ASSERT_EQUAL(s->arb_owner, 0);
	CU_ASSERT_EQUAL(s->boots, 1);
	CU_ASSERT_EQUAL(s->h[1].p.state, PAIR_STANDBY_READY);
	end(s);
}

/* The preferred host is down at the very first start. */
static void test_first_start_other(void)
{
	struct sim *s = sim_create(7);

	sim_rhead_start(s, 1, 1);
	CU_ASSERT(sim_until(s, 1, PAIR_RUNNING_ALONE, 10000));
	CU_ASSERT_EQUAL(s->arb_owner, 1);
	end(s);
}

static void test_power_cut(void)
{
	struct sim *s = protected_world();

	sim_power_cut(s, 0, 20000 * SIM_MS);
	CU_ASSERT(sim_until(s, 1, PAIR_RUNNING_ALONE, 2000));
	CU_ASSERT_EQUAL(s->arb_term, 2);
	CU_ASSERT_EQUAL(s->boots, 1);
	/* It comes back as the standby, by itself. */
	CU_ASSERT(sim_until(s, 0, PAIR_STANDBY_READY, 40000));
	sim_run(s, 500);
	CU_ASSERT_EQUAL(s->h[1].p.state, PAIR_PROTECTED);
	end(s);
}

static void test_stopped_rhead(void)
{
	struct sim *s = protected_world();

	s->h[0].stopped = 1;
	CU_ASSERT(sim_until(s, 1, PAIR_RUNNING_ALONE, 2000));
	sim_run(s, 3000);
	s->h[0].stopped = 0;
	CU_ASSERT(sim_until(s, 0, PAIR_STANDBY_READY, 10000));
	CU_ASSERT_EQUAL(s->takeovers, 1);
	CU_ASSERT_EQUAL(s->h[0].p.term, 2);
	end(s);
}

static void test_hung_vm(void)
{
	struct sim *s = protected_world();

	s->h[0].vm.stopped = 1;
	s->h[0].vm.stopped_at = s->now;
	CU_ASSERT(sim_until(s, 1, PAIR_RUNNING_ALONE, 1500));
	/* The hung one is killed although it does not listen, and its host stands by. */
	CU_ASSERT(sim_until(s, 0, PAIR_STANDBY_READY, 10000));
	end(s);
}

static void test_killed_vm(void)
{
	struct sim *s = protected_world();
	uint64_t then = s->now;

	sim_vm_gone(s, 0);
	CU_ASSERT(sim_until(s, 0, PAIR_YIELDING, 300));
	CU_ASSERT(sim_until(s, 1, PAIR_RUNNING_ALONE, 1000));
	CU_ASSERT(s->now - then < 400 * SIM_MS); /* no waiting for silence */
	CU_ASSERT_EQUAL(s->boots, 1);
	CU_ASSERT(sim_until(s, 0, PAIR_STANDBY_READY, 10000));
	end(s);
}

/* A killed rhead that is back at once does not boot over the peer's commit. */
static void test_restarted_rhead(void)
{
	struct sim *s = protected_world();

	sim_rhead_kill(s, 0, 50 * SIM_MS);
	CU_ASSERT(sim_until(s, 1, PAIR_RUNNING_ALONE, 2000));
	CU_ASSERT_EQUAL(s->boots, 1);
	CU_ASSERT(sim_until(s, 0, PAIR_STANDBY_READY, 10000));
	end(s);
}

static void test_link_cut_only(void)
{
	struct sim *s = protected_world();

	s->link[s->h[0].vm.link].broken_at[0] = s->link[s->h[0].vm.link].broken_at[1] =
		s->now;
	sim_run(s, 5000);
	CU_ASSERT_EQUAL(s->takeovers, 0);
	CU_ASSERT_EQUAL(s->alones, 1);
	CU_ASSERT_EQUAL(s->h[0].p.state, PAIR_PROTECTED);
	CU_ASSERT_EQUAL(s->arb_term, 2);
	end(s);
}

static void test_arbiter_gone(void)
{
	struct sim *s = protected_world();
	unsigned before = s->releases;

	s->net_arb[0] = s->net_arb[1] = 0;
	sim_run(s, 5000);
	CU_ASSERT_EQUAL(s->h[0].p.state, PAIR_PROTECTED);
	CU_ASSERT(s->releases > before);
	end(s);
}

static void test_all_gone_holds(void)
{
	struct sim *s = protected_world();
	unsigned before;

	cut_all_between(s);
	s->net_arb[0] = s->net_arb[1] = 0;
	sim_run(s, 3000);
	before = s->releases;
	sim_run(s, 20000);
	CU_ASSERT_EQUAL(s->releases, before);
	CU_ASSERT_EQUAL(s->h[0].p.state, PAIR_HOLDING);
	CU_ASSERT_EQUAL(s->h[1].p.state, PAIR_CLAIMING);
	join_all(s);
	sim_run(s, 15000);
	CU_ASSERT(sim_protected(s));
	CU_ASSERT_EQUAL(s->boots, 1);
	end(s);
}

static void test_cut_from_each_other(void)
{
	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct sim *s = sim_create(seed);
		unsigned running;

		sim_rhead_start(s, 0, 1);
		sim_rhead_start(s, 1, 1);
		CU_ASSERT(sim_until(s, 0, PAIR_PROTECTED, 10000));
		sim_run(s, 500);
		cut_all_between(s);
		sim_run(s, 6000);
		running = (s->h[0].p.state == PAIR_RUNNING_ALONE) +
			  (s->h[1].p.state == PAIR_RUNNING_ALONE);
		CU_ASSERT_EQUAL(running, 1);
		CU_ASSERT_EQUAL(s->arb_term, 2);
		join_all(s);
		sim_run(s, 15000);
		CU_ASSERT(sim_protected(s));
		end(s);
	}
}

static void test_poweroff(void)
{
	struct sim *s = protected_world();

	sim_vm_off(s, 0);
	CU_ASSERT(sim_until(s, 1, PAIR_OFF, 2000));
	sim_run(s, 20000);
	CU_ASSERT_EQUAL(s->h[0].p.state, PAIR_OFF);
	CU_ASSERT_EQUAL(s->h[1].p.state, PAIR_OFF);
	CU_ASSERT_EQUAL(s->takeovers, 0);
	CU_ASSERT_EQUAL(s->h[0].rec.wanted, 0);
	CU_ASSERT_EQUAL(s->h[1].rec.bye, 1);
	/* Neither comes back by itself, not even after a restart. */
	sim_rhead_kill(s, 0, 10 * SIM_MS);
	sim_rhead_kill(s, 1, 10 * SIM_MS);
	sim_run(s, 10000);
	CU_ASSERT_EQUAL(s->h[0].p.state, PAIR_OFF);
	CU_ASSERT_EQUAL(s->h[1].p.state, PAIR_OFF);
	/* All of it is on the other host too: it may be started there. */
	sim_operator(s, 1, PAIR_EV_START);
	CU_ASSERT(sim_until(s, 1, PAIR_PROTECTED, 10000));
	CU_ASSERT_EQUAL(s->arb_owner, 1);
	end(s);
}

static void test_operator_stop(void)
{
	struct sim *s = protected_world();

	sim_operator(s, 1, PAIR_EV_STOP); /* refused: it runs on the other host */
	sim_run(s, 1000);
	CU_ASSERT(sim_protected(s));
	sim_operator(s, 0, PAIR_EV_STOP);
	CU_ASSERT(sim_until(s, 0, PAIR_OFF, 2000));
	CU_ASSERT(sim_until(s, 1, PAIR_OFF, 2000));
	sim_operator(s, 0, PAIR_EV_START);
	CU_ASSERT(sim_until(s, 0, PAIR_PROTECTED, 10000));
	sim_operator(s, 0, PAIR_EV_KILL);
	CU_ASSERT(sim_until(s, 1, PAIR_OFF, 2000));
	CU_ASSERT_EQUAL(s->takeovers, 0);
	end(s);
}

static void test_planned_failover(void)
{
	struct sim *s = protected_world();

	sim_operator(s, 0, PAIR_EV_FAILOVER);
	CU_ASSERT(sim_until(s, 1, PAIR_PROTECTED, 10000));
	sim_operator(s, 0, PAIR_EV_FAILOVER); /* on the standby it claims by itself */
	CU_ASSERT(sim_until(s, 0, PAIR_PROTECTED, 10000));
	CU_ASSERT_EQUAL(s->takeovers, 2);
	CU_ASSERT_EQUAL(s->boots, 1);
	end(s);
}

static void override(struct sim *s, int host, int cold)
{
	struct pair_event ev = {.kind = PAIR_EV_OVERRIDE};

	ev.u.override.cold = cold;
	sim_event(s, host, &ev);
}

static void test_override(void)
{
	struct sim *s = protected_world();

	s->net_arb[0] = s->net_arb[1] = 0;
	sim_power_cut(s, 0, 60000 * SIM_MS);
	sim_run(s, 5000);
	CU_ASSERT_EQUAL(s->h[1].p.state, PAIR_CLAIMING);
	override(s, 1, 0);
	CU_ASSERT(sim_until(s, 1, PAIR_RUNNING_ALONE, 1000));
	CU_ASSERT_EQUAL(s->h[1].p.term, 1 + PAIR_OVERRIDE_STEP);
	CU_ASSERT_EQUAL(s->h[1].rec.override, 1);
	/* The arbiter hears of it as soon as it answers; who comes back finds that out. */
	s->net_arb[0] = s->net_arb[1] = 1;
	sim_run(s, 3000);
	CU_ASSERT_EQUAL(s->arb_term, 1 + PAIR_OVERRIDE_STEP);
	CU_ASSERT_EQUAL(s->arb_owner, 1);
	CU_ASSERT(sim_until(s, 0, PAIR_STANDBY_READY, 90000));
	CU_ASSERT_EQUAL(s->boots, 1);
	end(s);
}

static void test_override_on_primary(void)
{
	struct sim *s = protected_world();

	s->net_arb[0] = s->net_arb[1] = 0;
	sim_power_cut(s, 1, 60000 * SIM_MS);
	CU_ASSERT(sim_until(s, 0, PAIR_HOLDING, 5000));
	override(s, 0, 0);
	CU_ASSERT(sim_until(s, 0, PAIR_RUNNING_ALONE, 1000));
	CU_ASSERT(sim_until(s, 0, PAIR_PROTECTED, 90000));
	/* A later loss needs a grant again, from the override's term on. */
	s->net_arb[0] = s->net_arb[1] = 1;
	sim_run(s, 2000);
	sim_power_cut(s, 1, 1000 * SIM_MS);
	CU_ASSERT(sim_until(s, 0, PAIR_RUNNING_ALONE, 5000));
	CU_ASSERT_EQUAL(s->arb_term, 2 + PAIR_OVERRIDE_STEP);
	end(s);
}

/* Without any arbiter at all (kind manual): only a typed, cold override starts the first time. */
static void test_manual(void)
{
	struct sim *s = sim_create(7);

	s->net_arb[0] = s->net_arb[1] = 0;
	sim_rhead_start(s, 0, 1);
	sim_rhead_start(s, 1, 1);
	s->h[0].p.prm.manual = s->h[1].p.prm.manual = 1;
	sim_run(s, 20000);
	CU_ASSERT_EQUAL(s->boots, 0);
	override(s, 0, 0);
	sim_run(s, 1000);
	CU_ASSERT_EQUAL(s->boots, 0);
	override(s, 0, 1);
	CU_ASSERT(sim_until(s, 0, PAIR_PROTECTED, 20000));
	CU_ASSERT_EQUAL(s->boots, 1);
	end(s);
}

/* Two operators, two overrides, one term: the preferred host keeps it. */
static void test_two_overrides(void)
{
	struct sim *s = protected_world();

	cut_all_between(s);
	s->net_arb[0] = s->net_arb[1] = 0;
	sim_run(s, 5000);
	s->unchecked = 1; /* what two overrides do is the operators' word against ours */
	override(s, 0, 0);
	override(s, 1, 0);
	sim_run(s, 2000);
	CU_ASSERT_EQUAL(s->h[0].p.term, s->h[1].p.term);
	join_all(s);
	sim_run(s, 15000);
	CU_ASSERT_EQUAL(s->h[0].p.state, PAIR_PROTECTED);
	CU_ASSERT_EQUAL(s->h[1].p.state, PAIR_STANDBY_READY);
	end(s);
}

/* The primary dies while the first sync runs: nobody runs from half a copy. */
static void test_no_commit_no_run(void)
{
	struct sim *s = world();

	s->never_arm = 1;
	CU_ASSERT(sim_until(s, 1, PAIR_STANDBY_SYNCING, 10000));
	s->never_arm = 0;
	sim_power_cut(s, 0, 30000 * SIM_MS);
	sim_run(s, 25000);
	CU_ASSERT_EQUAL(s->takeovers, 0);
	CU_ASSERT_EQUAL(s->boots, 1);
	CU_ASSERT_EQUAL(s->h[1].p.state, PAIR_STANDBY_EMPTY);
	/* Its owner boots it again when it is back. */
	CU_ASSERT(sim_until(s, 0, PAIR_PROTECTED, 30000));
	CU_ASSERT_EQUAL(s->boots, 2);
	end(s);
}

static void test_both_dead(void)
{
	struct sim *s = protected_world();

	sim_power_cut(s, 0, 3000 * SIM_MS);
	sim_power_cut(s, 1, 1000 * SIM_MS);
	CU_ASSERT(sim_until(s, 0, PAIR_PROTECTED, 30000));
	CU_ASSERT_EQUAL(s->arb_owner, 0); /* the owner's disk has everything */
	CU_ASSERT_EQUAL(s->boots, 2);
	end(s);
}

/* A VM that cannot start is not started for ever. */
static void test_failed(void)
{
	struct sim *s = sim_create(7);

	sim_rhead_start(s, 0, 1);
	for (int i = 0; i < 20000 && !s->broken[0] && s->h[0].p.state != PAIR_FAILED;
	     i++) {
		sim_step(s);
		if (s->h[0].vm.present && !s->h[0].vm.running)
			sim_vm_gone(s, 0);
	}
	CU_ASSERT_EQUAL(s->h[0].p.state, PAIR_FAILED);
	sim_run(s, 10000);
	CU_ASSERT_EQUAL(s->h[0].p.state, PAIR_FAILED);
	sim_operator(s, 0, PAIR_EV_START);
	CU_ASSERT(sim_until(s, 0, PAIR_RUNNING_ALONE, 5000));
	end(s);
}

/* Dying again and again after a good life is no failure. */
static void test_many_kills(void)
{
	struct sim *s = protected_world();

	for (int i = 0; i < 30; i++) {
		int h = s->h[0].p.state == PAIR_PROTECTED ? 0 : 1;

		sim_vm_gone(s, h);
		CU_ASSERT(sim_until(s, !h, PAIR_PROTECTED, 10000));
		sim_run(s, 200);
	}
	CU_ASSERT_EQUAL(s->takeovers, 30);
	CU_ASSERT_EQUAL(s->boots, 1);
	end(s);
}

static void test_lost_activation(void)
{
	struct sim *s = protected_world();

	s->fail_activate = 1;
	sim_power_cut(s, 0, 60000 * SIM_MS);
	CU_ASSERT(sim_until(s, 1, PAIR_FENCED, 2000));
	/* The disks are at the commit: it boots from them. */
	CU_ASSERT(sim_until(s, 1, PAIR_RUNNING_ALONE, 5000));
	CU_ASSERT_EQUAL(s->boots, 2);
	end(s);
}

static void test_safe_to_lose(void)
{
	struct sim *s = protected_world();
	char why[96];

	for (int i = 0; i < 2; i++) {
		CU_ASSERT(pair_safe_to_lose_peer(&s->h[i].p, why, sizeof(why)));
		CU_ASSERT(pair_safe_to_lose_self(&s->h[i].p, why, sizeof(why)));
	}
	sim_power_cut(s, 1, 1ull << 40);
	CU_ASSERT(sim_until(s, 0, PAIR_RUNNING_ALONE, 5000));
	sim_run(s, 500);
	CU_ASSERT(pair_safe_to_lose_peer(&s->h[0].p, why, sizeof(why)));
	CU_ASSERT(!pair_safe_to_lose_self(&s->h[0].p, why, sizeof(why)));
	CU_ASSERT_STRING_EQUAL(why, "the peer is silent");
	end(s);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"first start: the preferred host runs", test_first_start},
		{"first start without the preferred host", test_first_start_other},
		{"power cut: taken over, comes back as standby", test_power_cut},
		{"stopped rhead is fenced when it goes on", test_stopped_rhead},
		{"hung rhea-vm: taken over, killed", test_hung_vm},
		{"killed rhea-vm: taken over at once", test_killed_vm},
		{"restarted rhead leaves it to the commit", test_restarted_rhead},
		{"link cut: the primary keeps it", test_link_cut_only},
		{"arbiter gone: acks suffice", test_arbiter_gone},
		{"arbiter and peer gone: hold", test_all_gone_holds},
		{"cut from each other: exactly one", test_cut_from_each_other},
		{"poweroff: both off, start on either", test_poweroff},
		{"operator's stop", test_operator_stop},
		{"planned failover", test_planned_failover},
		{"override on the standby", test_override},
		{"override on the primary", test_override_on_primary},
		{"manual arbiter", test_manual},
		{"two overrides", test_two_overrides},
		{"no commit, no run", test_no_commit_no_run},
		{"both hosts dead", test_both_dead},
		{"failed", test_failed},
		{"many kills", test_many_kills},
		{"activation that fails", test_lost_activation},
		{"safe to lose", test_safe_to_lose},
	};
	return UNIT_MAIN("pair", tests);
}
