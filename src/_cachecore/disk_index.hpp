// What lies in the cache folder, as far as this process knows: size and last use of every chunk. What goes when it is full.
//
// A hint, not the truth: files are the truth, and a chunk may be gone or others may have come when the index is asked.
//
// Victims are the least recently used chunks, exactly. One pass over the table lists the coldest sixteenth of it, which then
// serves until it is used up: a chunk that is used meanwhile has a newer stamp than its line in the list, which counts no more.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "fork_lock.hpp"
#include "key_table.hpp"
#include "touch_ring.hpp"

namespace copick {

// Whether a chunk may come into a full cache, in the place of the least recently used.
//   lru    always.
//   epoch  if that was not used for two epochs; else one chunk of 32, for the set of those in use may change slowly. Where each
//          epoch reads everything once, in a new order, this keeps almost as much as knowing the future would, while lru throws
//          away what comes next.
//   pin    never.
enum class Policy : std::uint8_t { lru, epoch, pin };

// How much must go, and whose.
struct Need {
  std::uint64_t bytes = 0, files = 0;
  std::uint32_t group = 0;  // only chunks of this group; 0: of all
  // So many bytes more, so that the next chunks find room; but only chunks that were last used before `more_before`.
  std::uint64_t more = 0, more_before = ~std::uint64_t{0};
};

class DiskIndex {
 public:
  // Notes a chunk of `bytes`, last used at `stamp` (a later known use wins). Returns the bytes noted for it before, or 0.
  std::uint64_t add(const ChunkKey& key, std::uint64_t bytes, std::uint64_t stamp);
  // Returns the bytes noted, or 0.
  std::uint64_t remove(const ChunkKey& key);
  void remove_array(std::uint64_t array);
  void touch(const std::vector<Touch>& touches);

  struct Row {
    ChunkKey key;
    std::uint64_t bytes, stamp;
  };
  // Makes the index say this, and what it knows to have been used at `since` or later.
  void replace(const std::vector<Row>& rows, std::uint64_t since);

  // From now on the chunks of an array count to a group (such as a layer); 0 is no group.
  void assign(std::uint64_t array, std::uint32_t group);

  // Whether a chunk may come in though its group (0: the cache) is full. `stale_before`: when the epoch before the last began.
  bool admits(Policy policy, std::uint32_t group, std::uint64_t stale_before);
  // The least recently used chunks that satisfy the need, coldest first (all, if there are not so many), each with its last
  // use.
  std::vector<Touch> victims(const Need& need);

  std::uint64_t bytes(std::uint32_t group = 0) const;  // of all chunks, or of a group's
  std::size_t size() const;
  std::size_t memory() const;  // bytes of RAM that the index takes
  bool check() const;          // whether the totals equal what a recount gives, and the list of the coldest has its order

 private:
  struct Entry {
    std::uint64_t bytes = 0, stamp = 0;
  };
  struct Owner {
    std::uint64_t bytes = 0;
    std::uint32_t group = 0;
  };
  static bool colder_last(const Touch& one, const Touch& other) noexcept { return one.stamp > other.stamp; }

  // All of these require lock_.
  std::uint32_t group_of(std::uint64_t array) const;
  void account(std::uint64_t array, std::uint64_t before, std::uint64_t after);
  void used(const Entry& entry);
  const Entry* current(const Touch& touch) const noexcept;
  const Touch* coldest(std::uint32_t group);
  bool list_coldest(std::uint32_t group, std::size_t count);

  mutable ForkLock lock_;  // guards everything below
  mutable KeyTable<Entry> table_;
  std::uint64_t bytes_ = 0;
  std::unordered_map<std::uint64_t, Owner> owners_;
  std::unordered_map<std::uint32_t, std::uint64_t> group_bytes_;
  // The coldest chunks of cold_group_, the coldest last. Whatever is not in it (any more) has a stamp of horizon_ or later.
  std::vector<Touch> cold_;
  std::uint32_t cold_group_ = 0;
  std::uint64_t horizon_ = 0;
  std::uint64_t random_ = 0x9E3779B97F4A7C15ull;
};

}  // namespace copick
