// SPDX-License-Identifier: GPL-2.0
/* KVM's GICv3 with its ITS. */
#include "nestvm.h"

#include <errno.h>

#define NR_IRQS		96	/* SGIs, PPIs and 64 SPIs */

void set_attr(int fd, uint32_t group, uint64_t attr, const void *value, const char *name)
{
	struct kvm_device_attr device_attr = { .group = group, .attr = attr, .addr = (uintptr_t)value };

	if (ioctl(fd, KVM_SET_DEVICE_ATTR, &device_attr))
		die_errno("ioctl KVM_SET_DEVICE_ATTR %s", name);
}

#define SET_ATTR(fd, group, attr, value) set_attr(fd, KVM_DEV_ARM_VGIC_GRP_##group, attr, value, #group)

static int create_device(struct vm *vm, uint32_t type, const char *name)
{
	struct kvm_create_device device = { .type = type };

	if (!ioctl(vm->fd, KVM_CREATE_DEVICE, &device))
		return device.fd;
	if (errno == ENODEV)
		die("this host's KVM has no %s: it takes a machine with a GICv3 (in QEMU, gic-version=3)", name);
	die_errno("ioctl KVM_CREATE_DEVICE %s", name);
}

/* KVM signals events of the virtual interface to the guest hypervisor with this PPI. */
static void set_maintenance_irq(int fd)
{
	uint32_t intid = PPI_INTID(MAINT_PPI);
	struct kvm_device_attr attr = { .group = KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ };

	if (ioctl(fd, KVM_HAS_DEVICE_ATTR, &attr))
		die("--el2: this host's vGIC has no KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ: boot a kernel that has it");
	SET_ATTR(fd, MAINT_IRQ, 0, &intid);
}

static void create_its(struct vm *vm)
{
	uint64_t base = GITS_BASE;
	int fd = create_device(vm, KVM_DEV_TYPE_ARM_VGIC_ITS, "ITS");

	SET_ATTR(fd, ADDR, KVM_VGIC_ITS_ADDR_TYPE, &base);
	SET_ATTR(fd, CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);
}

void gic_create(struct vm *vm)
{
	uint64_t distributor = GICD_BASE, redistributors = GICR_BASE;
	uint32_t nr_irqs = NR_IRQS;
	int fd = create_device(vm, KVM_DEV_TYPE_ARM_VGIC_V3, "GICv3");

	if (vm->opt->el2 != EL2_NONE)
		set_maintenance_irq(fd);
	SET_ATTR(fd, NR_IRQS, 0, &nr_irqs);
	SET_ATTR(fd, ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &distributor);
	SET_ATTR(fd, ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, &redistributors);
	SET_ATTR(fd, CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);
	create_its(vm);
}
