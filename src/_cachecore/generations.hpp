// How a reader learns that a cached array was discarded, by whatever process: numbers in a file that all processes map.
//
// Each number stands for the folders whose path hashes to it, and is replaced by another one after something in such a folder
// stopped being true. An array watches the numbers of its own folder and of all folders above; while their sum is what it was
// when the array was looked up on disk, the array is still there. So a hit needs a few loads, and no system call.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace copick {

// The file is written by system calls; each number in it is replaced as a whole, or seen torn for a moment, which is a change too.
using Number = std::atomic<std::uint64_t>;
static_assert(Number::is_always_lock_free && sizeof(Number) == sizeof(std::uint64_t));

constexpr std::size_t kNumbers = 4096;

class Watch {
 public:
  // Which numbers, and their sum when the array was looked up. Raises std::invalid_argument.
  Watch(std::vector<std::uint32_t> slots, std::uint64_t seen) : slots_(std::move(slots)), seen_(seen) {
    for (const std::uint32_t slot : slots_)
      if (slot >= kNumbers) throw std::invalid_argument("there is no number " + std::to_string(slot) + " to watch");
  }

  // Whether nothing has changed; `numbers` are the kNumbers of the file.
  bool unchanged(const Number* numbers) const noexcept {
    std::uint64_t sum = 0;
    for (const std::uint32_t slot : slots_) sum += numbers[slot].load(std::memory_order_acquire);
    return sum == seen_.load(std::memory_order_relaxed);
  }

  // The array was looked up again, and is still the same.
  void accept(std::uint64_t seen) noexcept { seen_.store(seen, std::memory_order_relaxed); }

 private:
  std::vector<std::uint32_t> slots_;
  std::atomic<std::uint64_t> seen_;
};

}  // namespace copick
