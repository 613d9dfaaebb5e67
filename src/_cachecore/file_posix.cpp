#ifndef _WIN32
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#if defined(__APPLE__)
#include <sys/mount.h>
#include <sys/param.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <system_error>
#include <utility>

#include "file_common.hpp"
#include "fork_lock.hpp"

namespace copick {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) noexcept : fd_(fd) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const noexcept { return fd_; }
  bool ok() const noexcept { return fd_ >= 0; }
  int close() noexcept {
    if (fd_ < 0) return 0;
    const int failed = ::close(fd_);
    fd_ = -1;
    return failed ? errno : 0;
  }

 private:
  int fd_;
};

#if defined(O_PATH)
constexpr int kWalk = O_PATH;  // a folder above may be one that we may not list
#elif defined(O_SEARCH)
constexpr int kWalk = O_SEARCH;
#else
constexpr int kWalk = O_RDONLY;
#endif

int open_at(int dir, const char* name, int flags, mode_t mode = 0) noexcept {
  int fd;
  do fd = ::openat(dir, name, flags | O_CLOEXEC | O_NOFOLLOW, mode);
  while (fd < 0 && errno == EINTR);
  return fd;
}

// Part by part, for systems that cannot do it in one call.
int walk_to(int dir, const char* path, int flags) noexcept try {
  int above = path[0] == '/' ? open_at(AT_FDCWD, "/", kWalk | O_DIRECTORY) : open_at(dir, ".", kWalk | O_DIRECTORY);
  for (const char* part = path; above >= 0;) {
    while (*part == '/') ++part;
    const char* end = part;
    while (*end && *end != '/') ++end;
    if (!*part) return above;
    const std::string name(part, end);
    while (*end == '/') ++end;
    const bool last = !*end;
    const int next = name == ".." ? (errno = EXDEV, -1) : open_at(above, name.c_str(), last ? flags : kWalk | O_DIRECTORY);
    const int error = errno;
    ::close(above);
    errno = error;
    if (last) return next;
    above = next, part = end;
  }
  return -1;
} catch (const std::bad_alloc&) {
  errno = ENOMEM;
  return -1;
}

// Opens what is there; no part of `path` may be a symbolic link. A relative one cannot lead out of `dir`.
int open_strictly(int dir, const char* path, int flags) noexcept {
#if defined(__linux__)
  struct {
    std::uint64_t flags, mode, resolve;
  } how{static_cast<std::uint64_t>(flags | O_CLOEXEC | O_NOFOLLOW), 0, 0x04};  // RESOLVE_NO_SYMLINKS
  if (path[0] != '/' && dir != AT_FDCWD) how.resolve |= 0x08;                  // RESOLVE_BENEATH
  constexpr long openat2 = 437;                                                // on every architecture
  for (int turn = 0; turn < 8; ++turn) {
    const long fd = ::syscall(openat2, dir, path, &how, sizeof how);
    if (fd >= 0) return static_cast<int>(fd);
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno == ENOSYS || errno == EPERM) break;  // an old kernel, or a container that does not know the call
    return -1;
  }
#endif
  return walk_to(dir, path, flags);
}

// Unique among processes, threads and machines that share a folder; a killed writer's leftovers can be told by the prefix.
std::string temporary_name() {
  static const std::uint64_t seed = std::random_device{}() | static_cast<std::uint64_t>(std::random_device{}()) << 32;
  static std::atomic<std::uint64_t> counter{0};
  char text[80];
  std::snprintf(text, sizeof text, ".tmp-%ld-%016llx-%llx", static_cast<long>(::getpid()),
                static_cast<unsigned long long>(seed), static_cast<unsigned long long>(counter.fetch_add(1)));
  return text;
}

