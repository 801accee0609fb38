// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Two owners of one card, one after the other.
 *
 *   owner hold group|cdev BDF      fills a page of HBM, says HELD, waits to be killed
 *   owner look group|cdev BDF      says what that page holds: PATTERN, ZERO or OTHER
 */
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <jalapeno_hw.h>

#include "vfio.h"

#define PATTERN 0x5ec2e7edu

static volatile uint32_t *window(struct device *d)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = JALAPENO_HW_BAR_WINDOW };

	if (ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &info))
		give_up("window", "VFIO_DEVICE_GET_REGION_INFO");
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, (off_t)info.offset);

	if (page == MAP_FAILED)
		give_up("window", "mmap");
	return page;
}

int main(int argc, char **argv)
{
	struct device d = { 0 };
	unsigned int patterns = 0, zeros = 0;

	if (argc != 4) {
		fprintf(stderr, "usage: %s hold|look group|cdev BDF\n", argv[0]);
		return 2;
	}
	label = argv[3];
	open_device(&d, argv[2], argv[3]);
	volatile uint32_t *page = window(&d);
	if (strcmp(argv[1], "hold") == 0) {
		for (unsigned int i = 0; i < PAGE / 4; i++)
			page[i] = PATTERN;
		printf("HELD\n");
		fflush(stdout);
		for (;;)
			pause();
	}
	for (unsigned int i = 0; i < PAGE / 4; i++) {
		patterns += page[i] == PATTERN;
		zeros += page[i] == 0;
	}
	printf("%s\n", patterns == PAGE / 4 ? "PATTERN" : zeros == PAGE / 4 ? "ZERO" : "OTHER");
	return 0;
}
