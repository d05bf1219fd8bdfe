// SPDX-License-Identifier: GPL-2.0
/*
 * exitcost - what an exit of a KVM guest costs.
 *
 * Runs a few instructions of guest code straight on /dev/kvm and prints, for
 * each kind of exit, counter ticks per operation as the guest sees them. Under
 * QEMU's "-icount shift=0" with a 1 GHz counter a tick is an instruction.
 *
 * Output: one line "<operation> <ticks> <ticks of a whole iteration>" each; exit
 * status 1 and a line on stderr when a system call fails. With the name of an
 * operation as argument: that operation until killed, and no output.
 */
#include <pthread.h>

#include "vm.h"

#define SWITCH		(MMIO_BASE + 16)	/* an access to it makes us run the other VM */
#define TIMER_DELAY	1000000		/* ticks: longer than going to sleep takes */

asm(
	/* The CPU interface takes any interrupt. */
"	.macro interrupts_on\n"
"	mov	x2, #0xf0\n"
"	msr	s3_0_c4_c6_0, x2\n"		/* ICC_PMR_EL1 */
"	mov	x2, #1\n"
"	msr	s3_0_c12_c12_7, x2\n"		/* ICC_IGRPEN1_EL1 */
"	isb\n"
"	.endm\n"
	/* x2 = the interrupt, 1023 if there is none. PSTATE.I stays set. */
"	.macro acknowledge\n"
"	mrs	x2, s3_0_c12_c12_0\n"		/* ICC_IAR1_EL1 */
"	cmp	x2, #1023\n"
"	.endm\n"
"	.macro end_interrupt\n"
"	msr	s3_0_c12_c12_1, x2\n"		/* ICC_EOIR1_EL1 */
"	.endm\n"
"	.macro send_sgi\n"
"	msr	s3_0_c12_c11_5, x11\n"		/* ICC_SGI1R_EL1: SGI 0 to the CPUs in x11 */
"	.endm\n"

"	.pushsection .guest\n"
"	code	guest_hypercall\n"
"	begin\n"
"1:	movz	x0, #0xc600, lsl #16\n"		/* no such hypercall */
"	movk	x0, #0xbad\n"
"	hvc	#0\n"
"	again	1b\n"

"	code	guest_load\n"
"	begin\n"
"1:	ldr	w3, [x11]\n"
"	again	1b\n"

"	code	guest_touch\n"
"	begin\n"
"1:	str	xzr, [x11]\n"
"	add	x11, x11, #4096\n"
"	again	1b\n"

	/* An SGI to itself, of which the end is timed. */
"	code	guest_eoi\n"
"	interrupts_on\n"
"	begin\n"
"1:	send_sgi\n"
"2:	acknowledge\n"
"	b.eq	2b\n"
"	timed\n"
"	end_interrupt\n"
"	timed_end\n"
"	again	1b\n"

	/* An SGI to the other vCPU, and one back. */
"	code	guest_ipi\n"
"	interrupts_on\n"
"	begin\n"
"1:	send_sgi\n"
"2:	wfi\n"
"	acknowledge\n"
"	b.eq	2b\n"
"	end_interrupt\n"
"	again	1b\n"

	/* The other vCPU: for ever. */
"	code	guest_reply\n"
"	interrupts_on\n"
"1:	wfi\n"
"	acknowledge\n"
"	b.eq	1b\n"
"	end_interrupt\n"
"	send_sgi\n"
"	b	1b\n"

	/* Sleep; timed from when the timer fires to when its interrupt is there. */
"	code	guest_timer\n"
"	interrupts_on\n"
"	begin\n"
"1:	isb\n"
"	mrs	x3, cntvct_el0\n"
"	add	x3, x3, x11\n"
"	msr	cntv_cval_el0, x3\n"
"	mov	x2, #1\n"
"	msr	cntv_ctl_el0, x2\n"
"	isb\n"
"2:	wfi\n"
"	acknowledge\n"
"	b.eq	2b\n"
"	timed_end\n"
"	msr	cntv_ctl_el0, xzr\n"
"	isb\n"
"	end_interrupt\n"
"	again	1b\n"
"	code	guest_stop\n"
"	.popsection\n");

extern const char guest_hypercall[], guest_load[], guest_touch[], guest_eoi[],
	guest_ipi[], guest_reply[], guest_timer[];

static const struct operation operations[] = {
	{ "hypercall",		guest_hypercall, 0, 1, 0 },
	{ "mmio-kernel",	guest_load, GICD_BASE + 4 /* GICD_TYPER */, 1, 0 },
	{ "mmio-user",		guest_load, MMIO_BASE, 1, 0 },
	{ "switch",		guest_load, SWITCH, 2, 0 },
	{ "fault",		guest_touch, DATA_BASE, 1, 0 },
	{ "eoi",		guest_eoi, 1 << 0, 0, 0 },
	{ "ipi",		guest_ipi, 1 << 1, 2, 0 },
	{ "wfi-timer",		guest_timer, TIMER_DELAY, 0, 0 },
};

static struct vm vm, other;

uint64_t ticks(const struct operation *operation, uint64_t iterations, uint64_t *fastest)
{
	const struct vcpu *vcpu = &vm.vcpus[0];

	if (operation->code == guest_touch)
		madvise(vm.data, DATA_SIZE, MADV_DONTNEED);
	start(vcpu, operation->code, iterations, operation->argument);
	while (!run(vcpu))
		if (vcpu->run->mmio.phys_addr == SWITCH)
			run(&other.vcpus[0]);
	return results(vcpu, fastest);
}

static void *run_second(void *argument)
{
	run(argument);
	errx(1, "the second vCPU stopped");
}

int main(int argc, char **argv)
{
	pthread_t thread;

	create_vm(&vm, 0);
	create_vm(&other, 0);
	start(&other.vcpus[0], guest_load, UINT64_MAX, MMIO_BASE);
	start(&vm.vcpus[1], guest_reply, 0, 1 << 0);
	if (pthread_create(&thread, NULL, run_second, &vm.vcpus[1]))
		errx(1, "no second thread");
	return measure(operations, sizeof(operations) / sizeof(operations[0]), argc > 1 ? argv[1] : NULL);
}