// The folder that a file lies in, and its name there.
class Place {
 public:
  // `make`: folders that are not there are made, with the mode of the first.
  Place(int dir, const std::string& name, const mode_t* make = nullptr) noexcept : dir_(dir) {
    const std::size_t slash = name.rfind('/');
    base_ = name.c_str() + (slash == std::string::npos ? 0 : slash + 1);
    if (slash == std::string::npos) return;
    try {
      const std::string folder = name.substr(0, slash);
      dir_ = open_strictly(dir, folder.c_str(), kWalk | O_DIRECTORY);
      if (dir_ < 0 && errno == ENOENT && make) dir_ = made(dir, folder, *make);
      error_ = dir_ < 0 ? errno : 0;
      own_ = true;
    } catch (const std::bad_alloc&) {
      error_ = ENOMEM;
    }
  }
  ~Place() {
    if (own_ && dir_ >= 0) ::close(dir_);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  int dir() const noexcept { return dir_; }
  const char* base() const noexcept { return base_; }
  int error() const noexcept { return error_; }

 private:
  static int made(int dir, const std::string& folder, mode_t mode) {
    int at = -1;
    for (std::size_t begin = 0, end; begin < folder.size(); begin = end + 1) {
      end = std::min(folder.find('/', begin), folder.size());
      const std::string part = folder.substr(begin, end - begin);
      const int above = at < 0 ? dir : at;
      const bool fresh = !::mkdirat(above, part.c_str(), mode);
      int error = fresh || errno == EEXIST ? 0 : errno;
      // Who shares the cache has another umask.
      if (const int made = !error && fresh && mode & 077 ? open_at(above, part.c_str(), O_RDONLY | O_DIRECTORY) : -1; made >= 0) {
        ::fchmod(made, mode);
        ::close(made);
      }
      const int next = error ? -1 : open_at(above, part.c_str(), kWalk | O_DIRECTORY);
      if (!error && next < 0) error = errno;
      if (at >= 0) ::close(at);
      at = next;
      if (at < 0) {
        errno = error;
        return -1;
      }
    }
    return at;
  }

  int dir_;
  const char* base_;
  int error_ = 0;
  bool own_ = false;
};

// A new file, as private as the folder.
int create(int dir, const char* name, int flags, mode_t folder) noexcept {
  const mode_t mode = folder & 0666;
  const int fd = open_at(dir, name, O_WRONLY | O_CREAT | flags, mode);
  if (fd >= 0 && mode & 077) ::fchmod(fd, mode);
  return fd;
}

int write_all(int fd, const unsigned char* data, std::size_t size) noexcept {
  while (size) {
    const ssize_t n = ::write(fd, data, size);
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (n == 0) return EIO;
    data += n;
    size -= static_cast<std::size_t>(n);
  }
  return 0;
}

bool on_network(int fd) noexcept {
  struct statfs info;
  if (::fstatfs(fd, &info)) return false;
#if defined(__APPLE__)
  return !(info.f_flags & MNT_LOCAL);
#else
  switch (static_cast<std::uint32_t>(info.f_type)) {
    case 0x00006969u:  // NFS
    case 0x0000517Bu:  // SMB
    case 0xFF534D42u:  // CIFS
    case 0xFE534D42u:  // SMB2
    case 0x65735546u:  // FUSE: sshfs, s3 mounts, ...
    case 0x0BD00BD0u:  // Lustre
    case 0x47504653u:  // GPFS
    case 0x00C36400u:  // Ceph
    case 0x19830326u:  // BeeGFS
    case 0x01021997u:  // 9p
    case 0x5346414Fu:  // AFS
    case 0x6B414653u:  // kAFS
      return true;
    default:
      return false;
  }
#endif
}

// What tells a directory from another one that gets its path, and perhaps its number, after it is gone.
std::array<std::uint64_t, 4> identity_of(int fd) noexcept {
  struct stat info;
  if (::fstat(fd, &info)) return {};
  std::uint64_t seconds = 0, nanoseconds = 0;
#if defined(__APPLE__)
  seconds = static_cast<std::uint64_t>(info.st_birthtimespec.tv_sec);
  nanoseconds = static_cast<std::uint64_t>(info.st_birthtimespec.tv_nsec);
#elif defined(STATX_BTIME)
  struct statx more;
  if (!::statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &more) && more.stx_mask & STATX_BTIME) {
    seconds = static_cast<std::uint64_t>(more.stx_btime.tv_sec);
    nanoseconds = more.stx_btime.tv_nsec;
  }
#endif
  return {static_cast<std::uint64_t>(info.st_dev), static_cast<std::uint64_t>(info.st_ino), seconds, nanoseconds};
}

