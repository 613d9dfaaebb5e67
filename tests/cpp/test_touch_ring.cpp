#include <memory>

#include "check.hpp"
#include "touch_ring.hpp"
using namespace copick;

int main() {
  const auto ring = std::make_unique<TouchRing>();
  CHECK(ring->drain().empty());
  for (std::uint64_t i = 1; i <= 100; ++i) ring->push({7, i}, i * 10);
  auto touches = ring->drain();
  CHECK(touches.size() == 100 && touches[99].key.chunk == 100 && touches[99].stamp == 1000 && ring->lost() == 0);

  // A drain that comes late loses the oldest, never more, and says how many.
  for (std::uint64_t i = 1; i <= TouchRing::kSize + 5; ++i) ring->push({1, i}, i);
  touches = ring->drain();
  CHECK(touches.size() == TouchRing::kSize && touches.front().key.chunk == 6 && ring->lost() == 5);

  // Writers never wait for a drainer; what is drained was pushed by somebody.
  std::size_t drained = 0;
  at_once(4, [&](int who) {
    for (std::uint64_t i = 1; i <= 20'000; ++i)
      if (who == 0) {
        if (i % 100 == 0) drained += ring->drain().size();
      } else {
        ring->push({static_cast<std::uint64_t>(who), i}, i);
      }
  });
  drained += ring->drain().size();
  CHECK(drained + ring->lost() - 5 <= 60'000 && drained > 0);
}
