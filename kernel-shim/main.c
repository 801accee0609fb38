// SPDX-License-Identifier: GPL-2.0-only
/* A vfio-pci variant driver for the Jalapeno accelerator: what is here a kernel alone can give. */
#include <linux/hwmon.h>
#include <linux/module.h>
#include <linux/pm_runtime.h>

#include "compat.h"
#include "shim.h"

static bool idle_d3;
module_param(idle_d3, bool, 0444);
MODULE_PARM_DESC(idle_d3, "Let an unowned card sleep in D3hot; its sensors then have no data");

static struct jal_device *jal_of(struct vfio_device *vdev)
{
	return container_of(vdev, struct jal_device, core.vdev);
}

static int jal_open_device(struct vfio_device *vdev)
{
	struct jal_device *jal = jal_of(vdev);
	int ret;

	ret = jal_scrub_take(jal);
	if (ret)
		return ret;
	WRITE_ONCE(jal->opener, current);
	ret = vfio_pci_core_enable(&jal->core);
	WRITE_ONCE(jal->opener, NULL);
	if (ret) {
		WRITE_ONCE(jal->hbm, JAL_HBM_CLEAN); /* nobody touched it */
		return ret;
	}
	vfio_pci_core_finish_enable(&jal->core);
	return 0;
}

/* The last close, also after kill -9: quiesce, let the core reset the card, scrub. */
static void jal_close_device(struct vfio_device *vdev)
{
	struct jal_device *jal = jal_of(vdev);

	jal_record(jal, "close");
	jal_quiesce(jal, true);
	jal_shut(jal, JAL_SHUT_CLOSE, true);
	vfio_pci_core_close_device(vdev);
	jal_shut(jal, JAL_SHUT_CLOSE, false);
	jal_record(jal, "close"); /* a link that recovered meanwhile found the card shut */
	jal_scrub_start(jal);
}

static const struct vfio_device_ops jal_vfio_ops = {
	.name = "jalapeno-vfio-pci",
	.init = vfio_pci_core_init_dev,
	.release = vfio_pci_core_release_dev,
	.open_device = jal_open_device,
	.close_device = jal_close_device,
	.ioctl = vfio_pci_core_ioctl,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = vfio_pci_core_read,
	.write = vfio_pci_core_write,
	.mmap = vfio_pci_core_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
	JAL_IOMMUFD_OPS
	JAL_TOKEN_OPS
	JAL_REGION_OPS
};

/* The core's memory_lock may be held here (VFIO_DEVICE_RESET), so it is never taken. */
static void jal_reset_prepare(struct pci_dev *pdev)
{
	struct jal_device *jal = pci_get_drvdata(pdev);

	jal_record(jal, "reset");
	jal_shut(jal, JAL_SHUT_RESET, true);
}

static void jal_reset_done(struct pci_dev *pdev)
{
	struct jal_device *jal = pci_get_drvdata(pdev);

	jal_shut(jal, JAL_SHUT_RESET, false);
	if (READ_ONCE(jal->opener) != current)
		jal_announce(jal, "reset");
	jal_scrub_retry(jal);
}

static pci_ers_result_t jal_error_detected(struct pci_dev *pdev,
					   pci_channel_state_t state)
{
	struct jal_device *jal = pci_get_drvdata(pdev);
	pci_ers_result_t result;

	if (state == pci_channel_io_normal)
		jal_record(jal, "aer");
	else
		jal_shut(jal, JAL_SHUT_ERROR, true);
	jal_announce(jal, "aer");
	result = vfio_pci_core_aer_err_detected(pdev, state);
	return state == pci_channel_io_frozen ? PCI_ERS_RESULT_NEED_RESET : result;
}

/* The link was reset, and config space is as after power-on: no BARs, no memory decoding. */
static pci_ers_result_t jal_slot_reset(struct pci_dev *pdev)
{
	struct jal_device *jal = pci_get_drvdata(pdev);

	if (pci_load_saved_state(pdev, jal->saved))
		return PCI_ERS_RESULT_DISCONNECT;
	pci_restore_state(pdev);
	return PCI_ERS_RESULT_RECOVERED;
}

