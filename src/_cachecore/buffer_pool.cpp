#include "buffer_pool.hpp"

#include <cstdlib>
#include <new>

#include "clock.hpp"

#ifdef _WIN32
#include <malloc.h>
#else
#include <sys/mman.h>
#endif

namespace copick {
namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20;
constexpr std::size_t kSmall = std::size_t{64} << 10;

// Sizes are rounded so that results of similar shapes share buffers.
std::size_t capacity_for(std::size_t size) noexcept {
  const std::size_t unit = size >= kHuge / 2 ? kHuge : size >= kSmall ? kSmall : 4096;
  return (size + unit - 1) / unit * unit;
}

void* allocate(std::size_t capacity) {
  const std::size_t alignment = capacity >= kHuge ? kHuge : 4096;
#ifdef _WIN32
  void* buffer = _aligned_malloc(capacity, alignment);
#else
  void* buffer = nullptr;
  if (posix_memalign(&buffer, alignment, capacity)) buffer = nullptr;
#endif
  if (!buffer) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (capacity >= kHuge) ::madvise(buffer, capacity, MADV_HUGEPAGE);
#endif
  return buffer;
}

void release(void* buffer) noexcept {
#ifdef _WIN32
  _aligned_free(buffer);
#else
  std::free(buffer);
#endif
}

}  // namespace

BufferPool::~BufferPool() {
  for (const Idle& idle : idle_) release(idle.buffer);
}

void* BufferPool::take(std::size_t size) {
  const std::size_t capacity = capacity_for(size);
  {
    const std::lock_guard guard(lock_);
    for (std::size_t i = idle_.size(); i-- > 0;)  // the youngest: its lines may still be in the processor's cache
      if (idle_[i].capacity == capacity) {
        void* buffer = idle_[i].buffer;
        idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(i));
        idle_bytes_ -= capacity;
        return buffer;
      }
  }
  return allocate(capacity);
}

void BufferPool::give(void* buffer, std::size_t size) noexcept {
  const std::size_t capacity = capacity_for(size);
  try {
    const std::lock_guard guard(lock_);
    if (capacity <= max_idle_bytes_) {
      idle_.push_back({buffer, capacity, now_us()});
      idle_bytes_ += capacity;
      buffer = nullptr;
    }
  } catch (const std::bad_alloc&) {  // no room to note it: give it back to the system
  }
  if (buffer) release(buffer);
  free_oldest([this](const Idle&) { return idle_bytes_ <= max_idle_bytes_; });
}

void BufferPool::trim(std::uint64_t stamp) noexcept {
  free_oldest([stamp](const Idle& idle) { return idle.since >= stamp; });
}

// Frees idle buffers, the longest waiting first, until one `stays`. Memory is unmapped while the lock is free.
template <class Stays>
void BufferPool::free_oldest(Stays&& stays) noexcept {
  for (;;) {
    void* buffer;
    {
      const std::lock_guard guard(lock_);
      if (idle_.empty() || stays(idle_.front())) return;
      buffer = idle_.front().buffer;
      idle_bytes_ -= idle_.front().capacity;
      idle_.erase(idle_.begin());
    }
    release(buffer);
  }
}

std::size_t BufferPool::idle_bytes() const {
  const std::lock_guard guard(lock_);
  return idle_bytes_;
}

}  // namespace copick
