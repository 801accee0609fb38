// SPDX-License-Identifier: GPL-2.0-only
/* The card in sysfs, read-only, for any number of readers; uevents for who would rather wait. */
#include <linux/slab.h>
#include <linux/uuid.h>

#include "compat.h"
#include "shim.h"

static const char *const jal_states[] = {
	[JALAPENO_HW_DEVICE_STATE_BOOTING] = "booting",
	[JALAPENO_HW_DEVICE_STATE_READY] = "ready",
	[JALAPENO_HW_DEVICE_STATE_DEGRADED] = "degraded",
	[JALAPENO_HW_DEVICE_STATE_QUIESCING] = "quiescing",
	[JALAPENO_HW_DEVICE_STATE_RESETTING] = "resetting",
	[JALAPENO_HW_DEVICE_STATE_WEDGED] = "wedged",
};

static const char *const jal_hbm_names[] = {
	[JAL_HBM_SCRUBBING] = "scrubbing",
	[JAL_HBM_CLEAN] = "clean",
	[JAL_HBM_OWNED] = "owned",
	[JAL_HBM_FAILED] = "failed",
};

/* A file: what the card is asked first, 0 for nothing, and what is shown of @value or of @jal. */
#define JAL_SHOW(name, asked, format, shown) \
static ssize_t name##_show(struct device *dev, struct device_attribute *attr, char *buf) \
{ \
	struct jal_device *jal = dev_get_drvdata(dev); \
	u64 value __maybe_unused; \
	int ret = asked; \
\
	return ret ? ret : sysfs_emit(buf, format "\n", shown); \
} \
static DEVICE_ATTR_RO(name)

JAL_SHOW(uuid, 0, "%pUb", jal->uuid);
JAL_SHOW(serial, 0, "%llu", jal->serial);
JAL_SHOW(ticks_per_second, 0, "%u", jal->ticks_per_s);
JAL_SHOW(firmware, 0, "%s", jal->firmware);
JAL_SHOW(hbm, 0, "%s", jal_hbm_names[READ_ONCE(jal->hbm)]);
JAL_SHOW(generation, jal_generation(jal, &value), "%llu", value);
JAL_SHOW(scrubs, jal_measure(jal, JALAPENO_HW_TELEMETRY_FIELD_SCRUBS, 0, &value), "%llu", value);
JAL_SHOW(health, jal_measure(jal, JALAPENO_HW_TELEMETRY_FIELD_STATE, 0, &value), "%s",
	 value < ARRAY_SIZE(jal_states) ? jal_states[value] : "unknown");

static ssize_t telemetry_read(struct file *file, struct kobject *kobj,
			      JAL_CONST_BIN struct bin_attribute *attr, char *buf, loff_t at,
			      size_t count)
{
	struct jal_device *jal = dev_get_drvdata(kobj_to_dev(kobj));
	void *page = kzalloc(JALAPENO_HW_TELEMETRY_BYTES, GFP_KERNEL);
	ssize_t ret;

	if (!page)
		return -ENOMEM;
	ret = jal_telemetry_page(jal, page);
	if (!ret)
		ret = memory_read_from_buffer(buf, count, &at, page, JALAPENO_HW_TELEMETRY_BYTES);
	kfree(page);
	return ret;
}

static JAL_CONST_BIN BIN_ATTR_RO(telemetry, JALAPENO_HW_TELEMETRY_BYTES);

static struct attribute *jal_attrs[] = {
	&dev_attr_uuid.attr,
	&dev_attr_serial.attr,
	&dev_attr_firmware.attr,
	&dev_attr_generation.attr,
	&dev_attr_health.attr,
	&dev_attr_hbm.attr,
	&dev_attr_scrubs.attr,
	&dev_attr_ticks_per_second.attr,
	NULL
};

static JAL_CONST_BIN struct bin_attribute *JAL_CONST_BIN jal_bin_attrs[] = {
	&bin_attr_telemetry,
	NULL
};

static const struct attribute_group jal_group = {
	.name = "jalapeno",
	.attrs = jal_attrs,
	.bin_attrs = jal_bin_attrs,
};

const struct attribute_group *jal_groups[] = { &jal_group, NULL };

/* Tells user space that something happened which it did not ask for: @event, in a word. */
void jal_announce(struct jal_device *jal, const char *event)
{
	struct kobject *kobj = &jal->core.pdev->dev.kobj;
	char what[40], count[48];
	char *env[3] = { what };
	u64 generation;

	snprintf(what, sizeof(what), "JALAPENO_EVENT=%s", event);
	if (!jal_generation(jal, &generation)) {
		snprintf(count, sizeof(count), "JALAPENO_GENERATION=%llu", generation);
		env[1] = count;
	}
	kobject_uevent_env(kobj, KOBJ_CHANGE, env);
	sysfs_notify(kobj, "jalapeno", "generation");
}
