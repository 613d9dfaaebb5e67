// One process's view of one cache folder: reading regions of cached arrays, and writing chunks into the folder.
//
// Every method may be called from any thread. Nothing here waits for another process, knows the source of the data, or calls
// Python.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "array.hpp"
#include "block_table.hpp"
#include "clock.hpp"
#include "disk_index.hpp"
#include "generations.hpp"
#include "touch_ring.hpp"

namespace copick {

class Cache {
 public:
  Cache(std::size_t max_mappings, std::size_t decoded_bytes) : blocks_(max_mappings, decoded_bytes) {}

  // The numbers that tell what was discarded (see generations.hpp); null: nothing tells, and every array counts as current. They
  // must stay readable as long as this lives, also after others took their place.
  void watch(const Number* numbers) noexcept { numbers_.store(numbers, std::memory_order_release); }
  // Whether the array was not discarded since it was looked up on disk.
  bool current(const Array& array) const noexcept {
    const Number* numbers = numbers_.load(std::memory_order_acquire);
    return !numbers || array.watch().unchanged(numbers);
  }

  // Copies into `region.out` whatever of the region is cached, and appends the chunks that are not (ascending) to `missing`.
  // `threads` > 1 copies chunks side by side. False, and nothing is copied, if the array was discarded before this call.
  bool read(const Array& array, const Region& region, int threads, std::vector<std::uint64_t>& missing);

  // The same for many regions; `missing` gets every chunk once, ascending.
  bool read_many(const Array& array, const std::vector<Region>& regions, int threads, std::vector<std::uint64_t>& missing);

  // Writes a chunk file: for a raw array the decoded chunk, for an encoded one the compressed payload. Returns errno.
  int insert(const Array& array, std::uint64_t chunk, const void* payload, std::size_t size);
  // Writes every chunk that lies in a box of decoded data (see Array::assemble); a chunk of nothing but fill value becomes a
  // marker. Raw arrays only. Stops at the first failure, which it returns as errno; `written` gets the chunks that were
  // written.
  int insert_box(const Array& array, const std::byte* data, const std::int64_t* origin, const std::int64_t* extent,
                 const std::int64_t* stride, std::vector<std::uint64_t>& written);
  // Remembers that the source has no such chunk. Returns errno.
  int insert_absent(const Array& array, std::uint64_t chunk);
  // Whether the chunk, or the marker of its absence, is on disk (its content is not checked).
  bool contains(const Array& array, std::uint64_t chunk) const;
  // Removes a chunk and its marker from disk and from memory. Returns errno; a chunk that is not there is no error.
  int remove(const Array& array, std::uint64_t chunk);

  // The checked payload of a chunk file, null if there is none. A corrupt file is removed and counted.
  BlockRef payload(const Array& array, std::uint64_t chunk, bool map);
  // A chunk as reads would use it: held, mapped now, a fill block; null if it is not cached, encoded and not decoded, or
  // discarded.
  BlockRef block(const Array& array, std::uint64_t chunk);
  // Keeps a decoded chunk in memory for later reads.
  void keep(const Array& array, std::uint64_t chunk, const void* data, std::size_t size);

  struct Stats {
    std::uint64_t chunk_hits, chunk_loads, chunk_misses, fills, corrupt, load_failures, inserts, insert_failures, absents;
    std::uint64_t saved;  // bytes of all chunks that were found, each time that they were
  };
  Stats stats() const noexcept;
  bool check() const { return blocks_.check() && index.check(); }

  BlockTable& blocks() noexcept { return blocks_; }
  TouchRing ring;   // touches since the last drain
  DiskIndex index;  // what is on disk

 private:
  void gather(const Array& array, const Region& region, int threads, bool stream, std::vector<std::uint64_t>& missing);
  BlockRef load(const Array& array, std::uint64_t chunk, std::uint64_t now);

  BlockTable blocks_;
  std::atomic<const Number*> numbers_{nullptr};
  std::atomic<std::uint64_t> chunk_hits_{0}, chunk_loads_{0}, chunk_misses_{0}, fills_{0}, corrupt_{0}, load_failures_{0},
      inserts_{0}, insert_failures_{0}, absents_{0}, saved_{0};
};

}  // namespace copick
