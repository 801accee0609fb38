// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The harness's own proof: a stock device of QEMU, held by vfio-pci, used from user space.
 *
 *   probe group|cdev BDF LABEL
 *
 * It shows that kernel, IOMMU, interrupts and binding work on this leg before any card of ours
 * is in question. It knows QEMU's "edu" device (DMA and MSI) and takes others as they are.
 */
#include <errno.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "vfio.h"

#define IOVA 0x10000000ull
#define EDU_ID 0x11e81234u

/* Lets edu copy PAGE bytes between its own buffer and an IOVA; false when it does not end. */
static bool edu_copy(volatile uint32_t *bar, uint64_t iova, bool to_memory, bool interrupt)
{
	const uint64_t buffer = 0x40000;
	const uint64_t from = to_memory ? buffer : iova, to = to_memory ? iova : buffer;

	bar[0x80 / 4] = (uint32_t)from;
	bar[0x84 / 4] = (uint32_t)(from >> 32);
	bar[0x88 / 4] = (uint32_t)to;
	bar[0x8c / 4] = (uint32_t)(to >> 32);
	bar[0x90 / 4] = PAGE;
	bar[0x98 / 4] = 1u | (to_memory ? 2u : 0) | (interrupt ? 4u : 0);
	for (int i = 0; i < 300; i++) {
		if (!(bar[0x98 / 4] & 1))
			return true;
		sleep_ms(10);
	}
	return false;
}

static bool all(const uint8_t *bytes, uint8_t value)
{
	for (unsigned int i = 0; i < PAGE; i++)
		if (bytes[i] != value)
			return false;
	return true;
}

static uint8_t *page_of(uint8_t value)
{
	uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_SHARED, -1, 0);

	if (page == MAP_FAILED)
		give_up("dma", "mmap");
	return memset(page, value, PAGE);
}

static void edu_dma(struct device *d, volatile uint32_t *bar)
{
	uint8_t *source = page_of(0xa5), *target = page_of(0x11);

	if (map(d, source, IOVA, false) || map(d, target, IOVA + PAGE, true))
		give_up("dma", "map");
	bool ended = edu_copy(bar, IOVA, false, false) && edu_copy(bar, IOVA + PAGE, true, false);
	verdict("dma", ended && all(target, 0xa5), "a page went to the device and came back");

	memset(source, 0x5a, PAGE);
	ended = edu_copy(bar, IOVA, true, false);
	verdict("dma-read-only", ended && all(source, 0x5a), "a write through a read-only map changed nothing");

	memset(target, 0x22, PAGE);
	if (unmap(d, IOVA + PAGE) || unmap(d, IOVA))
		give_up("dma", "unmap");
	ended = edu_copy(bar, IOVA + PAGE, true, false);
	verdict("dma-unmapped", ended && all(target, 0x22), "a write after the unmap changed nothing");
}

/* The device's first vector reaches an eventfd, once. */
static void interrupt(struct device *d, uint32_t index, const char *name, volatile uint32_t *edu)
{
	const uint32_t count = vectors(d, index);
	int event = take_vector(d, index, 0);

	if (event < 0)
		give_up(name, "VFIO_DEVICE_SET_IRQS");
	if (edu)
		edu[0x60 / 4] = 1;
	else if (loop_back(d, index, 0))
		give_up(name, "loop-back");
	uint64_t came = count_of(event);
	if (edu)
		edu[0x64 / 4] = 1;
	verdict(name, came == 1, "%u vectors, %llu interrupt(s) by %s", count, (unsigned long long)came,
		edu ? "the device" : "loop-back");
	disable_vectors(d, index);
}

int main(int argc, char **argv)
{
	struct device d = { 0 };

	if (argc != 4) {
		fprintf(stderr, "usage: %s group|cdev BDF LABEL\n", argv[0]);
		return 2;
	}
	label = argv[3];
	open_device(&d, argv[1], argv[2]);

	volatile uint32_t *bar = map_bar(&d);
	const bool edu = d.id == EDU_ID;
	if (edu) {
		bar[1] = 0x12345678;
		verdict("bar", bar[0] == 0x010000edu && bar[1] == ~0x12345678u, "%llu bytes, id %#x, liveness %#x",
			(unsigned long long)d.bar0_size, bar[0], bar[1]);
		edu_dma(&d, bar);
		interrupt(&d, VFIO_PCI_MSI_IRQ_INDEX, "msi", bar);
	} else {
		verdict("bar", bar[2] != UINT32_MAX, "%llu bytes, word 2 is %#x", (unsigned long long)d.bar0_size, bar[2]);
		interrupt(&d, VFIO_PCI_MSIX_IRQ_INDEX, "msix", NULL);
	}
	if (d.resets)
		verdict("reset", ioctl(d.fd, VFIO_DEVICE_RESET) == 0, "%s", "VFIO_DEVICE_RESET");
	else
		verdict("reset", ioctl(d.fd, VFIO_DEVICE_RESET) != 0 && errno == EINVAL, "%s",
			"the device offers none, and asking gives EINVAL");
	return failures != 0;
}