// The directories of this process that are open: those that were used last. Descriptors are closed after the lock is released, and
// after their last user is done.
class OpenDirectories {
 public:
  using Opened = std::shared_ptr<const Descriptor>;

  Opened find(const Directory* directory) {
    const std::lock_guard guard(lock_);
    for (Slot& slot : slots_)
      if (slot.directory == directory) {
        slot.used = ++clock_;
        return slot.opened;
      }
    return nullptr;
  }

  // The descriptor to use: an earlier one if there was one.
  Opened put(const Directory* directory, Opened opened) {
    Opened closed;
    const std::lock_guard guard(lock_);
    Slot* oldest = &slots_[0];
    for (Slot& slot : slots_) {
      if (slot.directory == directory) {
        closed = std::move(opened);
        return slot.opened;
      }
      if (slot.used < oldest->used) oldest = &slot;
    }
    closed = std::move(oldest->opened);
    *oldest = {directory, std::move(opened), ++clock_};
    return oldest->opened;
  }

  void drop(const Directory* directory) {
    Opened closed;
    const std::lock_guard guard(lock_);
    for (Slot& slot : slots_)
      if (slot.directory == directory) {
        closed = std::move(slot.opened);
        slot = {};
      }
  }

 private:
  struct Slot {
    const Directory* directory = nullptr;
    Opened opened;
    std::uint64_t used = 0;
  };
  ForkLock lock_;  // guards everything below
  std::array<Slot, Directory::kMostOpen> slots_;
  std::uint64_t clock_ = 0;
};

OpenDirectories& open_directories() {
  static auto* one = new OpenDirectories;  // never destroyed: directories of static objects may outlive any order of destruction
  return *one;
}

}  // namespace

void die() noexcept {
  ::raise(SIGKILL);
  std::abort();
}

Block::~Block() {
  if (kind_ == Kind::heap) ::operator delete(data_);
  if (kind_ == Kind::mapped) ::munmap(data_, size_ + Directory::trailer);
}

int open_plain(const std::string& path, int flags) noexcept { return open_strictly(AT_FDCWD, path.c_str(), flags); }

int walk_plain(const std::string& path, int flags) noexcept { return walk_to(AT_FDCWD, path.c_str(), flags); }

// A directory's descriptor while it is used; negative, and why, if there is none.
class Directory::Access {
 public:
  explicit Access(const Directory& directory) : held_(open_directories().find(&directory)) {
    if (held_) return;
    auto fresh = std::make_shared<const Descriptor>(open_plain(directory.path_, O_RDONLY | O_DIRECTORY));
    if (!fresh->ok())
      error_ = errno == ELOOP || errno == ENOTDIR ? ENOENT : errno;
    else if (identity_of(fresh->get()) != directory.identity_)
      error_ = ENOENT;
    else
      held_ = open_directories().put(&directory, std::move(fresh));
  }
  int get() const noexcept { return held_ ? held_->get() : -1; }
  int error() const noexcept { return error_; }

 private:
  std::shared_ptr<const Descriptor> held_;
  int error_ = 0;
};

Directory::Directory(const std::string& path) : path_(path) {
  auto fresh = std::make_shared<const Descriptor>(open_plain(path, O_RDONLY | O_DIRECTORY));
  if (!fresh->ok()) throw std::system_error(errno, std::generic_category(), path);
  const int fd = fresh->get();
  network_ = on_network(fd);
  struct stat info;
  mode_ = ::fstat(fd, &info) ? 0700 : info.st_mode & 07777;
  identity_ = identity_of(fd);
  open_directories().put(this, std::move(fresh));
}

Directory::~Directory() { open_directories().drop(this); }

