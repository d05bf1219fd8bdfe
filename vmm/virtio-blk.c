// SPDX-License-Identifier: GPL-2.0
/*
 * A virtio disk behind MMIO (virtio 1.0, "version 2"). Requests are served by
 * the vCPU that notifies; a driver that breaks the rules finds the device in
 * need of a reset.
 */
#include "nestvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define QUEUE_MAX	128
#define SEG_MAX		(QUEUE_MAX - 2)
#define SECTOR		512
#define MAGIC		0x74726976	/* "virt" */
#define VERSION		2
#define ALIGNED(n, to)	((n) % (to) == 0)
#define FEATURES	(1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_BLK_F_SEG_MAX | 1ULL << VIRTIO_BLK_F_FLUSH)

/* Everything that a reset clears. */
struct queue_state {
	uint32_t features_sel, driver_sel, queue_sel, status, interrupts;
	uint32_t num, ready;
	uint64_t desc, avail, used;	/* guest addresses */
	uint64_t driver_features;
	uint16_t last_avail;
};

struct disk {
	struct device dev;
	struct vm *vm;
	int file;
	unsigned int spi;
	bool line, read_only;
	struct virtio_blk_config config;
	struct queue_state s;
};

/* As Linux and others lay a request out: header and status are descriptors of their own. */
struct request {
	struct virtio_blk_outhdr *header;
	struct iovec data[QUEUE_MAX];
	int nr_data;
	uint64_t size;
	bool writable;		/* by us: the guest reads from the disk */
	uint8_t *status;
};

static void update_line(struct disk *disk)
{
	bool line = disk->s.interrupts;

	if (line != disk->line)
		vm_set_irq(disk->vm, disk->spi, line);
	disk->line = line;
}

static void need_reset(struct disk *disk)
{
	disk->s.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	disk->s.interrupts |= VIRTIO_MMIO_INT_CONFIG;
}

/* Read the chain of descriptors that begins with number `index`; false if it makes no sense. */
static bool read_chain(struct disk *disk, const struct vring_desc *table, uint16_t index, struct request *req)
{
	unsigned int count = 0;
	struct vring_desc desc;
	void *part;

	memset(req, 0, sizeof(*req));
	do {
		if (index >= disk->s.num || count == disk->s.num)
			return false;
		desc = table[index];
		part = guest_memory(disk->vm, desc.addr, desc.len);
		if (!part)
			return false;
		if (!count++) {
			if (desc.len != sizeof(*req->header) || desc.flags & VRING_DESC_F_WRITE)
				return false;
			req->header = part;
		} else if (desc.flags & VRING_DESC_F_NEXT) {
			if (req->nr_data && req->writable != !!(desc.flags & VRING_DESC_F_WRITE))
				return false;
			req->writable = desc.flags & VRING_DESC_F_WRITE;
			req->data[req->nr_data++] = (struct iovec){ part, desc.len };
			req->size += desc.len;
		}
		index = desc.next;
	} while (desc.flags & VRING_DESC_F_NEXT);
	req->status = part;
	return count > 1 && desc.len == 1 && desc.flags & VRING_DESC_F_WRITE;
}

static uint8_t transfer(struct disk *disk, struct request *req, bool to_guest)
{
	uint64_t sector = req->header->sector, capacity = disk->config.capacity;
	ssize_t done;

	if (to_guest != req->writable || req->size % SECTOR ||
	    sector > capacity || req->size / SECTOR > capacity - sector)
		return VIRTIO_BLK_S_IOERR;
	if (to_guest)
		done = preadv(disk->file, req->data, req->nr_data, sector * SECTOR);
	else
		done = pwritev(disk->file, req->data, req->nr_data, sector * SECTOR);
	return done == (ssize_t)req->size ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
}

