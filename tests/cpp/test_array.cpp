#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>

#include "array.hpp"
#include "check.hpp"
using namespace copick;

// The reference: element by element, from a contiguous volume.
struct Volume {
  std::vector<std::int64_t> shape;
  std::size_t itemsize;
  std::vector<std::byte> data;

  const std::byte* at(const std::vector<std::int64_t>& index) const {
    std::int64_t flat = 0;
    for (std::size_t d = 0; d < shape.size(); ++d) flat = flat * shape[d] + index[d];
    return data.data() + static_cast<std::size_t>(flat) * itemsize;
  }
};

static void regions_equal_the_reference() {
  std::mt19937 random(10);
  const auto below = [&](int n) { return static_cast<std::int64_t>(random() % static_cast<unsigned>(n)); };
  const Scratch scratch;
  for (int round = 0; round < 400; ++round) {
    const auto ndim = static_cast<std::size_t>(below(5));
    const std::size_t sizes[] = {1, 2, 3, 4, 8, 16, 12};
    Volume volume{{}, sizes[below(7)], {}};
    std::vector<std::int64_t> chunk;
    std::size_t items = 1;
    for (std::size_t d = 0; d < ndim; ++d) {
      volume.shape.push_back(1 + below(9));
      chunk.push_back(1 + below(6));
      items *= static_cast<std::size_t>(volume.shape[d]);
    }
    volume.data = random_bytes(items * volume.itemsize, static_cast<unsigned>(round));
    const Array array(1, scratch.path, volume.shape, chunk, volume.itemsize, std::string(volume.itemsize, 'f'), "", false);

    std::int64_t origin[kMaxDims] = {}, extent[kMaxDims] = {}, stride[kMaxDims] = {};
    std::int64_t bytes = static_cast<std::int64_t>(volume.itemsize);
    for (std::size_t d = ndim; d-- > 0;) {
      extent[d] = volume.shape[d];
      stride[d] = bytes;
      bytes *= volume.shape[d];
    }
    std::vector<std::uint64_t> all;
    array.inside(origin, extent, all);
    CHECK(all.size() == array.chunk_count());
    std::vector<std::vector<std::byte>> chunks(all.size(), std::vector<std::byte>(array.chunk_bytes()));
    for (const auto at : all) array.assemble(at, volume.data.data(), origin, extent, stride, chunks[at].data());

    Region region;
    std::size_t selected = volume.itemsize;
    for (std::size_t d = 0; d < ndim; ++d) {
      region.start[d] = below(static_cast<int>(volume.shape[d]));
      region.step[d] = 1 + below(4);
      region.count[d] = 1 + below(static_cast<int>((volume.shape[d] - 1 - region.start[d]) / region.step[d] + 1));
      selected *= static_cast<std::size_t>(region.count[d]);
    }
    std::vector<std::byte> out(selected);
    std::int64_t between = static_cast<std::int64_t>(volume.itemsize);
    region.out = out.data();
    for (std::size_t d = ndim; d-- > 0;) {
      const bool flip = below(2);
      region.stride[d] = flip ? -between : between;
      if (flip) region.out += (region.count[d] - 1) * between;
      between *= region.count[d];
    }
    std::vector<std::uint64_t> touched;
    array.overlapping(region, touched);
    CHECK(std::is_sorted(touched.begin(), touched.end()) && std::set(touched.begin(), touched.end()).size() == touched.size());
    for (const auto at : touched) array.copy(region, at, chunks[at].data());

    std::set<std::uint64_t> needed;
    std::vector<std::int64_t> index(ndim, 0);
    for (bool more = true; more;) {
      std::vector<std::int64_t> place(ndim);
      const std::byte* to = region.out;
      std::uint64_t cell = 0;
      for (std::size_t d = 0; d < ndim; ++d) {
        place[d] = region.start[d] + index[d] * region.step[d];
        to += index[d] * region.stride[d];
        cell = cell * static_cast<std::uint64_t>((volume.shape[d] + chunk[d] - 1) / chunk[d]) +
               static_cast<std::uint64_t>(place[d] / chunk[d]);
      }
      needed.insert(cell);
      CHECK(!std::memcmp(to, volume.at(place), volume.itemsize));
      more = false;
      for (std::size_t d = ndim; d-- > 0 && !more;)
        if (++index[d] < region.count[d])
          more = true;
        else
          index[d] = 0;
    }
    CHECK(std::vector<std::uint64_t>(needed.begin(), needed.end()) == touched);

    for (const auto at : touched) array.copy(region, at, nullptr);
    CHECK(std::all_of(out.begin(), out.end(), [](std::byte byte) { return byte == static_cast<std::byte>('f'); }));
  }
}

static void names_and_fill() {
  const Scratch scratch;
  const Array v2(1, scratch.path, {10, 10, 10}, {4, 5, 10}, 4, std::string(4, '\0'), "", false);
  CHECK(v2.name(0) == "0/0/0" && v2.name(5) == "2/1/0" && v2.absent_name(5) == "2/1/0.absent");
  const Array v3(1, scratch.path, {10, 10}, {4, 5}, 4, std::string(4, '\0'), "c/", false);
  CHECK(v3.name(3) == "c/1/1");
  CHECK(Array(1, scratch.path, {}, {}, 4, "abcd", "", false).name(0) == "0");
  CHECK(Array(1, scratch.path, {}, {}, 4, "abcd", "c/", false).name(0) == "c");

  std::vector<std::byte> chunk(v2.chunk_bytes());
  CHECK(v2.all_fill(chunk.data()));
  chunk.back() = std::byte{1};
  CHECK(!v2.all_fill(chunk.data()));
  std::fill(chunk.begin(), chunk.end(), std::byte{9});
  CHECK(!v2.all_fill(chunk.data()));

  const std::int64_t origin[] = {4, 5, 0}, extent[] = {6, 5, 10};  // ends where the array ends
  std::vector<std::uint64_t> inside;
  v2.inside(origin, extent, inside);
  CHECK((inside == std::vector<std::uint64_t>{3, 5}));
  const std::int64_t part[] = {3, 5, 10};  // too small for any chunk
  inside.clear();
  v2.inside(origin, part, inside);
  CHECK(inside.empty());
}

static void impossible_shapes_are_refused() {
  const Scratch scratch;
  using Shape = std::vector<std::int64_t>;
  const auto refused = [&](Shape shape, Shape chunk, std::size_t itemsize, std::string fill) {
    try {
      const Array array(1, scratch.path, shape, chunk, itemsize, fill, "", false);
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  constexpr std::int64_t huge = std::int64_t{1} << 40;
  CHECK(refused({4}, {4, 4}, 1, "x") && refused({-1}, {4}, 1, "x") && refused({4}, {0}, 1, "x"));
  CHECK(refused({4}, {4}, 0, "") && refused({4}, {4}, 2, "x"));
  CHECK(refused({huge, huge, huge}, {1, 1, 1}, 1, "x") && refused({huge, huge}, {huge, huge}, 1, "x"));
  CHECK(refused(Shape(17, 1), Shape(17, 1), 1, "x"));
  CHECK(!refused({0, 4}, {2, 2}, 1, "x"));
}

int main() {
  regions_equal_the_reference();
  names_and_fill();
  impossible_shapes_are_refused();
}
