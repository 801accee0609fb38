// SPDX-License-Identifier: GPL-2.0-only
/* HBM is scrubbed before another owner gets it; resets and power states do not clear it. */
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/ktime.h>
#include <linux/pm_runtime.h>

#include "shim.h"

#define JAL_SCRUB_TRIES 2
/* On top of what the card states, for the reset and the scheduling around it. */
#define JAL_SCRUB_GRACE_US (2 * USEC_PER_SEC)

/* The BAR is looked at for moments only: a reset may come between and ends the scrub. */
static int jal_scrub_once(struct jal_device *jal)
{
	const ktime_t end = ktime_add_us(ktime_get(), jal->scrub_us + JAL_SCRUB_GRACE_US);
	u64 before, after = 0;
	u32 phase;
	int ret;

	ret = jal_look(jal);
	if (ret)
		return ret;
	before = jal_read64(jal, JALAPENO_HW_REG_SCRUB_COUNT);
	writel(1, jal->bar + JALAPENO_HW_REG_SCRUB);
	jal_look_away(jal);
	for (;;) {
		ret = jal_look(jal);
		if (ret)
			return ret;
		phase = jal_read32(jal, JALAPENO_HW_REG_SCRUB_STATUS) &
			JALAPENO_HW_REG_SCRUB_STATUS_PHASE_MASK;
		if (phase == JALAPENO_HW_SCRUB_PHASE_DONE)
			after = jal_read64(jal, JALAPENO_HW_REG_SCRUB_COUNT);
		jal_look_away(jal);
		if (phase == JALAPENO_HW_SCRUB_PHASE_DONE)
			return after > before ? 0 : -EIO;
		if (phase != JALAPENO_HW_SCRUB_PHASE_RUNNING)
			return -EIO; /* failed, or a reset came between */
		if (ktime_after(ktime_get(), end))
			return -ETIMEDOUT;
		usleep_range(1000, 2000);
	}
}

static void jal_scrub_work(struct work_struct *work)
{
	struct jal_device *jal = container_of(work, struct jal_device, scrub);
	struct pci_dev *pdev = jal->core.pdev;
	int tries, ret = -EIO;

	/* A scrub is not a sensor: it may wake the card. */
	if (pm_runtime_resume_and_get(&pdev->dev) == 0) {
		for (tries = 0; tries < JAL_SCRUB_TRIES && ret && ret != -ETIMEDOUT; tries++) {
			if (tries) /* a queue left by an unknown owner forbids a scrub */
				jal_quiesce(jal, true);
			ret = jal_scrub_once(jal);
		}
		if (tries > 1)
			jal_quiesce(jal, false);
		pm_runtime_put(&pdev->dev);
	}
	WRITE_ONCE(jal->hbm, ret ? JAL_HBM_FAILED : JAL_HBM_CLEAN);
	wake_up_all(&jal->scrubbed);
	if (ret) {
		pci_err(pdev, "HBM scrub failed (%d), no open until a reset and a good one\n",
			ret);
		jal_announce(jal, "scrub-failed");
	}
}

void jal_scrub_init(struct jal_device *jal)
{
	init_waitqueue_head(&jal->scrubbed);
	INIT_WORK(&jal->scrub, jal_scrub_work);
}

void jal_scrub_start(struct jal_device *jal)
{
	WRITE_ONCE(jal->hbm, JAL_HBM_SCRUBBING);
	queue_work(system_long_wq, &jal->scrub);
}

/* After a reset of an unowned card whose scrub failed: one more chance. */
void jal_scrub_retry(struct jal_device *jal)
{
	if (cmpxchg(&jal->hbm, JAL_HBM_FAILED, JAL_HBM_SCRUBBING) == JAL_HBM_FAILED)
		queue_work(system_long_wq, &jal->scrub);
}

/*
 * Hands HBM out once it is clean; -EIO after a failed scrub, -EAGAIN while an
 * error of the link that it failed for is being recovered, -EBUSY when it
 * overran all bounds.
 */
int jal_scrub_take(struct jal_device *jal)
{
	const unsigned long bound =
		usecs_to_jiffies(JAL_SCRUB_TRIES * (jal->scrub_us + JAL_SCRUB_GRACE_US) +
				 jal->quiesce_us) + HZ;
	long left = wait_event_killable_timeout(jal->scrubbed,
						READ_ONCE(jal->hbm) != JAL_HBM_SCRUBBING, bound);

	if (left <= 0)
		return left ? left : -EBUSY;
	switch (cmpxchg(&jal->hbm, JAL_HBM_CLEAN, JAL_HBM_OWNED)) {
	case JAL_HBM_CLEAN:
		return 0;
	case JAL_HBM_FAILED:
		return test_bit(JAL_SHUT_ERROR, &jal->shut) ? -EAGAIN : -EIO;
	default:
		return -EBUSY;
	}
}

/* Asks the card to let go of host memory; one that does not is reset anyway. */
void jal_quiesce(struct jal_device *jal, bool quiesce)
{
	const ktime_t end = ktime_add_us(ktime_get(), jal->quiesce_us);
	bool idle = !quiesce;

	if (jal_look(jal))
		return;
	writel(quiesce, jal->bar + JALAPENO_HW_REG_CONTROL);
	jal_look_away(jal);
	while (!idle && ktime_before(ktime_get(), end)) {
		if (jal_look(jal))
			return;
		idle = jal_read32(jal, JALAPENO_HW_REG_STATUS) & JALAPENO_HW_REG_STATUS_IDLE_MASK;
		jal_look_away(jal);
		if (!idle)
			usleep_range(100, 200);
	}
	if (!idle)
		pci_warn(jal->core.pdev, "not idle %u us after quiesce\n", jal->quiesce_us);
}
