// SPDX-License-Identifier: GPL-2.0
/* Arm's PL011 UART: what is written goes out at once, what comes in waits in a FIFO. */
#include "nestvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	UARTDR = 0x00, UARTFR = 0x18, UARTIBRD = 0x24, UARTFBRD = 0x28, UARTLCR_H = 0x2c, UARTCR = 0x30,
	UARTIFLS = 0x34, UARTIMSC = 0x38, UARTRIS = 0x3c, UARTMIS = 0x40, UARTICR = 0x44,
	UARTID = 0xfe0,		/* eight identification registers */
};

#define FR_RXFE		(1U << 4)
#define FR_RXFF		(1U << 6)
#define FR_TXFE		(1U << 7)
#define INT_RX		(1U << 4)
#define INT_TX		(1U << 5)
#define INT_RT		(1U << 6)	/* received something a while ago */
#define CR_RESET	0x300
#define FIFO_SIZE	16
#define ESCAPE		1		/* Ctrl-A; the next character is for us */

static const uint8_t id[8] = { 0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1 };

struct pl011 {
	struct device dev;
	struct vm *vm;
	int in, out;
	unsigned int spi;
	bool line;
	uint32_t ibrd, fbrd, lcr, cr, ifls, imsc, ris;
	uint8_t fifo[FIFO_SIZE];
	unsigned int first, count;
	pthread_cond_t room;
};

static void update_line(struct pl011 *uart)
{
	bool line = uart->ris & uart->imsc;

	if (line != uart->line)
		vm_set_irq(uart->vm, uart->spi, line);
	uart->line = line;
}

static void send(struct pl011 *uart, char c)
{
	while (write(uart->out, &c, 1) < 0 && (errno == EINTR || errno == EAGAIN))
		;
	uart->ris |= INT_TX;
}

static uint32_t receive(struct pl011 *uart)
{
	uint8_t c;

	if (!uart->count)
		return 0;
	c = uart->fifo[uart->first];
	uart->first = (uart->first + 1) % FIFO_SIZE;
	if (!--uart->count)
		uart->ris &= ~(INT_RX | INT_RT);
	pthread_cond_signal(&uart->room);
	return c;
}

static uint32_t flags(struct pl011 *uart)
{
	return FR_TXFE | (uart->count ? 0 : FR_RXFE) | (uart->count == FIFO_SIZE ? FR_RXFF : 0);
}

static uint64_t pl011_read(struct device *dev, uint64_t offset, uint32_t len)
{
	struct pl011 *uart = (struct pl011 *)dev;
	uint64_t value = 0;

	(void)len;
	switch (offset) {
	case UARTDR:	value = receive(uart); break;
	case UARTFR:	value = flags(uart); break;
	case UARTIBRD:	value = uart->ibrd; break;
	case UARTFBRD:	value = uart->fbrd; break;
	case UARTLCR_H:	value = uart->lcr; break;
	case UARTCR:	value = uart->cr; break;
	case UARTIFLS:	value = uart->ifls; break;
	case UARTIMSC:	value = uart->imsc; break;
	case UARTRIS:	value = uart->ris; break;
	case UARTMIS:	value = uart->ris & uart->imsc; break;
	default:
		if (offset >= UARTID)
			value = id[(offset - UARTID) / 4];
	}
	update_line(uart);
	return value;
}

static void pl011_write(struct device *dev, uint64_t offset, uint32_t len, uint64_t value)
{
	struct pl011 *uart = (struct pl011 *)dev;

	(void)len;
	switch (offset) {
	case UARTDR:	send(uart, value); break;
	case UARTIBRD:	uart->ibrd = value & 0xffff; break;
	case UARTFBRD:	uart->fbrd = value & 0x3f; break;
	case UARTLCR_H:	uart->lcr = value & 0xff; break;
	case UARTCR:	uart->cr = value & 0xffff; break;
	case UARTIFLS:	uart->ifls = value & 0x3f; break;
	case UARTIMSC:	uart->imsc = value & 0x7ff; break;
	case UARTICR:	uart->ris &= ~value; break;
	}
	update_line(uart);
}

static void deliver(struct pl011 *uart, uint8_t c)
{
	while (uart->count == FIFO_SIZE)
		pthread_cond_wait(&uart->room, devices_mutex());
	uart->fifo[(uart->first + uart->count++) % FIFO_SIZE] = c;
	uart->ris |= INT_RX | INT_RT;
	update_line(uart);
}

/* Ctrl-A X ends the program, Ctrl-A Ctrl-A is one Ctrl-A. */
static bool is_command(uint8_t c)
{
	static bool escaped;

	if (!escaped && c == ESCAPE)
		return escaped = true;
	if (escaped && (c == 'x' || c == 'X'))
		finish(ENDED_QUIT);
	escaped = false;
	return false;
}

static void *follow_input(void *argument)
{
	struct pl011 *uart = argument;
	bool terminal = isatty(uart->in);
	uint8_t c;

	while (read(uart->in, &c, 1) == 1) {
		if (terminal && is_command(c))
			continue;
		devices_lock();
		deliver(uart, c);
		devices_unlock();
	}
	return NULL;
}

void pl011_create(struct vm *vm, int out, int in)
{
	struct pl011 *uart = calloc(1, sizeof(*uart));
	pthread_t thread;

	if (!uart)
		die_errno("memory of a UART");
	uart->dev = (struct device){ UART_BASE + vm->nr_uarts * UART_SIZE, UART_SIZE, pl011_read, pl011_write };
	uart->vm = vm;
	uart->out = out;
	uart->in = in;
	uart->spi = UART_SPI + vm->nr_uarts++;
	uart->cr = CR_RESET;
	pthread_cond_init(&uart->room, NULL);
	mmio_add(&uart->dev);
	if (in < 0)
		return;
	errno = pthread_create(&thread, NULL, follow_input, uart);
	if (errno)
		die_errno("a thread for the console");
}
