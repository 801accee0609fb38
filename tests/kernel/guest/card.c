// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A card as the kernel shows it: config space, BARs, shared pages, vectors, reset.
 *
 *   card group|cdev BDF LABEL KERNEL
 *
 * No job is run here; that is the stories' part. Host interface 2 and 3.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <jalapeno_hw.h>

#include "vfio.h"

#define CONFIG_BYTES 4096
#define AREAS 8

struct bar {
	uint64_t offset, size, flags;
	unsigned int areas;
	struct vfio_region_sparse_mmap_area area[AREAS];
};

static uint8_t config[CONFIG_BYTES];

static uint32_t config32(unsigned int at)
{
	uint32_t value;

	memcpy(&value, config + at, sizeof(value));
	return value;
}

static unsigned int capability(uint8_t id)
{
	unsigned int at = config[PCI_CAPABILITY_LIST] & ~3u;

	for (int steps = 0; at >= 0x40 && at < 256 && steps < 48; steps++, at = config[at + 1] & ~3u)
		if (config[at] == id)
			return at;
	return 0;
}

static unsigned int extended(uint16_t id)
{
	unsigned int at = 256;

	for (int steps = 0; at >= 256 && at < CONFIG_BYTES && steps < 480; steps++, at = config32(at) >> 20)
		if ((config32(at) & 0xffff) == id)
			return at;
	return 0;
}

static void check_config(struct device *d)
{
	static const struct {
		uint8_t id;
		const char *name;
	} wanted[] = { { PCI_CAP_ID_PM, "cap-power" }, { PCI_CAP_ID_MSIX, "cap-msix" }, { PCI_CAP_ID_EXP, "cap-pcie" } };

	ssize_t got = pread(d->fd, config, CONFIG_BYTES, (off_t)d->config);
	verdict("config-space", got == CONFIG_BYTES, "%zd bytes", got);
	verdict("identity", d->id == (JALAPENO_HW_PCI_DEVICE << 16 | JALAPENO_HW_PCI_VENDOR), "%04x:%04x class %06x revision %02x",
		d->id & 0xffff, d->id >> 16, config32(PCI_CLASS_REVISION) >> 8, config[PCI_CLASS_REVISION]);
	for (unsigned int i = 0; i < sizeof(wanted) / sizeof(*wanted); i++)
		verdict(wanted[i].name, capability(wanted[i].id), "at %#x", capability(wanted[i].id));
	const unsigned int express = capability(PCI_CAP_ID_EXP);
	verdict("cap-flr", express && config32(express + PCI_EXP_DEVCAP) & PCI_EXP_DEVCAP_FLR, "function level reset");
	verdict("ext-aer", extended(PCI_EXT_CAP_ID_ERR), "at %#x", extended(PCI_EXT_CAP_ID_ERR));
	verdict("ext-serial", extended(PCI_EXT_CAP_ID_DSN), "at %#x", extended(PCI_EXT_CAP_ID_DSN));
}

static struct bar region(struct device *d, uint32_t index)
{
	struct bar bar = { 0 };
	struct vfio_region_info probe = { .argsz = sizeof(probe), .index = index };

	if (ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &probe))
		give_up("region", "VFIO_DEVICE_GET_REGION_INFO");
	bar.offset = probe.offset;
	bar.size = probe.size;
	bar.flags = probe.flags;
	if (!(probe.flags & VFIO_REGION_INFO_FLAG_CAPS))
		return bar;
	struct vfio_region_info *info = calloc(1, probe.argsz);

	if (!info)
		give_up("region", "calloc");
	*info = (struct vfio_region_info){ .argsz = probe.argsz, .index = index };
	if (ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, info))
		give_up("region", "VFIO_DEVICE_GET_REGION_INFO");
	for (uint32_t at = info->cap_offset; at;) {
		const struct vfio_info_cap_header *header = (void *)((char *)info + at);

		if (header->id == VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
			const struct vfio_region_info_cap_sparse_mmap *sparse = (const void *)header;

			for (; bar.areas < sparse->nr_areas && bar.areas < AREAS; bar.areas++)
				bar.area[bar.areas] = sparse->areas[bar.areas];
		}
		at = header->next;
	}
	free(info);
	return bar;
}

static uint32_t relayed(struct device *d, const struct bar *bar, uint64_t at)
{
	uint32_t value = 0;

	if (pread(d->fd, &value, sizeof(value), (off_t)(bar->offset + at)) != sizeof(value))
		give_up("relay", "pread of a BAR");
	return value;
}

static volatile uint32_t *page_at(struct device *d, const struct bar *bar, uint64_t at)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, (off_t)(bar->offset + at));

	if (page == MAP_FAILED)
		give_up("map", "mmap of a BAR page");
	return page;
}

static double per_read(volatile uint32_t *page, struct device *d, const struct bar *bar, int count)
{
	struct timespec start, end;
	uint32_t sum = 0;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int i = 0; i < count; i++)
		sum += page ? page[0] : relayed(d, bar, JALAPENO_HW_REG_MAGIC);
	clock_gettime(CLOCK_MONOTONIC, &end);
	(void)sum;
	return ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) / count;
}

