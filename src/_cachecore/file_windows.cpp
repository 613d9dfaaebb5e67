// file.hpp on Windows. A file that somebody has mapped cannot be replaced or removed there: a commit that finds the chunk
// already there has nothing to add (chunks of one array version never differ), and eviction takes such a file at a later time.
#ifdef _WIN32
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <random>
#include <system_error>

#include "file_common.hpp"

namespace copick {
namespace {

namespace fs = std::filesystem;

int last_error() noexcept {
  const std::error_code code(static_cast<int>(::GetLastError()), std::system_category());
  const std::error_condition condition = code.default_error_condition();
  return condition.category() == std::generic_category() ? condition.value() : EIO;
}

class Handle {
 public:
  explicit Handle(HANDLE handle) noexcept : handle_(handle) {}
  ~Handle() { close(); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  HANDLE get() const noexcept { return handle_; }
  bool ok() const noexcept { return handle_ && handle_ != INVALID_HANDLE_VALUE; }
  int close() noexcept {
    if (!ok()) return 0;
    const int error = ::CloseHandle(handle_) ? 0 : last_error();
    handle_ = nullptr;
    return error;
  }

 private:
  HANDLE handle_;
};

fs::path at(const std::string& directory, const std::string& name) { return fs::u8path(directory) / fs::u8path(name); }

fs::path temporary_beside(const fs::path& target) {
  static const std::uint64_t seed = std::random_device{}() | static_cast<std::uint64_t>(std::random_device{}()) << 32;
  static std::atomic<std::uint64_t> counter{0};
  char text[80];
  std::snprintf(text, sizeof text, ".tmp-%lu-%016llx-%llx", static_cast<unsigned long>(::GetCurrentProcessId()),
                static_cast<unsigned long long>(seed), static_cast<unsigned long long>(counter.fetch_add(1)));
  return target.parent_path() / text;
}

int write_all(HANDLE file, const unsigned char* data, std::size_t size) noexcept {
  while (size) {
    DWORD done = 0;
    const auto some = static_cast<DWORD>(size < (1u << 30) ? size : (1u << 30));
    if (!::WriteFile(file, data, some, &done, nullptr)) return last_error();
    if (!done) return EIO;
    data += done;
    size -= done;
  }
  return 0;
}

}  // namespace

void die() noexcept {
  ::TerminateProcess(::GetCurrentProcess(), 9);
  std::abort();
}

Block::~Block() {
  if (kind_ == Kind::heap) ::operator delete(data_);
  if (kind_ == Kind::mapped) ::UnmapViewOfFile(data_);
}

Directory::Directory(const std::string& path) : path_(path) {
  const fs::path folder = fs::u8path(path);
  const DWORD attributes = ::GetFileAttributesW(folder.c_str());
  if (attributes == INVALID_FILE_ATTRIBUTES) throw std::system_error(last_error(), std::generic_category(), path);
  if (!(attributes & FILE_ATTRIBUTE_DIRECTORY)) throw std::system_error(ENOTDIR, std::generic_category(), path);
  network_ = ::GetDriveTypeW(folder.root_path().c_str()) == DRIVE_REMOTE;
}

Directory::~Directory() = default;

int Directory::commit(const std::string& name, const void* payload, std::size_t size) const noexcept try {
  if (int e = injected(Step::before_create)) return e;
  const fs::path target = at(path_, name);
  const fs::path temporary = temporary_beside(target);
  const auto create = [&] {
    return ::CreateFileW(temporary.c_str(), GENERIC_WRITE, 0, nullptr, CREATE_NEW, FILE_ATTRIBUTE_NORMAL, nullptr);
  };
  HANDLE opened = create();
  if (opened == INVALID_HANDLE_VALUE && ::GetLastError() == ERROR_PATH_NOT_FOUND) {
    if (!fs::is_directory(fs::u8path(path_))) return ENOENT;  // the array was discarded meanwhile
    std::error_code code;
    fs::create_directories(target.parent_path(), code);
    if (code) return EIO;
    opened = create();
  }
  if (opened == INVALID_HANDLE_VALUE) return last_error();
  Handle file(opened);
  int error =
      write_chunk(payload, size, [&](const unsigned char* data, std::size_t n) { return write_all(file.get(), data, n); });
  const int closing = file.close();
  if (!error) error = closing;
  if (!error) error = injected(Step::closed);
  if (!error && !::MoveFileExW(temporary.c_str(), target.c_str(), MOVEFILE_REPLACE_EXISTING)) {
    error = last_error();
    if (::GetFileAttributesW(target.c_str()) != INVALID_FILE_ATTRIBUTES) {
      ::DeleteFileW(temporary.c_str());
      return 0;
    }
  }
  if (error) {
    ::DeleteFileW(temporary.c_str());
    return error;
  }
  return injected(Step::renamed);
} catch (const std::bad_alloc&) {
  return ENOMEM;
} catch (const std::exception&) {
  return EIO;
}

int Directory::mark(const std::string& name) const noexcept try {
  const fs::path target = at(path_, name);
  std::error_code code;
  fs::create_directories(target.parent_path(), code);
  const Handle file(::CreateFileW(target.c_str(), GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                                  nullptr, OPEN_ALWAYS, FILE_ATTRIBUTE_NORMAL, nullptr));
  return file.ok() ? 0 : last_error();
} catch (const std::exception&) {
  return EIO;
}

bool Directory::has(const std::string& name) const noexcept try {
  return ::GetFileAttributesW(at(path_, name).c_str()) != INVALID_FILE_ATTRIBUTES;
} catch (const std::exception&) {
  return false;
}

int Directory::remove(const std::string& name) const noexcept try {
  return ::DeleteFileW(at(path_, name).c_str()) ? 0 : last_error();
} catch (const std::exception&) {
  return EIO;
}

Found Directory::load(const std::string& name, std::size_t least, std::size_t most, bool map, BlockRef& block,
                      int& error) const noexcept try {
  const fs::path target = at(path_, name);
  const Handle file(::CreateFileW(target.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, nullptr,
                                  OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr));
  error = file.ok() ? 0 : last_error();
  if (error == ENOENT || error == ENOTDIR) return Found::nothing;
  LARGE_INTEGER extent{};
  if (!error && !::GetFileSizeEx(file.get(), &extent)) error = last_error();
  if (error) return ::GetFileAttributesW(target.c_str()) & FILE_ATTRIBUTE_DIRECTORY ? Found::corrupt : Found::failed;
  const auto length = static_cast<std::size_t>(extent.QuadPart);
  if (length < trailer || length - trailer < least || length - trailer > most) return Found::corrupt;
  const std::size_t payload = length - trailer;
  if (map && !network_ && payload) {
    const Handle section(::CreateFileMappingW(file.get(), nullptr, PAGE_READONLY, 0, 0, nullptr));
    void* view = section.ok() ? ::MapViewOfFile(section.get(), FILE_MAP_READ, 0, 0, length) : nullptr;
    if (view) {
      block = BlockRef(new Block(Block::Kind::mapped, static_cast<std::byte*>(view), payload));
      return checksum_matches(static_cast<const unsigned char*>(view), payload) ? Found::whole : Found::corrupt;
    }
  }
  auto* bytes = static_cast<std::byte*>(::operator new(length));
  block = BlockRef(new Block(Block::Kind::heap, bytes, payload));
  for (std::size_t done = 0; done < length;) {
    DWORD some = 0;
    const std::size_t left = length - done;
    if (!::ReadFile(file.get(), bytes + done, static_cast<DWORD>(left < (1u << 30) ? left : (1u << 30)), &some, nullptr)) {
      error = last_error();
      return Found::failed;
    }
    if (!some) return Found::corrupt;
    done += some;
  }
  return checksum_matches(reinterpret_cast<const unsigned char*>(bytes), payload) ? Found::whole : Found::corrupt;
} catch (const std::bad_alloc&) {
  error = ENOMEM;
  return Found::failed;
} catch (const std::exception&) {
  error = EIO;
  return Found::failed;
}

int open_plain(const std::string&, int) noexcept {
  errno = ENOSYS;
  return -1;
}

int walk_plain(const std::string&, int) noexcept {
  errno = ENOSYS;
  return -1;
}

}  // namespace copick
#endif
