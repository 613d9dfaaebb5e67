// The chunks that this process can copy from right now: held mappings of chunk files, and decoded copies of encoded ones.
//
// Mappings cost address space and are bounded by their number; decoded copies are private memory and bounded by their bytes.
// When a bound is passed, the least recently used of a random sample goes (within 0.5 % of exact LRU's hit ratio, and no list
// to maintain on a hit). A block that a reader is copying from lives on until that reader is done.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "file.hpp"
#include "fork_lock.hpp"
#include "key_table.hpp"
#include "touch_ring.hpp"

namespace copick {

class BlockTable {
 public:
  BlockTable(std::size_t max_mappings, std::size_t max_heap_bytes)
      : max_mappings_(max_mappings), max_heap_bytes_(max_heap_bytes) {}

  // The blocks of `chunks` of one array, null where there is none, marked as used at `now` (microseconds). A chunk that was
  // last used in an earlier second is noted in `ring`.
  void find(std::uint64_t array, const std::vector<std::uint64_t>& chunks, std::uint64_t now, TouchRing& ring,
            std::vector<BlockRef>& blocks);

  // Offers a block; returns the one to use, which is an earlier one if there was one.
  BlockRef put(const ChunkKey& key, BlockRef block, std::uint64_t now);

  void drop(const ChunkKey& key);
  void drop_array(std::uint64_t array);

  struct Counts {
    std::size_t entries = 0, mappings = 0, mapped_bytes = 0, heap_bytes = 0;
    std::uint64_t evictions = 0;
  };
  Counts counts() const;
  std::vector<ChunkKey> held() const;
  bool check() const;  // whether the counts equal what a recount gives and no bound is passed

 private:
  struct Entry {
    BlockRef block;
    std::uint64_t stamp = 0;
  };

  static bool is_heap(const Block& block) noexcept { return block.kind() == Block::Kind::heap; }
  void count(const Block& block, bool more) noexcept;               // requires lock_
  bool evict_one(bool heap, const ChunkKey& spare, BlockRef& out);  // requires lock_

  const std::size_t max_mappings_, max_heap_bytes_;
  mutable ForkLock lock_;  // guards everything below; blocks are freed after it is released
  mutable KeyTable<Entry> table_;
  Counts counts_;
  std::uint64_t random_ = 0x9E3779B97F4A7C15ull;
};

}  // namespace copick