int Directory::commit(const std::string& name, const void* payload, std::size_t size) const noexcept try {
  if (int e = injected(Step::before_create)) return e;
  const mode_t mode = mode_;
  const Access here(*this);
  if (here.error()) return here.error();
  const Place place(here.get(), name, &mode);
  if (place.error()) return place.error();
  const std::string temporary = temporary_name();
  Descriptor file(create(place.dir(), temporary.c_str(), O_EXCL, mode));
  if (!file.ok()) return errno;
  int error =
      write_chunk(payload, size, [&](const unsigned char* data, std::size_t n) { return write_all(file.get(), data, n); });
  const int closing = file.close();
  if (!error) error = closing;
  if (!error) error = injected(Step::closed);
  if (!error && ::renameat(place.dir(), temporary.c_str(), place.dir(), place.base())) error = errno;
  if (error) {
    ::unlinkat(place.dir(), temporary.c_str(), 0);
    return error;
  }
  return injected(Step::renamed);
} catch (const std::bad_alloc&) {
  return ENOMEM;
}

int Directory::mark(const std::string& name) const noexcept try {
  const mode_t mode = mode_;
  const Access here(*this);
  if (here.error()) return here.error();
  const Place place(here.get(), name, &mode);
  if (place.error()) return place.error();
  Descriptor file(create(place.dir(), place.base(), 0, mode));
  return file.ok() ? file.close() : errno;
} catch (const std::bad_alloc&) {
  return ENOMEM;
}

bool Directory::has(const std::string& name) const noexcept try {
  struct stat info;
  const Access here(*this);
  return !here.error() && ::fstatat(here.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
} catch (const std::bad_alloc&) {
  return false;
}

int Directory::remove(const std::string& name) const noexcept try {
  const Access here(*this);
  if (here.error()) return here.error();
  const Place place(here.get(), name);
  if (place.error()) return place.error();
  if (!::unlinkat(place.dir(), place.base(), 0)) return 0;
  if (errno != EISDIR && errno != EPERM) return errno;
  // A directory where a chunk belongs: out of the way, for the next count of the files to remove.
  return ::renameat(place.dir(), place.base(), place.dir(), temporary_name().c_str()) ? errno : 0;
} catch (const std::bad_alloc&) {
  return ENOMEM;
}

Found Directory::load(const std::string& name, std::size_t least, std::size_t most, bool map, BlockRef& block,
                      int& error) const noexcept try {
  // Whoever put something else in a chunk's place may have chosen a pipe, on which an ordinary open waits.
  const Access here(*this);
  const Descriptor file(here.error() ? -1 : open_strictly(here.get(), name.c_str(), O_RDONLY | O_NONBLOCK));
  error = file.ok() ? 0 : here.error() ? here.error() : errno;
  if (error == ENOENT || error == ENOTDIR) return Found::nothing;
  struct stat info;
  if (!error && ::fstat(file.get(), &info)) error = errno;
  if (error) return error == ELOOP ? Found::corrupt : Found::failed;
  if (!S_ISREG(info.st_mode)) return Found::corrupt;
  const auto length = static_cast<std::size_t>(info.st_size);
  if (length < trailer || length - trailer < least || length - trailer > most) return Found::corrupt;
  const std::size_t payload = length - trailer;

  if (map && !network_ && payload) {
    int flags = MAP_SHARED;
#ifdef MAP_POPULATE
    flags |= MAP_POPULATE;  // the checksum touches every page now anyway; one call instead of a fault for each few
#endif
    void* at = ::mmap(nullptr, length, PROT_READ, flags, file.get(), 0);
    if (at != MAP_FAILED) {
      block = BlockRef(new Block(Block::Kind::mapped, static_cast<std::byte*>(at), payload));
      return checksum_matches(static_cast<const unsigned char*>(at), payload) ? Found::whole : Found::corrupt;
    }  // too many mappings, or a filesystem without them: read instead
  }
  auto* bytes = static_cast<std::byte*>(::operator new(length));
  block = BlockRef(new Block(Block::Kind::heap, bytes, payload));
  for (std::size_t at = 0; at < length;) {
    const ssize_t n = ::pread(file.get(), bytes + at, length - at, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      error = errno;
      return Found::failed;
    }
    if (n == 0) return Found::corrupt;
    at += static_cast<std::size_t>(n);
  }
  return checksum_matches(reinterpret_cast<const unsigned char*>(bytes), payload) ? Found::whole : Found::corrupt;
} catch (const std::bad_alloc&) {
  error = ENOMEM;
  return Found::failed;
}

}  // namespace copick
#endif
