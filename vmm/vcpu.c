// SPDX-License-Identifier: GPL-2.0
/* The vCPUs: features, first registers, the run loop and how it ends. */
#include "nestvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CORE_REG(field)	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(field))
#define MPIDR_EL1	ARM64_SYS_REG(3, 0, 0, 0, 5)
#define MPIDR_AFFINITY	0xff00ffffffUL
#define ID_AA64PFR2_EL1	ARM64_SYS_REG(3, 0, 0, 4, 2)
#define PFR2_FPMR	(0xfUL << 32)

static void add_feature(struct kvm_vcpu_init *init, unsigned int feature)
{
	init->features[feature / 32] |= 1U << (feature % 32);
}

static struct kvm_vcpu_init choose_features(struct vm *vm)
{
	struct kvm_vcpu_init init = { };

	IOCTL(vm->fd, KVM_ARM_PREFERRED_TARGET, &init);
	memset(init.features, 0, sizeof(init.features));
	add_feature(&init, KVM_ARM_VCPU_PSCI_0_2);
	if (vm->has_pmu)
		add_feature(&init, KVM_ARM_VCPU_PMU_V3);
	if (vm_has(vm, KVM_CAP_ARM_SVE))
		add_feature(&init, KVM_ARM_VCPU_SVE);
	if (vm_has(vm, KVM_CAP_ARM_PTRAUTH_ADDRESS) && vm_has(vm, KVM_CAP_ARM_PTRAUTH_GENERIC)) {
		add_feature(&init, KVM_ARM_VCPU_PTRAUTH_ADDRESS);
		add_feature(&init, KVM_ARM_VCPU_PTRAUTH_GENERIC);
	}
	if (vm->opt->el2 != EL2_NONE)
		add_feature(&init, KVM_ARM_VCPU_HAS_EL2);
	if (vm->opt->el2 == EL2_E2H0)
		add_feature(&init, KVM_ARM_VCPU_HAS_EL2_E2H0);
	return init;
}

static uint64_t get_reg(int vcpu, uint64_t id)
{
	uint64_t value;
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)&value };

	IOCTL(vcpu, KVM_GET_ONE_REG, &reg);
	return value;
}

static void set_reg(int vcpu, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)&value };

	IOCTL(vcpu, KVM_SET_ONE_REG, &reg);
}

static void vcpu_create(struct vm *vm, unsigned int number, struct kvm_vcpu_init init, size_t run_size)
{
	int fd = IOCTL(vm->fd, KVM_CREATE_VCPU, number), sve = KVM_ARM_VCPU_SVE;

	if (number)
		add_feature(&init, KVM_ARM_VCPU_POWER_OFF);
	IOCTL(fd, KVM_ARM_VCPU_INIT, &init);
	if (init.features[0] & 1U << KVM_ARM_VCPU_SVE)
		IOCTL(fd, KVM_ARM_VCPU_FINALIZE, &sve);
	vm->vcpus[number] = fd;
	if (vm->opt->no_fpmr)
		set_reg(fd, ID_AA64PFR2_EL1, get_reg(fd, ID_AA64PFR2_EL1) & ~PFR2_FPMR);
	vm->mpidr[number] = get_reg(fd, MPIDR_EL1) & MPIDR_AFFINITY;
	vm->runs[number] = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (vm->runs[number] == MAP_FAILED)
		die_errno("mmap of a vCPU");
}

void vcpus_create(struct vm *vm)
{
	size_t run_size = IOCTL(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_vcpu_init init;
	unsigned int i;

	vm->has_pmu = vm_has(vm, KVM_CAP_ARM_PMU_V3);
	init = choose_features(vm);
	for (i = 0; i < vm->opt->smp; i++)
		vcpu_create(vm, i, init, run_size);
}

/* Comes after the GIC. */
void vcpus_init_pmu(struct vm *vm)
{
	unsigned int i, intid = PPI_INTID(PMU_PPI);

	for (i = 0; vm->has_pmu && i < vm->opt->smp; i++) {
		set_attr(vm->vcpus[i], KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_IRQ, &intid, "PMU_V3_IRQ");
		set_attr(vm->vcpus[i], KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT, NULL, "PMU_V3_INIT");
	}
}

/* A new VM is this program started anew: all it had open closes by itself. */
__attribute__((noreturn)) static void restart(struct vm *vm)
{
	devices_lock();
	console_restore();
	execv("/proc/self/exe", vm->arguments);
	die_errno("restart of /proc/self/exe after the guest's reset");
}

static void system_event(struct vm *vm, uint32_t type)
{
	switch (type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		finish(ENDED_POWER_OFF);
	case KVM_SYSTEM_EVENT_RESET:
		if (vm->opt->no_reboot)
			finish(ENDED_RESET);
		restart(vm);
	default:
		fprintf(stderr, "nestvm: the guest ended with system event %u of KVM\n", type);
		finish(ENDED_CRASH);
	}
}

static void handle_exit(struct vm *vm, unsigned int number)
{
	struct kvm_run *run = vm->runs[number];

	switch (run->exit_reason) {
	case KVM_EXIT_MMIO:
		mmio_access(run);
		break;
	case KVM_EXIT_INTR:
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		system_event(vm, run->system_event.type);
		break;
	default:
		fprintf(stderr, "nestvm: vCPU %u cannot go on: exit reason %u of KVM at pc %#lx\n",
			number, run->exit_reason, get_reg(vm->vcpus[number], CORE_REG(regs.pc)));
		finish(ENDED_CRASH);
	}
}

static struct vm *the_vm;	/* of the threads */

static void *run_vcpu(void *argument)
{
	unsigned int number = (uintptr_t)argument;

	for (;;) {
		if (ioctl(the_vm->vcpus[number], KVM_RUN, 0) < 0 && errno != EINTR && errno != EAGAIN) {
			fprintf(stderr, "nestvm: ioctl KVM_RUN of vCPU %u: %s (errno %d)\n",
				number, strerror(errno), errno);
			finish(ENDED_CRASH);
		}
		handle_exit(the_vm, number);
	}
	return NULL;
}

/* All vCPUs, each in its thread; the other ones wait for PSCI CPU_ON in KVM. */
void vcpus_run(struct vm *vm)
{
	unsigned long i;
	pthread_t thread;

	the_vm = vm;
	set_reg(vm->vcpus[0], CORE_REG(regs.pc), vm->entry);
	set_reg(vm->vcpus[0], CORE_REG(regs.regs[0]), vm->dtb.start);
	for (i = 1; i < vm->opt->smp; i++) {
		errno = pthread_create(&thread, NULL, run_vcpu, (void *)i);
		if (errno)
			die_errno("a thread for vCPU %lu", i);
	}
	run_vcpu(NULL);
	finish(ENDED_ERROR);
}
