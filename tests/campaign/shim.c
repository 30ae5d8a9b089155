/* Owns: what goes wrong below one process, between it and libc (LD_PRELOAD): syncs that are slow, fail or never return,
 * a disk without room, a clock that runs fast or slow, and a journal of what was written and not yet synced, from
 * which the campaign takes the process's unsynced pages away once it is dead, as a power loss would.
 * Never: what the bytes mean; network.
 *
 * DKV_SHIM_DATA  only regular files in this directory count
 * DKV_SHIM_DIR   holds `control` (words, see below) and `undo` (the journal)
 *
 * What is undone are the contents and lengths of files. Names (create, rename, unlink) are kept as they are.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Words of the control page, set by the campaign at any time. */
enum { FAIL_SYNCS, SYNC_DELAY_MS, HANG, NO_SPACE, WALL_OFFSET_NS, CLOCK_PPM };

/* What a record of the journal says. `seq` grows by one with each. */
enum { WRITE = 1, GROW = 2, SHRINK = 3, SYNCED = 4, CREATED = 5 };
struct head {
  uint64_t kind, seq, inode, at, old_len, new_len, bytes;
};

enum { FDS = 65536, JOURNAL_BYTES = 64 << 20 };

static volatile uint64_t *control;
static const char *data_dir;
static int journal = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t last_seq, journal_bytes;
static uint64_t inode_of[FDS]; /* 0: not a file that counts */
static int64_t ppm, base_ns[16];

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off64_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fdatasync)(int), (*real_fsync)(int);
static int (*real_ftruncate)(int, off64_t);
static int (*real_fallocate)(int, int, off64_t, off64_t);
static int (*real_clock)(clockid_t, struct timespec *);

static void die(const char *what) {
  dprintf(2, "shim: %s: %s\n", what, strerror(errno));
  _exit(97);
}

static void *next(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (!found) die(name);
  return found;
}

static int64_t ns_of(const struct timespec *t) { return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec; }

__attribute__((constructor)) static void begin(void) {
  real_open = next("open64");
  real_close = next("close");
  real_pwrite = next("pwrite64");
  real_pwritev = next("pwritev64");
  real_write = next("write");
  real_fdatasync = next("fdatasync");
  real_fsync = next("fsync");
  real_ftruncate = next("ftruncate64");
  real_fallocate = next("fallocate64");
  real_clock = next("clock_gettime");
  const char *dir = getenv("DKV_SHIM_DIR");
  data_dir = getenv("DKV_SHIM_DATA");
  if (!dir || !data_dir) die("DKV_SHIM_DIR and DKV_SHIM_DATA are needed");
  for (int id = 0; id < 16; id++) {
    struct timespec now;
    if (real_clock(id, &now) == 0) base_ns[id] = ns_of(&now);
  }
  char path[4096];
  snprintf(path, sizeof path, "%s/control", dir);
  int fd = real_open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) die(path);
  control = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
  if (control == MAP_FAILED) die("mmap");
  /* A clock keeps its rate while the process lives, or it would jump. */
  ppm = (int64_t)control[CLOCK_PPM];
  real_close(fd);
  snprintf(path, sizeof path, "%s/undo", dir);
  /* Far from the numbers that the program counts with. */
  fd = real_open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) die(path);
  journal = fcntl(fd, F_DUPFD_CLOEXEC, 1000);
  if (journal < 0) die("dup");
  real_close(fd);
  /* What a killed process had not synced still is not: later numbers than any of its. */
  last_seq = (uint64_t)base_ns[CLOCK_REALTIME];
  off64_t len = lseek64(journal, 0, SEEK_END);
  journal_bytes = len > 0 ? (uint64_t)len : 0;
}

static uint64_t file_of(int fd) { return fd >= 0 && fd < FDS ? inode_of[fd] : 0; }

static void put(const void *bytes, size_t len) {
  while (len > 0) {
    ssize_t n = real_write(journal, bytes, len);
    if (n <= 0) die("the journal");
    bytes = (const char *)bytes + n;
    len -= (size_t)n;
    journal_bytes += (uint64_t)n;
  }
}

/* Everything is synced, so that the journal can begin anew. The lock is held. */
static void empty_journal(void) {
  for (int fd = 0; fd < FDS; fd++)
    if (inode_of[fd] && real_fdatasync(fd) != 0) die("fdatasync");
  if (real_ftruncate(journal, 0) != 0 || lseek64(journal, 0, SEEK_SET) != 0) die("the journal");
  journal_bytes = 0;
}

/* Notes what stands where `len` bytes at `at` are about to change. The lock is held. */
static void note(uint64_t kind, int fd, off64_t at, size_t len) {
  struct stat64 stat;
  if (fstat64(fd, &stat) != 0) die("fstat");
  if (journal_bytes > JOURNAL_BYTES) empty_journal();
  uint64_t size = (uint64_t)stat.st_size;
  uint64_t from = (uint64_t)at, bytes = 0;
  if (kind == SHRINK) bytes = size > from ? size - from : 0;
  if (kind == WRITE && size > from) bytes = size - from < len ? size - from : len;
  struct head head = {kind, ++last_seq, file_of(fd), from, size, len, bytes};
  char *old = bytes ? malloc(bytes) : NULL;
  for (uint64_t done = 0; done < bytes;) {
    ssize_t n = pread64(fd, old + done, bytes - done, (off64_t)(from + done));
    if (n <= 0) die("pread");
    done += (uint64_t)n;
  }
  put(&head, sizeof head);
  put(old, bytes);
  free(old);
}

