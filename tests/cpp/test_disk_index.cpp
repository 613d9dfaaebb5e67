#include "check.hpp"
#include "disk_index.hpp"
using namespace copick;

int main() {
  DiskIndex index;
  CHECK(index.victims(100).empty());
  for (std::uint64_t i = 0; i < 1000; ++i) CHECK(index.add({i % 3, i}, 10, 5000 - i) == 0);
  CHECK(index.bytes() == 10'000 && index.size() == 1000 && index.check());

  auto victims = index.victims(35);  // 999 was used longest ago
  CHECK(victims.size() == 4 && victims[0].chunk == 999 && victims[3].chunk == 996);
  index.touch({{{999 % 3, 999}, 9000}, {{0, 12345}, 9000}});
  CHECK(index.victims(1)[0].chunk == 998 && index.size() == 1000);

  CHECK(index.add({0, 0}, 25, 1) == 10);  // replaced: the later use of the two counts
  CHECK(index.bytes() == 10'015 && index.victims(1)[0].chunk == 998);
  CHECK(index.remove({0, 0}) == 25 && index.remove({0, 0}) == 0 && index.check());
  CHECK(index.victims(~std::uint64_t{0}).size() == 999);

  for (std::uint64_t i = 0; i < 1'000'000; ++i) index.add({7, i}, 1, i);
  CHECK(index.memory() <= 100 * index.size() && index.check());
  index.remove_array(7);
  CHECK(index.size() == 999 && index.check());
  index.clear();
  CHECK(index.bytes() == 0 && index.size() == 0 && index.check());
  at_once(4, [&](int who) {
    std::mt19937 random(static_cast<unsigned>(who));
    for (int i = 0; i < 20'000; ++i) {
      const ChunkKey key{0, random() % 500};
      if (random() % 3)
        index.add(key, random() % 100, static_cast<std::uint64_t>(i));
      else
        index.remove(key);
      if (i % 5000 == 0) CHECK(index.check() && index.victims(50).size() <= 500);
    }
  });
  CHECK(index.check());
}
