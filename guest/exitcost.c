// SPDX-License-Identifier: GPL-2.0
/*
 * exitcost - what an exit of a KVM guest costs.
 *
 * Runs a few instructions of guest code straight on /dev/kvm and prints, for
 * each kind of exit, counter ticks per operation as the guest sees them. Under
 * QEMU's "-icount shift=0" with a 1 GHz counter a tick is an instruction.
 *
 * Output: one line "<operation> <ticks>" each; exit status 1 and a line on
 * stderr when a system call fails. With the name of an operation as argument:
 * that operation until killed, and no output.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define CODE_BASE	0x40000000UL
#define CODE_SIZE	0x10000UL
#define GICD_BASE	0x08000000UL
#define GICR_BASE	0x080a0000UL
#define MMIO_BASE	0x0a000000UL	/* nobody there: exits to us */
#define RESULT		(MMIO_BASE + 8)	/* the guest stores its ticks here */

#define ROUNDS	5
#define SHORT	64
#define LONG	320

/*
 * The guest: x0 = operation, x1 = iterations, x2 = its argument. Stores the
 * ticks that the loop took to RESULT, which ends the run.
 */
extern const char guest_start[];
extern const uint64_t guest_size;
asm(
"	.pushsection .rodata\n"
"	.balign	4\n"
"	.globl	guest_start, guest_size\n"
"guest_start:\n"
"	mov	x9, x0\n"
"	mov	x10, x1\n"
"	mov	x11, x2\n"
"	isb\n"
"	mrs	x12, cntvct_el0\n"
"1:	cbnz	x9, 2f\n"
"	movz	x0, #0xc600, lsl #16\n"	/* no such hypercall */
"	movk	x0, #0xbad\n"
"	hvc	#0\n"
"	b	3f\n"
"2:	ldr	w3, [x11]\n"
"3:	subs	x10, x10, #1\n"
"	b.ne	1b\n"
"	isb\n"
"	mrs	x13, cntvct_el0\n"
"	sub	x13, x13, x12\n"
"	movz	x4, #0x0a00, lsl #16\n"
"	str	x13, [x4, #8]\n"
"	b	.\n"
"	.balign	8\n"
"guest_size:\n"
"	.quad	. - guest_start\n"
"	.popsection\n");

static const struct {
	const char *name;
	uint64_t op, address;
} operations[] = {
	{ "hypercall",		0, 0 },
	{ "mmio-kernel",	1, GICD_BASE + 4 /* GICD_TYPER */ },
	{ "mmio-user",		1, MMIO_BASE },
};

#define NR_OPERATIONS (sizeof(operations) / sizeof(operations[0]))

static int kvm, vm, vcpu;
static struct kvm_run *run;

static int call(int fd, unsigned long request, void *argument, const char *name)
{
	int ret = ioctl(fd, request, argument);

	if (ret < 0)
		err(1, "%s", name);
	return ret;
}
#define CALL(fd, request, argument) call(fd, request, (void *)(argument), #request)

static void set_reg(uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uint64_t)&value };

	CALL(vcpu, KVM_SET_ONE_REG, &reg);
}

#define CORE_REG(field)							\
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE |		\
	 KVM_REG_ARM_CORE_REG(field))

static void set_gic_attr(int gic, uint32_t group, uint64_t attr, uint64_t *value)
{
	struct kvm_device_attr dev_attr = {
		.group = group, .attr = attr, .addr = (uint64_t)value,
	};

	CALL(gic, KVM_SET_DEVICE_ATTR, &dev_attr);
}

static void create_vm(void)
{
	struct kvm_create_device device = { .type = KVM_DEV_TYPE_ARM_VGIC_V3 };
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = CODE_BASE, .memory_size = CODE_SIZE,
	};
	uint64_t dist = GICD_BASE, redist = GICR_BASE;
	struct kvm_vcpu_init init;
	void *memory;

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = CALL(kvm, KVM_CREATE_VM, 0);
	memory = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	memcpy(memory, guest_start, guest_size);
	__builtin___clear_cache(memory, (char *)memory + CODE_SIZE);
	region.userspace_addr = (uint64_t)memory;
	CALL(vm, KVM_SET_USER_MEMORY_REGION, &region);

	vcpu = CALL(vm, KVM_CREATE_VCPU, 0);
	CALL(vm, KVM_ARM_PREFERRED_TARGET, &init);
	init.features[0] = 1 << KVM_ARM_VCPU_PSCI_0_2;
	CALL(vcpu, KVM_ARM_VCPU_INIT, &init);
	run = mmap(NULL, CALL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
		   PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		err(1, "mmap of the vCPU");

	CALL(vm, KVM_CREATE_DEVICE, &device);
	set_gic_attr(device.fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &dist);
	set_gic_attr(device.fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, &redist);
	set_gic_attr(device.fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);
}

static uint64_t ticks(int operation, uint64_t iterations)
{
	uint64_t result;

	set_reg(CORE_REG(regs.pc), CODE_BASE);
	set_reg(CORE_REG(regs.regs[0]), operations[operation].op);
	set_reg(CORE_REG(regs.regs[1]), iterations);
	set_reg(CORE_REG(regs.regs[2]), operations[operation].address);

	for (;;) {
		CALL(vcpu, KVM_RUN, 0);
		if (run->exit_reason != KVM_EXIT_MMIO)
			errx(1, "unexpected exit reason %u", run->exit_reason);
		if (run->mmio.is_write && run->mmio.phys_addr == RESULT)
			break;
		memset(run->mmio.data, 0, sizeof(run->mmio.data));
	}
	memcpy(&result, run->mmio.data, sizeof(result));

	/* Complete the store before the next run starts elsewhere. */
	run->immediate_exit = 1;
	ioctl(vcpu, KVM_RUN, 0);
	run->immediate_exit = 0;
	return result;
}

static void repeat(const char *name)
{
	for (unsigned int i = 0; i < NR_OPERATIONS; i++)
		while (!strcmp(operations[i].name, name))
			ticks(i, LONG);
	errx(1, "no operation '%s'", name);
}

int main(int argc, char **argv)
{
	create_vm();
	if (argc > 1)
		repeat(argv[1]);
	for (unsigned int i = 0; i < NR_OPERATIONS; i++) {
		uint64_t best = UINT64_MAX;

		/* The slope leaves out what happens once; the minimum, the host's ticks. */
		for (int round = 0; round < ROUNDS; round++) {
			uint64_t few = ticks(i, SHORT), many = ticks(i, LONG);

			if (many > few && many - few < best)
				best = many - few;
		}
		printf("%s %.1f\n", operations[i].name, (double)best / (LONG - SHORT));
	}
	return 0;
}
