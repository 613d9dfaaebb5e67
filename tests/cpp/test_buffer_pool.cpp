#include <cstdint>
#include <cstring>
#include <set>

#include "buffer_pool.hpp"
#include "check.hpp"
#include "clock.hpp"
using copick::BufferPool;

int main() {
  constexpr std::size_t mib = 1 << 20;
  BufferPool pool(10 * mib);
  void* first = pool.take(3 * mib);
  CHECK(reinterpret_cast<std::uintptr_t>(first) % (2 * mib) == 0);
  std::memset(first, 1, 3 * mib);
  pool.give(first, 3 * mib);
  CHECK(pool.idle_bytes() == 4 * mib);
  CHECK(pool.take(4 * mib) == first);  // of the same size when rounded, so used again
  pool.give(first, 4 * mib);
  void* other = pool.take(2 * mib);
  CHECK(other != first);
  pool.give(other, 2 * mib);

  std::vector<void*> many;
  for (int i = 0; i < 5; ++i) many.push_back(pool.take(4 * mib));
  CHECK(std::set<void*>(many.begin(), many.end()).size() == 5);
  for (void* buffer : many) pool.give(buffer, 4 * mib);
  CHECK(pool.idle_bytes() <= 10 * mib);
  void* large = pool.take(64 * mib);  // larger than the pool keeps
  pool.give(large, 64 * mib);
  CHECK(pool.idle_bytes() <= 10 * mib);

  pool.trim(copick::now_us() - 60'000'000);
  CHECK(pool.idle_bytes() > 0);
  pool.trim(copick::now_us() + 1);
  CHECK(pool.idle_bytes() == 0);

  at_once(4, [&](int who) {
    std::mt19937 random(static_cast<unsigned>(who));
    for (int i = 0; i < 2000; ++i) {
      const std::size_t size = 1 + random() % (300 << 10);
      auto* bytes = static_cast<unsigned char*>(pool.take(size));
      bytes[0] = bytes[size - 1] = static_cast<unsigned char>(who);
      std::this_thread::yield();
      CHECK(bytes[0] == who && bytes[size - 1] == who);  // nobody else has it
      pool.give(bytes, size);
    }
  });
  CHECK(pool.idle_bytes() <= 10 * mib);
}
