/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef JALAPENO_SHIM_H
#define JALAPENO_SHIM_H

#include <linux/mutex.h>
#include <linux/time64.h>
#include <linux/vfio_pci_core.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include <jalapeno_hw.h>

/* A card that says more or less than this is not believed. Host interface 4.6. */
#define JAL_TICKS_MIN 1000000
#define JAL_TICKS_MAX 1000000000
#define JAL_SCRUB_US_MAX (120 * USEC_PER_SEC)
#define JAL_QUIESCE_US_MAX (10 * USEC_PER_SEC)

/* Why the BAR may not be read at the moment: bits of jal_device.shut. */
enum jal_shut {
	JAL_SHUT_RESET,		/* between reset_prepare and reset_done */
	JAL_SHUT_CLOSE,		/* vfio-pci resets at close and tells nobody */
	JAL_SHUT_ERROR,		/* between error_detected and resume */
};

/* Whose HBM content is on the card. */
enum jal_hbm {
	JAL_HBM_SCRUBBING,	/* nobody may open yet */
	JAL_HBM_CLEAN,		/* scrubbed, not handed out since */
	JAL_HBM_OWNED,		/* handed out */
	JAL_HBM_FAILED,		/* a scrub failed: opens get EIO */
};

/* One card. */
struct jal_device {
	struct vfio_pci_core_device core;	/* first: vfio_alloc_device asks for it */
	void __iomem *bar;		/* BAR0 up to the telemetry page's end, while bound */
	struct mutex lock;		/* one look at @bar by others than the owner */
	unsigned long shut;		/* bits of enum jal_shut, set and cleared with @lock held */
	struct task_struct *opener;	/* whose resets belong to an open */
	struct pci_saved_state *saved;	/* config space as it was at probe */
	struct device *hwmon;
	unsigned long sensors;		/* one bit a row of hwmon.c's table: the card has it */
	u8 uuid[16];			/* bytes in RFC 9562 order */
	u64 serial;
	char firmware[33];		/* its version, as text */
	u32 ticks_per_s;		/* of device time */
	u32 scrub_us;			/* longest scrub, as the card says */
	u32 quiesce_us;			/* longest quiesce, as the card says */
	enum jal_hbm hbm;		/* changed by cmpxchg where two may want to */
	wait_queue_head_t scrubbed;	/* woken when @hbm is no more JAL_HBM_SCRUBBING */
	struct work_struct scrub;
	u64 faults_seen;		/* fault records already handed to devcoredump */
};

/* telemetry.c */
int jal_look(struct jal_device *jal);
void jal_look_away(struct jal_device *jal);
void jal_shut(struct jal_device *jal, enum jal_shut why, bool shut);
u32 jal_read32(struct jal_device *jal, u32 offset);
u64 jal_read64(struct jal_device *jal, u32 offset);
int jal_identify(struct jal_device *jal);
int jal_measure(struct jal_device *jal, u16 field, u16 instance, u64 *value);
int jal_generation(struct jal_device *jal, u64 *generation);
int jal_telemetry_page(struct jal_device *jal, void *page);

/* hwmon.c */
int jal_hwmon_register(struct jal_device *jal);

/* sysfs.c */
extern const struct attribute_group *jal_groups[];
void jal_announce(struct jal_device *jal, const char *event);

/* scrub.c */
void jal_scrub_init(struct jal_device *jal);
void jal_scrub_start(struct jal_device *jal);
void jal_scrub_retry(struct jal_device *jal);
int jal_scrub_take(struct jal_device *jal);
void jal_quiesce(struct jal_device *jal, bool quiesce);

/* record.c */
void jal_record(struct jal_device *jal, const char *event);

#endif
