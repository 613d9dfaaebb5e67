#include <map>
#include <utility>

#include "check.hpp"
#include "key_table.hpp"
using copick::ChunkKey;

int main() {
  copick::KeyTable<std::uint64_t> table;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> model;
  std::mt19937_64 random(3);
  CHECK(!table.find({1, 1}) && !table.erase({1, 1}) && table.consistent());
  for (int step = 0; step < 300'000; ++step) {
    const ChunkKey key{random() % 7, random() % 900};
    const auto at = std::pair{key.array, key.chunk};
    switch (random() % 3) {
      case 0:
        table[key] = static_cast<std::uint64_t>(step);
        model[at] = static_cast<std::uint64_t>(step);
        break;
      case 1: {
        std::uint64_t taken = 0;
        const auto known = model.find(at);
        CHECK(table.erase(key, &taken) == (known != model.end()));
        if (known != model.end()) {
          CHECK(taken == known->second);
          model.erase(known);
        }
        break;
      }
      default: {
        const auto* found = table.find(key);
        const auto known = model.find(at);
        CHECK((found != nullptr) == (known != model.end()));
        if (found) CHECK(*found == known->second);
      }
    }
    if (step % 1000 == 0) CHECK(table.consistent() && table.size() == model.size());
  }
  std::size_t seen = 0;
  table.each([&](const ChunkKey& key, std::uint64_t value) {
    CHECK((model.at({key.array, key.chunk}) == value));
    ++seen;
  });
  CHECK(seen == model.size());
  table.clear();
  CHECK(table.size() == 0 && !table.find({1, 1}));
}
