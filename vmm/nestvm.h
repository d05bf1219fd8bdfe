/* SPDX-License-Identifier: GPL-2.0 */
/* nestvm - a small VMM for KVM/arm64 that can give its guest an EL2, with or without VHE. */
#ifndef NESTVM_H
#define NESTVM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* Newer than the headers of the C library that we build with. */
#ifndef KVM_CAP_ARM_EL2
#define KVM_CAP_ARM_EL2			240
#endif
#ifndef KVM_CAP_ARM_EL2_E2H0
#define KVM_CAP_ARM_EL2_E2H0		241
#endif
#ifndef KVM_ARM_VCPU_HAS_EL2
#define KVM_ARM_VCPU_HAS_EL2		7
#endif
#ifndef KVM_ARM_VCPU_HAS_EL2_E2H0
#define KVM_ARM_VCPU_HAS_EL2_E2H0	8
#endif
#ifndef KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ
#define KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ	9
#endif

#define KIB	1024UL
#define MIB	(1024 * KIB)

/* The machine: guest physical addresses, and interrupts (numbers of SPIs, or of PPIs). */
#define FLASH_BASE	0x00000000UL
#define GICD_BASE	0x08000000UL
#define GITS_BASE	0x08080000UL
#define GICR_BASE	0x080a0000UL
#define UART_BASE	0x09000000UL
#define VIRTIO_BASE	0x0a000000UL
#define RAM_BASE	0x40000000UL

#define FLASH_SIZE	(GICD_BASE - FLASH_BASE)
#define GICD_SIZE	(64 * KIB)
#define GITS_SIZE	(128 * KIB)
#define GICR_SIZE	(128 * KIB)	/* of each vCPU */
#define UART_SIZE	(4 * KIB)
#define VIRTIO_SIZE	(512UL)

#define UART_SPI	1		/* the first UART's */
#define VIRTIO_SPI	16		/* the first disk's */

#define PMU_PPI		7
#define MAINT_PPI	9
#define SPI_INTID(spi)	(32 + (spi))
#define PPI_INTID(ppi)	(16 + (ppi))

#define MAX_VCPUS	64
#define MAX_FILES	8		/* disks; files to load */

/* How nestvm ends. */
enum status {
	ENDED_POWER_OFF = 0,	/* the guest powered itself off */
	ENDED_ERROR	= 1,	/* this host or this program cannot run it; a line says why */
	ENDED_USAGE	= 2,	/* bad arguments */
	ENDED_RESET	= 3,	/* the guest asked for a reset, with --no-reboot */
	ENDED_CRASH	= 4,	/* the guest reported a crash, or KVM gave it up */
	ENDED_QUIT	= 5,	/* Ctrl-A X on the terminal */
};

enum el2 { EL2_NONE, EL2_VHE, EL2_E2H0 };

struct load {
	const char *file;
	uint64_t address;
};

struct options {
	const char *kernel, *initrd, *append, *xen, *xen_append, *domu, *uboot, *serial;
	struct load loads[MAX_FILES];
	const char *disks[MAX_FILES];
	unsigned int nr_loads, nr_disks;
	unsigned long smp, mem;		/* mem: bytes */
	enum el2 el2;
	bool no_fpmr, no_reboot;
};

/* A piece of guest memory that holds something. */
struct range {
	uint64_t start, size;
	const char *what;
};

struct vm {
	const struct options *opt;
	char **arguments;		/* of this program: a reset starts it anew */
	int kvm, fd;
	int vcpus[MAX_VCPUS];
	struct kvm_run *runs[MAX_VCPUS];
	uint64_t mpidr[MAX_VCPUS];
	void *ram;
	struct range ranges[MAX_FILES + 4];
	unsigned int nr_ranges;
	struct range kernel, initrd, dtb;
	uint64_t entry;
	unsigned int nr_uarts, nr_disks;
	bool has_pmu;
};

/* main.c: print a line "nestvm: ..." and end with ENDED_ERROR. */
__attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...);
__attribute__((noreturn, format(printf, 1, 2))) void die_errno(const char *format, ...);

/* main.c: end while the guest runs, with no device half-way. */
__attribute__((noreturn)) void finish(enum status status);

/* An ioctl that must not fail: the line names it. */
int checked_ioctl(int fd, unsigned long request, void *argument, const char *name);
#define IOCTL(fd, request, argument) \
	checked_ioctl(fd, request, (void *)(uintptr_t)(argument), #request)

/* vm.c */
void vm_create(struct vm *vm);
bool vm_has(struct vm *vm, int capability);
void vm_set_irq(struct vm *vm, unsigned int spi, bool level);
void *guest_memory(struct vm *vm, uint64_t address, uint64_t size);
void *vm_add_flash(struct vm *vm);

/* vcpu.c */
void vcpus_create(struct vm *vm);
void vcpus_init_pmu(struct vm *vm);
__attribute__((noreturn)) void vcpus_run(struct vm *vm);

/* gic.c */
void gic_create(struct vm *vm);
void set_attr(int fd, uint32_t group, uint64_t attr, const void *value, const char *name);

/* loader.c */
void load_all(struct vm *vm);
struct range place(struct vm *vm, const char *what, uint64_t start, uint64_t size);

/* fdt.c */
#define DTB_SIZE	(64 * KIB)
void fdt_build(struct vm *vm);

/* mmio.c: devices are called with the one device lock held. */
struct device {
	uint64_t base, size;
	uint64_t (*read)(struct device *dev, uint64_t offset, uint32_t len);
	void (*write)(struct device *dev, uint64_t offset, uint32_t len, uint64_t value);
};
void mmio_add(struct device *dev);
void mmio_access(struct kvm_run *run);
void devices_lock(void);
void devices_unlock(void);
pthread_mutex_t *devices_mutex(void);	/* to wait on */

/* pl011.c, console.c, virtio-blk.c */
void pl011_create(struct vm *vm, int out, int in);
void console_create(struct vm *vm);
void console_restore(void);
void virtio_blk_create(struct vm *vm, const char *file);

#endif
