/* Preloaded into fio and the stamping process: the block device LIE_DISK (major:minor) lies to them.
 * struct iocb of libaio has the layout of the kernel's, which is declared in a header that every compiler comes with.
 *
 * LIE_FAULT  wrap      it has LIE_AT bytes only; whatever lies behind wraps round to its start
 *            beyond    it has LIE_AT bytes only; what is written behind is lost
 *            drop      the first write that touches the 4 KiB block at LIE_AT is lost (for that block)
 *            stuck     every write to that block is lost
 *            misdirect every write that starts at LIE_AT goes to LIE_TO
 *            flip      a bit of that block reads wrong from the LIE_NTH read of it on
 * What has been counted is kept in the file LIE_STATE, for one fault spans several processes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define BLOCK 4096

static const char *fault(void) { const char *name = getenv("LIE_FAULT"); return name ? name : ""; }
static off_t number(const char *name) { const char *text = getenv(name); return text ? atoll(text) : 0; }
static int is(const char *name) { return !strcmp(fault(), name); }

static int lies(int fd) {
    struct stat status;
    char name[32];
    if (!getenv("LIE_DISK") || fstat(fd, &status) || !S_ISBLK(status.st_mode)) return 0;
    snprintf(name, sizeof name, "%u:%u", major(status.st_rdev), minor(status.st_rdev));
    return !strcmp(name, getenv("LIE_DISK"));
}

static long count(void) { /* how often it was asked, this time included */
    int state = open(getenv("LIE_STATE"), O_CREAT | O_RDWR | O_APPEND, 0600);
    struct stat status;
    if (write(state, "x", 1) != 1) abort();
    fstat(state, &status);
    close(state);
    return status.st_size;
}

static int touches(off_t offset, size_t length) {
    return offset <= number("LIE_AT") && number("LIE_AT") < offset + (off_t)length;
}

static ssize_t raw(int write, int fd, char *data, size_t length, off_t offset) {
    static ssize_t (*reads)(int, void *, size_t, off_t), (*writes)(int, const void *, size_t, off_t);
    if (!reads) {
        reads = dlsym(RTLD_NEXT, "pread64");
        writes = dlsym(RTLD_NEXT, "pwrite64");
    }
    return write ? writes(fd, data, length, offset) : reads(fd, data, length, offset);
}

static void blockwise(int write, int fd, char *data, size_t length, off_t offset) {
    off_t end = number("LIE_AT");
    for (size_t at = 0; at < length; at += BLOCK) {
        off_t place = offset + (off_t)at;
        if (is("wrap")) raw(write, fd, data + at, BLOCK, place % end);
        else if (place < end) raw(write, fd, data + at, BLOCK, place);
        else if (!write) memset(data + at, 0, BLOCK);
    }
}

static void write_around(int fd, char *data, size_t length, off_t offset) {
    size_t before = number("LIE_AT") - offset;
    if (before) raw(1, fd, data, before, offset);
    if (before + BLOCK < length) raw(1, fd, data + before + BLOCK, length - before - BLOCK, offset + before + BLOCK);
}

/* Does the request in its own way; 0 when there is nothing to lie about. */
static int lie(int write, int fd, char *data, size_t length, off_t offset) {
    if (is("wrap") || is("beyond")) { blockwise(write, fd, data, length, offset); return 1; }
    if (!touches(offset, length)) return 0;
    if (is("flip") && !write) {
        raw(0, fd, data, length, offset);
        if (count() >= number("LIE_NTH")) data[number("LIE_AT") - offset + 77] ^= 1;
        return 1;
    }
    if (!write) return 0;
    if (is("stuck") || (is("drop") && count() == 1)) { write_around(fd, data, length, offset); return 1; }
    if (is("misdirect") && offset == number("LIE_AT")) { raw(1, fd, data, length, number("LIE_TO")); return 1; }
    return 0;
}

/* The request of one part that is about the lying disk, done; -1 when it is none. */
static ssize_t vector(int write, int fd, const struct iovec *parts, int n, off_t offset) {
    return n == 1 && lies(fd) && lie(write, fd, parts->iov_base, parts->iov_len, offset) ? (ssize_t)parts->iov_len : -1;
}

#define PLAIN(NAME, WRITE)                                                              \
    ssize_t NAME(int fd, const struct iovec *parts, int n, off_t at) {                  \
        ssize_t (*real)(int, const struct iovec *, int, off_t) = dlsym(RTLD_NEXT, #NAME); \
        ssize_t done = vector(WRITE, fd, parts, n, at);                                 \
        return done >= 0 ? done : real(fd, parts, n, at);                               \
    }
#define FLAGGED(NAME, WRITE)                                                            \
    ssize_t NAME(int fd, const struct iovec *parts, int n, off_t at, int flags) {       \
        ssize_t (*real)(int, const struct iovec *, int, off_t, int) = dlsym(RTLD_NEXT, #NAME); \
        ssize_t done = vector(WRITE, fd, parts, n, at);                                 \
        return done >= 0 ? done : real(fd, parts, n, at, flags);                        \
    }
PLAIN(preadv, 0)
PLAIN(preadv64, 0)
PLAIN(pwritev, 1)
PLAIN(pwritev64, 1)
FLAGGED(preadv2, 0)
FLAGGED(preadv64v2, 0)
FLAGGED(pwritev2, 1)
FLAGGED(pwritev64v2, 1)

/* A request that was lied about is sent on as one that changes nothing: a read of the same length to nowhere. */
int io_submit(aio_context_t context, long n, struct iocb **requests) {
    int (*real)(aio_context_t, long, struct iocb **) = dlsym(RTLD_NEXT, "io_submit");
    static char *nowhere;
    if (!nowhere && posix_memalign((void **)&nowhere, BLOCK, 1 << 24)) abort();
    for (long i = 0; i < n; i++) {
        struct iocb *one = requests[i];
        int write = one->aio_lio_opcode == IOCB_CMD_PWRITE;
        if (!write && one->aio_lio_opcode != IOCB_CMD_PREAD) continue;
        if (!lies(one->aio_fildes)) continue;
        if (!lie(write, one->aio_fildes, (char *)(unsigned long)one->aio_buf, one->aio_nbytes, one->aio_offset)) continue;
        one->aio_lio_opcode = IOCB_CMD_PREAD;
        one->aio_buf = (unsigned long)nowhere;
    }
    return real(context, n, requests);
}
