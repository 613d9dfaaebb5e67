// What lies in the cache folder, as far as this process knows: size and last use of every chunk. The choice of victims.
//
// A hint, not the truth: files are the truth, and a chunk may be gone or others may have come when the index is asked.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "fork_lock.hpp"
#include "key_table.hpp"
#include "touch_ring.hpp"

namespace copick {

class DiskIndex {
 public:
  // Notes a chunk of `bytes`, last used at `stamp` (a later known use wins). Returns the bytes noted for it before, or 0.
  std::uint64_t add(const ChunkKey& key, std::uint64_t bytes, std::uint64_t stamp);
  // Returns the bytes noted, or 0.
  std::uint64_t remove(const ChunkKey& key);
  void remove_array(std::uint64_t array);
  void touch(const std::vector<Touch>& touches);
  void clear();

  // The least recently used chunks that together free at least `need` bytes (all chunks if there are not so many), coldest
  // first.
  std::vector<ChunkKey> victims(std::uint64_t need) const;

  std::uint64_t bytes() const;
  std::size_t size() const;
  std::size_t memory() const;  // bytes of RAM that the index takes
  bool check() const;          // whether the totals equal what a recount gives

 private:
  struct Entry {
    std::uint64_t bytes = 0, stamp = 0;
  };
  mutable ForkLock lock_;  // guards everything below
  mutable KeyTable<Entry> table_;
  std::uint64_t bytes_ = 0;
};

}  // namespace copick
