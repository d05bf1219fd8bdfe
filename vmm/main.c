// SPDX-License-Identifier: GPL-2.0
/* Options, errors, and the order in which a machine is made. */
#include "nestvm.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
"usage: nestvm --kernel IMAGE [options]\n"
"\n"
"Runs an arm64 guest under KVM, its console (a PL011) on the standard streams;\n"
"on a terminal, Ctrl-A X ends it.\n"
"\n"
"  --kernel IMAGE       arm64 Image of the guest, or with --xen of its dom0\n"
"  --initrd FILE        initial RAM disk\n"
"  --append TEXT        kernel command line\n"
"  --smp N              vCPUs (default: 1)\n"
"  --mem MIB            memory in MiB (default: 512)\n"
"  --el2                the guest starts at virtual EL2, with VHE\n"
"  --el2=e2h0           the same without VHE (HCR_EL2.E2H is RES0)\n"
"  --xen IMAGE          start Xen, with kernel and initrd as dom0's; needs --el2=e2h0\n"
"  --xen-append TEXT    Xen's own command line\n"
"  --domu TEXT          a second domain of the same kernel and initrd, with this command line\n"
"                       (one vCPU, 256 MiB, console ttyAMA0, which Xen's shows, too)\n"
"  --uboot FILE         start U-Boot (u-boot.bin of qemu_arm64), which starts the kernel\n"
"  --load FILE@ADDRESS  put a file at a guest physical address (RAM begins at 0x40000000);\n"
"                       up to 8 times\n"
"  --disk FILE          a virtio disk, read-only where FILE cannot be written; up to 8 times\n"
"  --serial FILE        a second PL011, which writes to FILE\n"
"  --no-fpmr            the guest has no FPMR, which hypervisors that don't know it cannot switch\n"
"  --no-reboot          end when the guest asks for a reset, instead of starting it anew\n"
"  --help               this text\n"
"\n"
"Exit status: 0 the guest powered off, 1 it cannot be run here (a line says why),\n"
"2 bad arguments, 3 it asked for a reset, 4 it crashed, 5 ended by Ctrl-A X.\n";

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("nestvm: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(ENDED_ERROR);
}

void die_errno(const char *format, ...)
{
	int error = errno;
	va_list args;

	va_start(args, format);
	fputs("nestvm: ", stderr);
	vfprintf(stderr, format, args);
	fprintf(stderr, ": %s (errno %d)\n", strerror(error), error);
	va_end(args);
	exit(ENDED_ERROR);
}

void finish(enum status status)
{
	devices_lock();
	exit(status);
}

int checked_ioctl(int fd, unsigned long request, void *argument, const char *name)
{
	int ret = ioctl(fd, request, argument);

	if (ret < 0)
		die_errno("ioctl %s", name);
	return ret;
}

__attribute__((noreturn, format(printf, 1, 2)))
static void usage(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("nestvm: ", stderr);
	vfprintf(stderr, format, args);
	fputs("; see nestvm --help\n", stderr);
	va_end(args);
	exit(ENDED_USAGE);
}

static unsigned long number(const char *option, const char *text, unsigned long least, unsigned long most)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, 0);
	if (errno || end == text || *end || text[0] == '-' || value < least || value > most)
		usage("%s %s: give a number from %lu to %lu", option, text, least, most);
	return value;
}

static void add_load(struct options *opt, const char *text)
{
	const char *at = strrchr(text, '@');
	struct load *load = &opt->loads[opt->nr_loads];

	if (!at || at == text)
		usage("--load %s: give FILE@ADDRESS, as in --load image@0x48000000", text);
	if (opt->nr_loads++ == MAX_FILES)
		usage("more than %d --load", MAX_FILES);
	load->address = number("--load", at + 1, 0, ~0UL);
	load->file = strndup(text, at - text);
}

static void add_disk(struct options *opt, const char *file)
{
	if (opt->nr_disks == MAX_FILES)
		usage("more than %d --disk", MAX_FILES);
	opt->disks[opt->nr_disks++] = file;
}

