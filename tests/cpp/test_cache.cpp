#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>

#include "cache.hpp"
#include "check.hpp"
using namespace copick;

// Memory for one size is not to be had while this is true.
static std::atomic<bool> no_room{false};
constexpr std::size_t kNoRoom = 5000;

void* operator new(std::size_t size) {
  if (no_room && size >= kNoRoom && size < 2 * kNoRoom) throw std::bad_alloc();
  if (void* at = std::malloc(size ? size : 1)) return at;
  throw std::bad_alloc();
}
void operator delete(void* at) noexcept { std::free(at); }
void operator delete(void* at, std::size_t) noexcept { std::free(at); }

constexpr std::int64_t kSide = 40, kChunk = 16;

static std::vector<float> volume_of(float seed) {
  std::vector<float> volume(kSide * kSide * kSide);
  for (std::size_t i = 0; i < volume.size(); ++i) volume[i] = seed + static_cast<float>(i);
  return volume;
}

static Array array_in(const std::string& folder, std::uint64_t id, bool encoded = false) {
  return Array(id, folder, {kSide, kSide, kSide}, {kChunk, kChunk, kChunk}, 4, std::string(4, '\0'), "", encoded);
}

static Region box(std::int64_t start, std::int64_t count, std::vector<float>& out) {
  Region region;
  out.assign(static_cast<std::size_t>(count * count * count), -1.0f);
  region.out = reinterpret_cast<std::byte*>(out.data());
  for (int d = 0; d < 3; ++d) {
    region.start[d] = start;
    region.step[d] = 1;
    region.count[d] = count;
  }
  region.stride[0] = count * count * 4;
  region.stride[1] = count * 4;
  region.stride[2] = 4;
  return region;
}

static bool holds(const std::vector<float>& out, const std::vector<float>& volume, std::int64_t start, std::int64_t count) {
  for (std::int64_t z = 0; z < count; ++z)
    for (std::int64_t y = 0; y < count; ++y)
      for (std::int64_t x = 0; x < count; ++x)
        if (out[static_cast<std::size_t>((z * count + y) * count + x)] !=
            volume[static_cast<std::size_t>(((start + z) * kSide + start + y) * kSide + start + x)])
          return false;
  return true;
}

static int insert_all(Cache& cache, const Array& array, const std::vector<float>& volume, std::vector<std::uint64_t>& written) {
  const std::int64_t origin[] = {0, 0, 0}, extent[] = {kSide, kSide, kSide}, stride[] = {kSide * kSide * 4, kSide * 4, 4};
  return cache.insert_box(array, reinterpret_cast<const std::byte*>(volume.data()), origin, extent, stride, written);
}

static void reads_what_was_inserted() {
  const Scratch scratch;
  const auto volume = volume_of(1);
  const Array array = array_in(scratch.path, 1);
  Cache cache(1000, 1 << 20);
  std::vector<float> out;
  std::vector<std::uint64_t> missing, written;
  cache.read(array, box(10, 20, out), 1, missing);
  CHECK(missing.size() == 8 && cache.stats().chunk_misses == 8 && out[0] == -1.0f);
  CHECK(insert_all(cache, array, volume, written) == 0 && written.size() == 27);
  for (const int threads : {1, 3}) {
    missing.clear();
    cache.read(array, box(10, 20, out), threads, missing);
    CHECK(missing.empty() && holds(out, volume, 10, 20));
  }
  CHECK(cache.stats().chunk_loads == 8 && cache.stats().chunk_hits == 8);
  CHECK(cache.stats().saved == 16 * array.chunk_bytes());

  Cache another(1000, 1 << 20);  // as another process would
  another.read(array, box(0, kSide, out), 2, missing);
  CHECK(missing.empty() && holds(out, volume, 0, kSide) && another.check());
  another.read(array, box(0, 0, out), 2, missing);
  CHECK(missing.empty());
  CHECK(another.ring.drain().size() == 27);
}

