// SPDX-License-Identifier: GPL-2.0
/*
 * press - take a VMM's memory away and back, in every way that the kernel has.
 *
 * usage: press PID SECONDS
 *
 * Picks pieces of the process's largest mapping, the guest's memory, and one way a
 * time for them; ends after SECONDS or with the process, and tells how often each
 * way was taken and how often the kernel did it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define HUGE (2UL << 20)
#define PIECES 16	/* of HUGE, at most, at a time */

struct piece {
	uintptr_t start;
	size_t size;
};

static int pid, pidfd;

static int advise(struct piece piece, int advice)
{
	struct iovec vector = { (void *)piece.start, piece.size };

	return syscall(SYS_process_madvise, pidfd, &vector, 1, advice, 0) > 0;
}

static int put(const char *file, const char *text)
{
	int descriptor = open(file, O_WRONLY), done;

	if (descriptor < 0)
		return 0;
	done = write(descriptor, text, strlen(text)) > 0;
	close(descriptor);
	return done;
}

static int page_out(struct piece piece)
{
	return advise(piece, MADV_PAGEOUT);
}

/* One after the other: a single one that cannot be would fail them all. */
static int collapse(struct piece piece)
{
	int done = 0;

	for (size_t at = 0; at < piece.size; at += HUGE)
		done |= advise((struct piece){ piece.start + at, HUGE }, MADV_COLLAPSE);
	return done;
}

static int split(struct piece piece)
{
	char text[80];

	snprintf(text, sizeof(text), "%d,0x%lx,0x%lx", pid, piece.start, piece.start + piece.size);
	return put("/sys/kernel/debug/split_huge_pages", text);
}

/* Move the pieces' pages to the other node, if there are two. */
static int move(struct piece piece)
{
	enum { BATCH = 512 };
	static void *pages[BATCH];
	static int nodes[BATCH], status[BATCH];
	int moved = 0;

	for (size_t at = 0; at < piece.size; at += BATCH * 4096UL) {
		int target = random() % 2;

		for (int i = 0; i < BATCH; i++) {
			pages[i] = (void *)(piece.start + at + i * 4096UL);
			nodes[i] = target;
			status[i] = -ENOENT;
		}
		if (syscall(SYS_move_pages, pid, BATCH, pages, nodes, status, 2 /* MPOL_MF_MOVE */) >= 0)
			for (int i = 0; i < BATCH; i++)
				moved |= status[i] == target;
	}
	return moved;
}

static int compact(struct piece piece)
{
	(void)piece;
	return put("/proc/sys/vm/compact_memory", "1");
}

static int cool(struct piece piece)
{
	return advise(piece, MADV_COLD);
}

static struct {
	const char *name;
	int (*act)(struct piece piece);
	int weight;
	int tried, done;
} ways[] = {
	{ "page-out", page_out, 8, 0, 0 },
	{ "collapse", collapse, 4, 0, 0 },
	{ "split", split, 2, 0, 0 },
	{ "move", move, 4, 0, 0 },
	{ "compact", compact, 1, 0, 0 },
	{ "cool", cool, 1, 0, 0 },
};
enum { WAYS = sizeof(ways) / sizeof(ways[0]) };

static struct piece largest_mapping(void)
{
	struct piece found = { 0, 0 };
	unsigned long start, end;
	char file[40], line[512], mode[5];
	FILE *maps;

	snprintf(file, sizeof(file), "/proc/%d/maps", pid);
	maps = fopen(file, "r");
	while (maps && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx %4s", &start, &end, mode) == 3 && !strcmp(mode, "rw-p") && end - start > found.size)
			found = (struct piece){ start, end - start };
	if (maps)
		fclose(maps);
	return found;
}

static int pick(void)
{
	int total = 0, dice;

	for (int i = 0; i < WAYS; i++)
		total += ways[i].weight;
	dice = random() % total;
	for (int i = 0;; i++)
		if ((dice -= ways[i].weight) < 0)
			return i;
}

int main(int count, char **arguments)
{
	time_t end;
	struct piece ram;

	if (count != 3) {
		fprintf(stderr, "usage: press PID SECONDS\n");
		return 2;
	}
	pid = atoi(arguments[1]);
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	ram = largest_mapping();
	ram.start = (ram.start + HUGE - 1) & -HUGE;
	if (pidfd < 0 || ram.size < 8 * HUGE) {
		fprintf(stderr, "press: process %d has no guest memory\n", pid);
		return 2;
	}
	for (end = time(NULL) + atoi(arguments[2]); time(NULL) < end && !kill(pid, 0);) {
		size_t huge = ram.size / HUGE - 1, first = random() % huge, number = 1 + random() % PIECES;
		int way = pick();

		number = number < huge - first ? number : huge - first;
		ways[way].tried++;
		ways[way].done += ways[way].act((struct piece){ ram.start + first * HUGE, number * HUGE });
		usleep(20000);
	}
	for (int i = 0; i < WAYS; i++)
		printf("press: %s %d of %d\n", ways[i].name, ways[i].done, ways[i].tried);
	return 0;
}
