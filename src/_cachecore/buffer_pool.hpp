// Result buffers that are used again: copying into memory whose pages exist is up to five times faster than into fresh pages.
//
// Large buffers are aligned for huge pages and asked for as such. At most `max_idle_bytes` wait for their next use.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "fork_lock.hpp"

namespace copick {

class BufferPool {
 public:
  explicit BufferPool(std::size_t max_idle_bytes) : max_idle_bytes_(max_idle_bytes) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // At least `size` bytes, of any content. Raises std::bad_alloc.
  void* take(std::size_t size);
  // Gives back what `take(size)` returned.
  void give(void* buffer, std::size_t size) noexcept;

  // Frees what has waited since before `stamp` (microseconds since 1970).
  void trim(std::uint64_t stamp) noexcept;

  std::size_t idle_bytes() const;

 private:
  struct Idle {
    void* buffer;
    std::size_t capacity;
    std::uint64_t since;
  };
  template <class Stays>
  void free_oldest(Stays&& stays) noexcept;

  const std::size_t max_idle_bytes_;
  mutable ForkLock lock_;   // guards everything below
  std::vector<Idle> idle_;  // oldest first
  std::size_t idle_bytes_ = 0;
};

}  // namespace copick
