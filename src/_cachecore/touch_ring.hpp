// A lossy ring of (key, time) pairs: readers write, one journal thread drains. Nothing ever waits for it.
//
// A slow drain loses the oldest touches and a torn one (written while it is read) mixes two; either costs a little recency of a
// chunk, never data. All fields are relaxed atomics, so this is not undefined behaviour, only imprecise.
#pragma once
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "chunk_key.hpp"

namespace copick {

struct Touch {
  ChunkKey key;
  std::uint64_t stamp;  // microseconds since 1970
};

class TouchRing {
 public:
  static constexpr std::size_t kSize = 1 << 14;

  void push(const ChunkKey& key, std::uint64_t stamp) noexcept {
    Cell& cell = cells_[head_.fetch_add(1, std::memory_order_relaxed) % kSize];
    cell.array.store(key.array, std::memory_order_relaxed);
    cell.chunk.store(key.chunk, std::memory_order_relaxed);
    cell.stamp.store(stamp, std::memory_order_release);
  }

  // Everything pushed since the last drain, at most kSize touches. One caller at a time.
  std::vector<Touch> drain() {
    const std::uint64_t head = head_.load(std::memory_order_acquire);
    std::uint64_t from = tail_;
    if (head - from > kSize) {
      lost_ += head - from - kSize;
      from = head - kSize;
    }
    std::vector<Touch> touches;
    touches.reserve(static_cast<std::size_t>(head - from));
    for (; from < head; ++from) {
      const Cell& cell = cells_[from % kSize];
      const std::uint64_t stamp = cell.stamp.load(std::memory_order_acquire);
      if (stamp)
        touches.push_back({{cell.array.load(std::memory_order_relaxed), cell.chunk.load(std::memory_order_relaxed)}, stamp});
    }
    tail_ = head;
    return touches;
  }

  std::uint64_t pending() const noexcept { return head_.load(std::memory_order_relaxed) - tail_; }
  std::uint64_t lost() const noexcept { return lost_; }

 private:
  struct Cell {
    std::atomic<std::uint64_t> array{0}, chunk{0}, stamp{0};
  };
  std::array<Cell, kSize> cells_{};
  std::atomic<std::uint64_t> head_{0};
  std::uint64_t tail_ = 0, lost_ = 0;  // the drainer's own
};

}  // namespace copick