static void damage_is_a_miss() {
  const Scratch scratch;
  const auto volume = volume_of(2);
  const Array array = array_in(scratch.path, 1);
  Cache writer(1000, 0), reader(1000, 0);
  std::vector<std::uint64_t> missing, written;
  CHECK(insert_all(writer, array, volume, written) == 0);
  {
    std::fstream file(scratch.path + "/1/1/1", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(777);
    file.put('!');
  }
  std::filesystem::resize_file(scratch.path + "/0/0/0", 100);
  std::filesystem::remove(scratch.path + "/0/0/1");
  std::vector<float> out;
  reader.read(array, box(0, kSide, out), 1, missing);
  CHECK((missing == std::vector<std::uint64_t>{0, 1, 13}) && reader.stats().corrupt == 2);
  CHECK(!std::filesystem::exists(scratch.path + "/1/1/1") && !std::filesystem::exists(scratch.path + "/0/0/0"));
  written.clear();
  CHECK(insert_all(writer, array, volume, written) == 0);
  missing.clear();
  reader.read(array, box(0, kSide, out), 1, missing);
  CHECK(missing.empty() && holds(out, volume, 0, kSide));
}

static void absence_is_remembered() {
  const Scratch scratch;
  const Array array = array_in(scratch.path, 1);
  Cache cache(1000, 0);
  std::vector<float> zeros(kSide * kSide * kSide, 0.0f), out;
  zeros[0] = 1;
  std::vector<std::uint64_t> missing, written;
  CHECK(insert_all(cache, array, zeros, written) == 0 && written.size() == 1 && cache.stats().absents == 26);
  Cache another(1000, 0);
  another.read(array, box(0, kSide, out), 1, missing);
  CHECK(missing.empty() && holds(out, zeros, 0, kSide) && another.stats().fills == 26);
  CHECK(another.contains(array, 26) && cache.remove(array, 26) == 0 && !another.contains(array, 26));
  CHECK(cache.remove(array, 26) == 0);
}

static void encoded_arrays_read_what_was_kept() {
  const Scratch scratch;
  const Array array = array_in(scratch.path, 1, true);
  Cache cache(1000, 1 << 20);
  const auto payload = random_bytes(100, 3);
  CHECK(cache.insert(array, 0, payload.data(), payload.size()) == 0);
  std::vector<float> out;
  std::vector<std::uint64_t> missing;
  cache.read(array, box(0, kChunk, out), 1, missing);
  CHECK(missing.size() == 1 && !cache.block(array, 0));
  const BlockRef found = cache.payload(array, 0, true);
  CHECK(found && found->size() == 100 && !std::memcmp(found->data(), payload.data(), 100));
  const std::vector<float> decoded(kChunk * kChunk * kChunk, 5.0f);
  cache.keep(array, 0, decoded.data(), decoded.size() * 4);
  missing.clear();
  cache.read(array, box(0, kChunk, out), 1, missing);
  CHECK(missing.empty() && out == decoded && cache.block(array, 0)->size() == array.chunk_bytes());

  const Array raw = array_in(scratch.path, 2);
  CHECK(cache.insert(raw, 0, payload.data(), payload.size()) == EINVAL);
}

static void readers_writers_and_removers() {
  const Scratch scratch;
  const auto volume = volume_of(3);
  const Array array = array_in(scratch.path, 1);
  Cache cache(10, 1 << 20);  // fewer mappings than chunks
  std::vector<std::uint64_t> written;
  CHECK(insert_all(cache, array, volume, written) == 0);
  at_once(4, [&](int who) {
    std::mt19937 random(static_cast<unsigned>(who));
    std::vector<float> out;
    std::vector<std::uint64_t> missing, mine;
    for (int i = 0; i < 300; ++i) {
      if (who == 0) {
        cache.remove(array, random() % 27);
      } else if (who == 1 && i % 10 == 0) {
        mine.clear();
        CHECK(insert_all(cache, array, volume, mine) == 0);
      } else {
        const auto start = static_cast<std::int64_t>(random() % 20);
        missing.clear();
        cache.read(array, box(start, 20, out), 1 + i % 2, missing);
        if (missing.empty()) CHECK(holds(out, volume, start, 20));
      }
      if (i % 50 == 0) CHECK(cache.check());
    }
  });
  CHECK(cache.check() && cache.stats().corrupt == 0);
}

static void many_regions_at_once() {
  const Scratch scratch;
  const auto volume = volume_of(4);
  const Array array = array_in(scratch.path, 1);
  Cache cache(1000, 0);
  std::vector<std::uint64_t> written, missing;
  CHECK(insert_all(cache, array, volume, written) == 0);
  CHECK(cache.remove(array, 13) == 0);
  std::vector<std::vector<float>> outs(20);
  std::vector<Region> regions;
  for (std::size_t i = 0; i < outs.size(); ++i) regions.push_back(box(static_cast<std::int64_t>(i), 10, outs[i]));
  cache.read_many(array, regions, 3, missing);
  CHECK((missing == std::vector<std::uint64_t>{13}));
  CHECK(insert_all(cache, array, volume, written) == 0);
  missing.clear();
  cache.read_many(array, regions, 3, missing);
  CHECK(missing.empty());
  for (std::size_t i = 0; i < outs.size(); ++i) CHECK(holds(outs[i], volume, static_cast<std::int64_t>(i), 10));
}

static void no_memory_is_an_error_on_any_thread() {
  const Scratch scratch;
  const std::string long_names(kNoRoom, 'x');
  const Array array(1, scratch.path, {64}, {4}, 1, std::string(1, '\0'), long_names, false);
  Cache cache(1000, 0);
  char out[64] = {};
  const Region region{{0}, {1}, {64}, {1}, reinterpret_cast<std::byte*>(out)};
  for (const int threads : {1, 4}) {
    bool raised = false;
    std::vector<std::uint64_t> missing;
    no_room = true;
    try {
      cache.read(array, region, threads, missing);
    } catch (const std::bad_alloc&) {
      raised = true;
    }
    no_room = false;
    CHECK(raised && cache.check());
    cache.read(array, region, threads, missing);
    CHECK(missing.size() == 16);
  }
}

int main() {
  reads_what_was_inserted();
  damage_is_a_miss();
  absence_is_remembered();
  encoded_arrays_read_what_was_kept();
  readers_writers_and_removers();
  many_regions_at_once();
  no_memory_is_an_error_on_any_thread();
}
