/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A VM straight on /dev/kvm whose guest code, a few instructions of assembly,
 * measures itself: for the programs that tell what things cost.
 *
 * The guest code of an operation starts with x10 = iterations and x11 = its
 * argument, and ends at guest_end: x13 = ticks of all iterations, x14 = of the
 * fastest one where it takes the time of each, else ~0. MMU off.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define CODE_BASE	0x40000000UL
#define CODE_SIZE	0x10000UL
#define DATA_BASE	0x80000000UL
#define DATA_SIZE	0x400000UL
#define GICD_BASE	0x08000000UL
#define GICR_BASE	0x080a0000UL
#define MMIO_BASE	0x0a000000UL	/* nobody there: exits to us */
#define RESULT		(MMIO_BASE + 8)	/* a store to it ends a run */

#define VTIMER_PPI	27
#define ROUNDS	5
#define SHORT	32
#define LONG	160

asm(
	/* What C has the address of: not a local symbol, whose address a static link may get wrong. */
"	.macro code name\n"
"	.globl	\\name\n"
"\\name:\n"
"	.endm\n"

"	.macro begin\n"
"	mov	x14, #-1\n"
"	isb\n"
"	mrs	x12, cntvct_el0\n"
"	.endm\n"

	/* Loop to \label, or end. */
"	.macro again label\n"
"	subs	x10, x10, #1\n"
"	b.ne	\\label\n"
"	b	guest_end\n"
"	.endm\n"

	/* What is between these two counts for x14. */
"	.macro timed\n"
"	isb\n"
"	mrs	x3, cntvct_el0\n"
"	.endm\n"
"	.macro timed_end\n"
"	isb\n"
"	mrs	x4, cntvct_el0\n"
"	sub	x4, x4, x3\n"
"	cmp	x4, x14\n"
"	csel	x14, x4, x14, lo\n"
"	.endm\n"

"	.pushsection .guest, \"a\"\n"
"	.balign	4096\n"
"	code	guest_start\n"
"guest_end:\n"
"	isb\n"
"	mrs	x13, cntvct_el0\n"
"	sub	x13, x13, x12\n"
"	movz	x4, #0x0a00, lsl #16\n"
"	str	x13, [x4, #8]\n"
"	b	.\n"
"	.popsection\n");

/* The guest code is copied from here on; the program defines its end. */
extern const char guest_start[], guest_stop[];

struct vcpu {
	int fd;
	struct kvm_run *run;
};

struct vm {
	int fd;
	char *code, *data;
	struct vcpu vcpus[2];
};

static inline int call(int fd, unsigned long request, void *argument, const char *name)
{
	int ret = ioctl(fd, request, argument);

	if (ret < 0)
		err(1, "%s", name);
	return ret;
}
#define CALL(fd, request, argument) call(fd, request, (void *)(argument), #request)

#define X_REG(n)								\
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE |		\
	 (KVM_REG_ARM_CORE_REG(regs.regs[0]) + 2 * (n)))
#define PC_REG									\
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(regs.pc))

static inline void set_reg(const struct vcpu *vcpu, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uint64_t)&value };

	CALL(vcpu->fd, KVM_SET_ONE_REG, &reg);
}

static inline uint64_t get_reg(const struct vcpu *vcpu, uint64_t id)
{
	uint64_t value;
	struct kvm_one_reg reg = { .id = id, .addr = (uint64_t)&value };

	CALL(vcpu->fd, KVM_GET_ONE_REG, &reg);
	return value;
}

static inline char *add_memory(int vm, int slot, uint64_t base, uint64_t size)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .guest_phys_addr = base, .memory_size = size,
	};
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		err(1, "mmap");
	/* Pages of the smallest size, on any kernel's settings; EINVAL: it has no other ones. */
	madvise(memory, size, MADV_NOHUGEPAGE);
	region.userspace_addr = (uint64_t)memory;
	CALL(vm, KVM_SET_USER_MEMORY_REGION, &region);
	return memory;
}

static inline void gic_attr(int gic, uint32_t group, uint64_t attr, uint64_t value)
{
	struct kvm_device_attr dev_attr = { .group = group, .attr = attr, .addr = (uint64_t)&value };

	CALL(gic, KVM_SET_DEVICE_ATTR, &dev_attr);
}

/* Group 1 on, and on each of two vCPUs SGI 0 and the virtual timer's interrupt. */
static inline void create_gic(int vm)
{
	struct kvm_create_device device = { .type = KVM_DEV_TYPE_ARM_VGIC_V3 };
	struct kvm_device_attr init = { .group = KVM_DEV_ARM_VGIC_GRP_CTRL, .attr = KVM_DEV_ARM_VGIC_CTRL_INIT };

	CALL(vm, KVM_CREATE_DEVICE, &device);
	gic_attr(device.fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, GICD_BASE);
	gic_attr(device.fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, GICR_BASE);
	CALL(device.fd, KVM_SET_DEVICE_ATTR, &init);
	gic_attr(device.fd, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0 /* GICD_CTLR */, 1 << 1);
	for (uint64_t mpidr = 0; mpidr < 2; mpidr++)
		gic_attr(device.fd, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
			 mpidr << KVM_DEV_ARM_VGIC_V3_MPIDR_SHIFT | 0x10100 /* GICR_ISENABLER0 */,
			 1 << VTIMER_PPI | 1);
}

