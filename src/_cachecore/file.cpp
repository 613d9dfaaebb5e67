#include "file.hpp"

#include <cstring>
#include <new>

#include "file_common.hpp"

namespace copick {
namespace {

std::atomic<int> injected_step{0}, injected_action{0};

}  // namespace

void inject(int step, int action) noexcept {
  injected_action = action;
  injected_step = step;
}

int injected(Step step) noexcept {
  int expected = static_cast<int>(step);
  if (injected_step.load(std::memory_order_relaxed) != expected || !injected_step.compare_exchange_strong(expected, 0))
    return 0;
  const int action = injected_action;
  if (action == kKill) die();
  return action;
}

BlockRef Block::copy_of(const void* data, std::size_t size) {
  auto* bytes = static_cast<std::byte*>(::operator new(size ? size : 1));
  if (size) std::memcpy(bytes, data, size);
  return BlockRef(new Block(Kind::heap, bytes, size));
}

}  // namespace copick
