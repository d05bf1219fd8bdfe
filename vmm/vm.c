// SPDX-License-Identifier: GPL-2.0
/* The VM itself: what the host must be able to do, memory, interrupt lines. */
#include "nestvm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#define DEFAULT_IPA_BITS	40
#define HUGE_PAGE		(2 * MIB)

bool vm_has(struct vm *vm, int capability)
{
	return IOCTL(vm->kvm, KVM_CHECK_EXTENSION, capability) > 0;
}

static void open_kvm(struct vm *vm)
{
	vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm >= 0)
		return;
	if (errno == ENOENT || errno == ENXIO || errno == ENODEV)
		die("no /dev/kvm: this needs a kernel with KVM that was booted at EL2");
	die_errno("/dev/kvm: be root or in its group");
}

static void check_host(struct vm *vm)
{
	const struct options *opt = vm->opt;
	unsigned long most = IOCTL(vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);

	if (opt->smp > most)
		die("--smp %lu: this host's KVM gives a VM %lu at most", opt->smp, most);
	if (opt->el2 != EL2_NONE && !vm_has(vm, KVM_CAP_ARM_EL2))
		die("--el2: this host gives no guest an EL2: boot it with kvm-arm.mode=nested, on a CPU with FEAT_NV2");
	if (opt->el2 == EL2_E2H0 && !vm_has(vm, KVM_CAP_ARM_EL2_E2H0))
		die("--el2=e2h0: this host has no KVM_CAP_ARM_EL2_E2H0: take --el2, "
		    "or a kernel that has it, on a CPU where HCR_EL2.NV1 works");
}

enum slot { SLOT_RAM, SLOT_FLASH };

static void *add_memory(struct vm *vm, enum slot slot, uint64_t start, uint64_t size, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = start,
		.memory_size = size,
	};
	char *map;

	/* Aligned, so that huge pages can back it; KSM may merge it. Not every kernel has them. */
	map = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		die_errno("no room for %lu MiB at 0x%lx: give less --mem", size / MIB, start);
	map += -(uintptr_t)map % HUGE_PAGE;
	madvise(map, size, MADV_HUGEPAGE);
	madvise(map, size, MADV_MERGEABLE);
	region.userspace_addr = (uintptr_t)map;
	IOCTL(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
	return map;
}

/* What the guest writes there is dropped. */
void *vm_add_flash(struct vm *vm)
{
	return add_memory(vm, SLOT_FLASH, FLASH_BASE, FLASH_SIZE, KVM_MEM_READONLY);
}

void vm_create(struct vm *vm)
{
	unsigned long bits;

	open_kvm(vm);
	check_host(vm);
	bits = IOCTL(vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE);
	if (!bits || bits > DEFAULT_IPA_BITS)
		bits = DEFAULT_IPA_BITS;
	if (RAM_BASE + vm->opt->mem > 1UL << bits)
		die("--mem %lu: this host's guests have %lu bits of physical address: give less",
		    vm->opt->mem / MIB, bits);
	vm->fd = IOCTL(vm->kvm, KVM_CREATE_VM, bits == DEFAULT_IPA_BITS ? 0 : bits);
	vm->ram = add_memory(vm, SLOT_RAM, RAM_BASE, vm->opt->mem, 0);
}

void vm_set_irq(struct vm *vm, unsigned int spi, bool level)
{
	struct kvm_irq_level irq = {
		.irq = KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | SPI_INTID(spi),
		.level = level,
	};

	IOCTL(vm->fd, KVM_IRQ_LINE, &irq);
}

/* Where a piece of guest memory is; NULL if it is not all RAM. */
void *guest_memory(struct vm *vm, uint64_t address, uint64_t size)
{
	uint64_t offset = address - RAM_BASE;

	if (address < RAM_BASE || offset > vm->opt->mem || size > vm->opt->mem - offset)
		return NULL;
	return (char *)vm->ram + offset;
}
