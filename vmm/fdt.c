// SPDX-License-Identifier: GPL-2.0
/* The machine's device tree. */
#include "nestvm.h"

#include <libfdt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define PHANDLE_GIC	1
#define PHANDLE_CLOCK	2
#define SPI		0	/* kinds and triggers of interrupts in the GIC's binding */
#define PPI		1
#define EDGE		1
#define LEVEL		4
#define UART_CLOCK	24000000
#define DOMU_MEM	(256 * MIB)

static void *blob;

/* What does not fit makes no sense of the rest: libfdt itself would go on with smaller things. */
static void check(int error)
{
	if (error)
		die("the device tree does not fit into %lu KiB: give a shorter --append", DTB_SIZE / KIB);
}

static void begin(const char *format, ...)
{
	char name[64];
	va_list args;

	va_start(args, format);
	vsnprintf(name, sizeof(name), format, args);
	va_end(args);
	check(fdt_begin_node(blob, name));
}

static void end(void)
{
	check(fdt_end_node(blob));
}

static void text(const char *name, const char *value)
{
	check(fdt_property_string(blob, name, value));
}

static void flag(const char *name)
{
	check(fdt_property(blob, name, NULL, 0));
}

/* A list of strings, written with \0 between them. */
#define TEXTS(name, values) check(fdt_property(blob, name, values, sizeof(values)))

static void put_cells(const char *name, const uint32_t *values, unsigned int count)
{
	uint32_t cells[16];
	unsigned int i;

	for (i = 0; i < count; i++)
		cells[i] = cpu_to_fdt32(values[i]);
	check(fdt_property(blob, name, cells, count * sizeof(*cells)));
}

