// SPDX-License-Identifier: GPL-2.0
/*
 * load - keep a guest busy and check that nothing it stored or sent is lost.
 *
 * usage: load SECONDS [memory MiB] [disk DEVICE] [net ADDRESS PORT]
 *        load serve PORT
 *
 * One process a kind of load, for SECONDS (memory: once it is filled), but one block
 * at least, however slow; ends with a line for each kind and status 0 if every byte
 * was right.  The parent sleeps and wakes all the time and tells how late it was woken
 * at worst; more than STALL seconds are a failure.
 * "serve" is the peer of "net": it sends back what it gets.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <linux/fs.h>
#include <time.h>
#include <unistd.h>

#define STALL 60.0
#define PAGE 4096UL
#define LINE 64UL		/* one word of pattern in each */
#define BLOCK 65536UL		/* unit of disk and net */
#define SHARED 4		/* one page in so many has twins, for KSM */
#define DIE(what) do { perror(what); exit(2); } while (0)

static double started, seconds;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int running(void)
{
	return now() - started < seconds;
}

/* Any bits in, any bits out (splitmix64). */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static uint64_t random64(void)
{
	static uint64_t state;

	return mix(state++);
}

/* What word `at` of object `number` holds after its `generation`th writing. */
static uint64_t pattern(uint64_t number, uint32_t generation, unsigned long at)
{
	return mix(number << 32 ^ generation) + at;
}

static void write_pattern(void *data, size_t size, uint64_t number, uint32_t generation)
{
	for (size_t at = 0; at < size; at += LINE)
		*(uint64_t *)(data + at) = pattern(number, generation, at);
}

/* Does `data` hold its pattern? The first word that does not is told. */
static int check(const char *kind, const void *data, size_t size, uint64_t number, uint32_t generation)
{
	for (size_t at = 0; at < size; at += LINE) {
		uint64_t want = pattern(number, generation, at), have = *(uint64_t *)(data + at);

		if (have == want)
			continue;
		printf("LOST: %s %lu generation %u at %#zx: %#lx, not %#lx\n", kind, number, generation, at, have, want);
		return 0;
	}
	return 1;
}

/* One page in SHARED has the pattern of all such pages of its generation. */
static uint64_t name_of(size_t page)
{
	return page % SHARED ? page : ~0u;
}

/* Check page after page, write a quarter of them anew, forget a few; at last check all. */
static int memory(char **arguments)
{
	size_t pages = strtoul(arguments[0], NULL, 0) * (1 << 20) / PAGE, page;
	uint32_t *generation = calloc(pages, sizeof(*generation));
	unsigned long checked = 0;
	char *base;

	base = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED || !generation)
		DIE("memory");
	madvise(base, pages * PAGE / 2, MADV_HUGEPAGE);	/* not every kernel can */
	for (page = 0; page < pages; page++)
		write_pattern(base + page * PAGE, PAGE, name_of(page), 0);
	started = now();
	for (size_t turn = 0; running(); turn++, checked++) {
		char *data = base + (page = turn % pages) * PAGE;
		uint64_t dice = random64();

		if (!check("page", data, PAGE, name_of(page), generation[page]))
			return 1;
		if (dice % 4)
			continue;
		if (dice % 64 == 0)
			madvise(data, PAGE, MADV_DONTNEED);
		write_pattern(data, PAGE, name_of(page), ++generation[page]);
	}
	for (page = 0; page < pages; page++, checked++)
		if (!check("page", base + page * PAGE, PAGE, name_of(page), generation[page]))
			return 1;
	printf("memory: %zu pages, %lu checked\n", pages, checked);
	return 0;
}

