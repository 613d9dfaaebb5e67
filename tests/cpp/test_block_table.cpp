#include <cstring>
#include <map>
#include <memory>

#include "block_table.hpp"
#include "check.hpp"
using namespace copick;

static BlockRef heap(std::size_t size, int mark) {
  const std::vector<std::byte> bytes(size, static_cast<std::byte>(mark));
  return Block::copy_of(bytes.data(), size);
}

static void bounds_hold_and_recent_blocks_stay() {
  const auto ring = std::make_unique<TouchRing>();
  BlockTable table(3, 1000);
  std::vector<BlockRef> found;
  for (std::uint64_t i = 0; i < 100; ++i) {
    table.put({1, i}, heap(100, static_cast<int>(i)), i + 1);
    table.find(1, {0}, i + 2, *ring, found);  // chunk 0 is always the most recently used
    CHECK(table.check());
  }
  CHECK(found[0] && found[0]->data()[0] == std::byte{0});
  CHECK(table.counts().heap_bytes == 1000 && table.counts().entries == 10 && table.counts().evictions == 90);

  const BlockRef big = table.put({2, 0}, heap(2000, 1), 1000);  // larger than the bound: usable, not kept
  CHECK(big->size() == 2000 && table.check());
  table.find(2, {0}, 1001, *ring, found);
  CHECK(!found[0]);

  for (std::uint64_t i = 0; i < 10; ++i) table.put({3, i}, Block::fill(), 2000 + i);
  CHECK(table.counts().mappings == 3 && table.check());

  const BlockRef first = table.put({4, 0}, heap(10, 1), 3000), second = table.put({4, 0}, heap(10, 2), 3001);
  CHECK(first == second);  // who comes later uses what is there
  table.drop({4, 0});
  table.find(4, {0}, 3002, *ring, found);
  CHECK(!found[0] && first->data()[9] == std::byte{1});
  table.drop_array(3);
  CHECK(table.counts().mappings == 0 && table.check());
}

static void touches_are_noted_once_a_second() {
  const auto ring = std::make_unique<TouchRing>();
  BlockTable table(3, 1000);
  std::vector<BlockRef> found;
  table.put({1, 1}, heap(10, 1), 1'000'000);
  for (std::uint64_t now = 1'000'000; now < 3'500'000; now += 1000) table.find(1, {1, 2}, now, *ring, found);
  CHECK(ring->drain().size() == 2);
}

static void threads_find_what_was_put() {
  const auto ring = std::make_unique<TouchRing>();
  BlockTable table(1000, 20'000);
  at_once(4, [&](int who) {
    std::mt19937 random(static_cast<unsigned>(who));
    std::vector<BlockRef> found;
    for (int i = 0; i < 20'000; ++i) {
      const std::uint64_t chunk = random() % 60;
      switch (random() % 4) {
        case 0:
          table.put({1, chunk}, heap(500 + chunk, static_cast<int>(chunk)), static_cast<std::uint64_t>(i));
          break;
        case 1:
          table.drop({1, chunk});
          break;
        default:
          table.find(1, {chunk, chunk + 100}, static_cast<std::uint64_t>(i), *ring, found);
          CHECK(!found[1]);
          if (found[0]) CHECK(found[0]->size() == 500 + chunk && found[0]->data()[7] == static_cast<std::byte>(chunk));
      }
      if (i % 2000 == 0) CHECK(table.check());
    }
  });
  CHECK(table.check());
}

int main() {
  bounds_hold_and_recent_blocks_stay();
  touches_are_noted_once_a_second();
  threads_find_what_was_put();
}
