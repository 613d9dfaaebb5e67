// A filesystem that fails, for one process: preloaded, it stands before libc's calls on files below one folder.
//
// Calls of the chosen kinds are counted; those from `first` to before `last` fail with an errno, are cut short, or end the process.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { OPEN = 1, READ = 2, WRITE = 4, NAME = 8, MAP = 16, LOCK = 32 };
enum { KILL = -1, SHORT = -2 };

static char root[PATH_MAX];
static atomic_int kinds, action;
static atomic_long calls, first, last;

void fault_arm(const char* folder, int which, int what, long from, long to) {
  snprintf(root, sizeof root, "%s", folder);
  action = what, first = from, last = to, calls = 0;
  kinds = which;
}

long fault_calls(void) { return calls; }

static int below(const char* path) {
  const size_t n = strlen(root);
  return n && strncmp(path, root, n) == 0 && (path[n] == 0 || path[n] == '/');
}

static int fd_below(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (n <= 0) return 0;
  path[n] = 0;
  return below(path);
}

static int at_below(int dir, const char* path) { return path && (path[0] == '/' || dir == AT_FDCWD ? below(path) : fd_below(dir)); }

// 0: go on. Else the errno, or SHORT.
static int fault(int kind, int concerned) {
  if (!(kinds & kind) || !concerned) return 0;
  const long call = atomic_fetch_add(&calls, 1);
  if (call < first || call >= last) return 0;
  if (action == KILL) raise(SIGKILL);
  return action;
}

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name);
#define FAIL(kind, concerned, result)          \
  {                                            \
    const int e = fault(kind, concerned);      \
    if (e > 0) {                               \
      errno = e;                               \
      return result;                           \
    }                                          \
  }
#define MODE(flags)                            \
  mode_t mode = 0;                             \
  if ((flags) & (O_CREAT | O_TMPFILE)) {       \
    va_list list;                              \
    va_start(list, flags);                     \
    mode = va_arg(list, mode_t);               \
    va_end(list);                              \
  }

#define DEFINE_OPEN(name)                            \
  int name(const char* path, int flags, ...) {       \
    MODE(flags)                                      \
    REAL(int, #name, const char*, int, ...)          \
    FAIL(OPEN, below(path), -1)                      \
    return real(path, flags, mode);                  \
  }
#define DEFINE_OPENAT(name)                                \
  int name(int dir, const char* path, int flags, ...) {    \
    MODE(flags)                                            \
    REAL(int, #name, int, const char*, int, ...)           \
    FAIL(OPEN, at_below(dir, path), -1)                    \
    return real(dir, path, flags, mode);                   \
  }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)

#define TRANSFER(kind)                                               \
  const int e = fault(kind, fd_below(fd));                           \
  if (e > 0) {                                                       \
    errno = e;                                                       \
    return -1;                                                       \
  }                                                                  \
  if (e == SHORT && n > 1) n /= 2;
ssize_t read(int fd, void* to, size_t n) {
  REAL(ssize_t, "read", int, void*, size_t)
  TRANSFER(READ)
  return real(fd, to, n);
}
ssize_t write(int fd, const void* from, size_t n) {
  REAL(ssize_t, "write", int, const void*, size_t)
  TRANSFER(WRITE)
  return real(fd, from, n);
}
#define DEFINE_AT(name, type, kind)                       \
  ssize_t name(int fd, type data, size_t n, off_t at) {   \
    REAL(ssize_t, #name, int, type, size_t, off_t)        \
    TRANSFER(kind)                                        \
    return real(fd, data, n, at);                         \
  }
DEFINE_AT(pread, void*, READ)
DEFINE_AT(pread64, void*, READ)
DEFINE_AT(pwrite, const void*, WRITE)
DEFINE_AT(pwrite64, const void*, WRITE)

#define DEFINE_TRUNCATE(name)               \
  int name(int fd, off_t size) {            \
    REAL(int, #name, int, off_t)            \
    FAIL(WRITE, fd_below(fd), -1)           \
    return real(fd, size);                  \
  }
DEFINE_TRUNCATE(ftruncate)
DEFINE_TRUNCATE(ftruncate64)

int rename(const char* from, const char* to) {
  REAL(int, "rename", const char*, const char*)
  FAIL(NAME, below(to), -1)
  return real(from, to);
}
int renameat(int a, const char* from, int b, const char* to) {
  REAL(int, "renameat", int, const char*, int, const char*)
  FAIL(NAME, at_below(b, to), -1)
  return real(a, from, b, to);
}
int link(const char* from, const char* to) {
  REAL(int, "link", const char*, const char*)
  FAIL(NAME, below(to), -1)
  return real(from, to);
}
int linkat(int a, const char* from, int b, const char* to, int flags) {
  REAL(int, "linkat", int, const char*, int, const char*, int)
  FAIL(NAME, at_below(b, to), -1)
  return real(a, from, b, to, flags);
}
int unlink(const char* path) {
  REAL(int, "unlink", const char*)
  FAIL(NAME, below(path), -1)
  return real(path);
}
int unlinkat(int dir, const char* path, int flags) {
  REAL(int, "unlinkat", int, const char*, int)
  FAIL(NAME, at_below(dir, path), -1)
  return real(dir, path, flags);
}
int rmdir(const char* path) {
  REAL(int, "rmdir", const char*)
  FAIL(NAME, below(path), -1)
  return real(path);
}
int mkdir(const char* path, mode_t mode) {
  REAL(int, "mkdir", const char*, mode_t)
  FAIL(NAME, below(path), -1)
  return real(path, mode);
}
int mkdirat(int dir, const char* path, mode_t mode) {
  REAL(int, "mkdirat", int, const char*, mode_t)
  FAIL(NAME, at_below(dir, path), -1)
  return real(dir, path, mode);
}

#define DEFINE_MAP(name)                                                                                   \
  void* name(void* at, size_t n, int protection, int flags, int fd, off_t offset) {                        \
    REAL(void*, #name, void*, size_t, int, int, int, off_t)                                                \
    if (fd >= 0) FAIL(MAP, fd_below(fd), MAP_FAILED)                                                       \
    return real(at, n, protection, flags, fd, offset);                                                     \
  }
DEFINE_MAP(mmap)
DEFINE_MAP(mmap64)

#define DEFINE_FCNTL(name)                                                                        \
  int name(int fd, int command, ...) {                                                            \
    va_list list;                                                                                 \
    va_start(list, command);                                                                      \
    void* argument = va_arg(list, void*);                                                         \
    va_end(list);                                                                                 \
    REAL(int, #name, int, int, ...)                                                               \
    if (command == F_OFD_SETLK || command == F_SETLK || command == F_SETLKW)                      \
      FAIL(LOCK, fd_below(fd), -1)                                                                \
    return real(fd, command, argument);                                                           \
  }
DEFINE_FCNTL(fcntl)
DEFINE_FCNTL(fcntl64)

// openat2 has no function of its own.
long syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long a[6];
  for (int i = 0; i < 6; ++i) a[i] = va_arg(list, long);
  va_end(list);
  REAL(long, "syscall", long, ...)
#ifdef SYS_openat2
  if (number == SYS_openat2) FAIL(OPEN, at_below((int)a[0], (const char*)a[1]), -1)
#endif
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
