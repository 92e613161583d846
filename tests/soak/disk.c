/* A disk that fails: from the n-th call of a kind on, on files below a folder, it gives an error.

   cc -shared -fPIC -O1 -o disk.so disk.c -ldl; LD_PRELOAD=disk.so. Armed by `fail_disk`, or in a
   fresh process by FAIL_DISK="KIND NUMBER ERRNO FOLDER". The kinds: write, fsync, read, create,
   rename. Only every n-th call fails when reading (a bad block), and all that follow elsewhere. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE, FSYNC, READ, CREATE, RENAME, KINDS };
static const char *NAMES[KINDS] = {"write", "fsync", "read", "create", "rename"};
static char folder[4096];
static int kind = -1, failure, armed;
static long number;
static atomic_long calls[KINDS];

void fail_disk(const char *name, long at, int code, const char *below) {
    snprintf(folder, sizeof folder, "%s", below);
    kind = -1;
    for (int i = 0; i < KINDS; i++) {
        calls[i] = 0;
        if (!strcmp(name, NAMES[i])) kind = i;
    }
    number = at, failure = code, armed = 1;
}

long disk_calls(int which) { return calls[which]; }

__attribute__((constructor)) static void begin(void) {
    char name[16], below[4096];
    long at;
    int code;
    const char *text = getenv("FAIL_DISK");
    if (text && sscanf(text, "%15s %ld %d %4095s", name, &at, &code, below) == 4)
        fail_disk(name, at, code, below);
}

static int below(const char *path) {
    char whole[8192];
    if (path[0] != '/') {
        if (!getcwd(whole, 4096)) return 0;
        strcat(whole, "/");
        strncat(whole, path, 4000);
        path = whole;
    }
    return !strncmp(path, folder, strlen(folder));
}

static int of_file(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0 || path[0] != '/') return 0; /* a pipe */
    path[size] = 0;
    return below(path);
}

static int fails(int which) {
    long now = ++calls[which];
    if (which != kind || (which == READ ? now != number : now < number)) return 0;
    errno = failure;
    return 1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define ON_FILE(which) if (armed && of_file(file) && fails(which)) return -1

ssize_t write(int file, const void *from, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    ON_FILE(WRITE);
    return real(file, from, size);
}
ssize_t writev(int file, const struct iovec *from, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    ON_FILE(WRITE);
    return real(file, from, count);
}
ssize_t pwrite(int file, const void *from, size_t size, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    ON_FILE(WRITE);
    return real(file, from, size, at);
}
ssize_t pwrite64(int file, const void *from, size_t size, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    ON_FILE(WRITE);
    return real(file, from, size, at);
}
ssize_t read(int file, void *to, size_t size) {
    REAL(ssize_t, read, int, void *, size_t);
    ON_FILE(READ);
    return real(file, to, size);
}
ssize_t pread(int file, void *to, size_t size, off_t at) {
    REAL(ssize_t, pread, int, void *, size_t, off_t);
    ON_FILE(READ);
    return real(file, to, size, at);
}
ssize_t pread64(int file, void *to, size_t size, off64_t at) {
    REAL(ssize_t, pread64, int, void *, size_t, off64_t);
    ON_FILE(READ);
    return real(file, to, size, at);
}
int fsync(int file) {
    REAL(int, fsync, int);
    ON_FILE(FSYNC);
    return real(file);
}
int fdatasync(int file) {
    REAL(int, fdatasync, int);
    ON_FILE(FSYNC);
    return real(file);
}
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    if (armed && below(to) && fails(RENAME)) return -1;
    return real(from, to);
}
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        if (armed && flags & O_CREAT && below(path) && fails(CREATE)) return -1; \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