#define CELLS(name, ...) \
	put_cells(name, (uint32_t[]){ __VA_ARGS__ }, sizeof((uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t))

#define HI(n)	((uint32_t)((uint64_t)(n) >> 32))
#define LO(n)	((uint32_t)(n))
#define REG(start, size) CELLS("reg", HI(start), LO(start), HI(size), LO(size))

/* A domain's kernel and initrd: Xen's docs/misc/arm/device-tree/booting.txt. */
static void add_modules(const struct vm *vm, const char *arguments)
{
	CELLS("#address-cells", 2);
	CELLS("#size-cells", 2);
	begin("module@%lx", (unsigned long)vm->kernel.start);
	TEXTS("compatible", "multiboot,kernel\0multiboot,module");
	REG(vm->kernel.start, vm->kernel.size);
	text("bootargs", arguments);
	end();
	if (!vm->initrd.size)
		return;
	begin("module@%lx", (unsigned long)vm->initrd.start);
	TEXTS("compatible", "multiboot,ramdisk\0multiboot,module");
	REG(vm->initrd.start, vm->initrd.size);
	end();
}

/* A domain that Xen starts by itself. */
static void add_domu(const struct vm *vm)
{
	begin("domU1");
	text("compatible", "xen,domain");
	CELLS("cpus", 1);
	CELLS("memory", 0, DOMU_MEM / KIB);
	flag("vpl011");
	add_modules(vm, vm->opt->domu);
	end();
}

static void add_xen(const struct vm *vm)
{
	text("xen,xen-bootargs", vm->opt->xen_append ?: "");
	text("xen,dom0-bootargs", vm->opt->append);
	add_modules(vm, vm->opt->append);
	if (vm->opt->domu)
		add_domu(vm);
}

static void add_linux_arguments(const struct vm *vm)
{
	const struct range *initrd = &vm->initrd;
	uint64_t after = initrd->start + initrd->size;

	text("bootargs", vm->opt->append);
	if (!initrd->size)
		return;
	CELLS("linux,initrd-start", HI(initrd->start), LO(initrd->start));
	CELLS("linux,initrd-end", HI(after), LO(after));
}

static void add_chosen(const struct vm *vm)
{
	uint8_t seed[32];

	begin("chosen");
	text("stdout-path", "serial0:115200n8");
	if (getrandom(seed, sizeof(seed), GRND_NONBLOCK) == sizeof(seed))
		check(fdt_property(blob, "rng-seed", seed, sizeof(seed)));
	if (vm->opt->xen)
		add_xen(vm);
	else
		add_linux_arguments(vm);
	end();
}

/* What U-Boot does by itself: doc/device-tree-bindings/config.txt in its source. */
static void add_uboot(const struct vm *vm)
{
	char command[64];

	snprintf(command, sizeof(command), "booti %#lx - ${fdt_addr}", (unsigned long)vm->kernel.start);
	begin("config");
	text("bootcmd", command);
	CELLS("bootdelay", 0);
	end();
}

static void add_aliases(const struct vm *vm)
{
	char name[24], path[40];
	unsigned int i;

	begin("aliases");
	for (i = 0; i < vm->nr_uarts; i++) {
		snprintf(name, sizeof(name), "serial%u", i);
		snprintf(path, sizeof(path), "/pl011@%lx", UART_BASE + i * UART_SIZE);
		text(name, path);
	}
	end();
}

static void add_cpus(const struct vm *vm)
{
	unsigned int i;

	begin("cpus");
	CELLS("#address-cells", 2);
	CELLS("#size-cells", 0);
	for (i = 0; i < vm->opt->smp; i++) {
		begin("cpu@%lx", (unsigned long)vm->mpidr[i]);
		text("device_type", "cpu");
		text("compatible", "arm,armv8");
		text("enable-method", "psci");
		CELLS("reg", HI(vm->mpidr[i]), LO(vm->mpidr[i]));
		end();
	}
	end();
	begin("psci");
	TEXTS("compatible", "arm,psci-1.0\0arm,psci-0.2");
	/* At EL2, an HVC goes to the guest itself. */
	text("method", vm->opt->el2 == EL2_NONE ? "hvc" : "smc");
	end();
}

static void add_memory(const struct vm *vm)
{
	begin("memory@%lx", RAM_BASE);
	text("device_type", "memory");
	REG(RAM_BASE, vm->opt->mem);
	end();
}

static void add_gic(const struct vm *vm)
{
	uint64_t gicr_size = vm->opt->smp * GICR_SIZE;

	begin("intc@%lx", GICD_BASE);
	text("compatible", "arm,gic-v3");
	CELLS("reg", 0, GICD_BASE, 0, GICD_SIZE, 0, GICR_BASE, 0, gicr_size);
	flag("interrupt-controller");
	CELLS("#interrupt-cells", 3);
	CELLS("#address-cells", 2);
	CELLS("#size-cells", 2);
	flag("ranges");
	CELLS("phandle", PHANDLE_GIC);
	if (vm->opt->el2 != EL2_NONE)
		CELLS("interrupts", PPI, MAINT_PPI, LEVEL);
	begin("its@%lx", GITS_BASE);
	text("compatible", "arm,gic-v3-its");
	flag("msi-controller");
	CELLS("#msi-cells", 1);
	REG(GITS_BASE, GITS_SIZE);
	end();
	end();
}

/* Secure and non-secure physical, virtual, EL2's physical and, with VHE, EL2's virtual timer. */
static void add_timer(const struct vm *vm)
{
	static const uint32_t interrupts[] = {
		PPI, 13, LEVEL, PPI, 14, LEVEL, PPI, 11, LEVEL, PPI, 10, LEVEL, PPI, 12, LEVEL,
	};

	begin("timer");
	text("compatible", "arm,armv8-timer");
	put_cells("interrupts", interrupts, vm->opt->el2 == EL2_VHE ? 15 : 12);
	flag("always-on");
	end();
	if (!vm->has_pmu)
		return;
	begin("pmu");
	text("compatible", "arm,armv8-pmuv3");
	CELLS("interrupts", PPI, PMU_PPI, LEVEL);
	end();
}

static void add_uarts(const struct vm *vm)
{
	unsigned int i;

	begin("clock");
	text("compatible", "fixed-clock");
	CELLS("#clock-cells", 0);
	CELLS("clock-frequency", UART_CLOCK);
	CELLS("phandle", PHANDLE_CLOCK);
	end();
	for (i = 0; i < vm->nr_uarts; i++) {
		begin("pl011@%lx", UART_BASE + i * UART_SIZE);
		TEXTS("compatible", "arm,pl011\0arm,primecell");
		REG(UART_BASE + i * UART_SIZE, UART_SIZE);
		CELLS("interrupts", SPI, UART_SPI + i, LEVEL);
		CELLS("clocks", PHANDLE_CLOCK, PHANDLE_CLOCK);
		TEXTS("clock-names", "uartclk\0apb_pclk");
		end();
	}
}

static void add_disks(const struct vm *vm)
{
	unsigned int i;

	for (i = 0; i < vm->nr_disks; i++) {
		begin("virtio@%lx", VIRTIO_BASE + i * VIRTIO_SIZE);
		text("compatible", "virtio,mmio");
		REG(VIRTIO_BASE + i * VIRTIO_SIZE, VIRTIO_SIZE);
		CELLS("interrupts", SPI, VIRTIO_SPI + i, LEVEL);
		flag("dma-coherent");
		end();
	}
}

void fdt_build(struct vm *vm)
{
	blob = guest_memory(vm, vm->dtb.start, DTB_SIZE);
	check(fdt_create(blob, DTB_SIZE));
	check(fdt_finish_reservemap(blob));
	begin("");
	text("compatible", "linux,dummy-virt");
	text("model", "nestvm");
	CELLS("#address-cells", 2);
	CELLS("#size-cells", 2);
	CELLS("interrupt-parent", PHANDLE_GIC);
	add_chosen(vm);
	if (vm->opt->uboot)
		add_uboot(vm);
	add_aliases(vm);
	add_memory(vm);
	add_cpus(vm);
	add_gic(vm);
	add_timer(vm);
	add_uarts(vm);
	add_disks(vm);
	end();
	check(fdt_finish(blob));
}