/* Write a random block and check another one, past the page cache. */
static int disk(char **arguments)
{
	int device = open(arguments[0], O_RDWR | O_DIRECT);
	unsigned long done = 0, blocks;
	uint32_t *generation;
	uint64_t bytes;
	void *data;

	if (device < 0 || ioctl(device, BLKGETSIZE64, &bytes))
		DIE(arguments[0]);
	blocks = bytes / BLOCK;
	generation = calloc(blocks, sizeof(*generation));
	data = aligned_alloc(PAGE, BLOCK);
	for (; !done || running(); done++) {
		unsigned long block = random64() % blocks, other = random64() % blocks;

		write_pattern(data, BLOCK, block, ++generation[block]);
		if (pwrite(device, data, BLOCK, block * BLOCK) != (ssize_t)BLOCK)
			DIE("disk write");
		if (!generation[other])
			continue;
		if (pread(device, data, BLOCK, other * BLOCK) != (ssize_t)BLOCK)
			DIE("disk read");
		if (!check("block", data, BLOCK, other, generation[other]))
			return 1;
	}
	printf("disk: %lu blocks of %lu KiB\n", done, BLOCK >> 10);
	return 0;
}

static void all(int peer, char *data, int out)
{
	for (size_t done = 0; done < BLOCK;) {
		ssize_t got = out ? write(peer, data + done, BLOCK - done) : read(peer, data + done, BLOCK - done);

		if (got <= 0)
			DIE(out ? "net send" : "net receive");
		done += got;
	}
}

/* Send blocks to the peer and check what it sends back. */
static int net(char **arguments)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])) };
	int peer = socket(AF_INET, SOCK_STREAM, 0);
	static _Alignas(8) char data[BLOCK];
	uint32_t sent = 0;

	inet_pton(AF_INET, arguments[0], &address.sin_addr);
	if (connect(peer, (void *)&address, sizeof(address)))
		DIE(arguments[0]);
	for (; !sent || running(); sent++) {
		write_pattern(data, BLOCK, 0, sent);
		all(peer, data, 1);
		memset(data, 0, BLOCK);
		all(peer, data, 0);
		if (!check("packet", data, BLOCK, 0, sent))
			return 1;
	}
	printf("net: %u blocks of %lu KiB\n", sent, BLOCK >> 10);
	return 0;
}

static int serve(const char *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	static char data[BLOCK];

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (void *)&address, sizeof(address)) || listen(listener, 8))
		DIE("serve");
	for (;;) {
		int peer = accept(listener, NULL, NULL);
		ssize_t got;

		printf("serve: a guest\n");
		fflush(stdout);
		if (fork())
			close(peer);
		else
			while ((got = read(peer, data, BLOCK)) > 0)
				for (ssize_t put, done = 0; done < got; done += put)
					if ((put = write(peer, data + done, got - done)) <= 0)
						exit(0);
	}
}

static const struct {
	const char *name;
	int arguments;
	int (*run)(char **arguments);
} kinds[] = {
	{ "memory", 1, memory },
	{ "disk", 1, disk },
	{ "net", 2, net },
};

/* Start the kind of load that `arguments` names; returns how many of them it took. */
static int start(char **arguments, int count)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(arguments[0], kinds[i].name) || count <= kinds[i].arguments)
			continue;
		if (!fork()) {
			int status = kinds[i].run(arguments + 1);

			fflush(stdout);
			_exit(status);
		}
		return 1 + kinds[i].arguments;
	}
	fprintf(stderr, "load: unknown or incomplete '%s'\n", arguments[0]);
	exit(2);
}

int main(int count, char **arguments)
{
	double late = 0, before, slept;
	int status, bad = 0;

	if (count == 3 && !strcmp(arguments[1], "serve"))
		return serve(arguments[2]);
	if (count < 3) {
		fprintf(stderr, "usage: load SECONDS [memory MiB] [disk DEVICE] [net ADDRESS PORT] | load serve PORT\n");
		return 2;
	}
	started = now();
	seconds = atof(arguments[1]);
	for (int at = 2; at < count;)
		at += start(arguments + at, count - at);
	for (before = now(); running(); before = now()) {
		usleep(20000);
		slept = now() - before - 0.02;
		late = slept > late ? slept : late;
	}
	while (wait(&status) > 0)
		bad += status != 0;
	printf("load: woken %.2f s late at worst, %d kinds of load failed\n", late, bad);
	return bad || late > STALL;
}