static uint8_t serve(struct disk *disk, struct request *req)
{
	switch (req->header->type) {
	case VIRTIO_BLK_T_IN:
		return transfer(disk, req, true);
	case VIRTIO_BLK_T_OUT:
		return disk->read_only ? VIRTIO_BLK_S_IOERR : transfer(disk, req, false);
	case VIRTIO_BLK_T_FLUSH:
		return fdatasync(disk->file) && !disk->read_only ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

static bool serve_queue(struct disk *disk)
{
	struct queue_state *s = &disk->s;
	struct vring_desc *table = guest_memory(disk->vm, s->desc, sizeof(*table) * s->num);
	struct vring_avail *avail = guest_memory(disk->vm, s->avail, sizeof(*avail) + sizeof(uint16_t) * s->num);
	struct vring_used *used = guest_memory(disk->vm, s->used, sizeof(*used) + sizeof(*used->ring) * s->num);
	struct request req;
	uint16_t head, at;

	if (!table || !avail || !used || !ALIGNED(s->desc, VRING_DESC_ALIGN_SIZE) ||
	    !ALIGNED(s->avail, VRING_AVAIL_ALIGN_SIZE) || !ALIGNED(s->used, VRING_USED_ALIGN_SIZE))
		return false;
	while (s->last_avail != __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE)) {
		head = avail->ring[s->last_avail++ % s->num];
		if (!read_chain(disk, table, head, &req))
			return false;
		*req.status = serve(disk, &req);
		at = used->idx;
		used->ring[at % s->num].id = head;
		used->ring[at % s->num].len = 1 + (req.writable && *req.status == VIRTIO_BLK_S_OK ? req.size : 0);
		__atomic_store_n(&used->idx, at + 1, __ATOMIC_RELEASE);
		s->interrupts |= VIRTIO_MMIO_INT_VRING;
	}
	return true;
}

static void notify(struct disk *disk)
{
	if (!disk->s.ready || !(disk->s.status & VIRTIO_CONFIG_S_DRIVER_OK) ||
	    disk->s.status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	if (!serve_queue(disk))
		need_reset(disk);
}

static uint64_t features(struct disk *disk)
{
	return FEATURES | (disk->read_only ? 1ULL << VIRTIO_BLK_F_RO : 0);
}

static uint32_t feature_word(struct disk *disk)
{
	uint32_t word = disk->s.features_sel;

	return word > 1 ? 0 : features(disk) >> 32 * word;
}

static void set_status(struct disk *disk, uint32_t status)
{
	if (!status) {
		disk->s = (struct queue_state){ };
		return;
	}
	if (status & VIRTIO_CONFIG_S_FEATURES_OK &&
	    (disk->s.driver_features & ~features(disk) || !(disk->s.driver_features >> VIRTIO_F_VERSION_1)))
		status &= ~VIRTIO_CONFIG_S_FEATURES_OK;
	disk->s.status = status | (disk->s.status & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static void set_num(struct disk *disk, uint32_t num)
{
	if (!num || num > QUEUE_MAX || num & (num - 1))
		need_reset(disk);
	else
		disk->s.num = num;
}

static uint64_t read_config(struct disk *disk, uint64_t offset, uint32_t len)
{
	uint64_t value = 0;

	if (offset + len <= sizeof(disk->config))
		memcpy(&value, (char *)&disk->config + offset, len);
	return value;
}

static uint64_t disk_read(struct device *dev, uint64_t offset, uint32_t len)
{
	struct disk *disk = (struct disk *)dev;
	struct queue_state *s = &disk->s;

	if (offset >= VIRTIO_MMIO_CONFIG)
		return read_config(disk, offset - VIRTIO_MMIO_CONFIG, len);
	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:	   return MAGIC;
	case VIRTIO_MMIO_VERSION:	   return VERSION;
	case VIRTIO_MMIO_DEVICE_ID:	   return VIRTIO_ID_BLOCK;
	case VIRTIO_MMIO_DEVICE_FEATURES:  return feature_word(disk);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:	   return s->queue_sel ? 0 : QUEUE_MAX;
	case VIRTIO_MMIO_QUEUE_READY:	   return s->queue_sel ? 0 : s->ready;
	case VIRTIO_MMIO_INTERRUPT_STATUS: return s->interrupts;
	case VIRTIO_MMIO_STATUS:	   return s->status;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:	   return ~0U;		/* no shared memory */
	default:			   return 0;
	}
}

static void set_low(uint64_t *address, uint32_t value)
{
	*address = (*address & ~0xffffffffULL) | value;
}

static void set_high(uint64_t *address, uint32_t value)
{
	*address = (uint32_t)*address | (uint64_t)value << 32;
}

static void write_queue(struct disk *disk, uint64_t offset, uint32_t value)
{
	struct queue_state *s = &disk->s;

	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:	    set_num(disk, value); break;
	case VIRTIO_MMIO_QUEUE_READY:	    s->ready = value && s->num; break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:    set_low(&s->desc, value); break;
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:   set_high(&s->desc, value); break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:   set_low(&s->avail, value); break;
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:  set_high(&s->avail, value); break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:    set_low(&s->used, value); break;
	case VIRTIO_MMIO_QUEUE_USED_HIGH:   set_high(&s->used, value); break;
	}
}

static void disk_write(struct device *dev, uint64_t offset, uint32_t len, uint64_t value)
{
	struct disk *disk = (struct disk *)dev;
	struct queue_state *s = &disk->s;

	(void)len;
	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL: s->features_sel = value; break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL: s->driver_sel = value; break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		if (s->driver_sel == 0)
			set_low(&s->driver_features, value);
		else if (s->driver_sel == 1)
			set_high(&s->driver_features, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:	      s->queue_sel = value; break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:	      notify(disk); break;
	case VIRTIO_MMIO_INTERRUPT_ACK:	      s->interrupts &= ~value; break;
	case VIRTIO_MMIO_STATUS:	      set_status(disk, value); break;
	default:
		if (s->queue_sel == 0)
			write_queue(disk, offset, value);
	}
	update_line(disk);
}

static void open_disk(struct disk *disk, const char *file)
{
	off_t size;

	disk->file = open(file, O_RDWR | O_CLOEXEC);
	/* Busy: mounted here. */
	if (disk->file < 0 && (errno == EACCES || errno == EROFS || errno == EPERM || errno == EBUSY)) {
		disk->read_only = true;
		disk->file = open(file, O_RDONLY | O_CLOEXEC);
	}
	if (disk->file < 0)
		die_errno("--disk %s", file);
	size = lseek(disk->file, 0, SEEK_END);
	if (size < SECTOR)
		die("--disk %s: smaller than a sector of %d bytes: give a disk image", file, SECTOR);
	disk->config.capacity = size / SECTOR;
	disk->config.seg_max = SEG_MAX;
}

void virtio_blk_create(struct vm *vm, const char *file)
{
	struct disk *disk = calloc(1, sizeof(*disk));

	if (!disk)
		die_errno("memory of a disk");
	disk->dev = (struct device){ VIRTIO_BASE + vm->nr_disks * VIRTIO_SIZE, VIRTIO_SIZE, disk_read, disk_write };
	disk->vm = vm;
	disk->spi = VIRTIO_SPI + vm->nr_disks++;
	open_disk(disk, file);
	mmio_add(&disk->dev);
}
