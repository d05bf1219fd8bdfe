// SPDX-License-Identifier: GPL-2.0
/* Who answers at which guest physical address. */
#include "nestvm.h"

#include <string.h>

#define MAX_DEVICES	(MAX_FILES + 2)

static struct device *devices[MAX_DEVICES];
static unsigned int nr_devices;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void devices_lock(void)
{
	pthread_mutex_lock(&lock);
}

void devices_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

pthread_mutex_t *devices_mutex(void)
{
	return &lock;
}

void mmio_add(struct device *dev)
{
	devices[nr_devices++] = dev;
}

static struct device *find(uint64_t address)
{
	unsigned int i;

	for (i = 0; i < nr_devices; i++)
		if (address - devices[i]->base < devices[i]->size)
			return devices[i];
	return NULL;
}

/* Where there is no device, reads give 0 and writes do nothing. */
void mmio_access(struct kvm_run *run)
{
	struct device *dev = find(run->mmio.phys_addr);
	uint64_t value = 0, offset;

	if (dev) {
		offset = run->mmio.phys_addr - dev->base;
		devices_lock();
		if (run->mmio.is_write) {
			memcpy(&value, run->mmio.data, run->mmio.len);
			dev->write(dev, offset, run->mmio.len, value);
		} else {
			value = dev->read(dev, offset, run->mmio.len);
		}
		devices_unlock();
	}
	if (!run->mmio.is_write)
		memcpy(run->mmio.data, &value, run->mmio.len);
}
