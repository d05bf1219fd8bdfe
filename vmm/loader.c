// SPDX-License-Identifier: GPL-2.0
/* Files into guest memory, each at a place of its own. */
#include "nestvm.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE_MAGIC	0x644d5241	/* "ARM\x64" */
#define IMAGE_ALIGN	(2 * MIB)
#define IMAGE_MOST	(1UL << 40)
#define UBOOT_MEMORY	(48 * MIB)	/* its heap, stack and tables at the end of RAM take 42 MiB */
#define ROUND_UP(n, to)	(((n) + (to) - 1) / (to) * (to))

/* Documentation/arch/arm64/booting.rst in the kernel; Xen has the same. */
struct image_header {
	uint32_t code[2];
	uint64_t text_offset, image_size, flags, reserved[3];
	uint32_t magic, pe_offset;
};

/* Reserve guest memory. */
struct range place(struct vm *vm, const char *what, uint64_t start, uint64_t size)
{
	struct range range = { start, size, what };
	unsigned int i;

	if (start < RAM_BASE)
		die("%s cannot be at %#lx: memory begins at %#lx", what, start, RAM_BASE);
	if (!guest_memory(vm, start, size))
		die("too little memory: %s at %#lx ends %lu MiB into it: give --mem more than %lu", what, start,
		    ROUND_UP(start - RAM_BASE + size, MIB) / MIB, vm->opt->mem / MIB);
	for (i = 0; i < vm->nr_ranges; i++)
		if (start < vm->ranges[i].start + vm->ranges[i].size && vm->ranges[i].start < start + size)
			die("%s at %#lx overlaps %s at %#lx: take another address", what, start,
			    vm->ranges[i].what, vm->ranges[i].start);
	vm->ranges[vm->nr_ranges++] = range;
	return range;
}

static int open_file(const char *option, const char *file, uint64_t *size)
{
	struct stat stat;
	int fd = open(file, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &stat))
		die_errno("%s %s", option, file);
	if (!S_ISREG(stat.st_mode))
		die("%s %s: not a regular file", option, file);
	if (!stat.st_size)
		die("%s %s: an empty file", option, file);
	*size = stat.st_size;
	return fd;
}

static void read_all(int fd, const char *file, char *to, uint64_t size)
{
	while (size) {
		ssize_t got = read(fd, to, size);

		if (got < 0 && errno != EINTR)
			die_errno("reading %s", file);
		if (got == 0)
			die("%s became shorter while it was read", file);
		if (got > 0) {
			to += got;
			size -= got;
		}
	}
}

static struct range load_raw(struct vm *vm, const char *option, const char *file, uint64_t address)
{
	uint64_t size;
	int fd = open_file(option, file, &size);
	struct range range = place(vm, file, address, size);

	read_all(fd, file, guest_memory(vm, range.start, size), size);
	close(fd);
	return range;
}

/* The image's own header says how much memory it takes, its BSS included. */
static struct range load_image(struct vm *vm, const char *option, const char *file, uint64_t address)
{
	struct image_header header = { };
	struct range range;
	uint64_t size;
	int fd = open_file(option, file, &size);

	if (pread(fd, &header, sizeof(header), 0) != sizeof(header) || le32toh(header.magic) != IMAGE_MAGIC)
		die("%s %s: no arm64 Image (no magic number): give an uncompressed arch/arm64/boot/Image",
		    option, file);
	if (le64toh(header.text_offset) > IMAGE_MOST || le64toh(header.image_size) > IMAGE_MOST)
		die("%s %s: its header asks for more than %lu MiB: give an undamaged Image", option, file,
		    IMAGE_MOST / MIB);
	address += le64toh(header.text_offset);
	range = place(vm, file, address, le64toh(header.image_size) > size ? le64toh(header.image_size) : size);
	read_all(fd, file, guest_memory(vm, range.start, size), size);
	close(fd);
	return range;
}

static void load_uboot(struct vm *vm, const char *file)
{
	void *flash = vm_add_flash(vm);
	uint64_t size;
	int fd = open_file("--uboot", file, &size);

	if (size > FLASH_SIZE)
		die("--uboot %s: larger than the flash of %lu MiB: give the u-boot.bin of qemu_arm64",
		    file, FLASH_SIZE / MIB);
	read_all(fd, file, flash, size);
	if (!memcmp(flash, "\177ELF", 4))
		die("--uboot %s: an ELF file, not what flash holds: give the u-boot.bin of qemu_arm64", file);
	close(fd);
}

static uint64_t after(struct range range)
{
	return ROUND_UP(range.start + range.size, IMAGE_ALIGN);
}

static void load_initrd(struct vm *vm, struct range last)
{
	if (vm->opt->initrd)
		vm->initrd = load_raw(vm, "--initrd", vm->opt->initrd, after(last));
}

/*
 * U-Boot in flash expects the device tree where RAM begins, and has its first stack in the
 * 2 MiB from there on; it then moves to the end of RAM.
 */
static void load_with_uboot(struct vm *vm)
{
	load_uboot(vm, vm->opt->uboot);
	vm->entry = FLASH_BASE;
	vm->dtb = place(vm, "the device tree", RAM_BASE, DTB_SIZE);
	vm->kernel = load_image(vm, "--kernel", vm->opt->kernel, after(vm->dtb));
	load_initrd(vm, vm->kernel);
	place(vm, "U-Boot's own memory", after(vm->initrd.size ? vm->initrd : vm->kernel), UBOOT_MEMORY);
}

static void load_without_firmware(struct vm *vm)
{
	const struct options *opt = vm->opt;
	struct range last = { RAM_BASE, 0, NULL };

	if (opt->xen)
		last = load_image(vm, "--xen", opt->xen, RAM_BASE);
	vm->kernel = load_image(vm, "--kernel", opt->kernel, after(last));
	vm->entry = opt->xen ? last.start : vm->kernel.start;
	vm->dtb = place(vm, "the device tree", after(vm->kernel), DTB_SIZE);
	load_initrd(vm, vm->dtb);
}

void load_all(struct vm *vm)
{
	const struct options *opt = vm->opt;
	unsigned int i;

	for (i = 0; i < opt->nr_loads; i++)
		load_raw(vm, "--load", opt->loads[i].file, opt->loads[i].address);
	if (opt->uboot)
		load_with_uboot(vm);
	else
		load_without_firmware(vm);
}
