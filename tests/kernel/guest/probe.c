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
#include <fcntl.h>
#include <glob.h>
#include <libgen.h>
#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define IOVA 0x10000000ull
#define EDU_ID 0x11e81234u

static const char *label;
static int failures;

static void verdict(const char *name, bool good, const char *format, ...)
{
	va_list args;

	printf("CASE %s/%s %s ", label, name, good ? "pass" : "fail");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	failures += !good;
}

static void give_up(const char *name, const char *what)
{
	verdict(name, false, "%s: %s", what, strerror(errno));
	exit(1);
}

struct device {
	int fd;
	int iommu; /* the container, or iommufd */
	uint32_t ioas;
	bool cdev;
	uint64_t config; /* offset of config space in fd */
	uint64_t bar0;
	uint64_t bar0_size;
	uint32_t id;
};

static void open_by_group(struct device *d, const char *bdf)
{
	char path[128], link[256];
	struct vfio_group_status status = { .argsz = sizeof(status) };
	ssize_t length;
	int group;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", bdf);
	length = readlink(path, link, sizeof(link) - 1);
	if (length < 0)
		give_up("open", path);
	link[length] = 0;
	d->iommu = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (d->iommu < 0)
		give_up("open", "/dev/vfio/vfio");
	if (ioctl(d->iommu, VFIO_GET_API_VERSION) != VFIO_API_VERSION ||
	    ioctl(d->iommu, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) != 1)
		give_up("open", "no type1v2");
	snprintf(path, sizeof(path), "/dev/vfio/%s", basename(link));
	group = open(path, O_RDWR | O_CLOEXEC);
	if (group < 0)
		give_up("open", path);
	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status) || !(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		give_up("open", "group is not viable");
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &d->iommu))
		give_up("open", "VFIO_GROUP_SET_CONTAINER");
	if (ioctl(d->iommu, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		give_up("open", "VFIO_SET_IOMMU");
	d->fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf);
	if (d->fd < 0)
		give_up("open", "VFIO_GROUP_GET_DEVICE_FD");
}