static void jal_resume(struct pci_dev *pdev)
{
	struct jal_device *jal = pci_get_drvdata(pdev);

	jal_shut(jal, JAL_SHUT_ERROR, false);
	jal_record(jal, "recovered");
	jal_announce(jal, "recovered");
	/* An owner who let go while nobody could look left HBM as it was. */
	jal_scrub_retry(jal);
}

static const struct pci_error_handlers jal_error_handlers = {
	.error_detected = jal_error_detected,
	.slot_reset = jal_slot_reset,
	.resume = jal_resume,
	.reset_prepare = jal_reset_prepare,
	.reset_done = jal_reset_done,
};

static int jal_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	const struct resource *bar = &pdev->resource[JALAPENO_HW_BAR_REGISTERS];
	struct jal_device *jal;
	int ret;

	if (resource_type(bar) != IORESOURCE_MEM || resource_size(bar) < JALAPENO_HW_BAR0_BYTES)
		return dev_err_probe(&pdev->dev, -ENODEV, "BAR0 is too short: %pR\n", bar);
	jal = vfio_alloc_device(jal_device, core.vdev, &pdev->dev, &jal_vfio_ops);
	if (IS_ERR(jal))
		return PTR_ERR(jal);
	mutex_init(&jal->lock);
	jal_scrub_init(jal);
	pci_set_drvdata(pdev, jal);

	/* Held while bound, so that sensors find memory decoding enabled. */
	ret = pci_enable_device(pdev);
	if (ret)
		goto put;
	jal->bar = pci_iomap_range(pdev, JALAPENO_HW_BAR_REGISTERS, 0,
				   JALAPENO_HW_TELEMETRY_OFFSET + JALAPENO_HW_TELEMETRY_BYTES);
	if (!jal->bar) {
		ret = -ENOMEM;
		goto disable;
	}
	ret = jal_identify(jal);
	if (ret)
		goto unmap;
	pci_save_state(pdev);
	jal->saved = pci_store_saved_state(pdev);
	/* What failed before we came is nobody's first failure. */
	jal_measure(jal, JALAPENO_HW_TELEMETRY_FIELD_FAULTS, 0, &jal->faults_seen);
	/* Awake until its sensors are known, and for as long as it is bound unless idle_d3. */
	pm_runtime_get_noresume(&pdev->dev);
	ret = vfio_pci_core_register_device(&jal->core);
	if (ret)
		goto free;
	ret = jal_hwmon_register(jal);
	if (ret)
		goto unregister;
	/* Whoever had the card before is unknown. */
	jal_scrub_start(jal);
	if (idle_d3)
		pm_runtime_put(&pdev->dev);
	return 0;

unregister:
	vfio_pci_core_unregister_device(&jal->core);
free:
	pm_runtime_put_noidle(&pdev->dev);
	kfree(jal->saved);
unmap:
	pci_iounmap(pdev, jal->bar);
disable:
	pci_disable_device(pdev);
put:
	vfio_put_device(&jal->core.vdev);
	return ret;
}

static void jal_remove(struct pci_dev *pdev)
{
	struct jal_device *jal = pci_get_drvdata(pdev);

	/* Waits for the owner to let go; sensors go on meanwhile. */
	vfio_pci_core_unregister_device(&jal->core);
	flush_work(&jal->scrub);
	hwmon_device_unregister(jal->hwmon);
	if (!idle_d3)
		pm_runtime_put(&pdev->dev);
	pci_iounmap(pdev, jal->bar);
	kfree(jal->saved);
	pci_disable_device(pdev);
	vfio_put_device(&jal->core.vdev);
}

static const struct pci_device_id jal_ids[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(JALAPENO_HW_PCI_VENDOR, JALAPENO_HW_PCI_DEVICE) },
	{}
};
MODULE_DEVICE_TABLE(pci, jal_ids);

static struct pci_driver jal_driver = {
	.name = "jalapeno_vfio_pci",
	.id_table = jal_ids,
	.probe = jal_probe,
	.remove = jal_remove,
	.err_handler = &jal_error_handlers,
	.dev_groups = jal_groups,
	.driver_managed_dma = true,
};
module_pci_driver(jal_driver);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The Jalapeno host stack authors");
MODULE_DESCRIPTION("VFIO for the Jalapeno accelerator, with sensors and scrubbed HBM");
