// Chunk files on disk: what the operating system does for the cache, and nothing else.
//
// A chunk file is a payload followed by its CRC-32C, four bytes, little endian: at offset 0 lies what zarr's `crc32c` codec
// guards, so the file is a valid zarr chunk and its mapping can be sliced in place.
//
// Commit protocol: a unique temporary in the same directory (O_EXCL) -> payload, checksum -> close -> rename. No fsync: after a
// power loss a file may be short or wrong, and the check at the first read of each process finds that. A file is never changed
// or truncated once it has its name, only replaced or removed, so a mapping of it stays valid for as long as it is held.
//
// Errors are errno values; 0 is success. Names are relative to a Directory, with '/' between their parts; symbolic links are not
// followed, neither below a Directory nor on the way to it.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace copick {

// Memory that holds the payload of one chunk, shared by readers and the table of blocks. Freed when nobody uses it.
class Block {
 public:
  enum class Kind : std::uint8_t { mapped, heap, fill };

  static std::shared_ptr<const Block> fill() { return std::shared_ptr<const Block>(new Block(Kind::fill, nullptr, 0)); }
  static std::shared_ptr<const Block> copy_of(const void* data, std::size_t size);

  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block();

  Kind kind() const noexcept { return kind_; }
  const std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

 private:
  friend class Directory;
  Block(Kind kind, std::byte* data, std::size_t size) noexcept : data_(data), size_(size), kind_(kind) {}

  std::byte* data_;
  std::size_t size_;  // of the payload, without the checksum
  Kind kind_;
};

using BlockRef = std::shared_ptr<const Block>;

// What `Directory::load` found.
enum class Found : std::uint8_t { whole, nothing, corrupt, failed };

// A directory of chunk files, for as long as nobody moves it away. Of all that a process uses, the last kMostOpen are open; another
// one is opened again when it is needed. If a different one has its path then, nothing is there any more (ENOENT): what is written
// too late never comes into what took the place of an array.
class Directory {
 public:
  static constexpr std::size_t kMostOpen = 64;

  // Looks up (does not create) a directory. Raises std::system_error.
  explicit Directory(const std::string& path);
  ~Directory();
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  const std::string& path() const noexcept { return path_; }

  // Whether mappings are unsafe here: on a network filesystem a vanished server would kill the process with SIGBUS.
  bool network() const noexcept { return network_; }

  // Writes payload and checksum under a temporary name, then renames. Creates the directories in `name`. Returns errno.
  int commit(const std::string& name, const void* payload, std::size_t size) const noexcept;

  // Creates an empty file unless there is one.
  int mark(const std::string& name) const noexcept;
  bool has(const std::string& name) const noexcept;
  int remove(const std::string& name) const noexcept;

  // The payload of a chunk file, after checking its length (`least` to `most` bytes) and its checksum.
  // Mapped if `map` and the filesystem is local, else read. `error` gets the errno when it `failed`.
  Found load(const std::string& name, std::size_t least, std::size_t most, bool map, BlockRef& block,
             int& error) const noexcept;

  static constexpr std::size_t trailer = 4;

 private:
  class Access;

  std::string path_;
  std::array<std::uint64_t, 4> identity_{};  // device, number, time of birth
  bool network_ = false;
  unsigned mode_ = 0700;  // what is made below has it, too (files without the right to be executed)
};

// A descriptor of what is there already, or -1 and errno: no part of the path may be a symbolic link, so that who can write in the
// cache folder cannot lead others out of it. `walk_plain` does the same part by part, as older systems must. (POSIX only.)
int open_plain(const std::string& path, int flags) noexcept;
int walk_plain(const std::string& path, int flags) noexcept;

// Test points of the commit protocol, in order. `inject(step, action)` makes the process act when it next gets there, once:
// 'K' dies by SIGKILL, any other number is returned as the errno of that step; 0 clears.
enum class Step : int { before_create = 1, created, half_written, payload_written, checksum_written, closed, renamed };
constexpr int kKill = -1;
void inject(int step, int action) noexcept;
int injected(Step step) noexcept;

}  // namespace copick
