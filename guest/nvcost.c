// SPDX-License-Identifier: GPL-2.0
/*
 * nvcost - what a guest hypervisor pays its host.
 *
 * The smallest guest hypervisor, at virtual EL2: a nested guest of a few
 * instructions, and nothing between the operation and the host. Output as
 * exitcost's.
 *
 * usage: nvcost [--e2h0] [OPERATION]
 *   --e2h0  the guest hypervisor has no VHE
 */
#include "vm.h"

#ifndef KVM_ARM_VCPU_HAS_EL2_E2H0	/* newer than the C library's headers */
#define KVM_ARM_VCPU_HAS_EL2_E2H0	8
#endif

#define PAGE_SIZE	4096UL
#define PAGES		16	/* of data that the nested guest has in use when a TLBI comes */
#define STR(x)		#x
#define VALUE(x)	STR(x)

#define TABLES		(CODE_BASE + 0x8000)	/* stage 2 of the nested guest */

asm(
	/* x2 = value, 64 bits */
"	.macro set register, value\n"
"	ldr	x2, =\\value\n"
"	msr	\\register, x2\n"
"	.endm\n"
	/* The nested guest starts at \entry, and comes back behind each eret with a hypercall. */
"	.macro hypervisor entry\n"
"	adr	x2, vectors\n"
"	msr	vbar_el2, x2\n"
"	set	hcr_el2, 0x480000001\n"		/* E2H (RES0 without VHE), RW, VM */
"	set	vtcr_el2, 0x80023559\n"		/* 40 bits out, 39 in, 4K, from level 1 */
"	ldr	x15, =0x1000040008000\n"	/* VMID 1, TABLES */
"	msr	vttbr_el2, x15\n"
"	set	spsr_el2, 0x3c5\n"		/* EL1h */
"	adr	x2, \\entry\n"
"	msr	elr_el2, x2\n"
"	movz	x7, #0x8000, lsl #16\n"	/* DATA_BASE */
"	mov	x8, #" VALUE(PAGES) "\n"
"	isb\n"
"	.endm\n"
"	.macro enter\n"
"	adr	x9, .+8\n"
"	eret\n"
"	.endm\n"

"	.pushsection .guest\n"
"	.balign	2048\n"
"vectors:\n"
"	.skip	0x400\n"
"	br	x9\n"				/* a hypercall of the nested guest */

"nested_call:\n"
"	hvc	#0\n"
"	b	nested_call\n"

	/* Read x8 pages at x7. */
"nested_read:\n"
"	mov	x2, x7\n"
"	mov	x5, x8\n"
"1:	ldr	x4, [x2]\n"
"	add	x2, x2, #4096\n"
"	subs	x5, x5, #1\n"
"	b.ne	1b\n"
"	hvc	#0\n"
"	b	nested_read\n"

"	code	guest_round\n"
"	hypervisor nested_call\n"
"	begin\n"
"1:	enter\n"
"	again	1b\n"

	/* Two VMIDs in turn. */
"	code	guest_vmid\n"
"	hypervisor nested_call\n"
"	begin\n"
"1:	eor	x15, x15, #(3 << 48)\n"
"	msr	vttbr_el2, x15\n"
"	enter\n"
"	again	1b\n"

	/* All pages at one go, once. */
"	code	guest_shadow\n"
"	hypervisor nested_call\n"
"	enter\n"				/* its code is there */
"	adr	x2, nested_read\n"
"	msr	elr_el2, x2\n"
"	mov	x7, x11\n"
"	mov	x8, x10\n"
"	begin\n"
"	enter\n"
"	b	guest_end\n"

"	code	guest_tlbi_vmid\n"
"	hypervisor nested_read\n"
"	begin\n"
"1:	enter\n"
"	timed\n"
"	tlbi	vmalls12e1is\n"
"	dsb	ish\n"
"	timed_end\n"
"	again	1b\n"

"	code	guest_tlbi_ipa\n"
"	hypervisor nested_read\n"
"	begin\n"
"1:	enter\n"
"	timed\n"
"	tlbi	ipas2e1is, x11\n"
"	dsb	ish\n"
"	timed_end\n"
"	again	1b\n"
"	.ltorg\n"
"	code	guest_stop\n"
"	.popsection\n");

extern const char guest_round[], guest_vmid[], guest_shadow[], guest_tlbi_vmid[], guest_tlbi_ipa[];

static const struct operation operations[] = {
	{ "el2-round",	guest_round, 0, 1, 0 },
	{ "el2-switch",	guest_vmid, 0, 1, 0 },
	{ "el2-fault",	guest_shadow, DATA_BASE, 1, 0 },
	{ "tlbi-vmid",	guest_tlbi_vmid, 0, 0, 1 },
	{ "tlbi-ipa",	guest_tlbi_ipa, DATA_BASE / PAGE_SIZE, 0, 0 },
};

static struct vm vm;

/* A table's descriptor, or a page's: normal memory, read, write, execute, accessed. */
#define TABLE(n)	((TABLES + (n) * PAGE_SIZE) | 3)
#define PAGE(address)	((address) | 0x7ff)

/* The nested guest's stage 2: code and data at their own addresses. */
static void map_nested(void)
{
	uint64_t (*tables)[512] = (void *)(vm.code + (TABLES - CODE_BASE));

	tables[0][CODE_BASE >> 30] = TABLE(1);
	tables[0][DATA_BASE >> 30] = TABLE(2);
	tables[1][0] = TABLE(3);
	for (uint64_t i = 0; i < CODE_SIZE / PAGE_SIZE; i++)
		tables[3][i] = PAGE(CODE_BASE + i * PAGE_SIZE);
	for (uint64_t i = 0; i < DATA_SIZE / PAGE_SIZE; i++) {
		tables[2][i / 512] = TABLE(4 + i / 512);
		tables[4][i] = PAGE(DATA_BASE + i * PAGE_SIZE);
	}
}

uint64_t ticks(const struct operation *operation, uint64_t iterations, uint64_t *fastest)
{
	const struct vcpu *vcpu = &vm.vcpus[0];
	static uint64_t next;
	uint64_t argument = operation->argument;

	/* Pages that the nested guest did not touch before; what is left over is for the next time. */
	if (operation->code == guest_shadow) {
		argument += next % DATA_SIZE;
		next += iterations * PAGE_SIZE;
	}
	start(vcpu, operation->code, iterations, argument);
	while (!run(vcpu))
		;
	return results(vcpu, fastest);
}

int main(int argc, char **argv)
{
	int e2h0 = argc > 1 && !strcmp(argv[1], "--e2h0");

	create_vm(&vm, 1 << KVM_ARM_VCPU_HAS_EL2 | e2h0 << KVM_ARM_VCPU_HAS_EL2_E2H0);
	memset(vm.data, 0, DATA_SIZE);
	map_nested();
	return measure(operations, sizeof(operations) / sizeof(operations[0]), argv[1 + e2h0]);
}
