// SPDX-License-Identifier: MIT OR Apache-2.0
/* VFIO by hand, without the library, so that the harness does not rest on what it tests. */
#ifndef GUEST_VFIO_H
#define GUEST_VFIO_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE 4096u

extern const char *label;
extern int failures;

struct device {
	int fd;
	int iommu; /* the container, or iommufd */
	uint32_t ioas;
	bool cdev;
	uint64_t config; /* offset of config space in fd */
	uint64_t bar0;
	uint64_t bar0_size;
	uint32_t id;
	bool resets;
};

/* Prints a CASE line; give_up prints a failed one with errno and exits. */
__attribute__((format(printf, 3, 4))) void verdict(const char *name, bool good, const char *format, ...);
_Noreturn void give_up(const char *name, const char *what);

/* Opens by "group" or "cdev", says so, reads config space, lets the device master the bus. */
void open_device(struct device *d, const char *way, const char *bdf);

/* One page; 0 or an errno in errno. */
int map(struct device *d, void *memory, uint64_t iova, bool writable);
int unmap(struct device *d, uint64_t iova);

volatile uint32_t *map_bar(struct device *d);

/* Gives vector `first` of an interrupt type to an eventfd; negative without it. */
int take_vector(struct device *d, uint32_t index, uint32_t first);
/* Lets the kernel signal that vector itself. */
int loop_back(struct device *d, uint32_t index, uint32_t first);
void disable_vectors(struct device *d, uint32_t index);
uint32_t vectors(struct device *d, uint32_t index);
/* What the eventfd counted within two seconds; 0: nothing came. */
uint64_t count_of(int event);

void sleep_ms(long ms);

#endif