/* A full disk has no room for what is new; what a file has already can be written. */
static int no_space(int fd, uint64_t upto) {
  struct stat64 stat;
  if (!file_of(fd) || !control[NO_SPACE]) return 0;
  if (fstat64(fd, &stat) != 0 || upto <= (uint64_t)stat.st_size) return 0;
  errno = ENOSPC;
  return 1;
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  size_t len = data_dir ? strlen(data_dir) : 0;
  int counts = len && strncmp(path, data_dir, len) == 0 && path[len] == '/';
  if (counts && (flags & O_CREAT) && control[NO_SPACE] && access(path, F_OK) != 0) {
    errno = ENOSPC;
    return -1;
  }
  int fd = real_open(path, flags, mode);
  struct stat64 stat;
  if (fd < 0 || fd >= FDS || !counts || fstat64(fd, &stat) != 0 || !S_ISREG(stat.st_mode)) return fd;
  inode_of[fd] = stat.st_ino;
  if ((flags & O_CREAT) && stat.st_size == 0) {
    /* What is noted of this inode was another file's. */
    pthread_mutex_lock(&lock);
    note(CREATED, fd, 0, 0);
    pthread_mutex_unlock(&lock);
  }
  return fd;
}

int close(int fd) {
  if (fd >= 0 && fd < FDS) inode_of[fd] = 0;
  return real_close(fd);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
  if (!file_of(fd)) return real_pwritev(fd, parts, count, at);
  size_t len = 0;
  for (int i = 0; i < count; i++) len += parts[i].iov_len;
  if (no_space(fd, (uint64_t)at + len)) return -1;
  pthread_mutex_lock(&lock);
  note(WRITE, fd, at, len);
  ssize_t n = real_pwritev(fd, parts, count, at);
  pthread_mutex_unlock(&lock);
  return n;
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
  if (!file_of(fd)) return real_pwrite(fd, bytes, len, at);
  struct iovec part = {(void *)bytes, len};
  return pwritev64(fd, &part, 1, at);
}

ssize_t write(int fd, const void *bytes, size_t len) {
  if (!file_of(fd)) return real_write(fd, bytes, len);
  off64_t at = lseek64(fd, 0, SEEK_CUR);
  if (no_space(fd, (uint64_t)at + len)) return -1;
  pthread_mutex_lock(&lock);
  note(WRITE, fd, at, len);
  ssize_t n = real_write(fd, bytes, len);
  pthread_mutex_unlock(&lock);
  return n;
}

int ftruncate64(int fd, off64_t len) {
  if (!file_of(fd)) return real_ftruncate(fd, len);
  if (no_space(fd, (uint64_t)len)) return -1;
  pthread_mutex_lock(&lock);
  struct stat64 stat;
  if (fstat64(fd, &stat) != 0) die("fstat");
  if (len < stat.st_size) note(SHRINK, fd, len, 0);
  else note(GROW, fd, len, 0);
  int result = real_ftruncate(fd, len);
  pthread_mutex_unlock(&lock);
  return result;
}

int fallocate64(int fd, int mode, off64_t at, off64_t len) {
  if (!file_of(fd)) return real_fallocate(fd, mode, at, len);
  if (no_space(fd, (uint64_t)(at + len))) return -1;
  pthread_mutex_lock(&lock);
  note(GROW, fd, at + len, 0);
  int result = real_fallocate(fd, mode, at, len);
  pthread_mutex_unlock(&lock);
  return result;
}

/* Where lengths have 64 bits anyway, these are the same, by another name. */
ssize_t pwritev(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev64")));
int fallocate(int, int, off_t, off_t) __attribute__((alias("fallocate64")));

static int sync_by(int (*real)(int), int fd) {
  uint64_t inode = file_of(fd);
  /* Also of the directory: whatever waits for a disk waits for all of it. */
  while (control[HANG]) usleep(10000);
  if (control[SYNC_DELAY_MS]) usleep((useconds_t)control[SYNC_DELAY_MS] * 1000);
  if (!inode) return real(fd);
  if (control[FAIL_SYNCS]) {
    errno = EIO;
    return -1;
  }
  pthread_mutex_lock(&lock);
  uint64_t upto = last_seq;
  pthread_mutex_unlock(&lock);
  int result = real(fd);
  if (result == 0) {
    pthread_mutex_lock(&lock);
    struct head head = {SYNCED, ++last_seq, inode, upto, 0, 0, 0};
    put(&head, sizeof head);
    pthread_mutex_unlock(&lock);
  }
  return result;
}

int fdatasync(int fd) { return sync_by(real_fdatasync, fd); }
int fsync(int fd) { return sync_by(real_fsync, fd); }

int clock_gettime(clockid_t id, struct timespec *t) {
  if (!real_clock) real_clock = next("clock_gettime");
  int result = real_clock(id, t);
  if (result != 0 || !control) return result;
  int64_t ns = ns_of(t);
  if (id == CLOCK_REALTIME) ns += (int64_t)control[WALL_OFFSET_NS];
  if (id == CLOCK_MONOTONIC || id == CLOCK_BOOTTIME) ns += (ns - base_ns[id]) * ppm / 1000000;
  t->tv_sec = ns / 1000000000;
  t->tv_nsec = ns % 1000000000;
  return 0;
}