static void set_el2(struct options *opt, const char *variant)
{
	if (variant && strcmp(variant, "e2h0"))
		usage("--el2=%s: give --el2 (VHE) or --el2=e2h0 (no VHE)", variant);
	if (opt->el2 != EL2_NONE && opt->el2 != (variant ? EL2_E2H0 : EL2_VHE))
		usage("--el2 and --el2=e2h0: give one of them");
	opt->el2 = variant ? EL2_E2H0 : EL2_VHE;
}

enum { KERNEL = 256, INITRD, APPEND, SMP, MEM, EL2, XEN, XEN_APPEND, DOMU, UBOOT, LOAD, DISK, SERIAL, NO_FPMR, NO_REBOOT, HELP };

static const struct option long_options[] = {
	{ "kernel",	required_argument, NULL, KERNEL },
	{ "initrd",	required_argument, NULL, INITRD },
	{ "append",	required_argument, NULL, APPEND },
	{ "smp",	required_argument, NULL, SMP },
	{ "mem",	required_argument, NULL, MEM },
	{ "el2",	optional_argument, NULL, EL2 },
	{ "xen",	required_argument, NULL, XEN },
	{ "xen-append",	required_argument, NULL, XEN_APPEND },
	{ "domu",	required_argument, NULL, DOMU },
	{ "uboot",	required_argument, NULL, UBOOT },
	{ "load",	required_argument, NULL, LOAD },
	{ "disk",	required_argument, NULL, DISK },
	{ "serial",	required_argument, NULL, SERIAL },
	{ "no-fpmr",	no_argument,	   NULL, NO_FPMR },
	{ "no-reboot",	no_argument,	   NULL, NO_REBOOT },
	{ "help",	no_argument,	   NULL, HELP },
	{ }
};

static void set_option(struct options *opt, int option)
{
	switch (option) {
	case KERNEL:	 opt->kernel = optarg; break;
	case INITRD:	 opt->initrd = optarg; break;
	case APPEND:	 opt->append = optarg; break;
	case SMP:	 opt->smp = number("--smp", optarg, 1, MAX_VCPUS); break;
	case MEM:	 opt->mem = number("--mem", optarg, 1, 1 << 20) * MIB; break;
	case EL2:	 set_el2(opt, optarg); break;
	case XEN:	 opt->xen = optarg; break;
	case XEN_APPEND: opt->xen_append = optarg; break;
	case DOMU:	 opt->domu = optarg; break;
	case UBOOT:	 opt->uboot = optarg; break;
	case LOAD:	 add_load(opt, optarg); break;
	case DISK:	 add_disk(opt, optarg); break;
	case SERIAL:	 opt->serial = optarg; break;
	case NO_FPMR:	 opt->no_fpmr = true; break;
	case NO_REBOOT:	 opt->no_reboot = true; break;
	case HELP:	 fputs(help, stdout); exit(0);
	}
}

static void parse(struct options *opt, int argc, char **argv)
{
	int option, before = 1;

	opterr = 0;
	while ((option = getopt_long(argc, argv, "+:", long_options, NULL)) != -1) {
		if (option == ':')
			usage("%s needs a value", argv[before]);
		if (option == '?')
			usage("unknown option '%s'", argv[before]);
		set_option(opt, option);
		before = optind;
	}
	if (optind < argc)
		usage("what is '%s'? Every argument is an option", argv[optind]);
	if (!opt->kernel)
		usage("no kernel: give --kernel IMAGE");
	if (opt->xen && opt->el2 != EL2_E2H0)
		usage("--xen: Xen runs at EL2 without VHE: give --el2=e2h0, too");
	if (opt->xen && opt->uboot)
		usage("--xen and --uboot: give one of them");
	if ((opt->xen_append || opt->domu) && !opt->xen)
		usage("%s without --xen IMAGE", opt->domu ? "--domu" : "--xen-append");
}

int main(int argc, char **argv)
{
	struct options opt = { .smp = 1, .mem = 512 * MIB, .append = "" };
	struct vm vm = { .opt = &opt, .arguments = argv };
	unsigned int i;

	parse(&opt, argc, argv);
	vm_create(&vm);
	vcpus_create(&vm);
	gic_create(&vm);
	vcpus_init_pmu(&vm);
	console_create(&vm);
	for (i = 0; i < opt.nr_disks; i++)
		virtio_blk_create(&vm, opt.disks[i]);
	load_all(&vm);
	fdt_build(&vm);
	vcpus_run(&vm);
}
