#include <map>
#include <optional>
#include <set>
#include <utility>

#include "check.hpp"
#include "disk_index.hpp"
using namespace copick;

constexpr std::uint64_t kAll = ~std::uint64_t{0};

static std::vector<ChunkKey> victims(DiskIndex& index, Need need) {
  std::vector<ChunkKey> keys;
  CHECK(index.make_room(Policy::lru, need, 0, keys));
  return keys;
}

static Need bytes(std::uint64_t n) { return {n, 0, 0, 0}; }

static void the_least_recently_used_goes() {
  DiskIndex index;
  CHECK(victims(index, bytes(100)).empty());
  for (std::uint64_t i = 0; i < 1000; ++i) CHECK(index.add({i % 3, i}, 10, 5000 - i) == 0);
  CHECK(index.bytes() == 10'000 && index.size() == 1000 && index.check());

  auto chosen = victims(index, bytes(35));  // 999 was used longest ago
  CHECK(chosen.size() == 4 && chosen[0].chunk == 999 && chosen[3].chunk == 996);
  CHECK(victims(index, {0, 7, 0, 0}).size() == 7 && victims(index, {35, 7, 0, 0}).size() == 7);
  CHECK(victims(index, {35, 2, 36, 0}).size() == 8 && victims(index, bytes(0)).empty());
  index.touch({{{999 % 3, 999}, 9000}, {{0, 12345}, 9000}});
  CHECK(victims(index, bytes(1))[0].chunk == 998 && index.size() == 1000 && index.check());

  CHECK(index.add({0, 0}, 25, 1) == 10);  // replaced: the later use of the two counts
  CHECK(index.bytes() == 10'015 && victims(index, bytes(1))[0].chunk == 998);
  CHECK(index.remove({0, 0}) == 25 && index.remove({0, 0}) == 0 && index.check());
  CHECK(victims(index, bytes(kAll)).size() == 999);
  CHECK(victims(index, {0, kAll, 0, 0}).size() == 999 && victims(index, {1, 0, kAll - 1, 0}).size() == 999);

  index.add({2, 5}, 10, 3);  // what comes may have been used longer ago than what is listed as cold
  CHECK(victims(index, bytes(1))[0].chunk == 998);
  index.add({2, 5000}, 10, 3);
  CHECK(victims(index, bytes(1))[0].chunk == 5000 && index.check());
}

static void a_million() {
  DiskIndex index;
  std::mt19937 random(1);
  std::vector<DiskIndex::Row> rows;
  for (std::uint64_t i = 0; i < 1'000'000; ++i) rows.push_back({{7, i}, 1, random() % 500'000});
  index.replace(rows, 0);
  CHECK(index.size() == rows.size() && index.memory() <= 100 * index.size());
  const auto chosen = victims(index, bytes(100'000));
  CHECK(chosen.size() == 100'000 && index.memory() <= 100 * index.size() && index.check());
  std::uint64_t last = 0;
  for (const auto& key : chosen) {
    CHECK(rows[key.chunk].stamp >= last);
    last = rows[key.chunk].stamp;
  }
  std::size_t colder = 0;
  for (const auto& row : rows) colder += row.stamp < last;
  CHECK(colder <= chosen.size());
  index.remove_array(7);
  CHECK(index.size() == 0 && index.bytes() == 0 && index.check());
}

static void what_others_removed_is_forgotten() {
  DiskIndex index;
  index.assign(1, 4);
  for (std::uint64_t i = 0; i < 10; ++i) index.add({1, i}, 10, i);
  index.replace({{{1, 3}, 20, 1}, {{2, 0}, 5, 50}}, 8);
  CHECK(index.size() == 4 && index.bytes() == 45 && index.bytes(4) == 40 && index.check());
  const auto chosen = victims(index, bytes(kAll));
  CHECK(chosen.size() == 4 && chosen[0].chunk == 3 && chosen[3].array == 2);  // used at 3, 8, 9, 50
}

static void groups_are_apart() {
  DiskIndex index;
  index.assign(1, 9);
  for (std::uint64_t i = 0; i < 3000; ++i) index.add({i % 3, i}, 10, i + 1);
  CHECK(index.bytes(9) == 10'000 && index.bytes(8) == 0);
  auto chosen = victims(index, {25, 0, 0, 9});
  CHECK(chosen.size() == 3 && chosen[0].chunk == 1 && chosen[1].chunk == 4 && chosen[2].chunk == 7);
  CHECK(victims(index, bytes(25))[0].chunk == 0 && index.check());
  index.assign(2, 9);
  index.assign(1, 0);
  chosen = victims(index, {kAll, 0, 0, 9});
  CHECK(chosen.size() == 1000 && chosen[0].chunk == 2 && index.bytes(9) == 10'000 && index.check());
  index.remove_array(2);
  CHECK(index.bytes(9) == 0 && victims(index, {1, 0, 0, 9}).empty() && index.check());
}

static void a_policy_decides_who_comes_in() {
  DiskIndex index;
  for (std::uint64_t i = 0; i < 100; ++i) index.add({1, i}, 10, 100 + i);
  std::vector<ChunkKey> keys;
  CHECK(!index.make_room(Policy::pin, bytes(10), kAll, keys) && keys.empty());

  int admitted = 0;
  for (int turn = 0; turn < 32'000; ++turn)
    if (index.make_room(Policy::epoch, {10, 0, 500, 0}, 100, keys)) {
      ++admitted;
      CHECK(keys.size() == 1 && keys[0].chunk == 0);  // nobody is stale: only who must
    }
  CHECK(admitted > 850 && admitted < 1150);

  for (int turn = 0; turn < 100; ++turn) {
    CHECK(index.make_room(Policy::epoch, {10, 0, 500, 0}, 120, keys));
    CHECK(keys.size() == 20 && keys[19].chunk == 19);  // all that are stale
    CHECK(index.make_room(Policy::epoch, {250, 0, 500, 0}, 120, keys) && keys.size() == 25);
    CHECK(index.make_room(Policy::epoch, {10, 0, 50, 0}, 120, keys) && keys.size() == 6);
  }
  index.touch({{{1, 0}, 500}});
  CHECK(index.make_room(Policy::epoch, bytes(10), 102, keys) && keys[0].chunk == 1 && index.check());
  DiskIndex empty;
  CHECK(empty.make_room(Policy::epoch, bytes(10), 0, keys) && keys.empty());
}

// The reference: all chunks in a map, sorted anew for each question.
struct Model {
  struct Chunk {
    std::uint64_t bytes, stamp;
  };
  std::map<std::pair<std::uint64_t, std::uint64_t>, Chunk> chunks;
  std::map<std::uint64_t, std::uint32_t> groups;

  std::uint32_t group_of(std::uint64_t array) const {
    const auto found = groups.find(array);
    return found == groups.end() ? 0 : found->second;
  }
  std::uint64_t bytes(std::uint32_t group) const {
    std::uint64_t sum = 0;
    for (const auto& [key, chunk] : chunks)
      if (!group || group_of(key.first) == group) sum += chunk.bytes;
    return sum;
  }
  // The stamps of whoever must go, coldest first: which of several with the same stamp goes first is left open.
  std::vector<std::uint64_t> stamps(const Need& need, std::uint64_t spare_before) const {
    std::vector<Chunk> all;
    for (const auto& [key, chunk] : chunks)
      if (!need.group || group_of(key.first) == need.group) all.push_back(chunk);
    std::sort(all.begin(), all.end(), [](const Chunk& a, const Chunk& b) { return a.stamp < b.stamp; });
    std::vector<std::uint64_t> chosen;
    for (const Chunk& chunk : all) {
      const std::size_t n = chosen.size();  // all chunks have the same size here
      const std::uint64_t freed = n * chunk.bytes;
      const bool enough = freed >= need.bytes && n >= need.files;
      if (enough && (freed - need.bytes >= need.more || chunk.stamp >= spare_before)) break;
      chosen.push_back(chunk.stamp);
    }
    return chosen;
  }
};

static void equals_the_reference() {
  std::mt19937 random(5);
  const auto below = [&](unsigned n) { return random() % n; };
  for (int round = 0; round < 60; ++round) {
    DiskIndex index;
    Model model;
    const unsigned chunks = 1 + below(round % 2 ? 3000 : 60);
    const std::uint64_t size = 1 + below(9);
    std::uint64_t now = 1;
    for (int step = 0; step < 1500; ++step) {
      now += below(3);
      const std::uint64_t stamp = below(20) ? now : below(static_cast<unsigned>(now) + 1);
      const ChunkKey key{below(4), below(chunks)};
      const std::pair<std::uint64_t, std::uint64_t> at{key.array, key.chunk};
      switch (below(12)) {
        case 0:
          index.assign(key.array, step % 3);
          model.groups[key.array] = step % 3;
          break;
        case 1:
          if (below(20) == 0) {
            index.remove_array(key.array);
            model.groups.erase(key.array);
            for (auto each = model.chunks.begin(); each != model.chunks.end();)
              each = each->first.first == key.array ? model.chunks.erase(each) : std::next(each);
          } else {
            CHECK(index.remove(key) == (model.chunks.count(at) ? size : 0));
            model.chunks.erase(at);
          }
          break;
        case 2:
        case 3:
          index.touch({{key, stamp}});
          if (model.chunks.count(at)) model.chunks[at].stamp = std::max(model.chunks[at].stamp, stamp);
          break;
        case 4: {
          if (below(10)) break;
          std::vector<DiskIndex::Row> rows;
          std::map<std::pair<std::uint64_t, std::uint64_t>, Model::Chunk> left;
          for (unsigned i = below(50); i--;) {
            const DiskIndex::Row row{{below(4), below(chunks)}, size, below(static_cast<unsigned>(now) + 1)};
            rows.push_back(row);
            left[{row.key.array, row.key.chunk}] = {size, row.stamp};
          }
          for (const auto& [where, chunk] : model.chunks) {
            if (left.count(where))
              left[where].stamp = std::max(left[where].stamp, chunk.stamp);
            else if (chunk.stamp >= now / 2)
              left[where] = chunk;
          }
          index.replace(rows, now / 2);
          model.chunks = left;
          break;
        }
        case 5:
        case 6: {
          const Need need{size * below(20), below(8), size * below(30), below(4) ? 0 : static_cast<std::uint32_t>(below(4))};
          const std::uint64_t stale_before = below(static_cast<unsigned>(now) + 1);
          const Policy policy = below(2) ? Policy::lru : Policy::epoch;
          const auto expected = model.stamps(need, policy == Policy::lru ? kAll : stale_before);
          const auto coldest = model.stamps({0, 1, 0, need.group}, 0);
          std::vector<ChunkKey> keys;
          if (!index.make_room(policy, need, stale_before, keys)) {
            CHECK(policy == Policy::epoch && coldest[0] >= stale_before);
            break;
          }
          std::vector<std::uint64_t> chosen;
          std::set<std::pair<std::uint64_t, std::uint64_t>> once;
          for (const auto& each : keys) {
            CHECK(once.insert({each.array, each.chunk}).second);
            CHECK(!need.group || model.group_of(each.array) == need.group);
            chosen.push_back(model.chunks.at({each.array, each.chunk}).stamp);
          }
          CHECK(chosen == expected);
          if (below(2))
            for (const auto& each : keys) {
              index.remove(each);
              model.chunks.erase({each.array, each.chunk});
            }
          break;
        }
        default:
          CHECK(index.add(key, size, stamp) == (model.chunks.count(at) ? size : 0));
          model.chunks[at] = {size, model.chunks.count(at) ? std::max(model.chunks[at].stamp, stamp) : stamp};
      }
      if (step % 50 == 0) {
        CHECK(index.check() && index.size() == model.chunks.size());
        for (const std::uint32_t group : {0u, 1u, 2u, 3u}) CHECK(index.bytes(group) == model.bytes(group));
      }
    }
  }
}

static void from_many_threads() {
  DiskIndex index;
  at_once(4, [&](int who) {
    std::mt19937 random(static_cast<unsigned>(who));
    std::vector<ChunkKey> keys;
    for (int i = 0; i < 20'000; ++i) {
      const ChunkKey key{random() % 3, random() % 500};
      const auto now = static_cast<std::uint64_t>(i);
      switch (random() % 8) {
        case 0:
          index.remove(key);
          break;
        case 1:
          index.touch({{key, now}});
          break;
        case 2:
          if (index.make_room(static_cast<Policy>(random() % 2), {50, 1, 50, static_cast<std::uint32_t>(random() % 2)}, now / 2,
                              keys))
            for (const auto& each : keys) index.remove(each);
          break;
        case 3:
          index.assign(key.array, random() % 2);
          break;
        default:
          index.add(key, random() % 100, now);
      }
      if (i % 5000 == 0) CHECK(index.check() && index.bytes(1) <= 150'000 && index.size() <= 1500);
    }
  });
  CHECK(index.check());
}

int main() {
  the_least_recently_used_goes();
  a_million();
  what_others_removed_is_forgotten();
  groups_are_apart();
  a_policy_decides_who_comes_in();
  equals_the_reference();
  from_many_threads();
}
