/* SPDX-License-Identifier: Apache-2.0
 * eal - DPDK's start, and the hardware of one port.
 *
 * DPDK can be started once a process, and whoever starts it becomes one of its threads, with the affinity
 * that it gives: so the port's own thread does it.
 */
#include "replication/dpdk/port_impl.h"

#include "hv/base/err.h"
#include "replication/lane_wire.h"

#include <errno.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <stdio.h>

static int start_eal(struct port *p, struct err *err)
{
	static int begun;

	if (begun)
		return err_set(err, -EALREADY,
			       "dpdk: was started in this process before");
	begun = 1;
	/* Its other way to say things is to connect to syslog, also in the middle of things. */
	(void)rte_openlog_stream(stderr); /* returns 0 */
	if (rte_eal_init(p->args.n_eal, p->args.eal) < 0)
		return err_sys(err, -rte_errno, "dpdk: start of DPDK failed");
	return 0;
}

static int find_port(struct port *p, struct err *err)
{
	uint16_t id;

	if (p->args.name[0]) {
		if (rte_eth_dev_get_port_by_name(p->args.name, &p->id))
			return err_set(err, -ENODEV, "dpdk: there is no port %s",
				       p->args.name);
		return 0;
	}
	RTE_ETH_FOREACH_DEV(id)
	{
		p->id = id;
		return 0;
	}
	return err_set(err, -ENODEV, "dpdk: no port: is the device bound to vfio-pci or "
				     "uio_pci_generic, or given with --vdev?");
}

static int make_pool(struct port *p, struct err *err)
{
	unsigned per = p->args.mtu - LANE_COST, frames;

	frames = (unsigned)(((uint64_t)p->args.window_mib << 20) / per);
	for (p->slots = 64; p->slots * 2 <= frames; p->slots *= 2)
		;
	p->pool = rte_pktmbuf_pool_create("rhea", 2 * p->slots + PORT_MARGIN, 256, 0,
					  (uint16_t)(RTE_PKTMBUF_HEADROOM + p->args.frame_room),
					  SOCKET_ID_ANY);
	if (!p->pool)
		return err_sys(err, -rte_errno,
			       "dpdk: memory for two windows of %u frames of %u bytes",
			       p->slots, p->args.frame_room);
	return 0;
}

static int set_up(struct port *p, struct err *err)
{
	struct rte_eth_conf conf = {0};
	struct rte_eth_dev_info info;
	uint16_t rx = PORT_RING, tx = PORT_RING;
	int rc = rte_eth_dev_info_get(p->id, &info);

	if (rc)
		return err_sys(err, rc, "dpdk: port %u", p->id);
	/* Drivers without a word on the matter carry what their interface carries; the lane
	 * finds out how much that is. */
	if (p->args.mtu > 1500 && info.max_mtu >= p->args.mtu &&
	    info.max_rx_pktlen >= p->args.mtu + LANE_ETHER)
		conf.rxmode.mtu = p->args.mtu;
	if ((rc = rte_eth_dev_configure(p->id, 1, 1, &conf)) ||
	    (rc = rte_eth_dev_adjust_nb_rx_tx_desc(p->id, &rx, &tx)) ||
	    (rc = rte_eth_rx_queue_setup(p->id, 0, rx, SOCKET_ID_ANY, NULL, p->pool)) ||
	    (rc = rte_eth_tx_queue_setup(p->id, 0, tx, SOCKET_ID_ANY, NULL)) ||
	    (rc = rte_eth_macaddr_get(p->id, &p->mac)) || (rc = rte_eth_dev_start(p->id)))
		return err_sys(err, rc, "dpdk: port %u", p->id);
	return 0;
}

int port_hardware_up(struct port *p, struct err *err)
{
	int rc = start_eal(p, err);

	if (rc)
		return rc;
	if ((rc = find_port(p, err)) || (rc = make_pool(p, err)) || (rc = set_up(p, err)))
		(void)rte_eal_cleanup(); /* nothing more can be done about it */
	return rc;
}

void port_hardware_down(struct port *p)
{
	(void)rte_eth_dev_stop(p->id);	/* the process gives all of it up */
	(void)rte_eth_dev_close(p->id); /* the same */
	rte_mempool_free(p->pool);
	(void)rte_eal_cleanup(); /* the same */
}

int port_link_is_up(const struct port *p)
{
	struct rte_eth_link link = {0};

	if (rte_eth_link_get_nowait(p->id, &link))
		return 1;
	return link.link_status == RTE_ETH_LINK_UP;
}
