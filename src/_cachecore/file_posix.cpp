#ifndef _WIN32
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <unistd.h>
#if defined(__APPLE__)
#include <sys/mount.h>
#include <sys/param.h>
#endif

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <system_error>

#include "file_common.hpp"

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

int open_at(int dir, const char* name, int flags, mode_t mode = 0) noexcept {
  int fd;
  do fd = ::openat(dir, name, flags | O_CLOEXEC | O_NOFOLLOW, mode);
  while (fd < 0 && errno == EINTR);
  return fd;
}

// Creates the directories above the last part of `name`.
int make_parents(int dir, const std::string& name) noexcept {
  std::string part;
  for (std::size_t at = name.find('/'); at != std::string::npos; at = name.find('/', at + 1)) {
    part.assign(name, 0, at);
    if (::mkdirat(dir, part.c_str(), 0700) && errno != EEXIST) return errno;
  }
  return 0;
}

// Unique among processes, threads and machines that share a folder; a killed writer's leftovers can be told by the prefix.
std::string temporary_beside(const std::string& name) {
  static const std::uint64_t seed = std::random_device{}() | static_cast<std::uint64_t>(std::random_device{}()) << 32;
  static std::atomic<std::uint64_t> counter{0};
  char text[80];
  std::snprintf(text, sizeof text, ".tmp-%ld-%016llx-%llx", static_cast<long>(::getpid()),
                static_cast<unsigned long long>(seed), static_cast<unsigned long long>(counter.fetch_add(1)));
  const std::size_t slash = name.rfind('/');
  return (slash == std::string::npos ? std::string() : name.substr(0, slash + 1)) + text;
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

}  // namespace

void die() noexcept {
  ::raise(SIGKILL);
  std::abort();
}

Block::~Block() {
  if (kind_ == Kind::heap) ::operator delete(data_);
  if (kind_ == Kind::mapped) ::munmap(data_, size_ + Directory::trailer);
}

Directory::Directory(const std::string& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), path);
  handle_ = fd;
  network_ = on_network(fd);
}

Directory::~Directory() { ::close(static_cast<int>(handle_)); }

int Directory::commit(const std::string& name, const void* payload, std::size_t size) const noexcept try {
  const int dir = static_cast<int>(handle_);
  if (int e = injected(Step::before_create)) return e;
  const std::string temporary = temporary_beside(name);
  constexpr int flags = O_WRONLY | O_CREAT | O_EXCL;
  int fd = open_at(dir, temporary.c_str(), flags, 0600);
  if (fd < 0 && errno == ENOENT) {
    if (int e = make_parents(dir, name)) return e;
    fd = open_at(dir, temporary.c_str(), flags, 0600);
  }
  if (fd < 0) return errno;
  Descriptor file(fd);
  int error =
      write_chunk(payload, size, [&](const unsigned char* data, std::size_t n) { return write_all(file.get(), data, n); });
  const int closing = file.close();
  if (!error) error = closing;
  if (!error) error = injected(Step::closed);
  if (!error && ::renameat(dir, temporary.c_str(), dir, name.c_str())) error = errno;
  if (error) {
    ::unlinkat(dir, temporary.c_str(), 0);
    return error;
  }
  return injected(Step::renamed);
} catch (const std::bad_alloc&) {
  return ENOMEM;
}

int Directory::mark(const std::string& name) const noexcept {
  const int dir = static_cast<int>(handle_);
  int fd = open_at(dir, name.c_str(), O_WRONLY | O_CREAT, 0600);
  if (fd < 0 && errno == ENOENT) {
    if (int e = make_parents(dir, name)) return e;
    fd = open_at(dir, name.c_str(), O_WRONLY | O_CREAT, 0600);
  }
  return fd < 0 ? errno : Descriptor(fd).close();
}

bool Directory::has(const std::string& name) const noexcept {
  return ::faccessat(static_cast<int>(handle_), name.c_str(), F_OK, 0) == 0;
}

int Directory::remove(const std::string& name) const noexcept try {
  const int dir = static_cast<int>(handle_);
  if (!::unlinkat(dir, name.c_str(), 0)) return 0;
  if (errno != EISDIR && errno != EPERM) return errno;
  // A directory where a chunk belongs: out of the way, for the next count of the files to remove.
  return ::renameat(dir, name.c_str(), dir, temporary_beside(name).c_str()) ? errno : 0;
} catch (const std::bad_alloc&) {
  return ENOMEM;
}

Found Directory::load(const std::string& name, std::size_t expected, bool map, BlockRef& block, int& error) const noexcept try {
  const Descriptor file(open_at(static_cast<int>(handle_), name.c_str(), O_RDONLY));
  error = file.ok() ? 0 : errno;
  if (error == ENOENT || error == ENOTDIR) return Found::nothing;
  struct stat info;
  if (!error && ::fstat(file.get(), &info)) error = errno;
  if (error) return error == ELOOP ? Found::corrupt : Found::failed;
  if (!S_ISREG(info.st_mode)) return Found::corrupt;
  const auto length = static_cast<std::size_t>(info.st_size);
  if (length < trailer || (expected != any_size && length != expected + trailer)) return Found::corrupt;
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
