// SPDX-License-Identifier: GPL-2.0
/* The standard streams as the guest's first UART, and a file as its second. */
#include "nestvm.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved;
static bool raw;

void console_restore(void)
{
	if (raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	raw = false;
}

static void restore_and_end(int number)
{
	console_restore();
	signal(number, SIG_DFL);
	raise(number);
}

static void make_raw(void)
{
	struct termios now;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved))
		return;
	now = saved;
	cfmakeraw(&now);
	now.c_oflag |= OPOST;
	raw = !tcsetattr(STDIN_FILENO, TCSANOW, &now);
	atexit(console_restore);
	signal(SIGTERM, restore_and_end);
	signal(SIGHUP, restore_and_end);
}

void console_create(struct vm *vm)
{
	const char *file = vm->opt->serial;
	int fd;

	make_raw();
	signal(SIGPIPE, SIG_IGN);	/* a console that nobody reads any more */
	pl011_create(vm, STDOUT_FILENO, STDIN_FILENO);
	if (!file)
		return;
	fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY | O_CLOEXEC, 0666);
	if (fd < 0)
		die_errno("--serial %s", file);
	pl011_create(vm, fd, -1);
}