/* A store through the mapping and a load through the kernel meet on one page. */
static void shared(struct device *d, const struct bar *bar, uint64_t at, const char *name)
{
	volatile uint32_t *page = page_at(d, bar, at);
	const uint32_t before = page[0];

	page[0] = 0x1234abcd;
	__sync_synchronize();
	const uint32_t seen = relayed(d, bar, at);
	verdict(name, page[0] == 0x1234abcd && seen == 0x1234abcd, "stored 0x1234abcd, relayed read %#x", seen);
	page[0] = before;
	munmap((void *)page, PAGE);
}

static void check_bars(struct device *d)
{
	const struct bar registers = region(d, JALAPENO_HW_BAR_REGISTERS);
	const struct bar doorbells = region(d, JALAPENO_HW_BAR_DOORBELLS);
	const struct bar window = region(d, JALAPENO_HW_BAR_WINDOW);

	verdict("bar0", registers.size == JALAPENO_HW_BAR0_BYTES, "%llu bytes, %u mappable areas",
		(unsigned long long)registers.size, registers.areas);
	verdict("bar2", doorbells.size >= PAGE && !(doorbells.size & (doorbells.size - 1)), "%llu bytes",
		(unsigned long long)doorbells.size);
	verdict("bar4", window.size >= PAGE && !(window.size & (window.size - 1)), "%llu bytes",
		(unsigned long long)window.size);
	verdict("magic", relayed(d, &registers, JALAPENO_HW_REG_MAGIC) == JALAPENO_HW_MAGIC, "%#x",
		relayed(d, &registers, JALAPENO_HW_REG_MAGIC));

	volatile uint32_t *telemetry = page_at(d, &registers, JALAPENO_HW_TELEMETRY_OFFSET);
	const uint32_t first = telemetry[2];
	for (int i = 0; i < 100 && telemetry[2] == first; i++)
		sleep_ms(10);
	verdict("telemetry", telemetry[0] == JALAPENO_HW_TELEMETRY_MAGIC && telemetry[2] != first,
		"mapped page, sequence went from %u to %u", first, telemetry[2]);
	/* Queue 0 does not exist yet, so its doorbell page is ordinary memory. */
	shared(d, &doorbells, 0, "doorbell-shared");
	shared(d, &window, 0, "window-shared");

	volatile uint32_t *doorbell = page_at(d, &doorbells, 0);
	const double mapped = per_read(doorbell, d, NULL, 10000), trapped = per_read(NULL, d, &registers, 200);
	verdict("doorbell-not-trapped", mapped * 10 < trapped, "%.0f ns a mapped load, %.0f ns a relayed one", mapped,
		trapped);
}

static void check_vectors(struct device *d, const char *kernel)
{
	const uint32_t index = VFIO_PCI_MSIX_IRQ_INDEX, count = vectors(d, index);
	const bool one_by_one = strcmp(kernel, "6.1") != 0;
	int first, second;

	verdict("vectors", count >= 2, "%u", count);
	first = take_vector(d, index, 0);
	if (first < 0)
		give_up("vector-0", "VFIO_DEVICE_SET_IRQS");
	loop_back(d, index, 0);
	verdict("vector-0", count_of(first) == 1, "by loop-back");
	second = take_vector(d, index, 1);
	if (!one_by_one) {
		verdict("vector-added", second < 0 && errno == EINVAL, "%s refuses it with EINVAL", kernel);
	} else {
		verdict("vector-added", second >= 0 && loop_back(d, index, 1) == 0 && count_of(second) == 1,
			"vector 1 added while vector 0 was in use");
	}
	disable_vectors(d, index);
}

static void check_reset(struct device *d)
{
	const struct bar registers = region(d, JALAPENO_HW_BAR_REGISTERS);
	const uint32_t before = relayed(d, &registers, JALAPENO_HW_REG_GENERATION);
	struct timespec start, end;

	clock_gettime(CLOCK_MONOTONIC, &start);
	const int ret = ioctl(d->fd, VFIO_DEVICE_RESET);
	clock_gettime(CLOCK_MONOTONIC, &end);
	const uint32_t after = relayed(d, &registers, JALAPENO_HW_REG_GENERATION);
	verdict("reset", ret == 0 && after == before + 1, "generation went from %u to %u in %ld ms", before, after,
		(end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000);
}

int main(int argc, char **argv)
{
	struct device d = { 0 };

	if (argc != 5) {
		fprintf(stderr, "usage: %s group|cdev BDF LABEL KERNEL\n", argv[0]);
		return 2;
	}
	label = argv[3];
	open_device(&d, argv[1], argv[2]);
	check_config(&d);
	check_bars(&d);
	check_vectors(&d, argv[4]);
	check_reset(&d);
	return failures != 0;
}
