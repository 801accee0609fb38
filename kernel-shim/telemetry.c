// SPDX-License-Identifier: GPL-2.0-only
/* Looking at BAR0 beside its owner: only while it answers, and never believed unchecked. */
#include <linux/ctype.h>
#include <linux/io.h>
#include <linux/math64.h>
#include <linux/pm_runtime.h>

#include "shim.h"

#define JAL_PAGE(member) \
	(JALAPENO_HW_TELEMETRY_OFFSET + offsetof(struct jalapeno_hw_telemetry_header, member))
#define JAL_ENTRY(member) offsetof(struct jalapeno_hw_telemetry_entry, member)
#define JAL_TIME(member) offsetof(struct jalapeno_hw_cap_time, member)
#define JAL_FIRMWARE offsetof(struct jalapeno_hw_cap_product, firmware)
#define JAL_TRIES 4

u32 jal_read32(struct jal_device *jal, u32 offset)
{
	return readl(jal->bar + offset);
}

/* Of memory-like pages; a 64-bit register latches and is the owner's to read. */
u64 jal_read64(struct jal_device *jal, u32 offset)
{
	u32 low = readl(jal->bar + offset);

	return (u64)readl(jal->bar + offset + 4) << 32 | low;
}

/* Bytes of memory-like pages; whole words. */
static void jal_read_bytes(struct jal_device *jal, u32 offset, void *to, u32 bytes)
{
	__le32 word;

	for (; bytes; bytes -= sizeof(word), offset += sizeof(word), to += sizeof(word)) {
		word = cpu_to_le32(jal_read32(jal, offset));
		memcpy(to, &word, sizeof(word));
	}
}

/*
 * Makes sure that BAR0 answers and keeps it so until jal_look_away(); -ENODATA
 * while there is nothing to see. Never wakes a card, never waits for its owner.
 */
int jal_look(struct jal_device *jal)
{
	struct pci_dev *pdev = jal->core.pdev;
	u16 command;

	mutex_lock(&jal->lock);
	/* memory_lock is the owner's resets' and power changes', which wait for nobody. */
	if (jal->shut || !down_read_trylock(&jal->core.memory_lock))
		goto unlock;
	if (IS_ENABLED(CONFIG_PM) && pm_runtime_get_if_in_use(&pdev->dev) <= 0)
		goto up;
	pci_read_config_word(pdev, PCI_COMMAND, &command);
	if (!PCI_POSSIBLE_ERROR(command) && command & PCI_COMMAND_MEMORY &&
	    jal_read32(jal, JALAPENO_HW_REG_MAGIC) == JALAPENO_HW_MAGIC)
		return 0;
	jal_look_away(jal);
	return -ENODATA;
up:
	up_read(&jal->core.memory_lock);
unlock:
	mutex_unlock(&jal->lock);
	return -ENODATA;
}

void jal_look_away(struct jal_device *jal)
{
	pm_runtime_put(&jal->core.pdev->dev);
	up_read(&jal->core.memory_lock);
	mutex_unlock(&jal->lock);
}

/* While something is shut nobody looks; one who was looking has finished. */
void jal_shut(struct jal_device *jal, enum jal_shut why, bool shut)
{
	mutex_lock(&jal->lock);
	assign_bit(why, &jal->shut, shut);
	mutex_unlock(&jal->lock);
}

/* Reads what never changes, before there is an owner. */
int jal_identify(struct jal_device *jal)
{
	struct device *dev = &jal->core.pdev->dev;
	const u32 end = JALAPENO_HW_CAPS_OFFSET + JALAPENO_HW_CAPS_BYTES;
	u32 version, at, id, bytes;
	u64 ticks = 0;
	int i;

	if (jal_read32(jal, JALAPENO_HW_REG_MAGIC) != JALAPENO_HW_MAGIC)
		return dev_err_probe(dev, -ENODEV, "BAR0 does not hold a Jalapeno\n");
	version = jal_read32(jal, JALAPENO_HW_REG_VERSION);
	if (version >> 16 != JALAPENO_HW_VERSION_MAJOR)
		return dev_err_probe(dev, -ENODEV, "interface %u.%u, this driver knows %u\n",
				     version >> 16, version & 0xffff, JALAPENO_HW_VERSION_MAJOR);
	jal_read_bytes(jal, JALAPENO_HW_REG_UUID_LOW, jal->uuid, sizeof(jal->uuid));
	jal->serial = jal_read64(jal, JALAPENO_HW_REG_SERIAL);

	for (at = jal_read32(jal, JALAPENO_HW_REG_CAPS);
	     at >= JALAPENO_HW_CAPS_OFFSET && at % 8 == 0 &&
	     at + sizeof(struct jalapeno_hw_cap_time) <= end; at += bytes) {
		id = jal_read32(jal, at) & 0xffff;
		bytes = jal_read32(jal, at + 4) & 0xffff;
		if (id == JALAPENO_HW_CAP_ID_TIME && bytes >= sizeof(struct jalapeno_hw_cap_time)) {
			ticks = jal_read64(jal, at + JAL_TIME(ticks_per_second));
			jal->scrub_us = jal_read32(jal, at + JAL_TIME(scrub_us));
			jal->quiesce_us = jal_read32(jal, at + JAL_TIME(quiesce_us));
		} else if (id == JALAPENO_HW_CAP_ID_PRODUCT && at + bytes <= end &&
			   bytes >= sizeof(struct jalapeno_hw_cap_product)) {
			jal_read_bytes(jal, at + JAL_FIRMWARE, jal->firmware,
				       sizeof(jal->firmware) - 1);
		}
		if (id == JALAPENO_HW_CAP_ID_END || bytes < 8)
			break;
	}
	for (i = 0; jal->firmware[i]; i++)
		if (!isascii(jal->firmware[i]) || !isprint(jal->firmware[i]))
			jal->firmware[i] = '?';
	if (ticks < JAL_TICKS_MIN || ticks > JAL_TICKS_MAX || jal->scrub_us > JAL_SCRUB_US_MAX ||
	    jal->quiesce_us > JAL_QUIESCE_US_MAX)
		return dev_err_probe(dev, -ENODEV, "no usable TIME: %llu ticks/s, %u, %u us\n",
				     ticks, jal->scrub_us, jal->quiesce_us);
	jal->ticks_per_s = ticks;
	return 0;
}