static void open_by_cdev(struct device *d, const char *bdf)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	char path[256];
	glob_t found;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev/vfio*", bdf);
	if (glob(path, 0, NULL, &found) || found.gl_pathc != 1)
		give_up("open", path);
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", basename(found.gl_pathv[0]));
	d->fd = open(path, O_RDWR | O_CLOEXEC);
	if (d->fd < 0)
		give_up("open", path);
	d->iommu = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (d->iommu < 0)
		give_up("open", "/dev/iommu");
	bind.iommufd = d->iommu;
	if (ioctl(d->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		give_up("open", "VFIO_DEVICE_BIND_IOMMUFD");
	if (ioctl(d->iommu, IOMMU_IOAS_ALLOC, &alloc))
		give_up("open", "IOMMU_IOAS_ALLOC");
	d->ioas = alloc.out_ioas_id;
	attach.pt_id = d->ioas;
	if (ioctl(d->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		give_up("open", "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	d->cdev = true;
}

static int map(struct device *d, void *memory, uint64_t iova, bool writable)
{
	if (d->cdev) {
		struct iommu_ioas_map request = {
			.size = sizeof(request),
			.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
				 (writable ? IOMMU_IOAS_MAP_WRITEABLE : 0),
			.ioas_id = d->ioas,
			.user_va = (uintptr_t)memory,
			.length = PAGE,
			.iova = iova,
		};
		return ioctl(d->iommu, IOMMU_IOAS_MAP, &request);
	}
	struct vfio_iommu_type1_dma_map request = {
		.argsz = sizeof(request),
		.flags = VFIO_DMA_MAP_FLAG_READ | (writable ? VFIO_DMA_MAP_FLAG_WRITE : 0),
		.vaddr = (uintptr_t)memory,
		.iova = iova,
		.size = PAGE,
	};
	return ioctl(d->iommu, VFIO_IOMMU_MAP_DMA, &request);
}

static int unmap(struct device *d, uint64_t iova)
{
	if (d->cdev) {
		struct iommu_ioas_unmap request = {
			.size = sizeof(request), .ioas_id = d->ioas, .iova = iova, .length = PAGE
		};
		return ioctl(d->iommu, IOMMU_IOAS_UNMAP, &request);
	}
	struct vfio_iommu_type1_dma_unmap request = { .argsz = sizeof(request), .iova = iova, .size = PAGE };
	return ioctl(d->iommu, VFIO_IOMMU_UNMAP_DMA, &request);
}

static void describe(struct device *d)
{
	struct vfio_region_info region = { .argsz = sizeof(region), .index = VFIO_PCI_CONFIG_REGION_INDEX };
	uint16_t command = 0;

	if (ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &region))
		give_up("config", "VFIO_DEVICE_GET_REGION_INFO");
	d->config = region.offset;
	if (pread(d->fd, &d->id, 4, (off_t)d->config) != 4)
		give_up("config", "read");
	if (pread(d->fd, &command, 2, (off_t)d->config + PCI_COMMAND) != 2)
		give_up("config", "read");
	command |= PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY;
	if (pwrite(d->fd, &command, 2, (off_t)d->config + PCI_COMMAND) != 2)
		give_up("config", "write");
	verdict("config", d->id != 0 && d->id != UINT32_MAX, "%04x:%04x, %llu bytes", d->id & 0xffff, d->id >> 16,
		(unsigned long long)region.size);

	region = (struct vfio_region_info){ .argsz = sizeof(region), .index = VFIO_PCI_BAR0_REGION_INDEX };
	if (ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &region))
		give_up("bar", "VFIO_DEVICE_GET_REGION_INFO");
	d->bar0 = region.offset;
	d->bar0_size = region.size;
}

static volatile uint32_t *map_bar(struct device *d)
{
	void *bar = mmap(NULL, d->bar0_size, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, (off_t)d->bar0);

	if (bar == MAP_FAILED)
		give_up("bar", "mmap");
	return bar;
}

static void sleep_ms(long ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

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

/* Gives the first vector of an interrupt type to an eventfd, waits for `fire` to reach it. */
static void interrupt(struct device *d, uint32_t index, const char *name, volatile uint32_t *edu)
{
	char space[sizeof(struct vfio_irq_set) + sizeof(int32_t)] = { 0 };
	struct vfio_irq_set *set = (struct vfio_irq_set *)space;
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = index };
	int event = eventfd(0, EFD_CLOEXEC);
	struct pollfd wait = { .fd = event, .events = POLLIN };
	uint64_t count = 0;

	if (event < 0 || ioctl(d->fd, VFIO_DEVICE_GET_IRQ_INFO, &info))
		give_up(name, "VFIO_DEVICE_GET_IRQ_INFO");
	if (!info.count) {
		printf("CASE %s/%s skip the device has no such interrupt\n", label, name);
		return;
	}
	*set = (struct vfio_irq_set){ .argsz = sizeof(space),
				      .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
				      .index = index,
				      .count = 1 };
	memcpy(set->data, &event, sizeof(int32_t));
	if (ioctl(d->fd, VFIO_DEVICE_SET_IRQS, set))
		give_up(name, "VFIO_DEVICE_SET_IRQS");
	if (edu) {
		edu[0x60 / 4] = 1;
	} else { /* the kernel's own loop-back of the vector */
		*set = (struct vfio_irq_set){ .argsz = sizeof(*set),
					      .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
					      .index = index,
					      .count = 1 };
		if (ioctl(d->fd, VFIO_DEVICE_SET_IRQS, set))
			give_up(name, "loop-back");
	}
	bool came = poll(&wait, 1, 2000) == 1 && read(event, &count, sizeof(count)) == sizeof(count);
	if (edu)
		edu[0x64 / 4] = 1;
	verdict(name, came && count == 1, "%u vectors, %llu interrupt(s) by %s", info.count, (unsigned long long)count,
		edu ? "the device" : "loop-back");
	*set = (struct vfio_irq_set){ .argsz = sizeof(*set),
				      .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
				      .index = index };
	ioctl(d->fd, VFIO_DEVICE_SET_IRQS, set);
	close(event);
}

int main(int argc, char **argv)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct device d = { 0 };

	if (argc != 4) {
		fprintf(stderr, "usage: %s group|cdev BDF LABEL\n", argv[0]);
		return 2;
	}
	label = argv[3];
	if (strcmp(argv[1], "cdev") == 0)
		open_by_cdev(&d, argv[2]);
	else
		open_by_group(&d, argv[2]);
	if (ioctl(d.fd, VFIO_DEVICE_GET_INFO, &info))
		give_up("open", "VFIO_DEVICE_GET_INFO");
	verdict("open", info.flags & VFIO_DEVICE_FLAGS_PCI, "by %s, %u regions, %u interrupt types", argv[1],
		info.num_regions, info.num_irqs);
	describe(&d);

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
	if (info.flags & VFIO_DEVICE_FLAGS_RESET)
		verdict("reset", ioctl(d.fd, VFIO_DEVICE_RESET) == 0, "%s", "VFIO_DEVICE_RESET");
	else
		verdict("reset", ioctl(d.fd, VFIO_DEVICE_RESET) != 0 && errno == EINVAL, "%s",
			"the device offers none, and asking gives EINVAL");
	return failures != 0;
}
