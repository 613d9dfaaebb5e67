#include <map>
#include <optional>
#include <set>
#include <utility>

#include "check.hpp"
#include "disk_index.hpp"
using namespace copick;

constexpr std::uint64_t kAll = ~std::uint64_t{0};

static Need bytes(std::uint64_t n) { return {n}; }

static void the_least_recently_used_goes() {
  DiskIndex index;
  CHECK(index.victims(bytes(100)).empty());
  for (std::uint64_t i = 0; i < 1000; ++i) CHECK(index.add({i % 3, i}, 10, 5000 - i) == 0);
  CHECK(index.bytes() == 10'000 && index.size() == 1000 && index.check());

  auto chosen = index.victims(bytes(35));  // 999 was used longest ago
  CHECK(chosen.size() == 4 && chosen[0].key.chunk == 999 && chosen[3].key.chunk == 996);
  CHECK(index.victims({0, 7}).size() == 7 && index.victims({35, 7}).size() == 7);
  CHECK(index.victims({35, 2, 0, 36}).size() == 8 && index.victims(bytes(0)).empty());
  index.touch({{{999 % 3, 999}, 9000}, {{0, 12345}, 9000}});
  CHECK(index.victims(bytes(1))[0].key.chunk == 998 && index.size() == 1000 && index.check());

  CHECK(index.add({0, 0}, 25, 1) == 10);  // replaced: the later use of the two counts
  CHECK(index.bytes() == 10'015 && index.victims(bytes(1))[0].key.chunk == 998);
  CHECK(index.remove({0, 0}) == 25 && index.remove({0, 0}) == 0 && index.check());
  CHECK(index.victims(bytes(kAll)).size() == 999);
  CHECK(index.victims({0, kAll}).size() == 999 && index.victims({1, 0, 0, kAll - 1}).size() == 999);

  index.add({2, 5}, 10, 3);  // what comes may have been used longer ago than what is listed as cold
  CHECK(index.victims(bytes(1))[0].key.chunk == 998);
  index.add({2, 5000}, 10, 3);
  CHECK(index.victims(bytes(1))[0].key.chunk == 5000 && index.check());
}

static void a_million() {
  DiskIndex index;
  std::mt19937 random(1);
  std::vector<DiskIndex::Row> rows;
  for (std::uint64_t i = 0; i < 1'000'000; ++i) rows.push_back({{7, i}, 1, random() % 500'000});
  index.replace(rows, 0);
  CHECK(index.size() == rows.size() && index.memory() <= 100 * index.size());
  const auto chosen = index.victims(bytes(100'000));
  CHECK(chosen.size() == 100'000 && index.memory() <= 100 * index.size() && index.check());
  std::uint64_t last = 0;
  for (const auto& each : chosen) {
    CHECK(rows[each.key.chunk].stamp == each.stamp && each.stamp >= last);
    last = each.stamp;
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
  const auto chosen = index.victims(bytes(kAll));
  CHECK(chosen.size() == 4 && chosen[0].key.chunk == 3 && chosen[3].key.array == 2);  // used at 3, 8, 9, 50
}

static void groups_are_apart() {
  DiskIndex index;
  index.assign(1, 9);
  for (std::uint64_t i = 0; i < 3000; ++i) index.add({i % 3, i}, 10, i + 1);
  CHECK(index.bytes(9) == 10'000 && index.bytes(8) == 0);
  auto chosen = index.victims({25, 0, 9});
  CHECK(chosen.size() == 3 && chosen[0].key.chunk == 1 && chosen[1].key.chunk == 4 && chosen[2].key.chunk == 7);
  CHECK(index.victims(bytes(25))[0].key.chunk == 0 && index.check());
  index.assign(2, 9);
  index.assign(1, 0);
  chosen = index.victims({kAll, 0, 9});
  CHECK(chosen.size() == 1000 && chosen[0].key.chunk == 2 && index.bytes(9) == 10'000 && index.check());
  index.remove_array(2);
  CHECK(index.bytes(9) == 0 && index.victims({1, 0, 9}).empty() && index.check());
}

static void a_policy_decides_who_comes_in() {
  DiskIndex index;
  for (std::uint64_t i = 0; i < 100; ++i) index.add({1, i}, 10, 100 + i);
  CHECK(!index.admits(Policy::pin, 0, kAll) && index.admits(Policy::lru, 0, 0) && index.admits(Policy::epoch, 0, 101));
  int admitted = 0;
  for (int turn = 0; turn < 32'000; ++turn) admitted += index.admits(Policy::epoch, 0, 100);
  CHECK(admitted > 850 && admitted < 1150);
  CHECK(index.admits(Policy::epoch, 3, 0));  // a group without chunks is not full

  index.touch({{{1, 0}, 500}});
  index.remove({1, 1});
  for (int turn = 0; turn < 100; ++turn) CHECK(index.admits(Policy::epoch, 0, 103));
  admitted = 0;
  for (int turn = 0; turn < 32'000; ++turn) admitted += index.admits(Policy::epoch, 0, 102);
  CHECK(admitted < 1150);

  CHECK(index.victims({10, 0, 0, 500, 120}).size() == 18);  // all that are stale
  CHECK(index.victims({250, 0, 0, 500, 120}).size() == 25);
  CHECK(index.victims({10, 0, 0, 50, 120}).size() == 6 && index.victims({10, 0, 0, 50, 0}).size() == 1);
  CHECK(index.check());
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
  std::vector<std::uint64_t> stamps(const Need& need) const {
    std::vector<Chunk> all;
    for (const auto& [key, chunk] : chunks)
      if (!need.group || group_of(key.first) == need.group) all.push_back(chunk);
    std::sort(all.begin(), all.end(), [](const Chunk& a, const Chunk& b) { return a.stamp < b.stamp; });
    std::vector<std::uint64_t> chosen;
    for (const Chunk& chunk : all) {
      const std::size_t n = chosen.size();  // all chunks have the same size here
      const std::uint64_t freed = n * chunk.bytes;
      const bool enough = freed >= need.bytes && n >= need.files;
      if (enough && (freed - need.bytes >= need.more || chunk.stamp >= need.more_before)) break;
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
          const Need need{size * below(20), below(8), below(4) ? 0 : static_cast<std::uint32_t>(below(4)), size * below(30),
                          below(2) ? kAll : below(static_cast<unsigned>(now) + 1)};
          const auto coldest = model.stamps({0, 1, need.group});
          if (!index.admits(Policy::epoch, need.group, need.more_before)) CHECK(coldest.at(0) >= need.more_before);
          const auto victims = index.victims(need);
          std::vector<std::uint64_t> chosen;
          std::set<std::pair<std::uint64_t, std::uint64_t>> once;
          for (const auto& each : victims) {
            CHECK(once.insert({each.key.array, each.key.chunk}).second);
            CHECK(!need.group || model.group_of(each.key.array) == need.group);
            CHECK(model.chunks.at({each.key.array, each.key.chunk}).stamp == each.stamp);
            chosen.push_back(each.stamp);
          }
          CHECK(chosen == model.stamps(need));
          if (below(2))
            for (const auto& each : victims) {
              index.remove(each.key);
              model.chunks.erase({each.key.array, each.key.chunk});
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
          if (index.admits(Policy::epoch, random() % 2, now / 2))
            for (const auto& each : index.victims({50, 1, static_cast<std::uint32_t>(random() % 2), 50, now / 2}))
              index.remove(each.key);
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