/* Takes something from a page that is whole; @count entries follow its header. */
typedef int (*jal_take)(struct jal_device *jal, u32 count, void *what);

/* Under the page's sequence lock: what was taken from a page that changed does not count. */
static int jal_from_page(struct jal_device *jal, jal_take take, void *what)
{
	int tries, ret = -ENODATA;
	u64 sequence;
	u32 count;

	if (jal_look(jal))
		return -ENODATA;
	for (tries = 0; tries < JAL_TRIES && ret == -ENODATA; tries++) {
		sequence = jal_read64(jal, JAL_PAGE(sequence));
		count = jal_read32(jal, JAL_PAGE(version)) >> 16;
		if (sequence & 1 || count > JALAPENO_HW_TELEMETRY_ENTRIES_MAX ||
		    jal_read32(jal, JAL_PAGE(magic)) != JALAPENO_HW_TELEMETRY_MAGIC)
			continue;
		ret = take(jal, count, what);
		if (jal_read64(jal, JAL_PAGE(sequence)) != sequence)
			ret = -ENODATA;
	}
	jal_look_away(jal);
	return ret;
}

struct jal_wanted {
	u16 field;
	u16 instance;
	u64 value;
};

static int jal_take_value(struct jal_device *jal, u32 count, void *what)
{
	u32 at = JALAPENO_HW_TELEMETRY_OFFSET + sizeof(struct jalapeno_hw_telemetry_header);
	struct jal_wanted *wanted = what;
	u64 taken, updated, late;
	u32 stale;

	for (; count; count--, at += sizeof(struct jalapeno_hw_telemetry_entry)) {
		if (jal_read32(jal, at) != ((u32)wanted->instance << 16 | wanted->field))
			continue;
		switch (jal_read32(jal, at + 4) >> 8 & 0xff) {
		case JALAPENO_HW_TELEMETRY_STATUS_VALID:
			break;
		case JALAPENO_HW_TELEMETRY_STATUS_UNSUPPORTED:
			return -EOPNOTSUPP;
		default:
			return -ENODATA;
		}
		wanted->value = jal_read64(jal, at + JAL_ENTRY(value));
		if (wanted->value == U64_MAX) /* what nobody's answer looks like */
			return -ENODATA;
		taken = jal_read64(jal, at + JAL_ENTRY(taken));
		stale = jal_read32(jal, at + JAL_ENTRY(stale_after_ms));
		updated = jal_read64(jal, JAL_PAGE(updated));
		late = div_u64((u64)stale * jal->ticks_per_s, MSEC_PER_SEC);
		return stale && updated > taken && updated - taken > late ? -ENODATA : 0;
	}
	return -EOPNOTSUPP;
}

/*
 * One raw value of the telemetry page. -EOPNOTSUPP: the card has no such
 * sensor; -ENODATA: there is no whole, fresh value right now.
 */
int jal_measure(struct jal_device *jal, u16 field, u16 instance, u64 *value)
{
	struct jal_wanted wanted = { .field = field, .instance = instance };
	int ret = jal_from_page(jal, jal_take_value, &wanted);

	if (!ret)
		*value = wanted.value;
	return ret;
}

static int jal_take_generation(struct jal_device *jal, u32 count, void *what)
{
	*(u64 *)what = jal_read64(jal, JAL_PAGE(generation));
	return 0;
}

/* How often the card was reset, by the page and not by the latching register. */
int jal_generation(struct jal_device *jal, u64 *generation)
{
	return jal_from_page(jal, jal_take_generation, generation);
}

static int jal_take_page(struct jal_device *jal, u32 count, void *what)
{
	memcpy_fromio(what, jal->bar + JALAPENO_HW_TELEMETRY_OFFSET,
		      sizeof(struct jalapeno_hw_telemetry_header) +
		      count * sizeof(struct jalapeno_hw_telemetry_entry));
	return 0;
}

/* A whole copy of the page into zeroed @page of JALAPENO_HW_TELEMETRY_BYTES. */
int jal_telemetry_page(struct jal_device *jal, void *page)
{
	return jal_from_page(jal, jal_take_page, page);
}
