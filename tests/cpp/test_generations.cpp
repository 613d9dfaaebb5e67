#include "generations.hpp"

#include <atomic>
#include <memory>

#include "cache.hpp"
#include "check.hpp"
using namespace copick;

using Numbers = std::unique_ptr<Number[]>;

static Numbers numbers_from(std::uint64_t first) {
  Numbers numbers(new Number[kNumbers]);
  for (std::size_t i = 0; i < kNumbers; ++i) numbers[i] = first + i * 0x9E3779B97F4A7C15ull;
  return numbers;
}

static std::uint64_t sum_of(const Numbers& numbers, const std::vector<std::uint32_t>& slots) {
  std::uint64_t sum = 0;
  for (const auto slot : slots) sum += numbers[slot];
  return sum;
}

// An array of four chunks of one byte, all of them `value`.
static std::unique_ptr<Array> array_of(Cache& cache, const std::string& folder, std::uint64_t id, char value,
                                       std::vector<std::uint32_t> slots, std::uint64_t seen) {
  auto array = std::make_unique<Array>(id, folder, std::vector<std::int64_t>{4}, std::vector<std::int64_t>{1}, 1,
                                       std::string(1, '\0'), "", false, std::move(slots), seen);
  for (std::uint64_t chunk = 0; chunk < 4; ++chunk) CHECK(cache.insert(*array, chunk, &value, 1) == 0);
  return array;
}

static Region all_of(char* out) { return Region{{0}, {1}, {4}, {1}, reinterpret_cast<std::byte*>(out)}; }

static void a_change_of_any_watched_number_counts_and_of_no_other() {
  const Numbers numbers = numbers_from(~0ull);  // sums wrap around
  const std::vector<std::uint32_t> slots{0, 17, 17, kNumbers - 1};
  Watch watch(slots, sum_of(numbers, slots));
  CHECK(watch.unchanged(numbers.get()));
  for (std::uint32_t slot = 0; slot < kNumbers; ++slot) {
    numbers[slot] += 12345;
    CHECK(watch.unchanged(numbers.get()) == (slot != 0 && slot != 17 && slot != kNumbers - 1));
    watch.accept(sum_of(numbers, slots));
    CHECK(watch.unchanged(numbers.get()));
  }
  bool refused = false;
  try {
    Watch({static_cast<std::uint32_t>(kNumbers)}, 0);
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  CHECK(refused);
}

static void nothing_is_read_of_a_discarded_array() {
  const Scratch scratch;
  Cache cache(100, 0);
  const Numbers numbers = numbers_from(1);
  const std::vector<std::uint32_t> slots{3, 5};
  const auto array = array_of(cache, scratch.path, 1, 'a', slots, sum_of(numbers, slots));
  char out[5] = "----";
  std::vector<std::uint64_t> missing;
  CHECK(cache.read(*array, all_of(out), 1, missing) && std::string(out) == "aaaa");  // nothing tells yet
  cache.watch(numbers.get());
  CHECK(cache.read(*array, all_of(out), 1, missing) && cache.block(*array, 0));
  numbers[5] = 99;
  std::string("----").copy(out, 4);
  CHECK(!cache.read(*array, all_of(out), 1, missing) && !cache.read_many(*array, {all_of(out)}, 2, missing));
  CHECK(std::string(out) == "----" && missing.empty() && !cache.block(*array, 0) && !cache.current(*array));
  array->watch().accept(sum_of(numbers, slots));
  CHECK(cache.read_many(*array, {all_of(out)}, 2, missing) && std::string(out) == "aaaa" && cache.block(*array, 0));
  const Numbers others = numbers_from(2);
  cache.watch(others.get());
  CHECK(!cache.read(*array, all_of(out), 1, missing));
}

// One thread writes version after version, each into a folder of its own, and then changes a number; readers never see a version
// older than the last one that was finished when they began.
static void what_was_changed_is_seen_by_the_next_read() {
  const Scratch scratch;
  Cache cache(10, 0);
  const Numbers numbers = numbers_from(7), more = numbers_from(8);
  const std::vector<std::uint32_t> slots{1, 2, 3};
  cache.watch(numbers.get());
  constexpr char kVersions = 60;
  std::vector<std::unique_ptr<Array>> versions(kVersions);
  std::atomic<int> finished{-1};
  std::atomic<bool> done{false};
  const auto version_of = [&](int n) {
    const std::string folder = scratch.path + "/" + std::to_string(n);
    std::filesystem::create_directory(folder);
    versions[static_cast<std::size_t>(n)] =
        array_of(cache, folder, static_cast<std::uint64_t>(n) + 1, static_cast<char>(n), slots, 0);
  };
  std::atomic<std::uint64_t> stale{0};
  at_once(4, [&](int who) {
    if (who == 0) {
      for (int n = 0; n < kVersions; ++n) {
        version_of(n);
        versions[static_cast<std::size_t>(n)]->watch().accept(sum_of(numbers, slots) + 1);
        numbers[2] += 1;  // whoever holds an earlier version must let go of it
        finished = n;
        if (n == kVersions / 2) {  // another file takes the place of the first: nothing is current
          versions[static_cast<std::size_t>(n)]->watch().accept(sum_of(more, slots));
          cache.watch(more.get());
          cache.watch(numbers.get());
          versions[static_cast<std::size_t>(n)]->watch().accept(sum_of(numbers, slots));
        }
      }
      done = true;
      return;
    }
    char out[4];
    std::vector<std::uint64_t> missing;
    int mine = 0;
    while (!done) {
      const int least = finished;
      if (least < 0) continue;
      if (cache.read(*versions[static_cast<std::size_t>(mine)], all_of(out), 1 + who % 2, missing)) {
        CHECK(missing.empty() && out[0] == mine && out[3] == mine && mine >= least);
      } else {
        ++stale;
        mine = finished;  // look again
      }
    }
  });
  CHECK(stale > 0 && cache.check());
}

int main() {
  a_change_of_any_watched_number_counts_and_of_no_other();
  nothing_is_read_of_a_discarded_array();
  what_was_changed_is_seen_by_the_next_read();
}
