// SPDX-License-Identifier: MIT OR Apache-2.0
/* VFIO by group and by device node, as far as the probes need it. */
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

#include "vfio.h"

const char *label;
int failures;

void verdict(const char *name, bool good, const char *format, ...)
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

void give_up(const char *name, const char *what)
{
	verdict(name, false, "%s: %s", what, strerror(errno));
	exit(1);
}

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

int map(struct device *d, void *memory, uint64_t iova, bool writable)
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

int unmap(struct device *d, uint64_t iova)
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

volatile uint32_t *map_bar(struct device *d)
{
	void *bar = mmap(NULL, d->bar0_size, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, (off_t)d->bar0);

	if (bar == MAP_FAILED)
		give_up("bar", "mmap");
	return bar;
}

void sleep_ms(long ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

void open_device(struct device *d, const char *way, const char *bdf)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };

	if (strcmp(way, "cdev") == 0)
		open_by_cdev(d, bdf);
	else
		open_by_group(d, bdf);
	if (ioctl(d->fd, VFIO_DEVICE_GET_INFO, &info))
		give_up("open", "VFIO_DEVICE_GET_INFO");
	d->resets = info.flags & VFIO_DEVICE_FLAGS_RESET;
	verdict("open", info.flags & VFIO_DEVICE_FLAGS_PCI, "by %s, %u regions, %u interrupt types", way,
		info.num_regions, info.num_irqs);
	describe(d);
}

uint32_t vectors(struct device *d, uint32_t index)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(d->fd, VFIO_DEVICE_GET_IRQ_INFO, &info))
		give_up("vectors", "VFIO_DEVICE_GET_IRQ_INFO");
	return info.count;
}

int take_vector(struct device *d, uint32_t index, uint32_t first)
{
	char space[sizeof(struct vfio_irq_set) + sizeof(int32_t)] = { 0 };
	struct vfio_irq_set *set = (struct vfio_irq_set *)space;
	int event = eventfd(0, EFD_CLOEXEC);

	if (event < 0)
		return -1;
	*set = (struct vfio_irq_set){ .argsz = sizeof(space),
				      .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
				      .index = index,
				      .start = first,
				      .count = 1 };
	memcpy(set->data, &event, sizeof(int32_t));
	if (ioctl(d->fd, VFIO_DEVICE_SET_IRQS, set) == 0)
		return event;
	const int why = errno;

	close(event);
	errno = why;
	return -1;
}

int loop_back(struct device *d, uint32_t index, uint32_t first)
{
	struct vfio_irq_set set = { .argsz = sizeof(set),
				    .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
				    .index = index,
				    .start = first,
				    .count = 1 };

	return ioctl(d->fd, VFIO_DEVICE_SET_IRQS, &set);
}

void disable_vectors(struct device *d, uint32_t index)
{
	struct vfio_irq_set set = { .argsz = sizeof(set),
				    .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
				    .index = index };

	if (ioctl(d->fd, VFIO_DEVICE_SET_IRQS, &set))
		give_up("vectors", "disable");
}

uint64_t count_of(int event)
{
	struct pollfd wait = { .fd = event, .events = POLLIN };
	uint64_t count = 0;

	if (poll(&wait, 1, 2000) != 1 || read(event, &count, sizeof(count)) != sizeof(count))
		return 0;
	return count;
}
