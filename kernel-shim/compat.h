/* SPDX-License-Identifier: GPL-2.0-only */
/* What differs between the kernels 6.1, 6.12 and 7.3; nothing else asks for a version. */
#ifndef JALAPENO_COMPAT_H
#define JALAPENO_COMPAT_H

#include <linux/sysfs.h>
#include <linux/version.h>
#include <linux/vfio_pci_core.h>

/*
 * Members of vfio_device_ops that a kernel may lack. Leaving out one that it
 * has compiles, and oopses (match_token_uuid) or refuses every region
 * (get_region_info_caps) at run time.
 */
#if KERNEL_VERSION(6, 6, 0) <= LINUX_VERSION_CODE
#define JAL_IOMMUFD_OPS \
	.bind_iommufd = vfio_iommufd_physical_bind, \
	.unbind_iommufd = vfio_iommufd_physical_unbind, \
	.attach_ioas = vfio_iommufd_physical_attach_ioas, \
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
#else
#define JAL_IOMMUFD_OPS
#endif

#if KERNEL_VERSION(6, 17, 0) <= LINUX_VERSION_CODE
#define JAL_TOKEN_OPS .match_token_uuid = vfio_pci_core_match_token_uuid,
#define JAL_CONST_BIN const /* what binary attributes became */
#else
#define JAL_TOKEN_OPS
#define JAL_CONST_BIN
#endif

#if KERNEL_VERSION(6, 19, 0) <= LINUX_VERSION_CODE
#define JAL_REGION_OPS .get_region_info_caps = vfio_pci_ioctl_get_region_info,
#else
#define JAL_REGION_OPS
#endif

#endif