/* A VM with two vCPUs, of which the second one is only there until it is run. */
static inline void create_vm(struct vm *vm, uint32_t features)
{
	int kvm = open("/dev/kvm", O_RDWR);
	struct kvm_vcpu_init init;

	if (kvm < 0)
		err(1, "/dev/kvm");
	vm->fd = CALL(kvm, KVM_CREATE_VM, 0);
	vm->code = add_memory(vm->fd, 0, CODE_BASE, CODE_SIZE);
	vm->data = add_memory(vm->fd, 1, DATA_BASE, DATA_SIZE);
	memcpy(vm->code, guest_start, guest_stop - guest_start);
	__builtin___clear_cache(vm->code, vm->code + CODE_SIZE);

	CALL(vm->fd, KVM_ARM_PREFERRED_TARGET, &init);
	init.features[0] = 1 << KVM_ARM_VCPU_PSCI_0_2 | features;
	for (uint64_t i = 0; i < 2; i++) {
		struct vcpu *vcpu = &vm->vcpus[i];

		vcpu->fd = CALL(vm->fd, KVM_CREATE_VCPU, i);
		CALL(vcpu->fd, KVM_ARM_VCPU_INIT, &init);
		vcpu->run = mmap(NULL, CALL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
				 PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
		if (vcpu->run == MAP_FAILED)
			err(1, "mmap of a vCPU");
	}
	create_gic(vm->fd);
}

static inline void start(const struct vcpu *vcpu, const char *code, uint64_t iterations, uint64_t argument)
{
	set_reg(vcpu, PC_REG, CODE_BASE + (code - guest_start));
	set_reg(vcpu, X_REG(10), iterations);
	set_reg(vcpu, X_REG(11), argument);
}

/* Run until the next access that nobody but us handles: true if it ends the run. */
static inline int run(const struct vcpu *vcpu)
{
	CALL(vcpu->fd, KVM_RUN, 0);
	if (vcpu->run->exit_reason != KVM_EXIT_MMIO)
		errx(1, "unexpected exit reason %u at %#lx", vcpu->run->exit_reason, (long)get_reg(vcpu, PC_REG));
	if (vcpu->run->mmio.is_write && vcpu->run->mmio.phys_addr == RESULT)
		return 1;
	memset(vcpu->run->mmio.data, 0, sizeof(vcpu->run->mmio.data));
	return 0;
}

/* What a program measures. */
struct operation {
	const char *name;
	const char *code;
	uint64_t argument;
	int parts;	/* operations in an iteration; 0: single ones are timed */
	int dear;	/* millions of instructions on some hosts: one round of 1 and 3 */
};

/* The program's: ticks of `iterations`; *fastest: of the fastest one of them, ~0 if the code does not time them. */
uint64_t ticks(const struct operation *operation, uint64_t iterations, uint64_t *fastest);

/* The results of a run that ended. */
static inline uint64_t results(const struct vcpu *vcpu, uint64_t *fastest)
{
	uint64_t total = get_reg(vcpu, X_REG(13));

	*fastest = get_reg(vcpu, X_REG(14));
	/* Complete the store that ended the run, before the next one starts elsewhere. */
	vcpu->run->immediate_exit = 1;
	ioctl(vcpu->fd, KVM_RUN, 0);
	vcpu->run->immediate_exit = 0;
	return total;
}

static inline int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/*
 * The main program: prints "<operation> <ticks> <ticks of an iteration>" for
 * each operation, or repeats the named one until killed.
 */
static inline int measure(const struct operation *operations, int number, const char *name)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (const struct operation *op = operations; op < operations + number; op++) {
		int few = op->dear ? 1 : SHORT, many = op->dear ? 3 : LONG, rounds = op->dear ? 1 : ROUNDS;
		uint64_t less = UINT64_MAX, more = UINT64_MAX, fastest[ROUNDS], total;
		double iteration;

		if (name && strcmp(op->name, name))
			continue;
		/* Minima leave out the host's ticks and what happens at times, the slope between them what each run does. */
		for (int round = 0; round < rounds || name; round++) {
			total = ticks(op, few, &fastest[round % rounds]);
			less = total < less ? total : less;
			total = ticks(op, many, &fastest[round % rounds]);
			more = total < more ? total : more;
		}
		/* One in a thousand wake-ups finds a shortcut in the host: the median of the rounds leaves out that one. */
		qsort(fastest, rounds, sizeof(*fastest), compare);
		iteration = (double)(more - less) / (many - few);
		printf("%s %.1f %.1f\n", op->name, op->parts ? iteration / op->parts : fastest[rounds / 2], iteration);
	}
	if (name)
		errx(1, "no operation '%s'", name);
	return 0;
}
