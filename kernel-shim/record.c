// SPDX-License-Identifier: GPL-2.0-only
/* What failed first: the card's fault log, kept by devcoredump until somebody fetched it. */
#include <linux/devcoredump.h>
#include <linux/io.h>
#include <linux/vmalloc.h>

#include "shim.h"

/* What stands before the records; all little-endian. */
struct jal_record_header {
	char magic[8];		/* "JALFAULT" */
	__le32 version;		/* 1 */
	__le32 record_bytes;
	__le64 faults;		/* since manufacture; the newest is at (faults - 1) mod records */
	u8 uuid[16];
	char event[24];		/* what made the kernel look */
};

/* Keeps new fault records by devcoredump: one dump a device, the first, for five minutes. */
void jal_record(struct jal_device *jal, const char *event)
{
	const size_t bytes = JALAPENO_HW_FAULT_LOG_RECORDS * JALAPENO_HW_FAULT_RECORD_BYTES;
	struct jal_record_header *header;
	u64 faults, seen = READ_ONCE(jal->faults_seen);

	if (jal_measure(jal, JALAPENO_HW_TELEMETRY_FIELD_FAULTS, 0, &faults) || faults == seen)
		return;
	header = vzalloc(sizeof(*header) + bytes);
	if (!header)
		return;
	if (jal_look(jal)) {
		vfree(header);
		return;
	}
	memcpy_fromio(header + 1, jal->bar + JALAPENO_HW_FAULT_LOG_OFFSET, bytes);
	jal_look_away(jal);
	if (cmpxchg64(&jal->faults_seen, seen, faults) != seen) {
		vfree(header); /* somebody else keeps them */
		return;
	}
	memcpy(header->magic, "JALFAULT", sizeof(header->magic));
	header->version = cpu_to_le32(1);
	header->record_bytes = cpu_to_le32(JALAPENO_HW_FAULT_RECORD_BYTES);
	header->faults = cpu_to_le64(faults);
	memcpy(header->uuid, jal->uuid, sizeof(header->uuid));
	strscpy(header->event, event, sizeof(header->event));
	dev_coredumpv(&jal->core.pdev->dev, header, sizeof(*header) + bytes, GFP_KERNEL);
	jal_announce(jal, "fault");
}
